"""Owns one server process: spawn it, wait until it answers, stop or kill it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import grpc

REPOSITORY = Path(__file__).resolve().parents[2]

SEARCH_ATTRIBUTES = {
    "WireBool": "Bool",
    "WireDatetime": "Datetime",
    "WireDouble": "Double",
    "WireInt": "Int",
    "WireKeyword": "Keyword",
    "WireKeywordList": "KeywordList",
    "WireText": "Text",
}
"""Custom search attributes that the tests use; every server gets them."""


def binary() -> Path:
    """The binary under test. A missing one is an error: a skipped suite proves nothing."""
    if chosen := os.environ.get("TIDEMILL_BIN"):
        candidates = [Path(chosen)]
    else:
        candidates = [REPOSITORY / "target" / kind / "tidemill" for kind in ("release", "debug")]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    tried = ", ".join(str(candidate) for candidate in candidates)
    raise FileNotFoundError(f"no server binary (looked for {tried}); build it or set TIDEMILL_BIN")


def free_port() -> int:
    """A port which nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Server:
    """One server over one database file; may be started again after it was stopped."""

    folder: Path
    port: int = field(default_factory=free_port)
    metrics_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None, "the server is not running"
        return self.process.pid

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def start(self) -> None:
        """Spawn the server and return once it accepts a connection."""
        flags = [f"--search-attribute={name}={kind}" for name, kind in SEARCH_ATTRIBUTES.items()]
        command = [
            str(binary()),
            *("server", "start-dev", "--headless", "--namespace", "default"),
            *("--port", str(self.port), "--metrics-port", str(self.metrics_port)),
            *("--db-filename", str(self.folder / "wire.db")),
            *flags,
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self._await_ready(attempts=60)

    def _await_ready(self, attempts: int) -> None:
        options = [
            ("grpc.initial_reconnect_backoff_ms", 20),
            ("grpc.max_reconnect_backoff_ms", 100),
        ]
        with grpc.insecure_channel(self.address, options=options) as channel:
            ready = grpc.channel_ready_future(channel)
            for _ in range(attempts):
                try:
                    return ready.result(timeout=0.5)
                except grpc.FutureTimeoutError:
                    if self.process is None or self.process.poll() is not None:
                        break
        raise RuntimeError(f"the server did not come up:\n{self.log.read_text()[-4000:]}")

    def stop(self) -> int:
        """Ask for an orderly end (SIGTERM) and return the exit status."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """End it without warning, as a crash would."""
        return self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> int:
        assert self.process is not None, "the server is not running"
        self.process.send_signal(how)
        status = self.process.wait(timeout=30)
        self.process = None
        return status
