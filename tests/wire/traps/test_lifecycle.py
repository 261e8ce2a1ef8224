"""Traps 19 to 26: closing, starting again, continuing and resetting."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio.api.common.v1 import Memo, WorkflowType
from temporalio.api.enums.v1 import (
    ContinueAsNewInitiator,
    UpdateAdmittedEventOrigin,
    WorkflowIdConflictPolicy,
    WorkflowIdReusePolicy,
    WorkflowTaskFailedCause,
)
from temporalio.api.errordetails.v1 import WorkflowExecutionAlreadyStartedFailure

from commands import child, complete, continue_as_new, fail
from errors import EXISTS, NOT_FOUND, refused
from histories import TASK, attributes, attributes_of, every, only, type_of, types
from messages import accept, respond
from raw import Wire, fresh
from values import in_seconds, nanos, payload, read, seconds

REJECT = WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
USE = WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
TERMINATE = WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
CRON = ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE
FORCE_CLOSE = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND
RESET = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW


async def test_trap_19_cancel_signal_and_terminate_of_a_closed_run(wire: Wire) -> None:
    run = await wire.start()
    await run.cancel()
    await run.cancel()
    assert (await run.types()).count("WorkflowExecutionCancelRequested") == 1
    await wire.step(complete())
    before = await run.history()
    await run.cancel()
    with refused(NOT_FOUND):
        await run.signal()
    with refused(NOT_FOUND):
        await run.terminate()
    assert await run.history() == before


@pytest.mark.parametrize(
    "delay", [{"workflow_start_delay": seconds(3600)}, {"cron_schedule": "0 0 1 1 *"}]
)
async def test_trap_20_only_cancel_ends_the_first_backoff(
    wire: Wire, delay: dict[str, Any]
) -> None:
    run = await wire.start(**delay)
    await run.signal()
    events = await run.history()
    assert types(events) == ["WorkflowExecutionStarted", "WorkflowExecutionSignaled"]
    backoff = attributes(events[0]).first_workflow_task_backoff
    info = (await run.describe()).workflow_execution_info
    waited = nanos(info.execution_time) - nanos(info.start_time)
    assert waited == backoff.ToNanoseconds() > 0

    await run.cancel()
    assert (await run.types())[2:] == ["WorkflowExecutionCancelRequested", "WorkflowTaskScheduled"]
    await run.terminate()


async def test_trap_20_run_timeout_counts_from_the_end_of_the_backoff(wire: Wire) -> None:
    run = await wire.start(workflow_start_delay=seconds(1), workflow_run_timeout=seconds(1))
    closed = await run.closed()
    assert type_of(closed) == "WorkflowExecutionTimedOut"
    events = await run.history()
    assert "WorkflowTaskScheduled" in types(events)
    assert nanos(closed.event_time) - nanos(events[0].event_time) >= 2_000_000_000


async def test_trap_21_request_id_comes_before_every_policy(wire: Wire) -> None:
    run = await wire.start(request_id="same")
    await run.terminate()
    again = await wire.start_response(
        run.workflow_id, request_id="same", workflow_id_reuse_policy=REJECT
    )
    assert (again.run_id, again.started) == (run.run_id, True)
    with refused(EXISTS):
        await wire.start(run.workflow_id, workflow_id_reuse_policy=REJECT)


async def test_trap_22_conflict_names_the_open_run(wire: Wire) -> None:
    run = await wire.start(request_id="creator")
    with refused(EXISTS, WorkflowExecutionAlreadyStartedFailure) as refusal:
        await wire.start(run.workflow_id)
    detail = refusal.detail(WorkflowExecutionAlreadyStartedFailure)
    assert detail.start_request_id == "creator"
    assert detail.run_id == detail.first_execution_run_id == run.run_id

    used = await wire.start_response(run.workflow_id, workflow_id_conflict_policy=USE)
    assert (used.run_id, used.started) == (run.run_id, False)

    new = await wire.start_response(run.workflow_id, workflow_id_conflict_policy=TERMINATE)
    assert new.started and new.run_id != run.run_id
    assert type_of((await run.history())[-1]) == "WorkflowExecutionTerminated"
    assert await wire.run(run.workflow_id, new.run_id).status() == "RUNNING"


async def test_trap_23_tight_continue_as_new_waits_and_closes_children(wire: Wire) -> None:
    run, child_id = await wire.start(), fresh("child")
    await wire.step(child(child_id))
    await run.reaches("ChildWorkflowExecutionStarted")
    by_type = {}
    for _ in range(2):
        task = await wire.poll()
        by_type[task.workflow_type.name] = task
    await wire.complete(by_type["wire"], continue_as_new())

    closing = await run.closed()
    successor = wire.run(run.workflow_id, attributes(closing).new_execution_run_id)
    started = attributes_of(await successor.history(), "WorkflowExecutionStarted")
    assert 0 < in_seconds(started.first_workflow_task_backoff) <= 1
    ended = await wire.run(child_id).closed()
    assert type_of(ended) == "WorkflowExecutionTerminated"
    await successor.terminate()


async def test_trap_24_cron_carries_the_result_and_reverts_the_rest(wire: Wire) -> None:
    run = await wire.start(
        cron_schedule="@every 1s", memo=Memo(fields={"origin": payload("start")})
    )
    chain = [run]
    for command in (complete("result"), fail()):
        started = attributes_of(await chain[-1].history(), "WorkflowExecutionStarted")
        assert (started.initiator, started.attempt) == (CRON, 1)
        assert 0 < in_seconds(started.first_workflow_task_backoff) <= 2
        await wire.step(command)
        closing = attributes(await chain[-1].closed())
        chain.append(wire.run(run.workflow_id, closing.new_execution_run_id))

    second = attributes_of(await chain[1].history(), "WorkflowExecutionStarted")
    assert read(second.last_completion_result) == "result"
    assert not second.HasField("continued_failure")
    assert second.continued_execution_run_id == run.run_id
    third = attributes_of(await chain[2].history(), "WorkflowExecutionStarted")
    assert read(third.last_completion_result) == "result"
    assert third.continued_failure.message == "boom"
    assert third.first_execution_run_id == run.run_id
    assert read(third.memo.fields["origin"]) == "start"
    assert [await one.status() for one in chain] == ["COMPLETED", "FAILED", "RUNNING"]
    await chain[-1].terminate()


async def test_trap_25_terminate_fails_the_started_task_and_flushes(wire: Wire) -> None:
    run = await wire.start()
    await wire.poll()
    await run.signal()
    await run.terminate("enough")
    events = await run.history()
    assert types(events) == [
        "WorkflowExecutionStarted",
        *TASK[:2],
        "WorkflowTaskFailed",
        "WorkflowExecutionSignaled",
        "WorkflowExecutionTerminated",
    ]
    assert attributes_of(events, "WorkflowTaskFailed").cause == FORCE_CLOSE
    terminated = attributes(events[-1])
    assert (terminated.reason, terminated.identity) == ("enough", "wire-client")


async def test_trap_26_reset_replays_signals_and_updates_after_the_point(wire: Wire) -> None:
    run = await wire.start()
    await wire.step()
    await run.signal("one")
    await wire.step()
    caller = asyncio.create_task(run.update("u"))
    task = await wire.poll()
    (request,) = task.messages
    await wire.answer(task, accept(request), respond(request))
    await caller
    await run.signal("two")

    new = await run.reset(4)
    events = await new.history()
    assert types(events) == [
        "WorkflowExecutionStarted",
        *TASK[:2],
        "WorkflowTaskFailed",
        "WorkflowExecutionSignaled",
        "WorkflowExecutionUpdateAdmitted",
        "WorkflowExecutionSignaled",
        "WorkflowTaskScheduled",
    ]
    failed = attributes_of(events, "WorkflowTaskFailed")
    assert (failed.cause, failed.base_run_id, failed.new_run_id) == (
        RESET,
        run.run_id,
        new.run_id,
    )
    names = [attributes(event).signal_name for event in every(events, "WorkflowExecutionSignaled")]
    assert names == ["one", "two"]
    admitted = attributes_of(events, "WorkflowExecutionUpdateAdmitted")
    assert admitted.origin == UpdateAdmittedEventOrigin.UPDATE_ADMITTED_EVENT_ORIGIN_REAPPLY
    assert attributes(events[0]).original_execution_run_id == run.run_id
    assert await run.status() == "TERMINATED"
    assert (await run.describe()).workflow_extended_info.reset_run_id == new.run_id
    await new.terminate()


async def test_trap_26_parent_hears_of_the_reset_child_only_when_that_ends(wire: Wire) -> None:
    parent, child_id = await wire.start(), fresh("child")
    queue = Wire(wire.service, wire.namespace)
    on_queue = {"name": queue.task_queue}
    await wire.step(child(child_id, task_queue=on_queue))
    await parent.reaches("ChildWorkflowExecutionStarted")
    await queue.step()
    new = await wire.run(child_id).reset(4)
    await queue.step(complete("after the reset"))
    assert type_of(await new.closed()) == "WorkflowExecutionCompleted"
    events = await parent.reaches("ChildWorkflowExecutionCompleted")
    assert "ChildWorkflowExecutionTerminated" not in types(events)
    done = attributes(only(events, "ChildWorkflowExecutionCompleted"))
    assert done.workflow_type == WorkflowType(name="child")
    await parent.terminate()
