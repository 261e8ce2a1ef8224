"""Constant load for long, with retention on: memory, file size and latency must not grow.

    make soak                      # 30 minutes
    make soak SECONDS=7200
    make soak ARGS="--keep FOLDER --rate 100"

The engine's time of day runs faster (clock.c), so that its least retention, an hour, passes in five minutes.
Much shorter would mislead: for expired runs it first looks after a minute, whatever the time of day. The
first part of the run, two retentions, is left out: the file grows to its size there. Over the rest a line
is fitted to each figure by least squares. The last line is one JSON object; the exit code is 1 when a
figure grew. Latency is that of engine, driver and machine: on one that does much besides, it says little.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from temporalio.api.common.v1 import Payload
from temporalio.api.workflowservice import v1 as api
from temporalio.client import Client

import commands
from backups import damage, tidemill
from processes import Engine
from raw import Wire
from values import payloads, seconds

RETENTION_S = 3600
"""The least that the engine allows."""

LANES = 16
PAYLOAD = 1000

GROWTH_MAX = 0.05
"""By so much of its mean may memory grow over the measured part, by the fitted line."""
LATENCY_MAX = 1.5
RATE_MIN = 0.7
"""Of the rate that was asked for, between any two samples."""
FILE_MAX = 1.5
"""The file's size, beside the mean of what is in it."""


@dataclass
class Sample:
    at_s: float
    rss_mb: float
    file_mb: float
    beside_mb: float
    """SQLite's log and the log of commits."""
    live_mb: float
    """Of the file, without free pages."""
    retained: int
    finished: int
    p50_ms: float
    p99_ms: float


@dataclass
class Load:
    wire: Wire
    rate: float
    latencies: deque[float] = field(default_factory=deque)
    """Of whole workflows, in milliseconds, since the last sample."""
    finished: int = 0

    async def lane(self, number: int) -> None:
        """One workflow after the other, begun at fixed times."""
        rng = random.Random(number)
        # A queue of its own, so that its tasks are its own.
        wire = Wire(self.wire.service, self.wire.namespace, task_queue=f"soak-{number}")
        period = LANES / self.rate
        next_at = time.monotonic() + rng.random() * period
        count = 0
        while True:
            await asyncio.sleep(max(0.0, next_at - time.monotonic()))
            # One that comes late does not make the next ones come faster.
            next_at = max(next_at + period, time.monotonic())
            began = time.monotonic()
            await self._workflow(wire, f"soak-{number}-{count}", rng)
            count += 1
            self.finished += 1
            self.latencies.append((time.monotonic() - began) * 1e3)

    async def _workflow(self, wire: Wire, workflow_id: str, rng: random.Random) -> None:
        values = payloads("")
        values.payloads[0].CopyFrom(Payload(data=rng.randbytes(PAYLOAD)))
        # Ten minutes of the engine's time.
        await wire.start(workflow_id, input=values, workflow_task_timeout=seconds(600))
        task = await wire.poll()
        step = commands.activity("step", wire.task_queue)
        spans = step.schedule_activity_task_command_attributes
        for span in ("schedule_to_close", "start_to_close", "schedule_to_start"):
            getattr(spans, f"{span}_timeout").CopyFrom(seconds(600))
        await wire.complete(task, step)
        activity = await wire.poll_activity()
        await wire.complete_activity(activity, "x" * 100)
        await wire.step(commands.complete("done"))


def rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def sample(engine: Engine, load: Load, began: float) -> Sample:
    examined = await tidemill("engine", "doctor", "--quick", "--json", "--address", engine.address)
    if examined.returncode not in (0, 1):
        raise RuntimeError(f"doctor ends with {examined.returncode}: {examined.stderr}")
    found = json.loads(examined.stdout)
    count = await load.wire.service.count_workflow_executions(
        api.CountWorkflowExecutionsRequest(namespace="default")
    )
    times = sorted(load.latencies) or [0.0]
    load.latencies.clear()
    data = engine.data_file.stat().st_size
    beside = sum(
        file.stat().st_size for file in engine.data_file.parent.glob("engine.db-*") if file.exists()
    )
    return Sample(
        at_s=round(time.monotonic() - began, 1),
        rss_mb=round(rss_mb(engine.pid), 2),
        file_mb=round(data / 1e6, 2),
        beside_mb=round(beside / 1e6, 2),
        live_mb=round((found["bytes"] - found["free_bytes"]) / 1e6, 2),
        retained=count.count,
        finished=load.finished,
        p50_ms=round(times[len(times) // 2], 1),
        p99_ms=round(times[len(times) * 99 // 100], 1),
    )


@dataclass(frozen=True)
class Line:
    """Fitted by least squares."""

    mean: float
    slope: float
    """Per second."""
    error: float
    """The slope's standard error."""
    begin: float
    end: float

    @property
    def growth(self) -> float:
        return (self.end - self.begin) / self.mean if self.mean else 0.0


def fit(points: list[tuple[float, float]]) -> Line:
    times, values = [at for at, _ in points], [value for _, value in points]
    at, mean = statistics.fmean(times), statistics.fmean(values)
    spread = sum((time - at) ** 2 for time in times)
    slope = sum((time - at) * (value - mean) for time, value in points) / spread
    rest = sum((value - mean - slope * (time - at)) ** 2 for time, value in points)
    error = (rest / max(1, len(points) - 2) / spread) ** 0.5
    first, last = mean + slope * (times[0] - at), mean + slope * (times[-1] - at)
    return Line(mean, slope, error, first, last)


def judge(samples: list[Sample]) -> tuple[dict[str, Line], list[str]]:
    """The lines, and what grew."""

    def line(figure: str) -> Line:
        return fit([(each.at_s, getattr(each, figure)) for each in samples])

    lines = {
        figure: line(figure)
        for figure in ("rss_mb", "file_mb", "live_mb", "beside_mb", "retained", "p50_ms", "p99_ms")
    }
    grew = []
    rss = lines["rss_mb"]
    if rss.growth > GROWTH_MAX and rss.slope > 2 * rss.error:
        grew.append(
            f"memory grows by {rss.slope * 60:.2f} MB a minute, {rss.growth:.0%} over the measured part"
        )
    largest, live = max(each.file_mb for each in samples), lines["live_mb"].mean
    if largest > FILE_MAX * live:
        grew.append(f"the file has {largest:.1f} MB for {live:.1f} MB that are retained")
    if lines["live_mb"].growth > FILE_MAX - 1:
        grew.append(f"what is retained grows by {lines['live_mb'].growth:.0%}")
    p50 = lines["p50_ms"]
    if p50.end > LATENCY_MAX * p50.begin and p50.slope > 2 * p50.error:
        grew.append(f"the median latency goes from {p50.begin:.1f} to {p50.end:.1f} ms")
    return lines, grew


def compile_clock(into: Path) -> Path:
    library = into / "clock.so"
    source = Path(__file__).with_name("clock.c")
    command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return library


async def run(args: argparse.Namespace, folder: Path) -> int:
    engine = Engine(folder, "--retention", "1h")
    engine.environment = {
        "LD_PRELOAD": str(compile_clock(folder)),
        "CLOCK_FACTOR": str(round(RETENTION_S / args.retention)),
    }
    samples: list[Sample] = []
    try:
        engine.start()
        await engine.ready()
        client = await Client.connect(engine.address)
        load = Load(Wire(client.workflow_service, "default"), args.rate)
        began = time.monotonic()
        lanes = [asyncio.create_task(load.lane(number)) for number in range(LANES)]
        print("     s   RSS MB  file MB  live MB  beside MB  retained  finished  p50 ms  p99 ms")
        while time.monotonic() - began < args.seconds:
            done, _ = await asyncio.wait(
                lanes, timeout=args.every, return_when=asyncio.FIRST_EXCEPTION
            )
            for ended in done:
                ended.result()
            engine.check_alive()
            each = await sample(engine, load, began)
            samples.append(each)
            print(
                f"{each.at_s:6.0f} {each.rss_mb:8.1f} {each.file_mb:8.1f} {each.live_mb:8.1f} "
                f"{each.beside_mb:10.1f} {each.retained:9} {each.finished:9} {each.p50_ms:7.1f} "
                f"{each.p99_ms:7.1f}",
                flush=True,
            )
        for lane in lanes:
            lane.cancel()
        status = engine.stop()
    finally:
        engine.end()
    warm = 2 * args.retention + 30
    measured = [each for each in samples if each.at_s >= warm]
    if len(measured) < 10:
        print(f"too short: {len(measured)} samples after the first {warm:.0f} s", file=sys.stderr)
        return 2
    lines, found = judge(measured)
    spans = zip(measured, measured[1:], strict=False)
    slowest = min((b.finished - a.finished) / (b.at_s - a.at_s) for a, b in spans)
    if slowest < RATE_MIN * args.rate:
        # A file does not shrink when less is retained, and latency was the machine's.
        found.append(
            f"the load was not constant: {slowest:.0f} workflows a second at times, not {args.rate:.0f}; "
            "this says little, run it on a machine that does nothing else"
        )
    if status != 0:
        found.append(f"SIGTERM: the engine ends with {status}")
    found += await damage(engine.data_file)
    print(
        f"\nfrom {measured[0].at_s:.0f} s on: mean, per minute (+- standard error), over the part"
    )
    for figure, fitted in lines.items():
        print(
            f"{figure:>10} {fitted.mean:10.2f} {fitted.slope * 60:+9.3f} +-{fitted.error * 60:.3f} "
            f"{fitted.growth:+8.1%}"
        )
    for sentence in found:
        print(f"  - {sentence}")
    print(f"soak {'FAILED' if found else 'PASSED'}")
    summary = {
        "seconds": args.seconds,
        "retention_s": args.retention,
        "workflows": load.finished,
        "per_s": round(load.finished / args.seconds, 1),
        "file_over_live": round(max(e.file_mb for e in measured) / lines["live_mb"].mean, 3),
        **{
            figure: {
                "mean": round(fitted.mean, 3),
                "per_minute": round(fitted.slope * 60, 4),
                "growth": round(fitted.growth, 4),
            }
            for figure, fitted in lines.items()
        },
        "found": found,
    }
    print(json.dumps(summary))
    return 1 if found else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--rate", type=float, default=40, help="workflows begun in a second")
    parser.add_argument(
        "--retention", type=float, default=300, help="seconds in which its hour passes"
    )
    parser.add_argument("--every", type=float, default=5, help="seconds between two samples")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="run here and leave it")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tidemill-soak-") as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        return asyncio.run(run(args, folder))


if __name__ == "__main__":
    sys.exit(main())
