"""Workflow tasks: timeouts, late answers, failures that workers report."""

from __future__ import annotations

import json

import pytest
from temporalio.api.enums.v1 import TimeoutType, WorkflowTaskFailedCause

from commands import complete, marker, timer
from errors import NOT_FOUND, refused
from histories import TASK, attributes_of, type_of, types
from raw import Run, Wire
from values import seconds

CAUSE = WorkflowTaskFailedCause
PROBLEMS = "TemporalReportedProblems"


async def test_lost_task_times_out_and_its_late_answer_is_refused(wire: Wire) -> None:
    run = await wire.start(workflow_task_timeout=seconds(2))
    lost = await wire.poll()
    again = await wire.poll()
    assert again.attempt == 2
    with refused(NOT_FOUND):
        await wire.complete(lost, complete("late"))
    await wire.complete(again, complete("in time"))
    events = await run.history()
    assert types(events) == [
        "WorkflowExecutionStarted",
        *TASK[:2],
        "WorkflowTaskTimedOut",
        *TASK,
        "WorkflowExecutionCompleted",
    ]
    timed_out = attributes_of(events, "WorkflowTaskTimedOut")
    assert timed_out.timeout_type == TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE
    assert (timed_out.scheduled_event_id, timed_out.started_event_id) == (2, 3)


async def test_task_is_answered_once(wire: Wire) -> None:
    run = await wire.start()
    task = await wire.step(marker("once"))
    with refused(NOT_FOUND):
        await wire.complete(task, marker("twice"))
    with refused(NOT_FOUND):
        await wire.fail(task)
    assert (await run.types()).count("MarkerRecorded") == 1
    await run.terminate()


@pytest.mark.parametrize("cause", ["NON_DETERMINISTIC_ERROR", "WORKFLOW_WORKER_UNHANDLED_FAILURE"])
async def test_reported_cause_is_recorded(wire: Wire, cause: str) -> None:
    run = await wire.start()
    value = CAUSE.Value(f"WORKFLOW_TASK_FAILED_CAUSE_{cause}")
    await wire.fail(await wire.poll(), value)
    failed = attributes_of(await run.history(), "WorkflowTaskFailed")
    assert (failed.cause, failed.identity) == (value, "wire-worker")
    assert failed.failure.message == "the workflow task failed"
    assert (failed.scheduled_event_id, failed.started_event_id) == (2, 3)
    await run.terminate()


async def test_task_that_does_not_fit_a_message_ends_the_run(wire: Wire) -> None:
    run = await wire.start()
    too_large = CAUSE.WORKFLOW_TASK_FAILED_CAUSE_GRPC_MESSAGE_TOO_LARGE
    await wire.fail(await wire.poll(), too_large)
    assert type_of(await run.closed()) == "WorkflowExecutionTerminated"


async def test_forced_tasks_keep_a_long_local_work_alive(wire: Wire) -> None:
    run = await wire.start()
    task = await wire.poll()
    for _ in range(3):
        done = await wire.complete(task, force_new=True, return_new=True)
        task = done.workflow_task
    await wire.complete(task, complete())
    assert await run.types() == [
        "WorkflowExecutionStarted",
        *TASK * 4,
        "WorkflowExecutionCompleted",
    ]


async def reported(run: Run) -> list[str]:
    info = (await run.describe()).workflow_execution_info
    attribute = info.search_attributes.indexed_fields
    return json.loads(attribute[PROBLEMS].data) if PROBLEMS in attribute else []


async def test_five_failures_in_a_row_are_shown_until_a_success(wire: Wire) -> None:
    run = await wire.start()
    for _ in range(4):
        await wire.fail(await wire.poll())
    assert not await reported(run)
    await wire.fail(await wire.poll())
    assert any(problem.startswith("cause=") for problem in await reported(run))
    await wire.step(timer("t", 3600))
    assert not await reported(run)
    await run.terminate()


async def test_started_event_says_how_large_the_history_is(wire: Wire) -> None:
    run = await wire.start()
    task = await wire.step(timer("t", 3600))
    started = attributes_of(task.history.events, "WorkflowTaskStarted")
    assert started.history_size_bytes > 0
    assert not started.suggest_continue_as_new
    assert started.identity == "wire-worker" and started.request_id
    info = (await run.describe()).workflow_execution_info
    assert info.history_size_bytes > started.history_size_bytes
    assert info.state_transition_count > 0
    await run.terminate()
