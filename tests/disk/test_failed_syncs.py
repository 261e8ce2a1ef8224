"""A sync of SQLite's files that fails, once, while the engine is at work: what it was to write is written again.

The system may have given it up. A power cut shows that by chance; here each sync that succeeds later is looked at.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from disk import Disk, notes
from lanes import Book, Lane
from power import examine, hollow_syncs, quiet, wire_to
from raw import Wire
from shim import Shimmed, compile_shim

LANES = 8
CUTS = 3
LIMIT_S = 120
"""A checkpoint comes with 16 MB."""


@pytest.mark.parametrize(("command", "name"), [("w", "engine.db-wal"), ("d", "engine.db")])
def test_what_a_failed_sync_was_to_write_is_written_again(
    tmp_path: Path, command: str, name: str
) -> None:
    asyncio.run(fail_once(tmp_path, command, name))


async def fail_once(folder: Path, command: str, name: str) -> None:
    trace = folder / "trace"
    engine = Shimmed(folder / "engine", compile_shim(folder), trace)
    disk, rng, runtime, book = Disk(str(engine.folder)), random.Random(5), quiet(), Book()
    running: list[asyncio.Task[None]] = []
    try:
        engine.start()
        await engine.ready()
        wire = await wire_to(engine, runtime)
        with trace.open("rb") as file:

            def catch_up() -> None:
                for note in notes(file):
                    disk.follow(note)

            async def until(reached: Callable[[], bool]) -> None:
                deadline = time.monotonic() + LIMIT_S
                while catch_up() or not reached():
                    for task in running:
                        assert not task.done(), task.exception()
                    assert time.monotonic() < deadline, (disk.syncs, disk.failed_syncs)
                    await asyncio.sleep(0.1)

            catch_up()
            engine.tell(command)
            running += [
                asyncio.create_task(
                    Lane(Wire(wire.service, wire.namespace), book, random.Random(n), f"{n}").run()
                )
                for n in range(LANES)
            ]
            await until(lambda: disk.failed_syncs[name] > 0)
            engine.tell("o")
            before = disk.syncs[name]
            await until(lambda: disk.syncs[name] > before)
            engine.die()
            catch_up()
        assert hollow_syncs(disk) == []
        assert book.refusals.total() == 0, "nobody is concerned by what commits do not wait for"
        for cut in range(CUTS):
            place = folder / f"cut-{cut}"
            place.mkdir()
            disk.cut(rng, place)
            assert await examine(place, runtime, book, disk.time_ns, rng) == []
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        engine.end()
