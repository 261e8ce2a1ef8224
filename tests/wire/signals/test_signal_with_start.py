"""Signal-with-start: one call, and the first task already knows the signal."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from temporalio.api.common.v1 import WorkflowType
from temporalio.api.enums.v1 import WorkflowIdConflictPolicy, WorkflowIdReusePolicy
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    SignalWithStartWorkflowExecutionRequest,
    SignalWithStartWorkflowExecutionResponse,
)

from errors import EXISTS, INVALID, refused
from raw import Wire, fresh
from values import payloads, seconds

TERMINATE = WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
FAIL = WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_FAIL
REJECT = WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE


async def signal_with_start(
    wire: Wire, workflow_id: str, name: str = "poke", **fields: Any
) -> SignalWithStartWorkflowExecutionResponse:
    fields.setdefault("request_id", str(uuid4()))
    request = SignalWithStartWorkflowExecutionRequest(
        namespace=wire.namespace,
        workflow_id=workflow_id,
        workflow_type=WorkflowType(name="wire"),
        task_queue=TaskQueue(name=wire.task_queue),
        signal_name=name,
        signal_input=payloads("value"),
        **fields,
    )
    return await wire.service.signal_with_start_workflow_execution(request)


async def test_new_run_holds_the_signal_before_its_first_task(wire: Wire) -> None:
    workflow_id = fresh("run")
    response = await signal_with_start(wire, workflow_id)
    assert response.started
    run = wire.run(workflow_id, response.run_id)
    assert await run.types() == [
        "WorkflowExecutionStarted",
        "WorkflowExecutionSignaled",
        "WorkflowTaskScheduled",
    ]
    await run.terminate()


async def test_open_run_is_only_signaled(wire: Wire) -> None:
    run = await wire.start()
    response = await signal_with_start(wire, run.workflow_id)
    assert (response.run_id, response.started) == (run.run_id, False)
    assert (await run.types()).count("WorkflowExecutionSignaled") == 1
    await run.terminate()


async def test_open_run_may_be_replaced(wire: Wire) -> None:
    run = await wire.start()
    response = await signal_with_start(wire, run.workflow_id, workflow_id_conflict_policy=TERMINATE)
    assert response.started and response.run_id != run.run_id
    assert await run.status() == "TERMINATED"
    assert "WorkflowExecutionSignaled" not in await run.types()
    await wire.run(run.workflow_id).terminate()


async def test_same_request_id_starts_and_signals_once(wire: Wire) -> None:
    workflow_id = fresh("run")
    responses = [await signal_with_start(wire, workflow_id, request_id="same") for _ in range(2)]
    assert responses[0].run_id == responses[1].run_id
    run = wire.run(workflow_id)
    assert (await run.types()).count("WorkflowExecutionSignaled") == 1
    await run.terminate()


async def test_closed_run_and_the_reuse_policy(wire: Wire) -> None:
    run = await wire.start()
    await run.terminate()
    with refused(EXISTS):
        await signal_with_start(wire, run.workflow_id, workflow_id_reuse_policy=REJECT)
    assert (await signal_with_start(wire, run.workflow_id)).started
    await wire.run(run.workflow_id).terminate()


async def test_start_delay_holds_the_task_back(wire: Wire) -> None:
    workflow_id = fresh("run")
    await signal_with_start(wire, workflow_id, workflow_start_delay=seconds(3600))
    run = wire.run(workflow_id)
    assert await run.types() == ["WorkflowExecutionStarted", "WorkflowExecutionSignaled"]
    await run.terminate()


async def test_bad_requests(wire: Wire) -> None:
    with refused(INVALID):
        await signal_with_start(wire, fresh("run"), name="")
    with refused(INVALID):
        await signal_with_start(wire, fresh("run"), workflow_id_conflict_policy=FAIL)
