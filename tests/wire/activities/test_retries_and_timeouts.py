"""Attempts and timeouts of activities, as the history tells them (A4, A5)."""

from __future__ import annotations

import pytest
from temporalio.api.enums.v1 import RetryState, TimeoutType, WorkflowTaskFailedCause
from temporalio.api.history.v1 import ActivityTaskTimedOutEventAttributes

from commands import activity
from errors import INVALID, NOT_FOUND, refused
from histories import attributes_of
from raw import Run, Wire, fresh
from values import application_failure, in_seconds, nanos, payloads, read, retry, seconds


async def timed_out(run: Run) -> ActivityTaskTimedOutEventAttributes:
    return attributes_of(await run.reaches("ActivityTaskTimedOut"), "ActivityTaskTimedOut")


async def test_defaults_are_written_out(wire: Wire) -> None:
    run = await wire.start(workflow_run_timeout=seconds(100))
    await wire.step(activity("a", wire.task_queue, heartbeat_timeout=seconds(60)))
    scheduled = attributes_of(await run.history(), "ActivityTaskScheduled")
    assert in_seconds(scheduled.start_to_close_timeout) == 30
    assert in_seconds(scheduled.schedule_to_close_timeout) == 100
    assert in_seconds(scheduled.schedule_to_start_timeout) == 100
    assert in_seconds(scheduled.heartbeat_timeout) == 30
    policy = scheduled.retry_policy
    assert in_seconds(policy.initial_interval) == 1
    assert in_seconds(policy.maximum_interval) == 100
    assert (policy.backoff_coefficient, policy.maximum_attempts) == (2, 0)
    await run.terminate()


async def test_poll_tells_the_worker_everything(wire: Wire) -> None:
    run = await wire.start()
    policy = retry(3, first=0.01)
    await wire.step(activity("a", wire.task_queue, input=payloads("in"), retry_policy=policy))
    first = await wire.poll_activity()
    await wire.heartbeat(first, "item 5")
    await wire.fail_activity(first)
    second = await wire.poll_activity()
    assert (second.activity_id, second.activity_type.name) == ("a", "step")
    assert second.workflow_execution == run.execution
    assert second.workflow_type.name == "wire"
    assert second.attempt == 2
    assert read(second.input) == "in"
    assert read(second.heartbeat_details) == "item 5"
    assert second.scheduled_time == first.scheduled_time
    assert nanos(second.current_attempt_scheduled_time) > nanos(first.scheduled_time)
    assert in_seconds(second.start_to_close_timeout) == 30
    await run.terminate()


async def test_attempts_are_bounded_and_spaced(wire: Wire) -> None:
    run = await wire.start()
    policy = retry(3, first=0.1, coefficient=2)
    await wire.step(activity("a", wire.task_queue, retry_policy=policy))
    times = []
    for attempt in (1, 2, 3):
        task = await wire.poll_activity()
        assert task.attempt == attempt
        times.append(nanos(task.started_time))
        await wire.fail_activity(task, application_failure(f"failure {attempt}"))
    assert times[1] - times[0] >= 100_000_000
    assert times[2] - times[1] >= 200_000_000
    failed = attributes_of(await run.history(), "ActivityTaskFailed")
    assert failed.retry_state == RetryState.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED
    assert failed.failure.message == "failure 3"
    started = attributes_of(await run.history(), "ActivityTaskStarted")
    assert (started.attempt, started.last_failure.message) == (3, "failure 2")
    await run.terminate()


@pytest.mark.parametrize("by_flag", [True, False])
async def test_non_retryable_failure_ends_it_at_once(wire: Wire, by_flag: bool) -> None:
    run = await wire.start()
    await wire.step(activity("a", wire.task_queue, retry_policy=retry(fatal=("Fatal",))))
    failure = application_failure(type="Other" if by_flag else "Fatal", non_retryable=by_flag)
    await wire.fail_activity(await wire.poll_activity(), failure)
    failed = attributes_of(await run.history(), "ActivityTaskFailed")
    assert failed.retry_state == RetryState.RETRY_STATE_NON_RETRYABLE_FAILURE
    await run.terminate()


