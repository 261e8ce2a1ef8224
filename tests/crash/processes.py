"""The two processes that get killed: the engine and the worker."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
START_LIMIT_S = 60


def binary() -> Path:
    """The engine's binary. A missing one is an error: a skipped test proves nothing."""
    path = Path(os.environ.get("TIDEMILL_BIN") or REPOSITORY / "target/release/tidemill")
    if not path.is_file():
        raise FileNotFoundError(f"no engine binary at {path}; run `make build` or set TIDEMILL_BIN")
    return path


def free_port() -> int:
    """A port on which nobody listened a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Process:
    """A command that is started, killed and started again, with its output in one log."""

    command: list[str]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    """Beside what this process has."""
    kills: int = 0
    _running: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._running = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.environment},
            )

    @property
    def pid(self) -> int:
        assert self._running is not None, "not started"
        return self._running.pid

    def kill(self) -> None:
        """SIGKILL: no handler runs, nothing is flushed."""
        assert self._running is not None, "not started"
        self.check_alive()
        self._running.send_signal(signal.SIGKILL)
        self._running.wait()
        self.kills += 1

    def stop(self) -> int:
        """SIGTERM, and its exit status."""
        assert self._running is not None, "not started"
        self._running.terminate()
        return self._running.wait(timeout=30)

    def check_alive(self) -> None:
        """A process that ended by itself is a finding, not something to start again in silence."""
        assert self._running is not None, "not started"
        if (status := self._running.poll()) is not None:
            raise RuntimeError(
                f"{self.command[0]} ended by itself with status {status}\n{self.tail()}"
            )

    def ended(self) -> int | None:
        """The exit status of one that ended by itself, or is about to."""
        assert self._running is not None, "not started"
        try:
            return self._running.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        if self._running is not None and self._running.poll() is None:
            self._running.kill()
            self._running.wait()

    def tail(self) -> str:
        return f"end of {self.log}:\n{self.log.read_text(errors='replace')[-3000:]}"


class Engine(Process):
    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.data_file = folder / "engine.db"
        command = [str(binary()), "engine", "--listen", self.address, *options]
        super().__init__([*command, "--data-file", str(self.data_file)], folder / "engine.log")

    async def ready(self) -> None:
        """Returns once the engine accepts connections."""
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            self.check_alive()
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the engine did not come up\n{self.tail()}") from None
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


class WorkerProcess(Process):
    def __init__(self, folder: Path, address: str) -> None:
        self.ledger = folder / "ledger.jsonl"
        self.ledger.touch()
        script = Path(__file__).with_name("worker.py")
        super().__init__(
            [sys.executable, str(script), address, str(self.ledger)], folder / "worker.log"
        )
