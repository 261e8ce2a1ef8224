"""Ending an activity: by token, by id, canceled, eager, too late."""

from __future__ import annotations

from typing import Any

from temporalio.api.enums.v1 import PendingActivityState, RetryState
from temporalio.api.workflowservice import v1 as api

from commands import activity, cancel_activity, complete
from errors import INVALID, NOT_FOUND, refused
from histories import attributes_of, types
from raw import ActivityTask, Run, Wire
from values import application_failure, canceled_failure, payloads, read, retry, seconds


async def scheduled(wire: Wire, **fields: Any) -> Run:
    """A run whose activity `a` waits for a worker."""
    run = await wire.start()
    await wire.step(activity("a", wire.task_queue, **fields))
    return run


def by_id(run: Run, **fields: Any) -> dict[str, Any]:
    return {
        "namespace": run.wire.namespace,
        "workflow_id": run.workflow_id,
        "activity_id": "a",
        **fields,
    }


async def stale(wire: Wire, task: ActivityTask) -> None:
    """Every answer with this token is refused."""
    for call in (
        wire.complete_activity(task),
        wire.fail_activity(task),
        wire.cancel_activity(task),
        wire.heartbeat(task),
    ):
        with refused(NOT_FOUND):
            await call


async def test_answers_after_the_end_are_refused(wire: Wire) -> None:
    run = await scheduled(wire)
    task = await wire.poll_activity()
    await wire.complete_activity(task, "once")
    await stale(wire, task)
    assert read(attributes_of(await run.history(), "ActivityTaskCompleted").result) == "once"
    await run.terminate()


async def test_answers_to_a_closed_run_are_refused(wire: Wire) -> None:
    run = await scheduled(wire)
    task = await wire.poll_activity()
    await run.signal()
    await wire.step(complete())
    await stale(wire, task)


async def test_complete_by_id_of_a_running_activity(wire: Wire) -> None:
    run = await scheduled(wire)
    task = await wire.poll_activity()
    request = api.RespondActivityTaskCompletedByIdRequest(**by_id(run, result=payloads("by id")))
    await wire.service.respond_activity_task_completed_by_id(request)
    assert read(attributes_of(await run.history(), "ActivityTaskCompleted").result) == "by id"
    await stale(wire, task)
    await run.terminate()


async def test_complete_by_id_of_an_activity_nobody_has_started(wire: Wire) -> None:
    run = await scheduled(wire)
    request = api.RespondActivityTaskCompletedByIdRequest(**by_id(run, result=payloads("early")))
    await wire.service.respond_activity_task_completed_by_id(request)
    assert types(await run.history())[-3:] == [
        "ActivityTaskStarted",
        "ActivityTaskCompleted",
        "WorkflowTaskScheduled",
    ]
    await run.terminate()


async def test_other_answers_by_id_need_a_started_activity(wire: Wire) -> None:
    run = await scheduled(wire, retry_policy=retry(1))
    fail = api.RespondActivityTaskFailedByIdRequest(**by_id(run, failure=application_failure()))
    beat = api.RecordActivityTaskHeartbeatByIdRequest(**by_id(run, details=payloads(1)))
    cancel = api.RespondActivityTaskCanceledByIdRequest(**by_id(run))
    for call in (
        wire.service.respond_activity_task_failed_by_id(fail),
        wire.service.record_activity_task_heartbeat_by_id(beat),
        wire.service.respond_activity_task_canceled_by_id(cancel),
    ):
        with refused(NOT_FOUND):
            await call
    await wire.poll_activity()
    await wire.service.record_activity_task_heartbeat_by_id(beat)
    await wire.service.respond_activity_task_failed_by_id(fail)
    failed = attributes_of(await run.history(), "ActivityTaskFailed")
    assert failed.failure.message == "boom"
    await run.terminate()


async def test_unknown_id(wire: Wire) -> None:
    run = await scheduled(wire)
    request = api.RespondActivityTaskCompletedByIdRequest(**by_id(run))
    request.activity_id = "unknown"
    with refused(NOT_FOUND):
        await wire.service.respond_activity_task_completed_by_id(request)
    await run.terminate()


async def test_cancel_reaches_the_worker_with_its_next_heartbeat(wire: Wire) -> None:
    run = await scheduled(wire, heartbeat_timeout=seconds(30))
    task = await wire.poll_activity()
    assert not (await wire.heartbeat(task)).cancel_requested
    await run.signal()
    await wire.step(cancel_activity(5))
    (pending,) = (await run.describe()).pending_activities
    assert pending.state == PendingActivityState.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED
    assert (await wire.heartbeat(task)).cancel_requested
    await wire.cancel_activity(task, "cleaned up")
    events = await run.history()
    canceled = attributes_of(events, "ActivityTaskCanceled")
    assert read(canceled.details) == "cleaned up"
    requested = [e for e in events if e.HasField("activity_task_cancel_requested_event_attributes")]
    assert canceled.latest_cancel_requested_event_id == requested[0].event_id
    await run.terminate()


async def test_canceled_without_request_is_refused(wire: Wire) -> None:
    run = await scheduled(wire)
    task = await wire.poll_activity()
    with refused(INVALID):
        await wire.cancel_activity(task)
    await wire.complete_activity(task)
    await run.terminate()


async def test_failure_after_a_cancel_request_is_not_retried(wire: Wire) -> None:
    run = await scheduled(wire, retry_policy=retry())
    task = await wire.poll_activity()
    await run.signal()
    await wire.step(cancel_activity(5))
    await wire.fail_activity(task)
    failed = attributes_of(await run.history(), "ActivityTaskFailed")
    assert failed.retry_state == RetryState.RETRY_STATE_CANCEL_REQUESTED
    await run.terminate()


async def test_failure_must_be_an_application_failure(wire: Wire) -> None:
    run = await scheduled(wire)
    task = await wire.poll_activity()
    with refused(INVALID):
        await wire.fail_activity(task, canceled_failure())
    await run.terminate()


async def test_eager_activity_comes_with_the_completed_task(wire: Wire) -> None:
    run = await wire.start()
    order = activity("a", wire.task_queue, request_eager_execution=True)
    done = await wire.complete(await wire.poll(), order)
    (task,) = done.activity_tasks
    assert (task.activity_id, task.attempt) == ("a", 1)
    await wire.complete_activity(task, "eager")
    assert read(attributes_of(await run.history(), "ActivityTaskCompleted").result) == "eager"
    await run.terminate()


async def test_describe_shows_a_running_activity(wire: Wire) -> None:
    run = await scheduled(wire, heartbeat_timeout=seconds(30))
    task = await wire.poll_activity()
    await wire.heartbeat(task, 7)
    (pending,) = (await run.describe()).pending_activities
    assert pending.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
    assert (pending.activity_id, pending.attempt) == ("a", 1)
    assert read(pending.heartbeat_details) == 7
    assert pending.last_worker_identity == "wire-worker"
    assert pending.last_started_time == task.started_time
    await run.terminate()
