"""Child workflows: how they start, how they end, what their parent hears."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio import workflow
from temporalio.api.enums.v1 import (
    ParentClosePolicy,
    StartChildWorkflowExecutionFailedCause,
    WorkflowIdReusePolicy,
)
from temporalio.client import Client
from temporalio.exceptions import ApplicationError, ChildWorkflowError

from commands import cancel, child, complete, continue_as_new, fail
from histories import STARTED, attributes_of, type_of, types
from raw import Run, Wire, fresh
from replay import worker
from values import read, seconds

CAUSE = StartChildWorkflowExecutionFailedCause
REJECT = WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE


@workflow.defn
class Half:
    @workflow.run
    async def run(self, value: int) -> int:
        if value % 2:
            raise ApplicationError("odd", type="Odd")
        return value // 2


@workflow.defn
class Halves:
    @workflow.run
    async def run(self) -> list[str]:
        id = workflow.info().workflow_id
        calls = [
            workflow.execute_child_workflow(Half.run, value, id=f"{id}-{value}")
            for value in range(4)
        ]
        results = await asyncio.gather(*calls, return_exceptions=True)
        return [
            type(result.cause).__name__ if isinstance(result, ChildWorkflowError) else str(result)
            for result in results
        ]


async def test_sdk_parent_gathers_results_and_failures(client: Client, wire: Wire) -> None:
    async with worker(client, wire.task_queue, [Half, Halves]):
        result = await client.execute_workflow(
            Halves.run, id=fresh("halves"), task_queue=wire.task_queue
        )
    assert result == ["0", "ApplicationError", "1", "ApplicationError"]


async def parent_and_child(wire: Wire, **fields: Any) -> tuple[Run, Run, Wire]:
    """A parent whose child has started, and the child's worker."""
    queue = Wire(wire.service, wire.namespace)
    parent, child_id = await wire.start(), fresh("child")
    await wire.step(child(child_id, task_queue={"name": queue.task_queue}, **fields))
    events = await parent.reaches("ChildWorkflowExecutionStarted")
    started = attributes_of(events, "ChildWorkflowExecutionStarted")
    return parent, wire.run(child_id, started.workflow_execution.run_id), queue


async def test_family_ties_are_recorded(wire: Wire) -> None:
    parent, born, queue = await parent_and_child(wire)
    events = await parent.history()
    assert types(events)[-3:] == [
        "StartChildWorkflowExecutionInitiated",
        "ChildWorkflowExecutionStarted",
        "WorkflowTaskScheduled",
    ]
    started = attributes_of(await born.history(), STARTED)
    assert started.parent_workflow_execution == parent.execution
    assert started.parent_initiated_event_id == 5
    assert started.root_workflow_execution == parent.execution
    described = await born.describe()
    assert described.workflow_execution_info.parent_execution == parent.execution
    (pending,) = (await parent.describe()).pending_children
    assert (pending.workflow_id, pending.run_id) == (born.workflow_id, born.run_id)
    assert (await queue.poll()).workflow_execution == born.execution
    await parent.terminate()


@pytest.mark.parametrize("how", ["Completed", "Failed", "Canceled", "Terminated", "TimedOut"])
async def test_parent_hears_how_the_child_ended(wire: Wire, how: str) -> None:
    limit = {"workflow_run_timeout": seconds(2)} if how == "TimedOut" else {}
    parent, born, queue = await parent_and_child(wire, **limit)
    task = await queue.poll()
    if how == "Terminated":
        await born.terminate()
    elif how != "TimedOut":
        command = {"Completed": complete, "Failed": fail, "Canceled": cancel}[how]
        await queue.complete(task, command())
    name = f"ChildWorkflowExecution{how}"
    ended = attributes_of(await parent.reaches(name), name)
    assert ended.workflow_execution == born.execution
    assert ended.initiated_event_id == 5
    assert ended.started_event_id == 6
    await parent.terminate()


async def test_parent_hears_only_of_the_last_run_of_a_chain(wire: Wire) -> None:
    parent, born, queue = await parent_and_child(wire)
    await queue.step(continue_as_new())
    await queue.step(complete("last"))
    events = await parent.reaches("ChildWorkflowExecutionCompleted")
    done = attributes_of(events, "ChildWorkflowExecutionCompleted")
    assert read(done.result) == "last"
    assert type_of(await born.closed()) == "WorkflowExecutionContinuedAsNew"
    await parent.terminate()


async def test_taken_id_fails_the_start_of_the_child(wire: Wire) -> None:
    taken = await Wire(wire.service, wire.namespace).start()
    parent = await wire.start()
    await wire.step(child(taken.workflow_id))
    events = await parent.reaches("StartChildWorkflowExecutionFailed")
    failed = attributes_of(events, "StartChildWorkflowExecutionFailed")
    exists = CAUSE.START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_WORKFLOW_ALREADY_EXISTS
    assert (failed.cause, failed.initiated_event_id) == (exists, 5)
    await taken.terminate()

    # A closed one counts as taken only if the policy says so.
    await wire.step(child(taken.workflow_id, workflow_id_reuse_policy=REJECT))
    await parent.reaches("StartChildWorkflowExecutionFailed", 2)
    await wire.step(child(taken.workflow_id))
    await parent.reaches("ChildWorkflowExecutionStarted")
    await parent.terminate()


@pytest.mark.parametrize("policy", ["TERMINATE", "REQUEST_CANCEL", "ABANDON"])
@pytest.mark.parametrize("by", ["complete", "terminate"])
async def test_parent_close_policy(wire: Wire, policy: str, by: str) -> None:
    value = ParentClosePolicy.Value(f"PARENT_CLOSE_POLICY_{policy}")
    parent, born, queue = await parent_and_child(wire, parent_close_policy=value)
    await queue.step()
    if by == "terminate":
        await parent.terminate()
    else:
        await wire.step(complete())
    if policy == "TERMINATE":
        assert type_of(await born.closed()) == "WorkflowExecutionTerminated"
    elif policy == "REQUEST_CANCEL":
        await born.reaches("WorkflowExecutionCancelRequested")
        await queue.step(cancel())
        assert await born.status() == "CANCELED"
    else:
        await born.signal()
        await queue.step(complete())
        assert await born.status() == "COMPLETED"


async def test_child_of_a_parent_that_closes_at_once_never_starts(wire: Wire) -> None:
    abandon = ParentClosePolicy.PARENT_CLOSE_POLICY_ABANDON
    parent, child_id = await wire.start(), fresh("child")
    await wire.step(child(child_id, parent_close_policy=abandon), complete())
    assert await parent.types() == [
        "WorkflowExecutionStarted",
        "WorkflowTaskScheduled",
        "WorkflowTaskStarted",
        "WorkflowTaskCompleted",
        "StartChildWorkflowExecutionInitiated",
        "WorkflowExecutionCompleted",
    ]
