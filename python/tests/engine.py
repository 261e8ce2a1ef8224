"""The real engine as a child process: `TIDEMILL_BIN`, or the release build of this repository."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

from temporalio.client import Client as EngineClient

ROOT = Path(__file__).parents[2]
BINARY = Path(os.environ.get("TIDEMILL_BIN", ROOT / "target" / "release" / "tidemill"))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class Engine:
    """The engine alone, in memory; or with `data` all of `tidemill up`, in that folder."""

    def __init__(self, data: Path | None = None) -> None:
        assert BINARY.is_file(), (
            f"{BINARY} is not there: build it (make build), or set TIDEMILL_BIN"
        )
        self.address = f"127.0.0.1:{free_port()}"
        if data is None:
            port = self.address.rpartition(":")[2]
            arguments = ["server", "start-dev", "--headless", "--port", port]
        else:
            arguments = ["up", "--data", str(data), "--listen", self.address, "--offer", "cpu=1"]
        self._process = subprocess.Popen([str(BINARY), *arguments], stdout=subprocess.DEVNULL)

    async def client(self) -> EngineClient:
        """A client, as soon as the engine answers."""
        while True:
            try:
                return await EngineClient.connect(self.address)
            except RuntimeError:
                assert self._process.poll() is None, "the engine has ended"

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
