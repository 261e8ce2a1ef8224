"""A disk that is full, read-only or broken for a while, in the middle of traffic."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pytest
from temporalio.service import RPCError, RPCStatusCode

from backups import damage
from lanes import Book, Lane
from power import quiet, wire_to
from raw import Run, Wire
from shim import Shimmed, compile_shim

LANES = 8
CYCLES = 4
"""How many times the disk fails and is well again."""
DONE, REFUSED = 25, 25
"""Workflows that go through between two failures, and calls that are refused in each."""
LIMIT_S = 60
IN_TABLES_NS = 10_000_000_000
"""The tables are written every two seconds; here, beside other work, they have longer."""

CASES = {
    "n": ["No space left on device", "disk is full", "full"],
    "r": ["Read-only file system", "disk I/O error", "readonly"],
    "i": ["Input/output error", "disk I/O error"],
}


@pytest.mark.parametrize("failure", CASES)
def test_a_failing_disk_is_unavailable_and_nothing_is_lost(tmp_path: Path, failure: str) -> None:
    asyncio.run(fail_and_recover(tmp_path, failure))


async def fail_and_recover(folder: Path, failure: str) -> None:
    engine = Shimmed(folder / "engine", compile_shim(folder))
    rng = random.Random(11)
    runtime, book = quiet(), Book()
    running: list[asyncio.Task[None]] = []
    try:
        engine.start()
        await engine.ready()
        process = engine.pid
        wire = await wire_to(engine, runtime)
        lanes = [
            Lane(Wire(wire.service, wire.namespace), book, random.Random(n), f"lane-{n}")
            for n in range(LANES)
        ]
        running = [asyncio.create_task(lane.run()) for lane in lanes]
        read = 0
        for _ in range(CYCLES):
            await reaches(book, running, done=book.done + DONE)
            # Into whatever is being written: tables, data file, a new segment of the log.
            await asyncio.sleep(rng.uniform(0, 2))
            failed = time.monotonic_ns()
            engine.tell(failure)
            await reaches(book, running, refused=book.refusals.total() + REFUSED)
            read += await reads_are_served(wire, book, failed)
            engine.tell("o")
        await reaches(book, running, done=book.done + DONE)
        assert engine.pid == process and engine.ended() is None, "it went on without a restart"
        assert read, "runs were read while the disk failed"
        for message in book.refusals:
            assert any(words in message for words in CASES[failure]), message
            assert "commits go on" in message, f"what to do is not said: {message}"
        engine.die()
        for lane in running:
            lane.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        moment = time.monotonic_ns()
        engine.environment = {}
        engine.start()
        await engine.ready()
        wire = await wire_to(engine, runtime)
        assert await book.violations(wire, moment, rng) == []
        assert engine.stop() == 0
        assert await damage(engine.data_file) == []
    finally:
        for lane in running:
            lane.cancel()
        engine.end()


async def reaches(
    book: Book, running: list[asyncio.Task[None]], *, done: int = 0, refused: int = 0
) -> None:
    """Waits for workflows or refusals. A client that ends, for anything but UNAVAILABLE, is an error."""
    waiting = asyncio.create_task(book.reaches(done=done, refused=refused))
    ended, _ = await asyncio.wait(
        [waiting, *running], timeout=LIMIT_S, return_when=asyncio.FIRST_COMPLETED
    )
    if waiting in ended:
        return
    waiting.cancel()
    for lane in ended:
        lane.result()
    raise TimeoutError(
        f"{book.done} workflows of {done}, {book.refusals.total()} refusals of {refused}: "
        f"{dict(book.refusals)}"
    )


async def reads_are_served(wire: Wire, book: Book, failed: int) -> int:
    """Says how many runs were read. What is in the tables is read as before. What came to the log shortly before
    the failure, or a list, may need what cannot be written now: then the engine says so."""
    read = 0
    for run_id, told in book.runs.items():
        if told.closed is None or told.leaving is not None:
            continue
        try:
            assert await Run(wire, book.names[run_id], run_id).history()
            read += 1
        except RPCError as error:
            assert error.status == RPCStatusCode.UNAVAILABLE, error
            assert told.closed > failed - IN_TABLES_NS, error
        if read == 10:
            break
    try:
        await book.listed(wire)
    except RPCError as error:
        assert error.status == RPCStatusCode.UNAVAILABLE, error
    return read
