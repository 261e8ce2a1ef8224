"""A provider that counts strictly: over every window, and at a time."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from typing import Any

from fake_openai import Refused, Server


def tokens_of(text: str) -> int:
    """What the provider counts: words. Nobody who sends a text knows that."""
    return len(text.split())


class Counted:
    """Put before a fake server, it lets so many tokens arrive in any window and refuses the rest."""

    def __init__(self, server: Server, tokens: int, window_s: float) -> None:
        self.tokens = tokens
        self.window_s = window_s
        self.answered = 0
        self.refused = 0
        self.sent = 0
        """Tokens that were taken."""
        self.first = 0.0
        self.last = 0.0
        self.most = 0
        """The most tokens that were offered within a window, taken or not."""
        self._taken: deque[tuple[float, int]] = deque()
        self._used = 0
        self._lock = threading.Lock()
        server.before = self.take
        server.tokens_of = tokens_of

    def take(self, texts: list[str]) -> None:
        tokens = sum(map(tokens_of, texts))
        with self._lock:
            now = time.monotonic()
            while self._taken and self._taken[0][0] + self.window_s <= now:
                self._used -= self._taken.popleft()[1]
            self.most = max(self.most, self._used + tokens)
            if self._used + tokens > self.tokens:
                self.refused += 1
                raise Refused(429, "too many tokens", self._wait(tokens, now))
            self._taken.append((now, tokens))
            self._used += tokens
            self.sent += tokens
            self.answered += 1
            self.first = self.first or now
            self.last = now

    def _wait(self, tokens: int, now: float) -> int:
        excess = self._used + tokens - self.tokens
        for at, taken in self._taken:
            excess -= taken
            if excess <= 0:
                return math.ceil(at + self.window_s - now)
        return math.ceil(self.window_s)

    def share_used(self) -> float:
        """Of what may be sent between the first request and the last."""
        return self.sent / (self.tokens * (self.last - self.first) / self.window_s)

    def share_refused(self) -> float:
        return self.refused / (self.refused + self.answered)


class AtATime:
    """Counts the chats that are under way; each lasts until the gate is open, and a moment."""

    def __init__(self, server: Server) -> None:
        self.weights: dict[str, int] = {}
        """By model; 1 for those that are not named."""
        self.seconds = 0.3
        self.under_way: list[str] = []
        """What they were asked."""
        self.most = 0
        """The largest sum of weights at a time."""
        self.log: list[tuple[str, ...]] = []
        """What was under way, whenever something began."""
        self.gate = threading.Event()
        self.gate.set()
        self._lock = threading.Lock()
        server.answer = self.answer

    def answer(self, body: dict[str, Any]) -> str:
        asked = str(body["messages"][-1]["content"])
        weight = self.weights.get(body["model"], 1)
        with self._lock:
            self.under_way += [asked] * weight
            self.most = max(self.most, len(self.under_way))
            self.log.append(tuple(self.under_way))
        self.gate.wait(60)
        time.sleep(self.seconds)
        with self._lock:
            for _ in range(weight):
                self.under_way.remove(asked)
        return "yes"
