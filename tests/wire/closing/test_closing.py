"""Cancel, terminate, delete."""

from __future__ import annotations

import pytest
from temporalio import workflow
from temporalio.api.errordetails.v1 import NotFoundFailure
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import CancelledError, TerminatedError
from temporalio.service import RPCError, RPCStatusCode

from commands import activity, cancel, complete
from errors import NOT_FOUND, refused
from histories import TASK, attributes_of
from raw import Run, Wire, fresh
from replay import worker
from waiting import eventually


@workflow.defn
class Cleanup:
    def __init__(self) -> None:
        self.cleaned = False

    @workflow.run
    async def run(self) -> None:
        try:
            await workflow.wait_condition(lambda: False)
        finally:
            self.cleaned = True

    @workflow.query
    def was_cleaned(self) -> bool:
        return self.cleaned


async def test_sdk_cancel_lets_the_workflow_clean_up(client: Client, wire: Wire) -> None:
    async with worker(client, wire.task_queue, [Cleanup]):
        handle = await client.start_workflow(
            Cleanup.run, id=fresh("cleanup"), task_queue=wire.task_queue
        )
        assert not await handle.query(Cleanup.was_cleaned)
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        assert isinstance(failed.value.cause, CancelledError)
        assert await handle.query(Cleanup.was_cleaned)


async def test_sdk_terminate_is_immediate(client: Client, wire: Wire) -> None:
    handle = await client.start_workflow(
        Cleanup.run, id=fresh("cleanup"), task_queue=wire.task_queue
    )
    await handle.terminate(reason="enough")
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    assert isinstance(failed.value.cause, TerminatedError)


async def test_cancel_request_says_who_and_why(wire: Wire) -> None:
    run = await wire.start()
    await wire.step()
    await run.cancel(reason="because")
    events = await run.history()
    requested = attributes_of(events, "WorkflowExecutionCancelRequested")
    assert (requested.cause, requested.identity) == ("because", "wire-client")
    assert (await run.types())[-1] == "WorkflowTaskScheduled"
    assert (await run.describe()).workflow_extended_info.cancel_requested
    await wire.step(cancel("details"))
    assert await run.status() == "CANCELED"


async def test_termination_drops_what_was_pending(wire: Wire) -> None:
    run = await wire.start()
    await wire.step(activity("a", wire.task_queue))
    task = await wire.poll_activity()
    await run.terminate()
    described = await run.describe()
    assert not described.HasField("pending_workflow_task")
    with refused(NOT_FOUND):
        await wire.complete_activity(task)
    assert await run.types() == [
        "WorkflowExecutionStarted",
        *TASK,
        "ActivityTaskScheduled",
        "WorkflowExecutionTerminated",
    ]


async def test_task_of_a_terminated_run_is_stale(wire: Wire) -> None:
    run = await wire.start()
    task = await wire.poll()
    await run.terminate()
    with refused(NOT_FOUND):
        await wire.complete(task, complete())
    with refused(NOT_FOUND):
        await wire.fail(task)


async def test_foreign_first_run_id_is_not_found(wire: Wire) -> None:
    run = await wire.start()
    foreign = fresh("")[1:]
    with refused(NOT_FOUND):
        await wire.run(run.workflow_id).cancel(first_execution_run_id=foreign)
    with refused(NOT_FOUND):
        await wire.run(run.workflow_id).terminate(first_execution_run_id=foreign)
    await run.terminate()


async def gone(run: Run) -> bool:
    try:
        await run.describe()
    except RPCError as error:
        assert error.status == RPCStatusCode.NOT_FOUND
        return True
    return False


@pytest.mark.parametrize("open", [True, False])
async def test_deleted_run_is_gone_and_its_id_free(wire: Wire, open: bool) -> None:
    run = await wire.start()
    if not open:
        await wire.step(complete())
    await run.delete()
    await eventually(lambda: gone(run), bool)
    for call in (run.history(), run.query(), run.signal(), run.delete(), run.cancel()):
        with refused(NOT_FOUND, NotFoundFailure):
            await call
    again = await wire.start(run.workflow_id)
    assert again.run_id != run.run_id
    await again.terminate()


async def test_delete_takes_one_run_of_a_chain(wire: Wire) -> None:
    first = await wire.start()
    await first.terminate()
    second = await wire.start(first.workflow_id)
    await first.delete()
    await eventually(lambda: gone(first), bool)
    assert await wire.run(first.workflow_id).status() == "RUNNING"
    await second.terminate()
