"""Traps 1 to 6: when an activity writes to history, and what."""

from __future__ import annotations

import pytest
from temporalio.api.enums.v1 import PendingActivityState, RetryState, TimeoutType

from commands import activity, cancel_activity, fail
from histories import TASK, attributes, attributes_of, every, only, types
from raw import Wire
from values import application_failure, in_seconds, read, retry, seconds

SCHEDULED = ["WorkflowExecutionStarted", *TASK, "ActivityTaskScheduled"]


async def test_trap_01_activity_started_is_deferred(wire: Wire) -> None:
    run = await wire.start()
    await wire.step(activity("a", wire.task_queue, retry_policy=retry()))
    await wire.fail_activity(await wire.poll_activity())
    task = await wire.poll_activity()
    assert await run.types() == SCHEDULED

    await wire.complete_activity(task, "done")
    events = await run.history()
    expected = [*SCHEDULED, "ActivityTaskStarted", "ActivityTaskCompleted", "WorkflowTaskScheduled"]
    assert types(events) == expected
    started = only(events, "ActivityTaskStarted")
    assert started.event_time == task.started_time
    assert attributes(started).attempt == 2
    assert attributes(started).last_failure.message == "boom"
    completed = attributes_of(events, "ActivityTaskCompleted")
    assert (completed.scheduled_event_id, completed.started_event_id) == (5, 6)


async def test_trap_02_retried_failure_writes_nothing(wire: Wire) -> None:
    run = await wire.start()
    await wire.step(activity("a", wire.task_queue, retry_policy=retry(first=60)))
    await wire.fail_activity(await wire.poll_activity())

    assert await run.types() == SCHEDULED
    described = await run.describe()
    assert not described.HasField("pending_workflow_task")
    (pending,) = described.pending_activities
    assert pending.attempt == 2
    assert pending.state == PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED
    assert pending.last_failure.message == "boom"
    assert pending.HasField("next_attempt_schedule_time")
    assert round(in_seconds(pending.current_retry_interval)) == 60


async def test_trap_03_timeout_that_cannot_be_retried_is_schedule_to_close(wire: Wire) -> None:
    run = await wire.start()
    policy = retry(first=0.05, coefficient=1000, maximum=100)
    total = seconds(20)
    await wire.step(
        activity(
            "a", wire.task_queue, close=2, schedule_to_close_timeout=total, retry_policy=policy
        )
    )
    await wire.fail_activity(await wire.poll_activity(), application_failure("first"))
    await wire.poll_activity()  # Attempt 2 runs into its start-to-close timeout.

    timed_out = attributes_of(await run.reaches("ActivityTaskTimedOut"), "ActivityTaskTimedOut")
    assert timed_out.retry_state == RetryState.RETRY_STATE_TIMEOUT
    info = timed_out.failure.timeout_failure_info
    assert info.timeout_type == TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE
    assert timed_out.failure.cause.message == "first"


async def test_trap_03_reported_failure_that_cannot_be_retried_stays_itself(wire: Wire) -> None:
    run = await wire.start()
    policy = retry(first=60)
    await wire.step(
        activity("a", wire.task_queue, schedule_to_close_timeout=seconds(20), retry_policy=policy)
    )
    await wire.fail_activity(await wire.poll_activity())
    failed = attributes_of(await run.history(), "ActivityTaskFailed")
    assert failed.retry_state == RetryState.RETRY_STATE_TIMEOUT
    assert failed.failure.message == "boom"


async def test_trap_04_next_retry_delay_beats_the_maximum_interval(wire: Wire) -> None:
    run = await wire.start()
    await wire.step(activity("a", wire.task_queue, retry_policy=retry(first=1, maximum=1)))
    later = application_failure(next_retry_delay=seconds(60))
    await wire.fail_activity(await wire.poll_activity(), later)
    (pending,) = (await run.describe()).pending_activities
    assert round(in_seconds(pending.current_retry_interval)) == 60


async def test_trap_04_next_retry_delay_loses_to_schedule_to_close(wire: Wire) -> None:
    run = await wire.start()
    await wire.step(
        activity("a", wire.task_queue, schedule_to_close_timeout=seconds(20), retry_policy=retry())
    )
    later = application_failure(next_retry_delay=seconds(60))
    await wire.fail_activity(await wire.poll_activity(), later)
    failed = attributes_of(await run.history(), "ActivityTaskFailed")
    assert failed.retry_state == RetryState.RETRY_STATE_TIMEOUT


async def test_trap_04_next_retry_delay_of_a_workflow_is_clipped(wire: Wire) -> None:
    run = await wire.start(retry_policy=retry(first=1, maximum=5))
    await wire.step(fail(application_failure(next_retry_delay=seconds(60))))
    failed = attributes_of(await run.history(), "WorkflowExecutionFailed")
    assert failed.retry_state == RetryState.RETRY_STATE_IN_PROGRESS
    again = wire.run(run.workflow_id, failed.new_execution_run_id)
    started = attributes_of(await again.history(), "WorkflowExecutionStarted")
    assert in_seconds(started.first_workflow_task_backoff) == 5
    await again.terminate()


@pytest.mark.parametrize("backing_off", [False, True])
async def test_trap_05_cancel_of_an_activity_that_does_not_run(
    wire: Wire, backing_off: bool
) -> None:
    run = await wire.start()
    await wire.step(activity("a", wire.task_queue, retry_policy=retry(first=60)))
    if backing_off:
        await wire.fail_activity(await wire.poll_activity())
    await run.signal()
    await wire.step(cancel_activity(5))

    events = await run.history()
    assert types(events)[-4:] == [
        "WorkflowTaskCompleted",
        "ActivityTaskCancelRequested",
        "ActivityTaskCanceled",
        "WorkflowTaskScheduled",
    ]
    canceled = attributes_of(events, "ActivityTaskCanceled")
    assert read(canceled.details) == "ACTIVITY_ID_NOT_STARTED"
    assert (canceled.scheduled_event_id, canceled.started_event_id) == (5, 0)


async def test_trap_06_buffered_close_events_move_behind_the_others(wire: Wire) -> None:
    run = await wire.start()
    await wire.step(activity("a", wire.task_queue))
    await run.signal("first")
    task = await wire.poll()
    await wire.complete_activity(await wire.poll_activity())
    await run.signal("second")
    assert await run.types() == [*SCHEDULED, "WorkflowExecutionSignaled", *TASK[:2]]

    await wire.complete(task)
    events = await run.history()
    assert types(events)[-5:] == [
        "WorkflowTaskCompleted",
        "ActivityTaskStarted",
        "WorkflowExecutionSignaled",
        "ActivityTaskCompleted",
        "WorkflowTaskScheduled",
    ]
    started = every(events, "ActivityTaskStarted")[-1]
    completed = attributes_of(events, "ActivityTaskCompleted")
    assert completed.started_event_id == started.event_id
