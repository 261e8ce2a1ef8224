"""A run of one namespace does not exist in any other, whatever the call (M1)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from temporalio.api.common.v1 import Priority
from temporalio.api.errordetails.v1 import NamespaceNotFoundFailure
from temporalio.api.workflow.v1 import WorkflowExecutionOptions
from temporalio.api.workflowservice import v1 as api
from temporalio.client import Client

from commands import activity
from errors import INVALID, NOT_FOUND, refused
from raw import SHORTEST_POLL, Run, Wire, fresh
from values import payloads, seconds


async def neighbour(client: Client) -> Wire:
    """Another namespace, seen through the same connection."""
    name = fresh("namespace")
    request = api.RegisterNamespaceRequest(
        namespace=name, workflow_execution_retention_period=seconds(24 * 3600)
    )
    await client.workflow_service.register_namespace(request)
    return Wire(client.workflow_service, name)


def by_id(run: Run, **fields: Any) -> dict[str, Any]:
    return {
        "namespace": run.wire.namespace,
        "workflow_id": run.workflow_id,
        "run_id": run.run_id,
        "activity_id": "a",
        **fields,
    }


async def options(run: Run) -> None:
    request = api.UpdateWorkflowExecutionOptionsRequest(
        namespace=run.wire.namespace,
        workflow_execution=run.execution,
        workflow_execution_options=WorkflowExecutionOptions(priority=Priority(priority_key=1)),
        update_mask=FieldMask(paths=["priority"]),
    )
    await run.service.update_workflow_execution_options(request)


async def reverse(run: Run) -> None:
    request = api.GetWorkflowExecutionHistoryReverseRequest(
        namespace=run.wire.namespace, execution=run.execution
    )
    await run.service.get_workflow_execution_history_reverse(request)


async def reset_sticky(run: Run) -> None:
    request = api.ResetStickyTaskQueueRequest(namespace=run.wire.namespace, execution=run.execution)
    await run.service.reset_sticky_task_queue(request)


async def complete_activity(run: Run) -> None:
    request = api.RespondActivityTaskCompletedByIdRequest(**by_id(run))
    await run.service.respond_activity_task_completed_by_id(request)


async def fail_activity(run: Run) -> None:
    request = api.RespondActivityTaskFailedByIdRequest(**by_id(run))
    await run.service.respond_activity_task_failed_by_id(request)


async def cancel_activity(run: Run) -> None:
    request = api.RespondActivityTaskCanceledByIdRequest(**by_id(run))
    await run.service.respond_activity_task_canceled_by_id(request)


async def heartbeat(run: Run) -> None:
    request = api.RecordActivityTaskHeartbeatByIdRequest(**by_id(run, details=payloads(1)))
    await run.service.record_activity_task_heartbeat_by_id(request)


CALLS: dict[str, Callable[[Run], Awaitable[Any]]] = {
    "describe": Run.describe,
    "history": Run.history,
    "reverse history": reverse,
    "signal": Run.signal,
    "cancel": Run.cancel,
    "terminate": Run.terminate,
    "query": Run.query,
    "update": lambda run: run.update("u"),
    "poll update": lambda run: run.poll_update("u"),
    "reset": lambda run: run.reset(4),
    "delete": Run.delete,
    "options": options,
    "reset sticky": reset_sticky,
    "complete activity by id": complete_activity,
    "fail activity by id": fail_activity,
    "cancel activity by id": cancel_activity,
    "heartbeat by id": heartbeat,
}


async def test_calls_from_another_namespace_find_nothing(client: Client, wire: Wire) -> None:
    run = await wire.start()
    await wire.step(activity("a", wire.task_queue))
    await wire.poll_activity()
    other = await neighbour(client)
    before = await run.history()
    for name, call in CALLS.items():
        for stranger in (
            Run(other, run.workflow_id, run.run_id),
            Run(other, run.workflow_id, ""),
        ):
            with refused(NOT_FOUND) as refusal:
                await call(stranger)
            assert refusal.message, name
    assert await run.history() == before
    await run.terminate()


async def test_same_id_and_queue_live_apart(client: Client, wire: Wire) -> None:
    other = Wire(client.workflow_service, (await neighbour(client)).namespace, wire.task_queue)
    here = await wire.start("same-" + wire.task_queue)
    there = await other.start(here.workflow_id)
    assert here.run_id != there.run_id
    assert (await other.poll()).workflow_execution.run_id == there.run_id
    empty = await other.poll_response(timeout=SHORTEST_POLL)
    assert not empty.task_token
    assert (await wire.poll()).workflow_execution.run_id == here.run_id
    await there.terminate()
    assert await here.status() == "RUNNING"
    await here.terminate()


async def test_lists_and_counts_stay_inside(client: Client, wire: Wire) -> None:
    other = await neighbour(client)
    runs = await asyncio.gather(wire.start(), wire.start())
    listing = api.ListWorkflowExecutionsRequest(namespace=other.namespace)
    assert not (await client.workflow_service.list_workflow_executions(listing)).executions
    counting = api.CountWorkflowExecutionsRequest(namespace=other.namespace)
    assert (await client.workflow_service.count_workflow_executions(counting)).count == 0
    await asyncio.gather(*(run.terminate() for run in runs))


async def test_tokens_are_worth_nothing_elsewhere(client: Client, wire: Wire) -> None:
    other = await neighbour(client)
    run = await wire.start()
    task = await wire.poll()
    with refused(INVALID):
        await other.complete(task)
    await wire.complete(task, activity("a", wire.task_queue))
    step = await wire.poll_activity()
    for call in (other.complete_activity(step), other.heartbeat(step), other.fail_activity(step)):
        with refused(INVALID):
            await call
    assert (await run.types())[-1] == "ActivityTaskScheduled"
    await run.terminate()


@pytest.mark.parametrize("name", CALLS)
async def test_unknown_namespace_is_named_in_the_detail(client: Client, name: str) -> None:
    nowhere = Wire(client.workflow_service, fresh("nowhere"))
    with refused(NOT_FOUND, NamespaceNotFoundFailure) as refusal:
        await CALLS[name](nowhere.run(fresh("run")))
    assert refusal.detail(NamespaceNotFoundFailure).namespace == nowhere.namespace