async def test_schedule_to_start(wire: Wire) -> None:
    run = await wire.start()
    await wire.step(activity("a", fresh("nobody"), schedule_to_start_timeout=seconds(0.5)))
    event = await timed_out(run)
    info = event.failure.timeout_failure_info
    assert info.timeout_type == TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START
    assert event.retry_state == RetryState.RETRY_STATE_TIMEOUT
    assert event.started_event_id == 0
    await run.terminate()


async def test_schedule_to_close(wire: Wire) -> None:
    run = await wire.start()
    await wire.step(activity("a", wire.task_queue, close=0, schedule_to_close_timeout=seconds(2)))
    await wire.poll_activity()
    event = await timed_out(run)
    info = event.failure.timeout_failure_info
    assert info.timeout_type == TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE
    await run.terminate()


async def test_start_to_close_is_retried_and_then_final(wire: Wire) -> None:
    run = await wire.start()
    await wire.step(activity("a", wire.task_queue, close=0.5, retry_policy=retry(2, first=0.01)))
    lost = await wire.poll_activity()
    again = await wire.poll_activity()
    assert again.attempt == 2
    with refused(NOT_FOUND):
        await wire.complete_activity(lost)
    event = await timed_out(run)
    info = event.failure.timeout_failure_info
    assert info.timeout_type == TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE
    assert event.retry_state == RetryState.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED
    await run.terminate()


async def test_heartbeat_timeout_hands_the_details_on(wire: Wire) -> None:
    run = await wire.start()
    await wire.step(
        activity(
            "a",
            wire.task_queue,
            heartbeat_timeout=seconds(2),
            retry_policy=retry(2, first=0.01),
        )
    )
    first = await wire.poll_activity()
    await wire.heartbeat(first, "item 500")
    second = await wire.poll_activity()
    assert (second.attempt, read(second.heartbeat_details)) == (2, "item 500")
    event = await timed_out(run)
    info = event.failure.timeout_failure_info
    assert info.timeout_type == TimeoutType.TIMEOUT_TYPE_HEARTBEAT
    assert read(info.last_heartbeat_details) == "item 500"
    await run.terminate()


async def test_named_timeout_is_not_retried(wire: Wire) -> None:
    run = await wire.start()
    policy = retry(fatal=("TemporalTimeout:StartToClose",))
    await wire.step(activity("a", wire.task_queue, close=0.5, retry_policy=policy))
    await wire.poll_activity()
    event = await timed_out(run)
    assert event.retry_state == RetryState.RETRY_STATE_NON_RETRYABLE_FAILURE
    await run.terminate()


BAD = {
    "no timeout": {"close": 0},
    "no id": {"activity_id": ""},
    "no queue": {"task_queue": ""},
    "no type": {"type": ""},
    "coefficient": {"retry_policy": retry(coefficient=0.5)},
    "interval": {"retry_policy": retry(first=10, maximum=1)},
}


@pytest.mark.parametrize("what", BAD)
async def test_bad_attributes_fail_the_task(wire: Wire, what: str) -> None:
    run = await wire.start()
    options = {"activity_id": "a", "task_queue": wire.task_queue, **BAD[what]}
    with refused(INVALID):
        await wire.complete(await wire.poll(), activity(**options))
    failed = attributes_of(await run.history(), "WorkflowTaskFailed")
    bad = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_ACTIVITY_ATTRIBUTES
    assert failed.cause == bad
    await run.terminate()


async def test_duplicate_id_fails_the_task(wire: Wire) -> None:
    run = await wire.start()
    twice = [activity("a", wire.task_queue)] * 2
    with refused(INVALID):
        await wire.complete(await wire.poll(), *twice)
    failed = attributes_of(await run.history(), "WorkflowTaskFailed")
    cause = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_SCHEDULE_ACTIVITY_DUPLICATE_ID
    assert failed.cause == cause
    await run.terminate()
