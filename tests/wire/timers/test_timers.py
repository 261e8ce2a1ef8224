"""Timers fire once, in order, never early."""

from __future__ import annotations

import asyncio

from temporalio import workflow
from temporalio.api.enums.v1 import WorkflowTaskFailedCause
from temporalio.client import Client

from commands import cancel_timer, complete, timer
from errors import INVALID, refused
from histories import TASK, attributes, attributes_of, every, only, types
from raw import Wire, fresh
from replay import worker
from values import nanos

CAUSE = WorkflowTaskFailedCause


@workflow.defn
class Sleeper:
    @workflow.run
    async def run(self) -> list[str]:
        log: list[str] = []

        async def nap(name: str, length: float) -> None:
            await asyncio.sleep(length)
            log.append(name)

        never = asyncio.create_task(nap("never", 3600))
        await asyncio.gather(nap("second", 0.3), nap("first", 0.1))
        never.cancel()
        await asyncio.sleep(0.01)
        return log


async def test_sdk_sleeps_in_order_and_cancels(client: Client, wire: Wire) -> None:
    async with worker(client, wire.task_queue, [Sleeper]):
        result = await client.execute_workflow(
            Sleeper.run, id=fresh("sleeper"), task_queue=wire.task_queue
        )
    assert result == ["first", "second"]


async def test_timer_fires_not_before_its_time(wire: Wire) -> None:
    run = await wire.start()
    await wire.step(timer("t", 0.5))
    events = await run.reaches("TimerFired")
    started, fired = only(events, "TimerStarted"), only(events, "TimerFired")
    assert nanos(fired.event_time) - nanos(started.event_time) >= 500_000_000
    assert attributes(fired).timer_id == "t"
    assert attributes(fired).started_event_id == started.event_id
    assert (await run.types())[-2:] == ["TimerFired", "WorkflowTaskScheduled"]
    await run.terminate()


async def test_many_timers_fire_in_the_order_of_their_times(wire: Wire) -> None:
    run = await wire.start()
    await wire.step(*(timer(f"{index:02}", 1 - index * 0.04) for index in range(20)))
    events = await run.reaches("TimerFired", 20)
    fired = [attributes(event).timer_id for event in every(events, "TimerFired")]
    assert fired == [f"{index:02}" for index in reversed(range(20))]
    await run.terminate()


async def test_canceled_timer_never_fires(wire: Wire) -> None:
    run = await wire.start()
    await wire.step(timer("t", 3600))
    await run.signal()
    await wire.step(cancel_timer("t"), timer("t", 0.01))
    events = await run.reaches("TimerFired")
    assert len(every(events, "TimerStarted")) == 2  # The id is free again.
    assert attributes_of(events, "TimerCanceled").started_event_id == 5
    await run.terminate()


async def test_duplicate_and_unknown_timer_fail_the_task(wire: Wire) -> None:
    run = await wire.start()
    with refused(INVALID):
        await wire.complete(await wire.poll(), timer("t", 60), timer("t", 60))
    failed = attributes_of(await run.history(), "WorkflowTaskFailed")
    assert failed.cause == CAUSE.WORKFLOW_TASK_FAILED_CAUSE_START_TIMER_DUPLICATE_ID
    await run.terminate()

    run = await wire.start()
    with refused(INVALID):
        await wire.complete(await wire.poll(), cancel_timer("unknown"))
    failed = attributes_of(await run.history(), "WorkflowTaskFailed")
    assert failed.cause == CAUSE.WORKFLOW_TASK_FAILED_CAUSE_BAD_CANCEL_TIMER_ATTRIBUTES
    assert "TimerCanceled" not in await run.types()
    await run.terminate()


async def test_closing_the_run_forgets_its_timers(wire: Wire) -> None:
    run = await wire.start()
    await wire.step(timer("t", 0.2), complete())
    witness = await wire.start()
    await wire.step(timer("later", 1))
    await witness.reaches("TimerFired")
    assert types(await run.history()) == [
        "WorkflowExecutionStarted",
        *TASK,
        "TimerStarted",
        "WorkflowExecutionCompleted",
    ]
    await witness.terminate()
