"""Power cuts of a real engine, and proof that the test can fail."""

from __future__ import annotations

import asyncio
import os
import random
import re
import secrets
from pathlib import Path

import pytest

import power
from disk import SECTOR, Change, Disk, File, Note


def test_what_was_acknowledged_survives_power_cuts(tmp_path: Path) -> None:
    seed = int(os.environ.get("POWER_SEED") or secrets.randbelow(1_000_000))
    outcome = asyncio.run(power.run(power.Form(), seed, tmp_path))
    assert not outcome.violations, (
        f"{len(outcome.violations)} violations; POWER_SEED={seed} draws the same: "
        f"{outcome.violations[:10]}"
    )
    assert outcome.acknowledged, "no cut came after something was acknowledged"


def test_what_was_acknowledged_survives_syncs_that_fail_as_well(tmp_path: Path) -> None:
    form = power.Form(cuts=5, seconds=6, faults=True)
    assert asyncio.run(power.run(form, 1, tmp_path)).violations == []


def test_a_disk_that_forgets_syncs_of_the_log_is_noticed(tmp_path: Path) -> None:
    form = power.Form(cuts=3, seconds=3, lie=r"-log-\d+$")
    assert asyncio.run(power.run(form, 1, tmp_path)).violations


def note(
    op: str, *, fd: int = 3, sync: int = 0, offset: int = 0, data: bytes = b"", flag: int = 0
) -> Note:
    return Note(0, offset, fd, sync, op, flag, data)


FOLDER = "/data"
CREATE = note("o", data=b"/data/a", flag=1)
OPEN_FOLDER = note("o", fd=4, data=b"/data")
FOLDER_SYNC = [OPEN_FOLDER, note("b", fd=4, sync=9), note("e", fd=4, sync=9)]


def write(data: bytes, offset: int = 0) -> Note:
    return note("w", data=data, offset=offset)


def cut(
    tmp_path: Path, notes: list[Note], rng: random.Random, lie: str | None = None
) -> dict[str, bytes]:
    disk = Disk(FOLDER, re.compile(lie) if lie else None)
    for each in notes:
        disk.follow(each)
    place = tmp_path / str(rng.random())
    place.mkdir()
    disk.cut(rng, place)
    return {file.name: file.read_bytes() for file in place.iterdir()}


SYNC = [note("b", sync=1), note("e", sync=1)]
FAILED = [note("b", sync=2), note("f", sync=2)]


@pytest.mark.parametrize(
    ("notes", "found"),
    [
        # Nothing is certain of what was not synced, the name included.
        ([CREATE, write(b"x")], [None, b"", b"\0", b"x"]),
        ([CREATE, *FOLDER_SYNC, write(b"x")], [b"", b"\0", b"x"]),
        ([CREATE, write(b"x"), *SYNC], [None, b"x"]),
        ([CREATE, *FOLDER_SYNC, write(b"x"), *SYNC], [b"x"]),
        # What was written while a sync was under way is not covered by it.
        ([CREATE, *FOLDER_SYNC, SYNC[0], write(b"x"), SYNC[1]], [b"", b"\0", b"x"]),
        # Nor by a sync that did not end.
        ([CREATE, *FOLDER_SYNC, write(b"x"), SYNC[0]], [b"", b"\0", b"x"]),
        # Within a sector there is an order.
        (
            [CREATE, *FOLDER_SYNC, write(b"00"), *SYNC, write(b"1"), write(b"2", 1)],
            [b"00", b"10", b"12"],
        ),
        # What a failed sync was to write is lost, though another one succeeds, unless its page is written again.
        ([CREATE, *FOLDER_SYNC, write(b"xy"), *FAILED, *SYNC], [b""]),
        ([CREATE, *FOLDER_SYNC, write(b"xy"), *FAILED, write(b"z", 2), *SYNC], [b"xyz"]),
        # Names: removed, or not yet.
        ([CREATE, *FOLDER_SYNC, note("u", data=b"/data/a\0")], [None, b""]),
        (
            [CREATE, *FOLDER_SYNC, note("u", data=b"/data/a\0"), *FOLDER_SYNC],
            [None],
        ),
        # Truncated, or not yet.
        ([CREATE, *FOLDER_SYNC, write(b"xy"), *SYNC, note("t", offset=1)], [b"xy", b"x\0", b"x"]),
    ],
)
def test_a_cut_leaves_what_a_disk_may_hold(
    tmp_path: Path, notes: list[Note], found: list[bytes | None]
) -> None:
    rng = random.Random(7)
    assert {cut(tmp_path, notes, rng).get("a") for _ in range(200)} == set(found)


def test_a_sync_after_a_failed_one_is_hollow_unless_all_was_written_again() -> None:
    before = [CREATE, *FOLDER_SYNC, write(b"xy"), *FAILED]
    for again, hollow in [([], 1), ([write(b"z", 1)], 0), ([write(b"z", 5000)], 1)]:
        disk = Disk(FOLDER)
        for each in [*before, *again, *SYNC]:
            disk.follow(each)
        assert (disk.failed_syncs["a"], disk.hollow_syncs["a"]) == (1, hollow)


def test_a_lie_makes_a_sync_void(tmp_path: Path) -> None:
    notes = [CREATE, *FOLDER_SYNC, write(b"x"), *SYNC]
    rng = random.Random(7)
    assert {cut(tmp_path, notes, rng, "/a$").get("a") for _ in range(200)} == {b"", b"\0", b"x"}


def test_sectors_come_to_the_disk_apart() -> None:
    file = File(pending=[Change(0, b"1" * SECTOR + b"2" * SECTOR + b"3" * SECTOR)])
    rng = random.Random(7)
    seen = {file.torn(rng, 0.5).ljust(3 * SECTOR, b"\0")[SECTOR // 2 :: SECTOR] for _ in range(400)}
    assert len(seen) == 8, seen
