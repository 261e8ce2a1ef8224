"""Pipelines from end to end: the real binary, its real engine, the examples that users begin with."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("TIDEMILL_BIN", REPOSITORY / "target/release/tidemill"))
EXAMPLES = REPOSITORY / "examples"
PATIENCE = 120.0
"""Seconds after which a wait for something that never comes ends."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Answer:
    """What a command of the binary said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Up:
    """`tidemill up` in a folder of its own, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.engine = f"127.0.0.1:{free_port()}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [str(BINARY), "up", "--data", str(self.data), "--listen", self.engine]
        with (self.folder / "up.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        host, port = self.engine.split(":")

        def listens() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log()
            with socket.socket() as probe:
                return probe.connect_ex((host, int(port))) == 0

        eventually(listens)

    def kill(self, how: signal.Signals = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        status = self.process.wait(timeout=PATIENCE)
        self.process = None
        return status

    def log(self) -> str:
        return (self.folder / "up.log").read_text()[-4000:]

    def command(self, *arguments: str | Path) -> Answer:
        environment = {**os.environ, "TIDEMILL_ENGINE": self.engine, "TIDEMILL_DATA": str(self.data)}
        done = subprocess.run(
            [str(BINARY), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            cwd=self.folder,
            env=environment,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def run(self, file: Path, *arguments: str | Path) -> Any:
        """Runs a pipeline to its good end; what `--json` says of it."""
        answer = self.command("run", file, "--json", *arguments)
        assert answer.code == 0, f"{answer.err}\n{answer.out}\n{self.log()}"
        return answer.json

    def node(self, run: str, node: str) -> Any:
        answer = self.command("show", run, "--json")
        assert answer.code == 0, answer.err
        return next(state for state in answer.json["nodes"] if state["id"] == node)


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def chunks(up: Up, index: str = "documents") -> list[tuple[str, str]]:
    """Document and text of each chunk of an embedded index, as another program reads them."""
    with sqlite3.connect(up.data / "indexes" / f"{index}.db") as file:
        sql = """SELECT documents.id, chunks.text FROM chunks
                 JOIN documents ON documents.no = chunks.document ORDER BY 1, 2"""
        return file.execute(sql).fetchall()


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    server = Up(tmp_path)
    server.start()
    yield server
    if server.process is not None:
        server.kill()
