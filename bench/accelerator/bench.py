"""How busy an accelerator is kept, how full its batches are, and what that costs beside a bare loop.

The device is simulated (it sleeps), so that two cores suffice; engine, interpreter and workers are
the real ones. Five measurements, each also alone by --only:

placement  200 runs of pre (waits 100 ms), inference (50 ms, one item a call), post (waits 50 ms), CPU
           stages on 16 slots of a worker of their own; beside it the same runs with one class for
           everything, where a task has the device to itself as long as it runs
mixed      1,000 runs of one item for one of two models, batches of 32 at 150 ms; then items that come
           alone
loop       the same batches in a bare loop over the device: one run that maps over 20,000 items (32 at
           20 ms), and 1,000 runs of one item each (32 at 150 ms)

hog        items that come alone, with and without two tasks that keep both cores busy in the same process
model      a real model on the CPU: the texts of a file through a pipeline, and in a bare loop; needs
           --model FOLDER and the loop's program (`cargo build --release --example embed_loop`)

The last line is one JSON object:

busy            share of the time between the first and the last inference that the device computed
baseline_busy   the same with one class for everything
fill            mean items of a batch by the most there can be
lone_wait_ms    what items that come alone wait, on average, beyond the 10 ms that they wait for others
ratio_to_loop   the bare loop's time by ours, the smaller of the two
hog_delay_ms    by how much busy cores delay what goes from the queue to the device, on average
model_ratio     the bare loop's time by that of the pipeline
cpu_ms_per_item CPU of all our processes per item, milliseconds, the larger of the two
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from temporalio.client import Client
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from measured import BINARY, Server, free_port  # noqa: E402

DELAY_MS = 10
"""How long an item waits for others, unless a measurement says otherwise."""
LONE = 20
"""Items that come alone, one after another."""

T = TypeVar("T")
R = TypeVar("R")

PLACEMENT = """
name: placement
inputs: { n: integer }
stages:
  - uses: simulate.work
    id: pre
    resource: PRE
    input: "{{ inputs }}"
    with: { wait: 100ms }
  - uses: simulate.infer
    id: infer
    batch: 1
    with: { model: m, latency: 50ms }
  - uses: simulate.work
    id: post
    resource: PRE
    with: { wait: 50ms }
outputs: "{{ post }}"
"""
SINGLE = """
name: single
inputs: { n: integer, model: string }
stages:
  - uses: simulate.infer
    id: infer
    input: "{{ inputs }}"
    batch: { items: 32, delay: DELAY }
    with: { model: "{{ inputs.model }}", latency: LATENCY }
outputs: "{{ infer }}"
"""
MAP = """
name: map
inputs: { rows: string }
stages:
  - uses: documents.load
    id: rows
    with: { path: "{{ inputs.rows }}", part: { items: 512 } }
  - id: all
    map:
      over: "{{ rows }}"
      window: 4
      stages:
        - uses: simulate.infer
          batch: { items: 32, delay: 10ms }
          with: { model: m, latency: 20ms }
