"""A workflow that signals or cancels another one."""

from __future__ import annotations

from temporalio import workflow
from temporalio.api.enums.v1 import (
    CancelExternalWorkflowExecutionFailedCause,
    SignalExternalWorkflowExecutionFailedCause,
    WorkflowTaskFailedCause,
)
from temporalio.client import Client

from commands import cancel_external, child, complete, signal_external
from errors import INVALID, refused
from histories import attributes_of, types
from raw import Wire, fresh
from replay import worker
from values import payloads, read

SIGNAL = SignalExternalWorkflowExecutionFailedCause
CANCEL = CancelExternalWorkflowExecutionFailedCause
NO_SIGNAL = (
    SIGNAL.SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_EXTERNAL_WORKFLOW_EXECUTION_NOT_FOUND
)
NO_CANCEL = (
    CANCEL.CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_EXTERNAL_WORKFLOW_EXECUTION_NOT_FOUND
)


@workflow.defn
class Receiver:
    def __init__(self) -> None:
        self.message = ""

    @workflow.run
    async def run(self) -> str:
        await workflow.wait_condition(lambda: bool(self.message))
        return self.message

    @workflow.signal
    def tell(self, message: str) -> None:
        self.message = message


@workflow.defn
class Sender:
    @workflow.run
    async def run(self, target: str) -> None:
        handle = workflow.get_external_workflow_handle_for(Receiver.run, target)
        await handle.signal(Receiver.tell, "hello")


async def test_sdk_signal_to_another_workflow(client: Client, wire: Wire) -> None:
    async with worker(client, wire.task_queue, [Receiver, Sender]):
        target = await client.start_workflow(
            Receiver.run, id=fresh("receiver"), task_queue=wire.task_queue
        )
        await client.execute_workflow(
            Sender.run, target.id, id=fresh("sender"), task_queue=wire.task_queue
        )
        assert await target.result() == "hello"


async def test_signal_names_its_sender(wire: Wire) -> None:
    target = await Wire(wire.service, wire.namespace).start()
    run = await wire.start()
    await wire.step(signal_external(target.workflow_id, "hi", input=payloads("there")))
    events = await run.reaches("ExternalWorkflowExecutionSignaled")
    done = attributes_of(events, "ExternalWorkflowExecutionSignaled")
    assert done.initiated_event_id == 5
    assert done.workflow_execution.workflow_id == target.workflow_id
    signaled = attributes_of(await target.history(), "WorkflowExecutionSignaled")
    assert (signaled.signal_name, read(signaled.input)) == ("hi", "there")
    assert signaled.external_workflow_execution == run.execution
    await target.terminate()
    await run.terminate()


async def test_signal_to_nobody_to_a_closed_run_and_to_itself_fail(wire: Wire) -> None:
    closed = await Wire(wire.service, wire.namespace).start()
    await closed.terminate()
    for target in (fresh("nobody"), closed.workflow_id, None):
        run = await wire.start()
        await wire.step(signal_external(target or run.workflow_id))
        events = await run.reaches("SignalExternalWorkflowExecutionFailed")
        failed = attributes_of(events, "SignalExternalWorkflowExecutionFailed")
        assert (failed.cause, failed.initiated_event_id) == (NO_SIGNAL, 5)
        await run.terminate()


async def test_cancel_of_another_workflow(wire: Wire) -> None:
    target = await Wire(wire.service, wire.namespace).start()
    run = await wire.start()
    await wire.step(cancel_external(target.workflow_id, reason="because"))
    await run.reaches("ExternalWorkflowExecutionCancelRequested")
    requested = attributes_of(await target.history(), "WorkflowExecutionCancelRequested")
    assert requested.external_workflow_execution == run.execution
    assert requested.external_initiated_event_id == 5
    await target.terminate()
    await run.terminate()


async def test_cancel_of_nobody_fails_and_of_a_closed_run_succeeds(wire: Wire) -> None:
    run = await wire.start()
    await wire.step(cancel_external(fresh("nobody")))
    events = await run.reaches("RequestCancelExternalWorkflowExecutionFailed")
    failed = attributes_of(events, "RequestCancelExternalWorkflowExecutionFailed")
    assert failed.cause == NO_CANCEL

    closed = await Wire(wire.service, wire.namespace).start()
    await closed.terminate()
    await wire.step(cancel_external(closed.workflow_id))
    events = await run.reaches("ExternalWorkflowExecutionCancelRequested")
    assert types(await closed.history())[-1] == "WorkflowExecutionTerminated"
    await run.terminate()


async def test_cancel_of_a_child_in_the_task_that_starts_it_is_a_bad_command(wire: Wire) -> None:
    run, child_id = await wire.start(), fresh("child")
    with refused(INVALID):
        task = await wire.poll()
        await wire.complete(task, child(child_id), cancel_external(child_id))
    failed = attributes_of(await run.history(), "WorkflowTaskFailed")
    bad = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_ATTRIBUTES  # noqa: E501
    assert failed.cause == bad
    await wire.step(complete())
