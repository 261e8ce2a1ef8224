"""Pipelines from end to end: the real binary, a real engine, the examples that users begin with.

The same tests run in three ways:

- `--mode together`, the default: one process, `tidemill up`.
- `--mode apart`: `tidemill engine` and `tidemill worker`, which tests may kill one by one. Left out
  are tests to which that makes no difference, unless `--full` asks for all.
- `TIDEMILL_TEST_ENGINE=HOST:PORT`: an engine that already runs, Tidemill's or a Temporal server;
  only the worker is ours. Each test has a namespace of its own there. Tests that have to kill the
  engine are deselected.

`--full` makes the tests of scale as large as they are promised to be; `--seed` repeats what was
drawn.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from namespaces import make_namespace

REPOSITORY = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("TIDEMILL_BIN", REPOSITORY / "target/release/tidemill"))
EXAMPLES = REPOSITORY / "examples"
ENGINE = os.environ.get("TIDEMILL_TEST_ENGINE")
PATIENCE = 120.0
"""Seconds after which a wait for something that never comes ends."""

Mode = Literal["together", "apart", "address"]
Part = Literal["engine", "worker"]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tidemill")
    group.addoption("--mode", choices=["together", "apart"], default="together")
    group.addoption("--full", action="store_true", help="tests of scale at their full size")
    group.addoption("--seed", type=int, help="of what tests draw at random")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "kills_engine: the engine has to be ours to kill")
    config.addinivalue_line("markers", "apart: engine and worker are processes apart in any mode")
    config.addinivalue_line("markers", "once: the same in all modes, left out with --mode apart")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def leave_out(*markers: str) -> None:
        left = [item for item in items if any(map(item.get_closest_marker, markers))]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]

    if ENGINE is not None:
        leave_out("kills_engine")
    elif config.getoption("mode") == "apart" and not config.getoption("full"):
        # The default mode has run them.
        leave_out("apart", "once")


def pytest_report_header(config: pytest.Config) -> str:
    if ENGINE is None:
        return f"tidemill: {BINARY}, engine and worker {config.getoption('--mode')}"
    return (
        f"tidemill: {BINARY} against the engine at {ENGINE}; tests marked kills_engine do not run"
    )


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
    """An engine and a worker in a folder of their own, which can be killed and started again."""

    def __init__(self, folder: Path, mode: Mode = "together", *options: str) -> None:
        """`options` are those that `tidemill up` and `tidemill worker` have in common."""
        self.folder = folder
        self.data = folder / "data"
        self.mode: Mode = mode
        self.options = options
        self.namespace = "default"
        self.environment: dict[str, str] = {}
        """Added to what the processes and commands inherit."""
        self.processes: dict[Part, subprocess.Popen[bytes]] = {}
        """By what they are; `tidemill up` counts as the engine."""
        if mode == "address":
            assert ENGINE is not None
            self.engine = ENGINE
            self.namespace = make_namespace(ENGINE, f"test-{secrets.token_hex(6)}")
        else:
            self.engine = f"127.0.0.1:{free_port()}"

    def start(self) -> None:
        """Starts what does not run."""
        self.data.mkdir(exist_ok=True)
        data: list[str] = ["--data", str(self.data)]
        if self.mode == "together":
            self._start("engine", "up", *data, "--listen", self.engine, *self.options)
            return
        if self.mode == "apart":
            file = str(self.data / "engine.db")
            self._start("engine", "engine", "--data-file", file, "--listen", self.engine)
        place = ["--engine", self.engine, "--namespace", self.namespace]
        self._start("worker", "worker", *data, *place, *self.options)

    def _start(self, part: Part, *arguments: str) -> None:
        if part in self.processes:
            return
        with (self.folder / f"{part}.log").open("ab") as log:
            process = subprocess.Popen(
                [str(BINARY), *arguments],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, **self.environment},
            )
        self.processes[part] = process
        if part == "worker":
            return
        host, port = self.engine.split(":")

        def listens() -> bool:
            assert process.poll() is None, self.log()
            with socket.socket() as probe:
                return probe.connect_ex((host, int(port))) == 0

        eventually(listens)

    def kill(self, how: signal.Signals = signal.SIGKILL, *parts: Part) -> int:
        """Ends what is ours, or only the parts named; the highest of their exit codes. With engine
        and worker in one process, either is both."""
        chosen: tuple[Part, ...] = parts or ("worker", "engine")
        if self.mode == "together":
            chosen = ("engine",)
        ended = [self.processes.pop(part) for part in chosen if part in self.processes]
        assert ended, f"no {' or '.join(chosen)} of ours is running"
        status = []
        # The worker first: what it reports when it is asked to stop has to reach the engine.
        for process in ended:
            process.send_signal(how)
            if how is not signal.SIGKILL:
                status.append(process.wait(timeout=PATIENCE))
        status += [process.wait(timeout=PATIENCE) for process in ended]
        return max(status)

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The engine's process if it is ours, else the worker's; None when nothing runs."""
        return self.processes.get("engine") or self.processes.get("worker")

    def log(self) -> str:
        logs = [self.folder / f"{part}.log" for part in ("engine", "worker")]
        return "\n".join(log.read_text()[-4000:] for log in logs if log.exists())

    def rss_peak_mb(self) -> dict[Part, int]:
        """The most memory that each process had since its start."""
        peaks: dict[Part, int] = {}
        for part, process in self.processes.items():
            status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            line = next(line for line in status if line.startswith("VmHWM:"))
            peaks[part] = int(line.split()[1]) // 1024
        return peaks

    def command(self, *arguments: str | Path, patience: float = PATIENCE) -> Answer:
        environment = {
            **os.environ,
            "TIDEMILL_ENGINE": self.engine,
            "TIDEMILL_NAMESPACE": self.namespace,
            "TIDEMILL_DATA": str(self.data),
            **self.environment,
        }
        done = subprocess.run(
            [str(BINARY), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=patience,
            cwd=self.folder,
            env=environment,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def run(self, file: Path, *arguments: str | Path, patience: float = PATIENCE) -> Any:
        """Runs a pipeline to its good end; what `--json` says of it."""
        answer = self.command("run", file, "--json", *arguments, patience=patience)
        assert answer.code == 0, f"{answer.err}\n{answer.out}\n{self.log()}"
        return answer.json

    def state(self, run: str) -> Any:
        answer = self.command("show", run, "--json")
        assert answer.code == 0, answer.err
        return answer.json

    def node(self, run: str, node: str) -> Any:
        return next(state for state in self.state(run)["nodes"] if state["id"] == node)

    def write(self, text: str, name: str = "pipeline.yaml") -> Path:
        file = self.folder / name
        file.write_text(text)
        return file


def eventually(holds: Callable[[], bool], patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
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
def mode(request: pytest.FixtureRequest) -> Mode:
    if ENGINE is not None:
        return "address"
    return "apart" if request.node.get_closest_marker("apart") else request.config.option.mode


@pytest.fixture
def launch(tmp_path: Path, mode: Mode) -> Iterator[Callable[..., Up]]:
    """Starts an engine and a worker with further options of the worker."""
    ups: list[Up] = []

    def start(*options: str) -> Up:
        folder = tmp_path / f"up{len(ups)}" if ups else tmp_path
        folder.mkdir(exist_ok=True)
        up = Up(folder, mode, *options)
        ups.append(up)
        up.start()
        return up

    yield start
    for up in ups:
        if up.processes:
            up.kill()


@pytest.fixture
def up(launch: Callable[..., Up]) -> Up:
    return launch()


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Whether tests of scale run at their full size."""
    return request.config.option.full


@pytest.fixture
def draw(request: pytest.FixtureRequest) -> random.Random:
    """What the test draws at random; the seed is printed, and shown when the test fails."""
    seed = request.config.option.seed
    if seed is None:
        seed = secrets.randbits(32)
    print(f"{request.node.name}: --seed {seed}")
    return random.Random(seed)
