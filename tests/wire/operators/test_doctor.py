"""`tidemill engine doctor` names what is wrong with a file or an engine, and changes nothing."""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path

import grpc
import grpc.aio
import plain
import pytest
from commands import activity
from operators.tools import DAMAGED, IN_USE, connect, data_file, doctor, tidemill
from population import populate, settled
from raw import Wire
from server import Server
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import GetWorkflowExecutionHistoryRequest
from values import application_failure, payload, retry
from waiting import eventually

pytestmark = pytest.mark.ours

PAGE = 4096


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the index of the log, which every opener makes anew."""
    files = (path for path in folder.iterdir() if not path.name.endswith("-shm"))
    return {path.name: path.read_bytes() for path in files}


async def test_a_file_is_only_looked_at(own_server: Callable[[], Server]) -> None:
    """After a kill, when much lies in the log, and after an orderly end."""
    server = own_server()
    server.start()
    wire = await connect(server)
    count, still_open = await populate(wire)
    await settled(wire, count)
    file = data_file(server)
    in_use = await doctor(file)
    assert in_use.code == IN_USE and "in use" in in_use.error
    server.kill()
    for _ in range(2):
        before = contents(server.folder)
        seen = await doctor(file)
        assert seen.code == 0, seen.out + seen.error
        found = seen.json
        assert (found["runs_open"], found["runs_stuck"]) == (len(still_open) + 1, 0)
        assert found["runs_open"] + found["runs_closed"] == count
        assert found["complete"] and found["damage"] == []
        assert {table["name"] for table in found["tables"]} >= {"history", "state", "tasks"}
        assert contents(server.folder) == before
        server.start()
        assert server.stop() == 0
    for_people = await tidemill("engine", "doctor", file)
    assert "no damage" in for_people.out


async def test_an_engine_does_not_serve_what_it_cannot_read(
    own_server: Callable[[], Server],
) -> None:
    server = own_server()
    server.start()
    wire = await connect(server)
    for number in range(20):
        await wire.start(f"w{number}", input={"payloads": [payload("x" * 1000)]})
    assert server.stop() == 0
    file = data_file(server)
    sound = file.read_bytes()
    with sqlite3.connect(f"file:{file}?immutable=1", uri=True) as data:
        pages = dict(data.execute("SELECT name, rootpage FROM sqlite_schema WHERE type = 'table'"))

    def damage(table: str) -> None:
        start = (pages[table] - 1) * PAGE
        file.write_bytes(sound[:start] + bytes([0xA5]) * PAGE + sound[start + PAGE :])

    damage("namespaces")
    refused = await tidemill("engine", "--data-file", file, "--listen", "127.0.0.1:0")
    assert refused.code == DAMAGED, refused.error
    assert "malformed" in refused.error and "engine doctor" in refused.error

    damage("history")
    server.start()
    async with plain.service(server.address) as service:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.GetWorkflowExecutionHistory(
                GetWorkflowExecutionHistoryRequest(
                    namespace="default", execution=WorkflowExecution(workflow_id="w3")
                )
            )
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "engine doctor" in (caught.value.details() or "")


async def test_a_damaged_page_is_named(own_server: Callable[[], Server]) -> None:
    server = own_server()
    server.start()
    wire = await connect(server)
    for _ in range(20):
        await wire.start(input={"payloads": [payload("x" * 1000)]})
    assert server.stop() == 0
    file = data_file(server)
    sound = file.read_bytes()
    with sqlite3.connect(f"file:{file}?immutable=1", uri=True) as data:
        pages = dict(data.execute("SELECT name, rootpage FROM sqlite_schema WHERE type = 'table'"))
    for table in ("history", "state", "executions"):
        page = pages[table]
        start = (page - 1) * PAGE
        file.write_bytes(sound[:start] + bytes([0xA5]) * PAGE + sound[start + PAGE :])
        seen = await doctor(file)
        assert seen.code == DAMAGED, seen.error
        assert any(f"page {page}" in line for line in seen.json["damage"]), seen.out
        for_people = await tidemill("engine", "doctor", file)
        assert f"page {page}" in for_people.out and "restore a backup" in for_people.error
    file.write_bytes(sound)
    assert (await doctor(file)).code == 0


def seal(file: Path) -> None:
    """Gives pages that were written by another program their checksums: a defect of ours would."""
    data = bytearray(file.read_bytes())
    for number, start in enumerate(range(0, len(data), PAGE), 1):
        body = data[start : start + PAGE - 8]
        mark = b"\xf7Tc\x01"
        crc = zlib.crc32(number.to_bytes(8, "big") + body)
        data[start + PAGE - 8 : start + PAGE] = mark + crc.to_bytes(4, "big")
    file.write_bytes(data)


async def test_a_run_that_lost_its_task_is_named(own_server: Callable[[], Server]) -> None:
    server = own_server()
    server.start()
    wire = await connect(server)
    sound, lost = await wire.start(), await wire.start()
    assert server.stop() == 0
    with contextlib.closing(sqlite3.connect(data_file(server))) as data, data:
        # Where the task stands is known from the run's state, so it takes a defect to lose it.
        data.execute(
            "DELETE FROM tasks WHERE run = (SELECT run FROM executions WHERE workflow_id = ?)",
            [lost.workflow_id],
        )
    seal(data_file(server))
    seen = await doctor(data_file(server))
    assert seen.code == 1, seen.error
    (stuck,) = seen.json["stuck"]
    assert (stuck["workflow_id"], stuck["run_id"]) == (lost.workflow_id, lost.run_id)
    assert stuck["namespace"] == "default" and stuck["workflow_type"] == "wire"
    assert f"is scheduled and not in queue {wire.task_queue}" in stuck["reasons"][0]
    assert sound.workflow_id not in seen.out


async def test_a_running_engine_says_what_waits_and_why(own_server: Callable[[], Server]) -> None:
    server = own_server()
    server.start()
    wire = await connect(server)
    at = ("--address", server.address)
    idle = await wire.start()
    await wire.step()
    nobody = Wire(wire.service, wire.namespace)
    waits = await nobody.start()

    async def look() -> dict[str, list[str]]:
        found = (await doctor(*at)).json
        return {run["workflow_id"]: run["reasons"] for run in found["stuck"]}

    stuck = await look()
    assert list(stuck) == [waits.workflow_id]
    assert f"in queue {nobody.task_queue}, which nobody polls" in stuck[waits.workflow_id][0]
    seen = await tidemill("engine", "doctor", *at)
    assert seen.code == 1
    assert "1 runs that cannot go on, 1 queues that nobody polls" in seen.error
    assert idle.workflow_id not in seen.out
    assert "1 wait for a signal" in seen.out

    await nobody.step(activity("a", "fails", retry_policy=retry(first=0.001)))
    for _ in range(5):
        failure = application_failure("no route to host")
        await nobody.fail_activity(await nobody.poll_activity("fails"), failure)
    stuck = await eventually(look, lambda stuck: waits.workflow_id in stuck)
    assert any("failed 5 times in a row" in reason for reason in stuck[waits.workflow_id]), stuck
    await waits.terminate()
    healthy = await doctor("--quick", *at)
    assert healthy.code == 0, healthy.out
    assert not healthy.json["complete"] and healthy.json["tables"] == []


async def test_what_is_no_data_file_is_told_so(tmp_path: Path) -> None:
    missing = await tidemill("engine", "doctor", tmp_path / "missing.db")
    assert missing.code == DAMAGED and "missing.db" in missing.error
    text = tmp_path / "text"
    text.write_text("text")
    other = await tidemill("engine", "doctor", text)
    assert other.code == DAMAGED and "not a Tidemill data file" in other.error
    both = await tidemill("engine", "doctor", text, "--address", "127.0.0.1:1")
    assert both.code == 2
