"""Cuts the power of a real engine at random moments, and checks what it then has of what it acknowledged.

    export PYTHONPATH=tests/crash:tests/wire       # `make power` does this
    python tests/disk/power.py                     # 10 cuts: what CI runs
    python tests/disk/power.py --cuts 500 --seconds 30
    python tests/disk/power.py --lie log-          # a disk that forgets syncs of the log: must fail
    python tests/disk/power.py --faults            # syncs fail now and then

One engine runs under load, with a kill and a clean stop between; a shim notes every write and sync.
Then, for each cut: the files are made anew of what was synced by then and of a random part of the rest,
an engine is started on them, and asked for everything that clients had been told until that moment.
The seed fixes what is drawn, not what the processes do.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import secrets
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from temporalio.client import Client
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig

import commands
from backups import damage
from disk import Disk, read
from lanes import Book, Lane
from processes import Engine
from raw import Wire
from shim import Shimmed, compile_shim

LANES = 8
NEAR = 150
"""Notes after a start, and before a stop, into which a part of the cuts falls."""


@dataclass(frozen=True)
class Form:
    cuts: int = 10
    seconds: float = 9
    lie: str | None = None
    faults: bool = False
    """Syncs fail now and then."""


@dataclass
class Outcome:
    cuts: int = 0
    acknowledged: int = 0
    """Operations that were acknowledged before the cuts, summed over them."""
    violations: list[str] = field(default_factory=list)


def say(text: str) -> None:
    print(text, flush=True)


def quiet() -> Runtime:
    return Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(filter="error")))


async def wire_to(engine: Engine, runtime: Runtime) -> Wire:
    client = await Client.connect(engine.address, runtime=runtime)
    return Wire(client.workflow_service, "default")


async def load(engine: Shimmed, form: Form, book: Book, rng: random.Random) -> None:
    """Three lives of an engine: killed, stopped, killed."""
    runtime = quiet()
    for life, end in enumerate(["kill", "stop", "kill"]):
        engine.start()
        await engine.ready()
        wire = await wire_to(engine, runtime)
        lanes = [
            Lane(
                Wire(wire.service, wire.namespace),
                book,
                random.Random(rng.random()),
                f"life-{life}-lane-{lane}",
            )
            for lane in range(LANES)
        ]
        running = [asyncio.create_task(lane.run()) for lane in lanes]
        faults = asyncio.create_task(fail_syncs(engine, rng)) if form.faults else None
        done, _ = await asyncio.wait(
            running, timeout=form.seconds / 3, return_when=asyncio.FIRST_COMPLETED
        )
        if faults:
            faults.cancel()
            await asyncio.gather(faults, return_exceptions=True)
        for ended in done:
            raise RuntimeError(f"a client ended: {ended.exception()}\n{engine.tail()}")
        if end == "kill":
            await asyncio.to_thread(engine.die)
        elif (status := await asyncio.to_thread(engine.stop)) != 0:
            raise RuntimeError(f"SIGTERM: the engine ends with {status}\n{engine.tail()}")
        # They would go on with the next life.
        for lane in running:
            lane.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def fail_syncs(engine: Shimmed, rng: random.Random) -> None:
    """Now and then, for a moment, until it is cancelled."""
    try:
        while True:
            await asyncio.sleep(rng.uniform(0.1, 0.8))
            engine.tell(rng.choice("sdw"))
            await asyncio.sleep(rng.uniform(0.0, 0.5))
            engine.tell("o")
    finally:
        engine.tell("o")


def choose(trace: Path, cuts: int, rng: random.Random) -> list[int]:
    """The notes after which the power fails: of three cuts one anywhere, which mostly is while tables are
    written, one near a sync or a change of names, and one near a start or stop."""
    count, starts, turns = 0, [], []
    for count, note in enumerate(read(trace), start=1):
        if note.op == "p":
            starts.append(count)
        elif note.op not in "wc":
            turns.append(count)
    say(f"the trace has {count} notes")
    moments = []
    for number in range(cuts):
        match number % 3:
            case 0:
                moment = rng.randint(1, count)
            case 1:
                moment = rng.choice(turns) + rng.randint(-2, 1)
            case _:
                moment = rng.choice([*starts, count]) + rng.randint(-NEAR, NEAR)
        moments.append(min(max(moment, 1), count))
    return sorted(moments)


async def run(form: Form, seed: int, folder: Path) -> Outcome:
    say(f"power cuts: {form.cuts} in {form.seconds:g} s of load, seed {seed}")
    rng = random.Random(seed)
    trace = folder / "trace"
    engine = Shimmed(folder / "engine", compile_shim(folder), trace)
    book, outcome = Book(), Outcome()
    try:
        await load(engine, form, book, rng)
    finally:
        engine.end()
    moments = choose(trace, form.cuts, rng)
    disk = Disk(str(engine.folder), re.compile(form.lie) if form.lie else None)
    runtime = quiet()
    for number, note in enumerate(read(trace), start=1):
        disk.follow(note)
        while moments and moments[0] == number:
            moments.pop(0)
            outcome.cuts += 1
            place = folder / f"cut-{outcome.cuts}"
            place.mkdir()
            kept = disk.cut(rng, place)
            began = time.monotonic()
            found = await examine(place, runtime, book, disk.time_ns, rng)
            acknowledged = book.acknowledged(disk.time_ns)
            outcome.acknowledged += acknowledged
            say(
                f"  cut {outcome.cuts} after note {number} and {disk.syncs.total()} syncs "
                f"({disk.failed_syncs.total()} failed), {kept}; "
                f"{acknowledged} operations acknowledged; {time.monotonic() - began:.1f} s: "
                f"{'ok' if not found else '; '.join(found[:5])}"
            )
            outcome.violations += [f"cut {outcome.cuts}: {sentence}" for sentence in found]
            if not found:
                shutil.rmtree(place)
    outcome.violations += hollow_syncs(disk)
    return outcome


def hollow_syncs(disk: Disk) -> list[str]:
    """Those of SQLite's files. The log's segments are another matter: after a failure nothing is added to one."""
    return [
        f"{count} syncs of {name} succeeded before what a failed one gave up was written again"
        for name, count in disk.hollow_syncs.items()
        if "-log-" not in name
    ]


async def examine(
    place: Path, runtime: Runtime, book: Book, moment: int, rng: random.Random
) -> list[str]:
    """What is wrong with an engine on these files."""
    engine = Engine(place)
    try:
        engine.start()
        await engine.ready()
        wire = await wire_to(engine, runtime)
        found = await book.violations(wire, moment, rng)
        # It goes on.
        after = await wire.start()
        await wire.step(commands.complete("done"))
        await after.closed()
        if (status := await asyncio.to_thread(engine.stop)) != 0:
            found.append(f"SIGTERM: the engine ends with {status}: {engine.tail()}")
    except Exception as error:
        # It listens before it has read its files; what it says is better than what the client saw.
        status = await asyncio.to_thread(engine.ended)
        return [
            f"{type(error).__name__}: {error}"
            if status is None
            else f"the engine ends with {status}: {engine.tail()}"
        ]
    finally:
        engine.end()
    return found + await damage(engine.data_file)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cuts", type=int, default=Form.cuts)
    parser.add_argument("--seconds", type=float, default=Form.seconds, help="of load in all")
    parser.add_argument("--lie", metavar="REGEX", help="syncs of paths that match do nothing")
    parser.add_argument("--faults", action="store_true", help="syncs fail now and then")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="run here and leave it")
    args = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if args.seed is None else args.seed
    with tempfile.TemporaryDirectory(prefix="tidemill-power-") as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        outcome = asyncio.run(
            run(Form(args.cuts, args.seconds, args.lie, args.faults), seed, folder)
        )
    for sentence in outcome.violations[:40]:
        say(f"  - {sentence}")
    verdict = f"FAILED: {len(outcome.violations)} violations" if outcome.violations else "PASSED"
    say(
        f"power cuts {verdict}: {outcome.cuts} cuts, {outcome.acknowledged} acknowledged operations "
        f"looked for (seed {seed})"
    )
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    sys.exit(main())
