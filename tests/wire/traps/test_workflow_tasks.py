"""Traps 7 to 13: workflow tasks that fail, time out or meet buffered events."""

from __future__ import annotations

from temporalio.api.enums.v1 import (
    PendingWorkflowTaskState,
    ResourceExhaustedCause,
    TaskQueueKind,
    TimeoutType,
    WorkflowTaskFailedCause,
)
from temporalio.api.errordetails.v1 import ResourceExhaustedFailure

from commands import cancel_timer, complete, timer
from errors import EXHAUSTED, INVALID, refused
from histories import TASK, attributes, attributes_of, every, type_of, types
from raw import SHORTEST_POLL, Run, Wire, fresh
from values import seconds

UNHANDLED = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND
STICKY = TaskQueueKind.TASK_QUEUE_KIND_STICKY


async def pending(run: Run) -> tuple[str, int]:
    """State and attempt of the pending workflow task."""
    described = await run.describe()
    assert described.HasField("pending_workflow_task")
    task = described.pending_workflow_task
    state = PendingWorkflowTaskState.Name(task.state)
    return state.removeprefix("PENDING_WORKFLOW_TASK_STATE_"), task.attempt


async def test_trap_07_close_command_with_a_buffered_signal_is_unhandled(wire: Wire) -> None:
    run = await wire.start()
    task = await wire.poll()
    await run.signal()
    with refused(INVALID):
        await wire.complete(task, complete())

    events = await run.history()
    assert types(events) == [
        "WorkflowExecutionStarted",
        *TASK[:2],
        "WorkflowTaskFailed",
        "WorkflowExecutionSignaled",
        "WorkflowTaskScheduled",
    ]
    assert attributes_of(events, "WorkflowTaskFailed").cause == UNHANDLED

    again = await wire.poll()
    with refused(EXHAUSTED, ResourceExhaustedFailure) as refusal:
        await run.signal("late")
    busy = ResourceExhaustedCause.RESOURCE_EXHAUSTED_CAUSE_BUSY_WORKFLOW
    assert refusal.detail(ResourceExhaustedFailure).cause == busy
    await wire.complete(again, complete())
    assert type_of(await run.closed()) == "WorkflowExecutionCompleted"


async def test_trap_08_canceled_timer_takes_its_buffered_fire_along(wire: Wire) -> None:
    run = await wire.start()
    await wire.step(timer("t", 1.5), force_new=True)
    task = await wire.poll()
    witness = await wire.start()  # Its later timer says that the first one has fired.
    await wire.step(timer("later", 2))
    await witness.reaches("TimerFired")

    await wire.complete(task, cancel_timer("t"), complete())
    assert await run.types() == [
        "WorkflowExecutionStarted",
        *TASK,
        "TimerStarted",
        *TASK,
        "TimerCanceled",
        "WorkflowExecutionCompleted",
    ]
    await witness.terminate()


async def test_trap_09_sticky_task_times_out_to_the_normal_queue(wire: Wire) -> None:
    run, queue = await wire.start(), fresh("sticky")
    await wire.step(sticky=(queue, 1))
    await wire.poll_response(wire.sticky(queue), SHORTEST_POLL)  # The last poll of a dying worker.
    await run.signal()
    events = await run.reaches("WorkflowTaskScheduled", 3)

    assert types(events) == [
        "WorkflowExecutionStarted",
        *TASK,
        "WorkflowExecutionSignaled",
        "WorkflowTaskScheduled",
        "WorkflowTaskTimedOut",
        "WorkflowTaskScheduled",
    ]
    on_sticky = attributes(events[5]).task_queue
    assert (on_sticky.name, on_sticky.kind) == (queue, STICKY)
    assert on_sticky.normal_name == wire.task_queue
    timed_out = attributes(events[6])
    assert timed_out.timeout_type == TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START
    assert timed_out.started_event_id == 0
    on_normal = attributes(events[7])
    assert (on_normal.task_queue.name, on_normal.attempt) == (wire.task_queue, 1)
    assert (await wire.poll()).history.events[0].event_id == 1


