"""A server that is stopped or killed, and started again, shows exactly what it showed before."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from google.protobuf.message import Message
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import Memo, SearchAttributes
from temporalio.api.workflowservice import v1 as api
from temporalio.client import Client
from temporalio.service import RPCError

from commands import activity, child, complete, continue_as_new, fail, timer
from raw import Run, Wire, fresh
from server import Server
from values import payload, payloads, retry, seconds
from waiting import eventually

pytestmark = pytest.mark.ours

CYCLES = int(os.environ.get("TIDEMILL_CYCLES", "10"))


def octets(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


async def connect(server: Server) -> Wire:
    client = await Client.connect(server.address)
    return Wire(client.workflow_service, "default", "restart")


async def every_run(wire: Wire) -> list[api.ListWorkflowExecutionsResponse]:
    pages = [api.ListWorkflowExecutionsResponse()]
    while pages[-1].next_page_token or len(pages) == 1:
        request = api.ListWorkflowExecutionsRequest(
            namespace=wire.namespace, page_size=5, next_page_token=pages[-1].next_page_token
        )
        pages.append(await wire.service.list_workflow_executions(request))
    return pages[1:]


async def picture(wire: Wire) -> dict[str, bytes]:
    """List, descriptions and histories of everything, as bytes."""
    seen: dict[str, bytes] = {}
    for page in await every_run(wire):
        for info in page.executions:
            run = wire.run(info.execution.workflow_id, info.execution.run_id)
            seen[f"list {run.run_id}"] = octets(info)
            seen[f"describe {run.run_id}"] = octets(await run.describe())
            seen[f"history {run.run_id}"] = b"".join(map(octets, await run.history()))
    return seen


async def begun(wire: Wire, *orders: Command, **options: Any) -> Run:
    """A run that answered its first task with `orders`, on a task queue of its own."""
    own = Wire(wire.service, wire.namespace)
    run = await own.start(**options)
    await own.step(*orders)
    return run


async def populate(wire: Wire) -> tuple[int, list[Run]]:
    """Runs in every state that can last: how many, and those that are open."""
    remembered = {
        "memo": Memo(fields={"note": payload("kept")}),
        "search_attributes": SearchAttributes(indexed_fields={"WireInt": payload(7)}),
    }
    await begun(wire, complete("result"), **remembered)
    await begun(wire, fail())
    await (await begun(wire)).terminate()

    waits = await begun(wire, timer("t", 3600), **remembered)
    scheduled = await begun(wire, activity("a", "nobody", input=payloads("in")))
    backing_off = await begun(wire, activity("a", "fails", retry_policy=retry(first=3600)))
    await wire.fail_activity(await wire.poll_activity("fails"))
    beats = activity("a", "beats", close=3600, heartbeat_timeout=seconds(3000))
    running = await begun(wire, beats)
    await wire.heartbeat(await wire.poll_activity("beats"), "item 500")
    chained = await begun(wire, continue_as_new())
    current = wire.run(chained.workflow_id)
    await current.reaches("WorkflowTaskScheduled")
    base = await begun(wire, timer("t", 3600))
    reset = await base.reset(4)
    born = fresh("child")
    parent = await begun(wire, child(born, task_queue={"name": "nobody"}))
    await parent.reaches("ChildWorkflowExecutionStarted")
    await wire.run(born).reaches("WorkflowTaskScheduled")
    late = await wire.start(workflow_start_delay=seconds(3600))
    await late.signal("kept", 1)
    still = [waits, scheduled, backing_off, running, current, reset, parent, late]
    return 14, still


async def settled(wire: Wire, count: int) -> dict[str, bytes]:
    """The picture once all runs are listed and it no longer changes."""
    previous: dict[str, bytes] = {}

    async def look() -> tuple[bool, dict[str, bytes]]:
        nonlocal previous
        before, previous = previous, await picture(wire)
        return before == previous and len(previous) == 3 * count, previous

    _, seen = await eventually(look, lambda result: result[0])
    return seen


def differences(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


@pytest.mark.timeout(60 + 10 * CYCLES)
async def test_every_cycle_shows_the_same(own_server: Callable[[], Server]) -> None:
    server = own_server()
    server.start()
    wire = await connect(server)
    count, still_open = await populate(wire)
    before = await settled(wire, count)
    for cycle in range(CYCLES):
        if cycle % 2:
            server.kill()
        else:
            assert server.stop() == 0
        server.start()
        wire = await connect(server)
        assert not differences(before, await picture(wire)), f"after cycle {cycle}"

    for run in still_open:
        again = wire.run(run.workflow_id)
        assert await again.status() == "RUNNING"
        await again.signal("still there?")
        assert "WorkflowExecutionSignaled" in await again.types()
        await again.terminate()


async def test_unfinished_work_goes_on(own_server: Callable[[], Server]) -> None:
    """Killed with work of every kind under way: all of it is there for the next worker."""
    server = own_server()
    server.start()
    wire = await connect(server)
    order = await wire.start()
    await wire.step(activity("a", "steps", retry_policy=retry()), timer("t", 1))
    pending = await wire.start()

    server.kill()
    server.start()
    wire = await connect(server)
    tasks = [await wire.poll()]
    assert tasks[0].workflow_execution.run_id in (pending.run_id, order.run_id)
    await wire.complete_activity(await wire.poll_activity("steps"), "done")
    moved = wire.run(order.workflow_id)
    await moved.reaches("ActivityTaskCompleted")
    events = await moved.reaches("TimerFired")
    assert len(events) >= 7
    await wire.run(pending.workflow_id).terminate()
    await moved.terminate()


async def acknowledged(call: Callable[[], Awaitable[Run]]) -> Run | None:
    try:
        return await call()
    except RPCError:
        return None


async def test_what_was_acknowledged_survives_a_kill(own_server: Callable[[], Server]) -> None:
    server = own_server()
    server.start()
    wire = await connect(server)
    starts = [
        asyncio.create_task(acknowledged(lambda: wire.start(type="bulk"))) for _ in range(200)
    ]
    await asyncio.wait(starts, return_when=asyncio.FIRST_COMPLETED)
    os.kill(server.pid, signal.SIGKILL)
    answered = [run for run in await asyncio.gather(*starts) if run is not None]
    server.kill()
    server.start()
    wire = await connect(server)
    for run in answered:
        assert await wire.run(run.workflow_id, run.run_id).status() == "RUNNING"
    assert answered
