"""Entries of `cache/`: results that may be used again, in the form of
`crates/connect/src/artifacts/cache.rs`.

An entry names the objects that its output needs, so that a collection of garbage need not read them
to know, and a run that uses the entry can mark them as its own.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from tidemill.data import encode

_DIGEST = re.compile(rb"sha256:([0-9a-f]{64})")
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass
class Entry:
    stored_ms: int
    """Milliseconds since 1970."""
    ttl_ms: int
    output: Any
    objects: list[str]
    """Hashes of the objects that `output` needs, in hexadecimal."""

    @classmethod
    def parse(cls, content: bytes) -> Entry | None:
        """None for what is no entry: they are not flushed to disk, so after a power failure one may
        be half there."""
        try:
            value: Any = json.loads(content)
            entry = cls(
                int(value["stored_ms"]),
                int(value["ttl_ms"]),
                value["output"],
                [str(one) for one in value["objects"]],
            )
        except (ValueError, KeyError, TypeError):
            return None
        return entry if all(map(_HASH.fullmatch, entry.objects)) else None

    def encode(self) -> bytes:
        return encode(vars(self))

    def is_good(self, now_ms: int, ttl: timedelta) -> bool:
        """Whether it has not expired, and is younger than `ttl`."""
        age_ms = max(now_ms - self.stored_ms, 0)
        return age_ms < self.ttl_ms and timedelta(milliseconds=age_ms) < ttl


def digests_in(content: bytes) -> set[str]:
    """The hashes of all digests that stand in these bytes."""
    return {found.decode() for found in _DIGEST.findall(content)}


def now_ms() -> int:
    return time.time_ns() // 1_000_000
