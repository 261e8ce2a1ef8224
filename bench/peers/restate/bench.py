#!/usr/bin/env python3
"""Measures a Restate server that runs, through its ingress, with the steps of `service.py`.

    restate-server &                                   # npm install -g @restatedev/restate-server
    hypercorn --bind 127.0.0.1:9080 service:app &      # pip install restate-sdk hypercorn
    curl localhost:9070/deployments --json '{"uri": "http://127.0.0.1:9080"}'
    bench.py --pid $(pgrep restate-server)

The service is Python, so on few cores it, and not the server, bounds how many come through; compare
the server's CPU and bytes for each. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from pathlib import Path


class Connection:
    """One HTTP/1.1 connection that is kept."""

    def __init__(self, address: str) -> None:
        self.address = address
        host, _, port = address.rpartition(":")
        self.place = (host, int(port))

    async def open(self) -> Connection:
        self.reader, self.writer = await asyncio.open_connection(*self.place)
        return self

    async def call(self, path: str, body: bytes) -> bytes:
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {self.address}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self.writer.write(head.encode() + body)
        answer = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
        lines = answer.split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
        if "content-length" in headers:
            content = await self.reader.readexactly(int(headers["content-length"]))
        else:
            content = await self.chunks()
        if " 200 " not in lines[0] + " ":
            raise SystemExit(f"{path}: {lines[0]} {content.decode()}")
        return content

    async def chunks(self) -> bytes:
        content = b""
        while size := int(await self.reader.readline(), 16):
            content += await self.reader.readexactly(size)
            await self.reader.readline()
        await self.reader.readline()
        return content


class Used:
    """What a process has used: CPU milliseconds, KB sent to storage."""

    def __init__(self, pid: int | None) -> None:
        self.cpu_ms = self.written_kb = None
        if pid is None:
            return
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        self.cpu_ms = (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")
        for line in Path(f"/proc/{pid}/io").read_text().splitlines():
            if line.startswith("write_bytes:"):
                self.written_kb = int(line.split()[1]) / 1024


async def run(ingress: str, count: int, concurrency: int) -> list[float]:
    """Seconds that each of `count` invocations took, `concurrency` at a time."""
    left = iter(range(count))

    async def lane() -> list[float]:
        connection = await Connection(ingress).open()
        took = []
        for number in left:
            begin = time.monotonic()
            result = await connection.call("/ThreeSteps/run", json.dumps(number).encode())
            took.append(time.monotonic() - begin)
            if json.loads(result) != number + 3:
                raise SystemExit(f"{number} became {result.decode()}")
        return took

    lanes = await asyncio.gather(*(lane() for _ in range(min(concurrency, count))))
    return sorted(took for each in lanes for took in each)


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--ingress", default="127.0.0.1:8080", metavar="HOST:PORT")
    arguments.add_argument("--pid", type=int, help="the server's process, for CPU and bytes")
    arguments.add_argument("--workflows", type=int, default=2000)
    arguments.add_argument("--concurrency", type=int, default=64)
    given = arguments.parse_args()

    asyncio.run(run(given.ingress, max(1, given.workflows // 10), given.concurrency))
    before, begin = Used(given.pid), time.monotonic()
    took = asyncio.run(run(given.ingress, given.workflows, given.concurrency))
    seconds, after = time.monotonic() - begin, Used(given.pid)

    def each(name: str) -> float | None:
        now, then = getattr(after, name), getattr(before, name)
        return None if now is None else round((now - then) / given.workflows, 3)

    def percentile(percent: int) -> float:
        return round(took[-(-len(took) * percent // 100) - 1] * 1000, 2)

    report = {
        "per_s": round(given.workflows / seconds, 1),
        "p50_ms": percentile(50),
        "p99_ms": percentile(99),
        "server_cpu_ms": each("cpu_ms"),
        "written_kb": each("written_kb"),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