async def test_trap_09_sticky_queue_without_poller_falls_back_at_once(wire: Wire) -> None:
    run, queue = await wire.start(), fresh("sticky")
    await wire.step(sticky=(queue, 60))
    await run.signal()
    task = await wire.poll()

    assert task.history.events[0].event_id == 1
    assert types(task.history.events) == [
        "WorkflowExecutionStarted",
        *TASK,
        "WorkflowExecutionSignaled",
        *TASK[:2],
    ]
    scheduled = every(task.history.events, "WorkflowTaskScheduled")[-1]
    assert attributes(scheduled).task_queue.name == queue
    await wire.complete(task, complete())


async def test_trap_10_failure_on_the_sticky_queue_counts_no_attempt(wire: Wire) -> None:
    run, queue = await wire.start(), fresh("sticky")
    await wire.step(sticky=(queue, 60))
    await wire.poll_response(wire.sticky(queue), SHORTEST_POLL)
    await run.signal()
    await wire.fail(await wire.poll(wire.sticky(queue)))

    second = await wire.poll()
    assert second.attempt == 1
    await wire.fail(second)
    assert (await run.types()).count("WorkflowTaskFailed") == 2
    third = await wire.poll()
    assert third.attempt == 2
    await wire.fail(third)
    assert (await run.types()).count("WorkflowTaskFailed") == 2


async def test_trap_11_transient_tasks_are_not_written_until_one_succeeds(wire: Wire) -> None:
    run = await wire.start()
    for attempt in (1, 2, 3):
        task = await wire.poll()
        assert task.attempt == attempt
        assert types(task.history.events)[-2:] == TASK[:2]
        assert attributes(task.history.events[-2]).attempt == attempt
        await wire.fail(task)
    # To an SDK the server shows the transient task's events; they are not part of the history.
    assert (await run.types()).count("WorkflowTaskFailed") == 1
    assert (await run.describe()).workflow_execution_info.history_length == 4

    await wire.step()
    events = await run.history()
    assert types(events) == [
        "WorkflowExecutionStarted",
        *TASK[:2],
        "WorkflowTaskFailed",
        *TASK,
    ]
    assert attributes(events[4]).attempt == 4


async def test_trap_11_signal_makes_a_transient_task_a_normal_one(wire: Wire) -> None:
    run = await wire.start()
    await wire.fail(await wire.poll())
    assert await pending(run) == ("SCHEDULED", 2)
    await run.signal()
    task = await wire.poll()
    assert task.attempt == 1
    assert types(task.history.events) == [
        "WorkflowExecutionStarted",
        *TASK[:2],
        "WorkflowTaskFailed",
        "WorkflowExecutionSignaled",
        *TASK[:2],
    ]
    assert (await run.describe()).workflow_execution_info.history_length == 7


async def test_trap_12_second_bad_completion_is_answered_but_not_recorded(wire: Wire) -> None:
    run = await wire.start(workflow_task_timeout=seconds(2))
    with refused(INVALID):
        await wire.complete(await wire.poll(), timer("", 1))
    failed = attributes_of(await run.history(), "WorkflowTaskFailed")
    bad_timer = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_TIMER_ATTRIBUTES
    assert failed.cause == bad_timer

    with refused(INVALID):
        await wire.complete(await wire.poll(), timer("", 1))
    assert (await run.describe()).workflow_execution_info.history_length == 4
    assert await pending(run) == ("STARTED", 2)
    assert (await wire.poll()).attempt == 3  # Once attempt 2 has timed out.


async def test_trap_13_command_after_the_close_command_changes_nothing(wire: Wire) -> None:
    run = await wire.start()
    task = await wire.poll()
    with refused(INVALID):
        await wire.complete(task, complete(), timer("t", 1))
    assert await run.types() == ["WorkflowExecutionStarted", *TASK[:2]]
    assert await pending(run) == ("STARTED", 1)
    await wire.complete(task, complete())
    assert type_of(await run.closed()) == "WorkflowExecutionCompleted"
