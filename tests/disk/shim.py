"""Compiles the shim, and starts engines under it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from processes import Engine

SOURCE = Path(__file__).with_name("shim.c")


def compile_shim(into: Path) -> Path:
    library = into / "shim.so"
    command = [
        "cc",
        "-O2",
        "-shared",
        "-fPIC",
        "-o",
        str(library),
        str(SOURCE),
        "-ldl",
        "-lpthread",
    ]
    subprocess.run(command, check=True)
    return library


class Shimmed(Engine):
    """An engine whose disk does as it is told."""

    def __init__(self, folder: Path, library: Path, trace: Path | None = None) -> None:
        (folder / "data").mkdir(parents=True)
        super().__init__(folder / "data")
        self.log = folder / "engine.log"
        self.folder = (folder / "data").resolve()
        self._control = folder / "control"
        os.mkfifo(self._control)
        self.environment = {
            "LD_PRELOAD": str(library),
            "DISK_FOLDER": str(self.folder),
            "DISK_CONTROL": str(self._control),
        }
        if trace is not None:
            self.environment["DISK_TRACE"] = str(trace)

    def tell(self, command: str) -> None:
        """See shim.c for the commands. It is obeyed soon after this returns."""
        self._control.write_bytes(command.encode())

    def die(self) -> None:
        """As a SIGKILL would do it, with every call noted that was made."""
        assert self._running is not None, "not started"
        self.check_alive()
        self.tell("k")
        self._running.wait(timeout=30)
        self.kills += 1
