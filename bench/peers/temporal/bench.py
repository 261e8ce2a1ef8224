#!/usr/bin/env python3
"""Workflows of three activities by an official SDK's worker: what they cost Tidemill and a peer.

    temporal server start-dev --headless --db-filename FILE --port 7388 &
    bench.py --peer 127.0.0.1:7388 --pid $(pgrep -f 'server start-dev')

Client and worker are Temporal's Python SDK, in this process, and the same for both servers. They
take turns, so that both meet the same moments of the machine. The engine of Tidemill is started
here, with its durability as it comes. The last line is one JSON object:

workflows_per_cpu_s       workflows for each second of CPU that Tidemill's process used
peer_workflows_per_cpu_s  the same of the other server
ratio                     the former by the latter
per_s, peer_per_s         workflows a second; the SDK's own CPU on the same cores bounds it
written_kb, peer_...      sent to storage, for each workflow
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from temporalio.client import Client
from temporalio.worker import Worker

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from measured import BINARY, Process, free_port  # noqa: E402
from steps import ThreeSteps, step  # noqa: E402


@dataclass
class Engine:
    """A server, and what the workflows have cost it so far."""

    name: str
    address: str
    pid: int
    workflows: int = 0
    cpu_s: float = 0.0
    seconds: float = 0.0
    written_kb: float = 0.0
    each_round: list[float] = field(default_factory=list)
    """Workflows for each second of CPU."""

    def used(self) -> tuple[float, float]:
        """Seconds of CPU and KB sent to storage since the process began."""
        process = Path(f"/proc/{self.pid}")
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        for line in (process / "io").read_text().splitlines():
            if line.startswith("write_bytes:"):
                return cpu_s, int(line.split()[1]) / 1024
        raise SystemExit(f"the kernel does not tell what process {self.pid} writes")

    async def round(self, count: int, concurrency: int) -> None:
        client = await Client.connect(self.address)
        name = f"three-steps-{secrets.token_hex(4)}"
        async with Worker(client, task_queue=name, workflows=[ThreeSteps], activities=[step]):
            await run(client, name, max(count // 10, 1), concurrency, f"{name}-warm")
            begun, (cpu_s, written_kb) = time.monotonic(), self.used()
            await run(client, name, count, concurrency, name)
            seconds, (cpu_after, written_after) = time.monotonic() - begun, self.used()
        self.workflows += count
        self.seconds += seconds
        self.cpu_s += cpu_after - cpu_s
        self.written_kb += written_after - written_kb
        self.each_round.append(count / max(cpu_after - cpu_s, 0.01))
        cpu_ms = 1000 * (cpu_after - cpu_s) / count
        written = (written_after - written_kb) / count
        print(
            f"{self.name:10}{count / seconds:8.1f} /s{cpu_ms:10.2f} ms of CPU and "
            f"{written:8.1f} KB written each",
            flush=True,
        )


async def run(client: Client, queue: str, count: int, concurrency: int, prefix: str) -> None:
    left = iter(range(count))

    async def lane() -> None:
        for number in left:
            result = await client.execute_workflow(
                ThreeSteps.run, number, id=f"{prefix}-{number}", task_queue=queue
            )
            if result != number + 3:
                raise SystemExit(f"{prefix}-{number}: {number} became {result}")

    await asyncio.gather(*(lane() for _ in range(concurrency)))


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", metavar="HOST:PORT", required=True, help="the other server")
    parser.add_argument("--pid", type=int, required=True, help="its process, whose CPU counts")
    parser.add_argument("--workflows", type=int, default=200, help="in each round")
    parser.add_argument("--concurrency", type=int, default=16, help="how many are open at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data-dir", type=Path, help="where our data file is made and removed")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="tidemill-bench-", dir=options.data_dir) as folder:
        port = free_port()
        file = str(Path(folder) / "engine.db")
        address = f"127.0.0.1:{port}"
        log = Path(folder) / "engine.log"
        process = Process(log, "engine", "--data-file", file, "--listen", address)
        process.wait_for(port)
        ours = Engine("tidemill", address, process.popen.pid)
        peer = Engine("peer", options.peer, options.pid)
        print(f"{BINARY} at {ours.address}, the peer at {peer.address}", flush=True)
        try:
            for _ in range(options.rounds):
                for engine in (ours, peer):
                    await engine.round(options.workflows, options.concurrency)
        finally:
            process.popen.terminate()
            process.popen.wait()

    per_cpu_s = ours.workflows / ours.cpu_s
    peer_per_cpu_s = peer.workflows / peer.cpu_s
    report = {
        "workflows_per_cpu_s": round(per_cpu_s, 1),
        "peer_workflows_per_cpu_s": round(peer_per_cpu_s, 1),
        "ratio": round(per_cpu_s / peer_per_cpu_s, 1),
        "ratio_each_round": [
            round(us / them, 1) for us, them in zip(ours.each_round, peer.each_round, strict=True)
        ],
        "per_s": round(ours.workflows / ours.seconds, 1),
        "peer_per_s": round(peer.workflows / peer.seconds, 1),
        "written_kb": round(ours.written_kb / ours.workflows, 1),
        "peer_written_kb": round(peer.written_kb / peer.workflows, 1),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    asyncio.run(main())
