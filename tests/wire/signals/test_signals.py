"""Signals arrive once, in order, and only at open runs."""

from __future__ import annotations

import asyncio

from temporalio import workflow
from temporalio.client import Client

from commands import complete
from errors import INVALID, NOT_FOUND, refused
from histories import TASK, attributes, every
from raw import Wire, fresh
from replay import worker
from values import read


@workflow.defn
class Collect:
    """Returns what it was sent, in order, after `last`."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.ended = False

    @workflow.run
    async def run(self) -> list[int]:
        await workflow.wait_condition(lambda: self.ended)
        return self.seen

    @workflow.signal
    def add(self, value: int) -> None:
        self.seen.append(value)

    @workflow.signal
    def last(self) -> None:
        self.ended = True


async def test_sdk_workflow_sees_every_signal_in_order(client: Client, wire: Wire) -> None:
    async with worker(client, wire.task_queue, [Collect]):
        handle = await client.start_workflow(
            Collect.run, id=fresh("collect"), task_queue=wire.task_queue
        )
        for value in range(20):
            await handle.signal(Collect.add, value)
        await handle.signal(Collect.last)
        assert await handle.result() == list(range(20))


async def test_signal_before_the_first_worker_is_kept(client: Client, wire: Wire) -> None:
    handle = await client.start_workflow(
        Collect.run, id=fresh("collect"), task_queue=wire.task_queue
    )
    await handle.signal(Collect.add, 1)
    await handle.signal(Collect.last)
    async with worker(client, wire.task_queue, [Collect]):
        assert await handle.result() == [1]


async def test_concurrent_signals_are_all_recorded(wire: Wire) -> None:
    run = await wire.start()
    await asyncio.gather(*(run.signal("s", value) for value in range(50)))
    signals = every(await run.history(), "WorkflowExecutionSignaled")
    assert sorted(read(attributes(event).input) for event in signals) == list(range(50))
    await run.terminate()


async def test_signal_carries_its_fields_and_wakes_the_run(wire: Wire) -> None:
    run = await wire.start()
    await wire.step()
    await run.signal("poke", 5)
    events = await run.history()
    signaled = attributes(events[-2])
    assert (signaled.signal_name, signaled.identity) == ("poke", "wire-client")
    assert read(signaled.input) == 5
    assert (await run.types())[-2:] == ["WorkflowExecutionSignaled", "WorkflowTaskScheduled"]
    await run.terminate()


async def test_signal_is_deduplicated_by_request_id(wire: Wire) -> None:
    run = await wire.start()
    for _ in range(3):
        await run.signal(request_id="once")
    await run.signal(request_id="other")
    assert (await run.types()).count("WorkflowExecutionSignaled") == 2
    await run.terminate()


async def test_buffered_signal_is_deduplicated_too(wire: Wire) -> None:
    run = await wire.start()
    task = await wire.poll()
    for _ in range(2):
        await run.signal(request_id="once")
    await wire.complete(task)
    assert await run.types() == [
        "WorkflowExecutionStarted",
        *TASK,
        "WorkflowExecutionSignaled",
        "WorkflowTaskScheduled",
    ]
    await run.terminate()


async def test_signal_needs_an_open_run_and_a_name(wire: Wire) -> None:
    run = await wire.start()
    with refused(INVALID):
        await run.signal("")
    await wire.step(complete())
    with refused(NOT_FOUND):
        await run.signal()
    with refused(NOT_FOUND):
        await wire.run(fresh("nobody")).signal()
