"""Update-with-start: the run and its first update in one call."""

from __future__ import annotations

import asyncio
from typing import Any

from temporalio import workflow
from temporalio.api.enums.v1 import WorkflowIdConflictPolicy
from temporalio.api.errordetails.v1 import (
    MultiOperationExecutionFailure,
    WorkflowExecutionAlreadyStartedFailure,
)
from temporalio.api.failure.v1 import MultiOperationExecutionAborted
from temporalio.api.workflowservice.v1 import (
    ExecuteMultiOperationRequest,
    ExecuteMultiOperationResponse,
)
from temporalio.client import Client, WithStartWorkflowOperation
from temporalio.common import WorkflowIDConflictPolicy as SdkConflictPolicy
from temporalio.service import RPCStatusCode

from errors import EXISTS, INVALID, refused
from histories import TASK
from messages import accept, respond
from raw import RPC_TIMEOUT, Wire, fresh
from replay import worker
from values import read, seconds

USE = WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
Operation = ExecuteMultiOperationRequest.Operation


@workflow.defn
class Cart:
    def __init__(self) -> None:
        self.items: list[str] = []

    @workflow.run
    async def run(self) -> list[str]:
        await workflow.wait_condition(lambda: len(self.items) >= 2)
        return self.items

    @workflow.update
    def put(self, item: str) -> int:
        self.items.append(item)
        return len(self.items)


async def update_with_start(
    wire: Wire, workflow_id: str, update_id: str = "u", **start: Any
) -> ExecuteMultiOperationResponse:
    begin = wire.start_request(workflow_id, **start)
    update = wire.run(workflow_id).update_request(update_id)
    request = ExecuteMultiOperationRequest(
        namespace=wire.namespace,
        operations=[Operation(start_workflow=begin), Operation(update_workflow=update)],
    )
    return await wire.service.execute_multi_operation(request, timeout=RPC_TIMEOUT)


async def test_sdk_puts_into_a_cart_that_may_not_exist(client: Client, wire: Wire) -> None:
    workflow_id = fresh("cart")
    async with worker(client, wire.task_queue, [Cart]):
        counts = []
        for item in ("apple", "pear"):
            start = WithStartWorkflowOperation(
                Cart.run,
                id=workflow_id,
                task_queue=wire.task_queue,
                id_conflict_policy=SdkConflictPolicy.USE_EXISTING,
            )
            counts.append(
                await client.execute_update_with_start_workflow(
                    Cart.put, item, start_workflow_operation=start
                )
            )
        assert counts == [1, 2]
        handle = client.get_workflow_handle_for(Cart.run, workflow_id)
        assert await handle.result() == ["apple", "pear"]


async def test_update_rides_the_first_task(wire: Wire) -> None:
    workflow_id = fresh("run")
    caller = asyncio.create_task(update_with_start(wire, workflow_id))
    task = await wire.poll()
    (message,) = task.messages
    assert task.started_event_id == 3
    await wire.answer(task, accept(message), respond(message, "first"))
    start, update = (await caller).responses
    assert start.start_workflow.started
    assert read(update.update_workflow.outcome.success) == "first"
    run = wire.run(workflow_id)
    assert await run.types() == [
        "WorkflowExecutionStarted",
        *TASK,
        "WorkflowExecutionUpdateAccepted",
        "WorkflowExecutionUpdateCompleted",
    ]
    # A repeated call finds the completed update.
    again = await update_with_start(wire, workflow_id, workflow_id_conflict_policy=USE)
    assert not again.responses[0].start_workflow.started
    assert read(again.responses[1].update_workflow.outcome.success) == "first"
    await run.terminate()


async def test_open_run_with_policy_fail_aborts_the_update(wire: Wire) -> None:
    run = await wire.start()
    with refused(EXISTS, MultiOperationExecutionFailure) as refusal:
        await update_with_start(wire, run.workflow_id)
    start, update = refusal.detail(MultiOperationExecutionFailure).statuses
    assert start.code == RPCStatusCode.ALREADY_EXISTS
    assert start.details[0].Is(WorkflowExecutionAlreadyStartedFailure.DESCRIPTOR)
    assert update.code == RPCStatusCode.ABORTED
    assert update.details[0].Is(MultiOperationExecutionAborted.DESCRIPTOR)
    await run.terminate()


async def test_only_start_then_update_is_accepted(wire: Wire) -> None:
    workflow_id = fresh("run")
    start = Operation(start_workflow=wire.start_request(workflow_id))
    update = Operation(update_workflow=wire.run(workflow_id).update_request("u"))
    for operations in ([], [start], [update, start], [start, start]):
        request = ExecuteMultiOperationRequest(namespace=wire.namespace, operations=operations)
        with refused(INVALID):
            await wire.service.execute_multi_operation(request)


async def test_options_that_do_not_fit_are_refused(wire: Wire) -> None:
    unfit: list[dict[str, Any]] = [
        {"cron_schedule": "* * * * *"},
        {"workflow_start_delay": seconds(10)},
        {"request_eager_execution": True},
    ]
    for options in unfit:
        with refused(INVALID):
            await update_with_start(wire, fresh("run"), **options)
