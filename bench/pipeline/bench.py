"""What a pipeline costs beside its models: rows of JSON through load, split, embed and upsert.

Starts `tidemill up` on a new folder, runs `pipeline.yaml` with an embedder that costs nothing, and
reads what the process used. The last line is one JSON object:

items           rows that went through
per_s           rows per second, wall clock
cpu_ms_per_item CPU of engine, interpreter and worker together, milliseconds per row
history_events  events of the longest run in the chain
rss_mb          peak resident memory of the process
artifact_bytes  bytes in the artifact store at the end, per row
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
BINARY = Path(os.environ.get("TIDEMILL_BIN", HERE.parents[1] / "target/release/tidemill"))
TEXT = "The tide comes in twice a day, fills the pond, and turns the wheel on its way out. "


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_rss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the kernel does not tell VmHWM")


def wait_until_up(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    while True:
        if process.poll() is not None:
            sys.exit(f"tidemill up ended:\n{log.read_text()[-2000:]}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)


def longest_history(engine: str, run: str) -> int:
    command = [str(BINARY), "workflow", "--address", engine, "--json", "list"]
    listed = json.loads(subprocess.check_output([*command, "--query", f"WorkflowId = '{run}'"]))
    return max(int(info.get("historyLength", 0)) for info in listed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--part", type=int, default=1000, help="rows of a chunk")
    parser.add_argument("--text", type=int, default=2, help="sentences of a row")
    parser.add_argument("--keep", action="store_true", help="leave the data folder")
    arguments = parser.parse_args()

    folder = Path(tempfile.mkdtemp(prefix="tidemill-bench-"))
    rows = folder / "rows.jsonl"
    with rows.open("w") as out:
        for i in range(arguments.items):
            out.write(json.dumps({"text": f"Row {i}. " + TEXT * arguments.text}) + "\n")
    port = free_port()
    engine = f"127.0.0.1:{port}"
    log = folder / "up.log"
    command = [str(BINARY), "up", "--data", str(folder / "data"), "--listen", engine]
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink)
    try:
        wait_until_up(process, port, log)
        before, begun = cpu_seconds(process.pid), time.monotonic()
        run = [str(BINARY), "run", str(HERE / "pipeline.yaml"), "--engine", engine, "--id", "bench"]
        inputs = ["--input", f"rows={rows}", "--input", f"part={arguments.part}"]
        answer = subprocess.run([*run, *inputs, "--json"], stdout=subprocess.PIPE, check=False)
        seconds = time.monotonic() - begun
        cpu = cpu_seconds(process.pid) - before
        if answer.returncode != 0:
            sys.exit(f"the run failed:\n{answer.stdout.decode()}\n{log.read_text()[-2000:]}")
        artifacts = folder / "data" / "artifacts"
        size = sum(path.stat().st_size for path in artifacts.rglob("*") if path.is_file())
        result = {
            "items": arguments.items,
            "per_s": round(arguments.items / seconds, 1),
            "cpu_ms_per_item": round(1000 * cpu / arguments.items, 4),
            "history_events": longest_history(engine, "bench"),
            "rss_mb": round(peak_rss_mb(process.pid), 1),
            "artifact_bytes": round(size / arguments.items, 1),
        }
    finally:
        process.kill()
        process.wait()
        if arguments.keep:
            print(folder)
        else:
            subprocess.run(["rm", "-rf", str(folder)], check=False)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
