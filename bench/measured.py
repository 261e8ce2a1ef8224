"""A `tidemill up`, and workers beside it, whose CPU, memory and files are measured."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BINARY = Path(
    os.environ.get("TIDEMILL_BIN", Path(__file__).resolve().parents[1] / "target/release/tidemill")
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """A process of ours while it runs."""

    def __init__(self, log: Path, *arguments: str) -> None:
        self.log = log
        with log.open("wb") as sink:
            self.popen = subprocess.Popen([str(BINARY), *arguments], stdout=sink, stderr=sink)

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.popen.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_rss_mb(self) -> float:
        for line in Path(f"/proc/{self.popen.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError("the kernel does not tell VmHWM")

    def wait_for(self, port: int) -> None:
        """Until something listens on the port."""
        while True:
            if self.popen.poll() is not None:
                sys.exit(f"tidemill ended:\n{self.log.read_text()[-2000:]}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.02)


class Server:
    """`tidemill up` on a new folder, which goes with it unless it is to be kept."""

    def __init__(self, *options: str, keep: bool = False) -> None:
        self.keep = keep
        self.folder = Path(tempfile.mkdtemp(prefix="tidemill-bench-"))
        self.data = self.folder / "data"
        port = free_port()
        self.engine = f"127.0.0.1:{port}"
        arguments = ["--data", str(self.data), "--listen", self.engine, *options]
        self.up = Process(self.folder / "up.log", "up", *arguments)
        self.workers: list[Process] = []
        self.up.wait_for(port)

    def worker(self, *options: str) -> Process:
        """A worker in a process of its own, on the same data folder."""
        log = self.folder / f"worker{len(self.workers)}.log"
        place = ["--data", str(self.data), "--engine", self.engine]
        process = Process(log, "worker", *place, *options)
        self.workers.append(process)
        return process

    def run(self, pipeline: Path, run: str, inputs: dict[str, object]) -> float:
        """Runs a pipeline to its good end; seconds."""
        command = [
            str(BINARY),
            "run",
            str(pipeline),
            "--engine",
            self.engine,
            "--id",
            run,
            "--json",
        ]
        command += [f"--input={name}={value}" for name, value in inputs.items()]
        begun = time.monotonic()
        answer = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        seconds = time.monotonic() - begun
        if answer.returncode != 0:
            sys.exit(
                f"the run failed:\n{answer.stdout.decode()}\n{self.up.log.read_text()[-2000:]}"
            )
        self.outputs = json.loads(answer.stdout)["outputs"]
        return seconds

    def history(self, run: str) -> tuple[int, int]:
        """Events of the longest run in the chain, and bytes of all of them."""
        command = [str(BINARY), "workflow", "--address", self.engine, "--json", "list"]
        listed = json.loads(subprocess.check_output([*command, "--query", f"WorkflowId = '{run}'"]))
        events = [int(info.get("historyLength", 0)) for info in listed]
        return max(events), sum(int(info.get("historySizeBytes", 0)) for info in listed)

    def stop(self) -> None:
        for process in [*self.workers, self.up]:
            process.popen.kill()
            process.popen.wait()
        if self.keep:
            print(self.folder)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)


def size_of(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
