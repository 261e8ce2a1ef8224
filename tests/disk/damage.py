"""Flips single bytes in a data file at rest, and in the log of a killed engine: what is noticed, when, by whom?

    python tests/disk/damage.py --flips 200

For each flip: doctor looks at the file, and an engine is started on it and asked for everything that
it holds. What it answers is compared with what the undamaged file answers. The last line is one JSON object.
Ends with 1 if a wrong answer was served.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sqlite3
import struct
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice import v1 as api
from temporalio.client import Client
from temporalio.service import RPCError

from backups import tidemill
from lanes import Book, Lane
from power import quiet, say, wire_to
from processes import Engine

LANES = 8
WORKFLOWS = 150
DAMAGED = 4
RUNNING = 1

Picture = dict[str, bytes | str]
"""What an engine answers, by question; an error is a text."""


@dataclass(frozen=True)
class Place:
    offset: int
    kind: str
    owner: str
    """The table or index, where that is known."""


def places(file: Path, rng: random.Random, count: int) -> list[Place]:
    """Bytes of a data file, as many of each kind."""
    data = file.read_bytes()
    size = struct.unpack(">H", data[16:18])[0]
    owners = _owners(file, data, size)
    by_kind: defaultdict[str, list[Place]] = defaultdict(list)
    free = _free_pages(data, size)
    for page in range(1, len(data) // size + 1):
        base = (page - 1) * size
        head = base + (100 if page == 1 else 0)
        owner = owners.get(page, "")
        if page == 1:
            by_kind["file header"] += [Place(base + n, "file header", "") for n in range(100)]
        if page in free:
            by_kind["free page"].append(Place(base + rng.randrange(size), "free page", ""))
            continue
        if page not in owners:
            where = "overflow link" if rng.random() < 0.1 else "overflow value"
            at = rng.randrange(4) if where == "overflow link" else rng.randrange(4, size)
            by_kind[where].append(Place(base + at, where, ""))
            continue
        wide = 12 if data[head] in (2, 5) else 8
        cells, content = struct.unpack(">HH", data[head + 3 : head + 7])
        pointers = head + wide
        by_kind["page header"].append(Place(head + rng.randrange(wide), "page header", owner))
        if cells:
            at = pointers + rng.randrange(2 * cells)
            by_kind["cell pointer"].append(Place(at, "cell pointer", owner))
            starts = sorted(
                struct.unpack(">H", data[pointers + 2 * n : pointers + 2 * n + 2])[0]
                for n in range(cells)
            )
            cell = base + rng.choice(starts)
            # Lengths, types and keys are in front.
            by_kind["cell's first 16 bytes"].append(
                Place(
                    min(cell + rng.randrange(16), base + size - 1), "cell's first 16 bytes", owner
                )
            )
            at = base + rng.randrange(content or size, size) if (content or size) < size else cell
            by_kind["cell content"].append(Place(at, "cell content", owner))
        if pointers + 2 * cells < base + content:
            at = rng.randrange(pointers + 2 * cells, base + content)
            by_kind["unused space"].append(Place(at, "unused space", owner))
    each = max(1, count // len(by_kind))
    return [
        place for found in by_kind.values() for place in rng.sample(found, min(each, len(found)))
    ]


def _owners(file: Path, data: bytes, size: int) -> dict[int, str]:
    """Pages of tables and indexes, without those of values that do not fit one."""
    with sqlite3.connect(f"file:{file}?immutable=1", uri=True) as base:
        roots = [(1, "sqlite_schema"), *base.execute("select rootpage, name from sqlite_schema")]
    owners: dict[int, str] = {}
    waiting = [(root, name) for root, name in roots if root]
    while waiting:
        page, name = waiting.pop()
        owners[page] = name
        head = (page - 1) * size + (100 if page == 1 else 0)
        if data[head] in (2, 5):
            cells = struct.unpack(">H", data[head + 3 : head + 5])[0]
            waiting.append((struct.unpack(">I", data[head + 8 : head + 12])[0], name))
            for n in range(cells):
                at = struct.unpack(">H", data[head + 12 + 2 * n : head + 14 + 2 * n])[0]
                at += (page - 1) * size
                waiting.append((struct.unpack(">I", data[at : at + 4])[0], name))
    return owners


def _free_pages(data: bytes, size: int) -> set[int]:
    free: set[int] = set()
    trunk = struct.unpack(">I", data[32:36])[0]
    while trunk:
        free.add(trunk)
        base = (trunk - 1) * size
        trunk, count = struct.unpack(">II", data[base : base + 8])
        free.update(struct.unpack(f">{count}I", data[base + 8 : base + 8 + 4 * count]))
    return free


async def make(folder: Path, *, stop: bool, workflows: int = WORKFLOWS) -> Engine:
    """A data file with runs open and closed, large values and free pages."""
    folder.mkdir()
    engine = Engine(folder)
    engine.start()
    await engine.ready()
    wire, book = await wire_to(engine, quiet()), Book()
    lanes = [Lane(wire, book, random.Random(n), f"lane-{n}") for n in range(LANES)]
    running = [asyncio.create_task(lane.run()) for lane in lanes]
    await book.reaches(done=workflows)
    for lane in running:
        lane.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    if stop:
        assert engine.stop() == 0
    else:
        engine.kill()
    return engine


async def picture(address: str) -> Picture:
    """Everything that can be asked for."""
    client = await Client.connect(address, runtime=quiet())
    service, asked = client.workflow_service, {}
    listed: list[WorkflowExecution] = []
    try:
        page = await service.list_workflow_executions(
            api.ListWorkflowExecutionsRequest(namespace="default", page_size=1000)
        )
        # What is open goes on meanwhile: tasks time out.
        listed = [each.execution for each in page.executions if each.status != RUNNING]
        for each in page.executions:
            if each.status == RUNNING:
                continue
            asked[f"list {each.execution.run_id}"] = each.SerializeToString(deterministic=True)
    except RPCError as error:
        asked["list"] = error.message
    for run in listed:
        try:
            history = await service.get_workflow_execution_history(
                api.GetWorkflowExecutionHistoryRequest(namespace="default", execution=run)
            )
            answer: bytes | str = history.SerializeToString(deterministic=True)
        except RPCError as error:
            answer = error.message
        asked[f"history {run.run_id}"] = answer
        try:
            described = await service.describe_workflow_execution(
                api.DescribeWorkflowExecutionRequest(namespace="default", execution=run)
            )
            answer = described.SerializeToString(deterministic=True)
        except RPCError as error:
            answer = error.message
        asked[f"describe {run.run_id}"] = answer
    return asked


async def serve(folder: Path) -> tuple[Picture | None, str]:
    """What an engine on these files answers, or how it ended."""
    engine = Engine(folder)
    engine.start()
    try:
        await engine.ready()
        return await asyncio.wait_for(picture(engine.address), 60), ""
    except Exception as error:
        status = await asyncio.to_thread(engine.ended)
        text = [line for line in engine.log.read_text().splitlines() if "tidemill:" in line]
        last = text[-1] if text else engine.log.read_text()[-200:]
        return None, f"exit {status}: {last}" if status is not None else f"hangs: {error!r}"
    finally:
        engine.end()


def verdict(before: Picture, after: Picture | None, error: str) -> tuple[str, str]:
    """What a client meets, and an example of it."""
    if after is None:
        return ("refused at the start" if error.startswith("exit 4") else "ends otherwise"), error
    # That a listed run is not there is no error that names damage.
    after = {
        question: answer.encode() if isinstance(answer, str) and "not found" in answer else answer
        for question, answer in after.items()
    }
    errors = [
        answer
        for question, answer in after.items()
        if isinstance(answer, str) and answer != before.get(question)
    ]
    wrong = [
        question
        for question in before.keys() | after.keys()
        if not isinstance(after.get(question), str) and after.get(question) != before.get(question)
    ]
    # What is missing because its list failed is not a wrong answer.
    if "list" in after:
        wrong = [question for question in wrong if question in after]
    if wrong:
        return "served wrong", f"{len(wrong)} answers, such as {wrong[0]}"
    if errors:
        return "an error when read", errors[0]
    return "same answers", ""


@dataclass(frozen=True)
class Met:
    """What comes of one changed byte."""

    verdict: str
    example: str
    doctor: int
    """How doctor ends."""


class Sound:
    """A data file at rest, and what an engine answers that has it."""

    def __init__(self, data_file: Path, before: Picture) -> None:
        self.data_file = data_file
        self._data = data_file.read_bytes()
        self._before = before

    @classmethod
    async def of(cls, data_file: Path, folder: Path) -> Sound:
        place = folder / "reference"
        place.mkdir()
        shutil.copy(data_file, place / "engine.db")
        before, error = await serve(place)
        assert before, error
        return cls(data_file, before)

    async def changed(self, place: Path, byte: Place, bit: int) -> Met:
        place.mkdir()
        damaged = place / "engine.db"
        data = bytearray(self._data)
        data[byte.offset] ^= 1 << bit
        damaged.write_bytes(data)
        doctor = await tidemill("engine", "doctor", "--json", damaged)
        met, example = verdict(self._before, *await serve(place))
        shutil.rmtree(place)
        return Met(met, example, doctor.returncode)


async def run(flips: int, seed: int, folder: Path) -> bool:
    """Says whether a wrong answer was served."""
    rng = random.Random(seed)
    say(f"damage: {flips} flips, seed {seed}")
    whole = await make(folder / "whole", stop=True)
    sound = await Sound.of(whole.data_file, folder)
    results: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for number, byte in enumerate(places(whole.data_file, rng, flips)):
        met = await sound.changed(folder / f"flip-{number}", byte, rng.randrange(8))
        noticed = met.doctor == DAMAGED
        results[byte.kind]["flips"] += 1
        results[byte.kind][met.verdict] += 1
        results[byte.kind]["doctor"] += noticed
        if met.verdict != "same answers" and not noticed:
            results[byte.kind][f"{met.verdict}, not by doctor"] += 1
        if met.verdict != "same answers" or not noticed:
            say(
                f"  {byte.kind} of {byte.owner or '?'} at {byte.offset}: {met.verdict}; doctor "
                f"{'names it' if noticed else f'ends with {met.doctor}'}; {met.example[:160]}"
            )
    await _log(folder, rng, flips // 4, results)
    say("")
    columns = [
        "flips", "refused at the start", "an error when read", "served wrong", "same answers",
        "ends otherwise", "doctor", "served wrong, not by doctor",
    ]  # fmt: skip
    say(f"{'':24}" + " ".join(f"{column:>12.12}" for column in columns))
    for kind, counts in results.items():
        say(f"{kind:24}" + " ".join(f"{counts[column]:>12}" for column in columns))
    say(json.dumps({"seed": seed, **results}))
    return any(counts["served wrong"] for counts in results.values())


async def _log(
    folder: Path, rng: random.Random, flips: int, results: defaultdict[str, Counter[str]]
) -> None:
    """Bytes of what the log of a killed engine holds."""
    killed = await make(folder / "killed", stop=False)
    files = [
        file for file in killed.data_file.parent.iterdir() if file.name.startswith("engine.db")
    ]
    place = folder / "log-reference"
    place.mkdir()
    for file in files:
        shutil.copy(file, place)
    before, error = await serve(place)
    assert before, error
    segments = [file for file in files if "-log-" in file.name]
    ends = {file: len(file.read_bytes().rstrip(b"\0")) for file in segments}
    for number in range(flips):
        place = folder / f"log-{number}"
        place.mkdir()
        for file in files:
            shutil.copy(file, place)
        segment = rng.choices(segments, [ends[file] for file in segments])[0]
        data = bytearray(segment.read_bytes())
        data[rng.randrange(ends[segment])] ^= 1 << rng.randrange(8)
        (place / segment.name).write_bytes(data)
        doctor = await tidemill("engine", "doctor", "--json", place / "engine.db")
        noticed = doctor.returncode == DAMAGED
        met, example = verdict(before, *await serve(place))
        results["log"]["flips"] += 1
        results["log"][met] += 1
        results["log"]["doctor"] += noticed
        if met != "same answers" and not noticed:
            results["log"][f"{met}, not by doctor"] += 1
            say(f"  {segment.name}: {met}; doctor ends with {doctor.returncode}; {example[:200]}")
        shutil.rmtree(place)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tidemill-damage-") as temporary:
        wrong = asyncio.run(run(args.flips, args.seed, Path(temporary)))
    say(f"{time.monotonic() - began:.0f} s")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
