"""A backup is made while the engine serves; a data file made of it goes on where it was made."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from temporalio.service import RPCError

from commands import complete
from operators.tools import DAMAGED, IN_USE, connect, data_file, tidemill
from population import differences, octets, picture, populate, settled
from raw import Run, Wire
from server import Server

pytestmark = pytest.mark.ours

BEFORE, MEANWHILE = 200, 100
"""Workflows that close, one after the other, before the backup begins and until it has ended."""


@dataclass
class Load:
    """Runs workflows to their end, one after the other, until told that it is enough."""

    done: list[Run] = field(default_factory=list)
    """Those whose end was acknowledged."""
    enough: bool = False
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def run(self, wire: Wire) -> None:
        while not self.enough:
            run = await wire.start(type="load")
            await wire.step(complete("result"))
            async with self.changed:
                self.done.append(run)
                self.changed.notify_all()

    async def reaches(self, count: int) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.done) >= count)


@pytest.mark.timeout(180)
async def test_a_backup_under_load(own_server: Callable[[], Server], tmp_path: Path) -> None:
    server = own_server()
    server.start()
    wire = await connect(server)
    count, still_open = await populate(wire)
    before = await settled(wire, count)

    load = Load()
    lanes = [Wire(wire.service, wire.namespace) for _ in range(8)]
    work = [asyncio.create_task(load.run(each)) for each in lanes]
    await load.reaches(BEFORE)
    acknowledged = list(load.done)
    file = tmp_path / "backup.db"
    backup = await tidemill("engine", "backup", file, "--address", server.address)
    assert backup.code == 0, backup.error
    assert "no damage" in backup.out
    await load.reaches(len(acknowledged) + MEANWHILE)
    load.enough = True
    await asyncio.gather(*work)
    done = load.done
    assert not (server.folder / "wire.db.backup").exists(), "the engine keeps no copy"
    late = await wire.start(type="late")
    live = {run.run_id: await run.history() for run in done}
    server.kill()

    restored = own_server()
    into = await tidemill("engine", "restore", file, "--data-file", data_file(restored))
    assert into.code == 0, into.error
    restored.start()
    wire = await connect(restored)
    after = await picture(wire)
    kept = {key: after.get(key, b"") for key in before}
    assert not differences(before, kept), "what was settled is as it was"
    for run in acknowledged:
        again = wire.run(run.workflow_id, run.run_id)
        assert await again.status() == "COMPLETED"
        assert list(map(octets, await again.history())) == list(map(octets, live[run.run_id]))
    for run in done:
        # What came meanwhile is there as far as it had come.
        try:
            events = await wire.run(run.workflow_id, run.run_id).history()
        except RPCError:
            assert run not in acknowledged
            continue
        assert list(map(octets, events)) == list(map(octets, live[run.run_id][: len(events)]))
    with pytest.raises(RPCError):
        await wire.run(late.workflow_id).history()
    for run in still_open:
        again = wire.run(run.workflow_id)
        assert await again.status() == "RUNNING"
        await again.signal("still there?")
        await again.terminate()
    restored.kill()
    healthy = await tidemill("engine", "doctor", data_file(restored))
    assert healthy.code == 0, healthy.out


async def test_nothing_is_overwritten(own_server: Callable[[], Server], tmp_path: Path) -> None:
    server = own_server()
    server.start()
    taken = tmp_path / "taken"
    taken.write_text("precious")
    refused = await tidemill("engine", "backup", taken, "--address", server.address)
    assert refused.code == DAMAGED and "not overwritten" in refused.error
    file = tmp_path / "backup.db"
    assert (await tidemill("engine", "backup", file, "--address", server.address)).code == 0

    data = data_file(server)
    in_use = await tidemill("engine", "restore", file, "--data-file", data)
    assert in_use.code == IN_USE, in_use.error
    server.kill()
    refused = await tidemill("engine", "restore", file, "--data-file", data)
    assert refused.code == DAMAGED and "there is something already" in refused.error
    refused = await tidemill("engine", "restore", taken, "--data-file", tmp_path / "new.db")
    assert refused.code == DAMAGED and "not a Tidemill data file" in refused.error
    assert taken.read_text() == "precious"

    away = await tidemill("engine", "backup", tmp_path / "other", "--address", server.address)
    assert away.code == 1 and "cannot connect" in away.error
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".partial")]


async def test_a_damaged_backup_is_refused(
    own_server: Callable[[], Server], tmp_path: Path
) -> None:
    server = own_server()
    server.start()
    wire = await connect(server)
    await wire.start()
    file = tmp_path / "backup.db"
    assert (await tidemill("engine", "backup", file, "--address", server.address)).code == 0
    sound = file.read_bytes()
    file.write_bytes(sound[: len(sound) // 2 // 4096 * 4096])
    refused = await tidemill("engine", "restore", file, "--data-file", tmp_path / "new.db")
    assert refused.code == DAMAGED, refused.error
    assert not (tmp_path / "new.db").exists()
