"""A server that is stopped or killed, and started again, shows exactly what it showed before."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

import pytest
from temporalio.client import Client
from temporalio.service import RPCError

from commands import activity, timer
from population import differences, picture, populate, settled
from raw import Run, Wire
from server import Server
from values import retry

pytestmark = pytest.mark.ours

CYCLES = int(os.environ.get("TIDEMILL_CYCLES", "10"))


async def connect(server: Server) -> Wire:
    client = await Client.connect(server.address)
    return Wire(client.workflow_service, "default", "restart")


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