outputs: { items: "{{ all.count }}" }
"""
ONE_DEVICE = """
[[offer]]
class = "accelerator"
slots = {slots}
serve = ["m", "a", "b"]
devices = [{{ name = "sim:0:80GiB,latency=0ms,per_item=0ms" }}]
"""


class Calls:
    """The calls of a device, read from what became of the items."""

    def __init__(self, items: Iterable[dict[str, Any]]) -> None:
        self.by_call: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
        for item in items:
            self.by_call[item["started_us"], item["ended_us"]].append(item)
        for call in self.by_call.values():
            models = {item["model"] for item in call}
            if len(models) != 1 or call[0]["batch"] != len(call):
                sys.exit(f"a call mixes models, or an item is missing: {call}")

    @property
    def seconds(self) -> float:
        """From the first to the last."""
        starts, ends = zip(*self.by_call, strict=True)
        return (max(ends) - min(starts)) / 1e6

    @property
    def busy(self) -> float:
        """Share of that time in which one was under way."""
        total, until = 0, 0
        for start, end in sorted(self.by_call):
            total += max(0, end - max(start, until))
            until = max(until, end)
        return total / 1e6 / self.seconds

    def fill(self, most: int) -> float:
        items = sum(len(call) for call in self.by_call.values())
        return items / (most * len(self.by_call))


class Fleet:
    """An engine with interpreter and CPU slots, and a worker of one simulated device."""

    def __init__(self, cpu_slots: int, device_slots: int) -> None:
        self.server = Server("--offer", f"cpu={cpu_slots}")
        offers = self.server.folder / "offers.toml"
        offers.write_text(ONE_DEVICE.format(slots=device_slots))
        self.metrics = f"127.0.0.1:{free_port()}"
        self.server.worker(
            "--offers",
            str(offers),
            "--no-interpreter",
            "--metrics-listen",
            self.metrics,
        )

    def plan(self, text: str) -> Any:
        file = self.server.folder / "pipeline.yaml"
        file.write_text(text)
        checked = subprocess.check_output([str(BINARY), "check", str(file), "--json"])
        return json.loads(checked)

    def cpu_seconds(self) -> float:
        return sum(p.cpu_seconds() for p in [self.server.up, *self.server.workers])

    def waited(self) -> float:
        """Seconds that all items so far waited for their batches."""
        return self.metric("tidemill_batch_wait_seconds_total")

    def dispatched(self) -> float:
        """The same, and what their tasks waited in the queue before."""
        name = 'tidemill_task_schedule_to_start_seconds_sum{class="accelerator"}'
        return self.waited() + self.metric(name)

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://{self.metrics}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    async def client(self) -> Client:
        runtime = Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(filter="error")))
        return await Client.connect(self.server.engine, runtime=runtime)

    async def runs(
        self, client: Client, checked: Any, name: str, inputs: list[dict[str, Any]]
    ) -> tuple[float, list[Any]]:
        """Starts all at once; the seconds until the last had ended, and their outputs."""
        begun = time.monotonic()

        async def start(at: int) -> None:
            await self.start(client, checked, f"{name}-{at}", inputs[at])

        await for_all(range(len(inputs)), start)
        query = f"WorkflowId STARTS_WITH '{name}-' AND ExecutionStatus = 'Running'"
        while (await client.count_workflows(query)).count:
            await asyncio.sleep(0.02)
        seconds = time.monotonic() - begun

        async def outputs(at: int) -> Any:
            result: Any = await client.get_workflow_handle(f"{name}-{at}").result()
            return result["outputs"]

        return seconds, await for_all(range(len(inputs)), outputs)

    async def start(self, client: Client, checked: Any, run: str, inputs: dict[str, Any]) -> None:
        await client.start_workflow(
            "tidemill.pipeline",
            {"plan": checked["plan"], "inputs": inputs},
            id=run,
            task_queue="tidemill-pipelines",
            memo={"pipeline": run, "plan": checked["hash"]},
        )

    async def warm(self, client: Client, checked: Any, inputs: dict[str, Any]) -> None:
        """One run, so that nothing is met for the first time when it counts."""
        await self.runs(client, checked, "warm", [inputs])


async def for_all(what: Iterable[T], do: Callable[[T], Awaitable[R]]) -> list[R]:
    free = asyncio.Semaphore(64)

    async def one(it: T) -> R:
        async with free:
            return await do(it)

    return await asyncio.gather(*(one(it) for it in what))


def single(latency: str, delay: str = "10ms") -> str:
    return SINGLE.replace("LATENCY", latency).replace("DELAY", delay)


async def placement(runs: int) -> dict[str, Any]:
    figures: dict[str, Any] = {"runs": runs}
    inputs = [{"n": n} for n in range(runs)]
    for name, cpu, device_slots in (("", "cpu", 8), ("baseline_", "accelerator", 1)):
        fleet = Fleet(16, device_slots)
        try:
            client = await fleet.client()
            checked = fleet.plan(PLACEMENT.replace("PRE", cpu))
            await fleet.warm(client, checked, inputs[0])
            seconds, outputs = await fleet.runs(client, checked, "placed", inputs)
            calls = Calls(outputs)
            figures[f"{name}busy"] = round(calls.busy, 4)
            figures[f"{name}seconds"] = round(seconds, 2)
            if not name:
                figures["misplaced"] = await misplaced(client, runs)
        finally:
            fleet.server.stop()
    return figures


async def misplaced(client: Client, runs: int) -> int:
    """Activities that ran in another process than that of their class."""
    identities: dict[str, set[str]] = defaultdict(set)
    for at in range(0, runs, 10):
        queues: dict[int, str] = {}
        async for event in client.get_workflow_handle(f"placed-{at}").fetch_history_events():
            if event.HasField("activity_task_scheduled_event_attributes"):
                scheduled = event.activity_task_scheduled_event_attributes
                queues[event.event_id] = scheduled.task_queue.name.split("/")[0]
            if event.HasField("activity_task_started_event_attributes"):
                started = event.activity_task_started_event_attributes
                identities[queues[started.scheduled_event_id]].add(started.identity)
    return len(identities["cpu"] & identities["accelerator"])


async def mixed(runs: int) -> dict[str, Any]:
    fleet = Fleet(2, 160)
    try:
        client = await fleet.client()
        checked = fleet.plan(single("150ms"))
        for model in "ab":
            await fleet.runs(client, checked, f"warm-{model}", [{"n": 0, "model": model}])
        inputs = [{"n": n, "model": "ab"[n % 2]} for n in range(runs)]
        _, outputs = await fleet.runs(client, checked, "mixed", inputs)
        calls = Calls(outputs)
        before = fleet.waited()
        for n in range(LONE):
            await fleet.runs(client, checked, f"lone-{n}", [{"n": n, "model": "a"}])
        waited = (fleet.waited() - before) / LONE
        return {
            "requests": runs,
            "calls": len(calls.by_call),
            "fill": round(calls.fill(32), 4),
            "mixed_busy": round(calls.busy, 4),
            "lone_wait_ms": round(1000 * waited - DELAY_MS, 2),
        }
    finally:
        fleet.server.stop()


async def loop_map(items: int) -> dict[str, Any]:
    fleet = Fleet(2, 64)
    try:
        rows = fleet.server.folder / "rows.jsonl"
        rows.write_text("".join(json.dumps({"text": f"row {n}"}) + "\n" for n in range(items)))
        pipeline = fleet.server.folder / "map.yaml"
        pipeline.write_text(MAP)
        before = fleet.cpu_seconds()
        seconds = fleet.server.run(pipeline, "map", {"rows": rows})
        cpu = fleet.cpu_seconds() - before
        bare = bare_loop(-(-items // 32), 0.020)
        return {
            "map_items": items,
            "map_seconds": round(seconds, 2),
            "map_ratio": round(bare / seconds, 4),
            "map_cpu_ms_per_item": round(1000 * cpu / items, 4),
        }
    finally:
        fleet.server.stop()


async def loop_runs(runs: int) -> dict[str, Any]:
    fleet = Fleet(2, 128)
    try:
        client = await fleet.client()
        checked = fleet.plan(single("150ms"))
        await fleet.warm(client, checked, {"n": 0, "model": "m"})
        before = fleet.cpu_seconds()
        inputs = [{"n": n, "model": "m"} for n in range(runs)]
        seconds, outputs = await fleet.runs(client, checked, "single", inputs)
        cpu = fleet.cpu_seconds() - before
        calls = Calls(outputs)
        bare = bare_loop(-(-runs // 32), 0.150)
        return {
            "runs_of_one": runs,
            "runs_seconds": round(seconds, 2),
            "runs_device_seconds": round(calls.seconds, 2),
            "runs_fill": round(calls.fill(32), 4),
            "runs_ratio": round(bare / seconds, 4),
            "runs_cpu_ms_per_item": round(1000 * cpu / runs, 4),
        }
    finally:
        fleet.server.stop()


HOG = """
name: hog
stages:
  - uses: simulate.work
    with: { compute: 60s }
