"""Activities as users write them: results, retries, heartbeats, cancellation."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError, TimeoutError

from raw import Wire, fresh
from replay import worker

SOON = timedelta(seconds=20)


@activity.defn
async def double(value: int) -> int:
    return value * 2


@activity.defn
async def flaky(failures: int) -> int:
    """Fails that often, then returns the attempt's number."""
    if activity.info().attempt <= failures:
        raise ApplicationError("not yet", next_retry_delay=timedelta(milliseconds=10))
    return activity.info().attempt


@activity.defn
async def fatal() -> None:
    raise ApplicationError("never again", type="Fatal")


@activity.defn
async def checkpointed() -> list[int]:
    """Dies at item 3 once; the second attempt goes on from the checkpoint."""
    done = list(activity.info().heartbeat_details)
    first = done[-1] + 1 if done else 0
    for item in range(first, 5):
        activity.heartbeat(item)
        if item == 3 and activity.info().attempt == 1:
            raise ApplicationError("died", next_retry_delay=timedelta(milliseconds=10))
    return [first, activity.info().attempt]


@activity.defn
async def endless() -> None:
    """Heartbeats until it is told to stop."""
    try:
        while True:
            activity.heartbeat()
            await asyncio.sleep(0.05)
    finally:
        assert activity.is_cancelled() or activity.is_worker_shutdown()


@workflow.defn
class Doubles:
    @workflow.run
    async def run(self, count: int) -> int:
        calls = [
            workflow.execute_activity(double, value, start_to_close_timeout=SOON)
            for value in range(count)
        ]
        return sum(await asyncio.gather(*calls))


@workflow.defn
class Retries:
    @workflow.run
    async def run(self) -> list[int]:
        attempts = await workflow.execute_activity(
            flaky, 3, start_to_close_timeout=SOON, retry_policy=RetryPolicy(maximum_attempts=5)
        )
        first, attempt = await workflow.execute_activity(
            checkpointed, start_to_close_timeout=SOON, heartbeat_timeout=SOON
        )
        return [attempts, first, attempt]


@workflow.defn
class Fatal:
    @workflow.run
    async def run(self) -> None:
        policy = RetryPolicy(non_retryable_error_types=["Fatal"])
        await workflow.execute_activity(fatal, start_to_close_timeout=SOON, retry_policy=policy)


@workflow.defn
class Nobody:
    @workflow.run
    async def run(self) -> str:
        try:
            await workflow.execute_activity(
                "nobody",
                task_queue=workflow.info().task_queue + "-without-worker",
                schedule_to_start_timeout=timedelta(milliseconds=500),
                start_to_close_timeout=SOON,
            )
        except ActivityError as error:
            assert isinstance(error.cause, TimeoutError) and error.cause.type is not None
            return error.cause.type.name
        return "no timeout"


@workflow.defn
class Stops:
    @workflow.run
    async def run(self) -> str:
        handle = workflow.start_activity(
            endless,
            start_to_close_timeout=SOON,
            heartbeat_timeout=timedelta(seconds=2),
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
        await asyncio.sleep(0.2)
        handle.cancel()
        try:
            await handle
        except ActivityError as error:
            return type(error.cause).__name__
        return "not canceled"


@workflow.defn
class Local:
    @workflow.run
    async def run(self) -> list[int]:
        doubled = await workflow.execute_local_activity(double, 21, start_to_close_timeout=SOON)
        attempt = await workflow.execute_local_activity(
            flaky,
            2,
            start_to_close_timeout=SOON,
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=10)),
        )
        return [doubled, attempt]


ACTIVITIES = [double, flaky, fatal, checkpointed, endless]


async def test_many_activities_at_once(client: Client, wire: Wire) -> None:
    async with worker(client, wire.task_queue, [Doubles], ACTIVITIES):
        result = await client.execute_workflow(
            Doubles.run, 30, id=fresh("doubles"), task_queue=wire.task_queue
        )
    assert result == sum(range(30)) * 2


async def test_retries_and_checkpoints(client: Client, wire: Wire) -> None:
    async with worker(client, wire.task_queue, [Retries], ACTIVITIES):
        result = await client.execute_workflow(
            Retries.run, id=fresh("retries"), task_queue=wire.task_queue
        )
    assert result == [4, 4, 2]


async def test_non_retryable_type_stops_at_the_first_attempt(client: Client, wire: Wire) -> None:
    async with worker(client, wire.task_queue, [Fatal], ACTIVITIES):
        with pytest.raises(WorkflowFailureError) as failed:
            await client.execute_workflow(Fatal.run, id=fresh("fatal"), task_queue=wire.task_queue)
    assert isinstance(failed.value.cause, ActivityError)
    assert isinstance(failed.value.cause.cause, ApplicationError)
    assert failed.value.cause.cause.type == "Fatal"


async def test_timeout_type_reaches_the_workflow(client: Client, wire: Wire) -> None:
    async with worker(client, wire.task_queue, [Nobody]):
        result = await client.execute_workflow(
            Nobody.run, id=fresh("nobody"), task_queue=wire.task_queue
        )
    assert result == "SCHEDULE_TO_START"


async def test_cancel_reaches_the_running_activity(client: Client, wire: Wire) -> None:
    async with worker(client, wire.task_queue, [Stops], ACTIVITIES):
        result = await client.execute_workflow(
            Stops.run, id=fresh("stops"), task_queue=wire.task_queue
        )
    assert result == CancelledError.__name__


async def test_local_activities_leave_markers_only(client: Client, wire: Wire) -> None:
    async with worker(client, wire.task_queue, [Local], ACTIVITIES):
        handle = await client.start_workflow(
            Local.run, id=fresh("local"), task_queue=wire.task_queue
        )
        assert await handle.result() == [42, 3]
    types = await wire.run(handle.id).types()
    assert types.count("MarkerRecorded") == 2
    assert not any(name.startswith("Activity") for name in types)