"""
EMBED = """
name: embed
inputs: { rows: string, model: string }
stages:
  - uses: documents.load
    with: { path: "{{ inputs.rows }}", part: { items: 256 } }
  - uses: text.split
  - uses: embed.text
    window: 3
    with: { model: "{{ inputs.model }}" }
"""


async def hog() -> dict[str, Any]:
    """All in one process, as on a laptop."""
    metrics = f"127.0.0.1:{free_port()}"
    fleet = Fleet.__new__(Fleet)
    fleet.metrics = metrics
    options = [
        "--offer",
        "cpu=2",
        "--offer",
        "accelerator:device=sim:0,slots=8,serve=m",
    ]
    fleet.server = Server(*options, "--metrics-listen", metrics)
    try:
        client = await fleet.client()
        checked = fleet.plan(single("1ms"))
        await fleet.warm(client, checked, {"n": 0, "model": "m"})

        async def delay(name: str) -> float:
            before = fleet.dispatched()
            for n in range(LONE):
                await fleet.runs(client, checked, f"{name}-{n}", [{"n": n, "model": "m"}])
            return (fleet.dispatched() - before) / LONE

        quiet = await delay("quiet")
        hogs = fleet.plan(HOG)
        for n in range(2):
            await fleet.start(client, hogs, f"hog-{n}", {})
        await asyncio.sleep(1)
        busy = await delay("busy")
        return {
            "dispatch_ms": round(1000 * quiet, 2),
            "dispatch_beside_hogs_ms": round(1000 * busy, 2),
            "hog_delay_ms": round(1000 * (busy - quiet), 2),
        }
    finally:
        fleet.server.stop()


async def real_model(model: Path, texts: int) -> dict[str, Any]:
    server = Server()
    try:
        rows = server.folder / "rows.jsonl"
        line = "The tide comes in twice a day, fills the pond and turns the wheel, number {}."
        rows.write_text("".join(json.dumps({"text": line.format(n)}) + "\n" for n in range(texts)))
        program = BINARY.parent / "examples" / "embed_loop"
        pipeline = server.folder / "embed.yaml"
        pipeline.write_text(EMBED)
        server.run(pipeline, "warm", {"rows": rows, "model": model.resolve()})
        # In turn, and the best of each: what else the machine does falls on either.
        bare, seconds = float("inf"), float("inf")
        for turn in range(3):
            answer = subprocess.check_output([str(program), str(model.resolve()), str(rows)])
            bare = min(bare, float(answer))
            inputs = {"rows": rows, "model": model.resolve()}
            seconds = min(seconds, server.run(pipeline, f"embed-{turn}", inputs))
        return {
            "model_texts": texts,
            "model_loop_seconds": round(bare, 2),
            "model_seconds": round(seconds, 2),
            "model_ratio": round(bare / seconds, 4),
        }
    finally:
        server.stop()


def bare_loop(calls: int, latency: float) -> float:
    """The device's calls one after another, with nothing around them."""
    begun = time.monotonic()
    for _ in range(calls):
        time.sleep(latency)
    return time.monotonic() - begun


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    small = arguments.small
    if arguments.only in (None, "placement"):
        figures |= await placement(40 if small else 200)
    if arguments.only in (None, "mixed"):
        figures |= await mixed(200 if small else 1000)
    if arguments.only in (None, "loop"):
        figures |= await loop_map(2_000 if small else 20_000)
        figures |= await loop_runs(200 if small else 1000)
        figures["ratio_to_loop"] = min(figures["map_ratio"], figures["runs_ratio"])
        figures["cpu_ms_per_item"] = max(
            figures["map_cpu_ms_per_item"], figures["runs_cpu_ms_per_item"]
        )
    if arguments.only in (None, "hog"):
        figures |= await hog()
    if arguments.model is not None and arguments.only in (None, "model"):
        figures |= await real_model(arguments.model, 200 if small else 4000)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=["placement", "mixed", "loop", "hog", "model"])
    parser.add_argument("--model", type=Path, help="folder of a sentence-transformers BERT")
    parser.add_argument("--small", action="store_true", help="a tenth of it, to see that it runs")
    figures = asyncio.run(measure(parser.parse_args()))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
