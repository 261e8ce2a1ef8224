"""Updates: validated, answered, written once."""

from __future__ import annotations

import asyncio

import pytest
from temporalio import workflow
from temporalio.api.enums.v1 import UpdateWorkflowExecutionLifecycleStage
from temporalio.client import (
    Client,
    WorkflowUpdateFailedError,
    WorkflowUpdateStage,
)
from temporalio.exceptions import ApplicationError

from commands import complete, continue_as_new
from errors import DENIED, INVALID, NOT_FOUND, PRECONDITION, refused
from histories import TASK, attributes_of, types
from messages import accept, reject, request_in, respond
from raw import ACCEPTED, ADMITTED, COMPLETED, Wire, fresh
from replay import worker
from values import read

NO_WAIT = (
    UpdateWorkflowExecutionLifecycleStage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_UNSPECIFIED
)
IDLE = ["WorkflowExecutionStarted", *TASK]


@workflow.defn
class Ledger:
    def __init__(self) -> None:
        self.total = 0
        self.ended = False

    @workflow.run
    async def run(self) -> int:
        await workflow.wait_condition(lambda: self.ended)
        return self.total

    @workflow.update
    async def deposit(self, amount: int) -> int:
        self.total += amount
        await asyncio.sleep(0.01)
        return self.total

    @deposit.validator
    def positive(self, amount: int) -> None:
        if amount <= 0:
            raise ApplicationError("not positive", type="NotPositive")

    @workflow.update
    def fail(self) -> None:
        raise ApplicationError("on purpose", type="OnPurpose")

    @workflow.update
    def end(self) -> None:
        self.ended = True


async def test_sdk_updates(client: Client, wire: Wire) -> None:
    async with worker(client, wire.task_queue, [Ledger]):
        handle = await client.start_workflow(
            Ledger.run, id=fresh("ledger"), task_queue=wire.task_queue
        )
        assert await handle.execute_update(Ledger.deposit, 5) == 5
        with pytest.raises(WorkflowUpdateFailedError) as refusal:
            await handle.execute_update(Ledger.deposit, -1)
        assert isinstance(refusal.value.cause, ApplicationError)
        assert refusal.value.cause.type == "NotPositive"
        with pytest.raises(WorkflowUpdateFailedError):
            await handle.execute_update(Ledger.fail)
        started = await handle.start_update(
            Ledger.deposit, 2, wait_for_stage=WorkflowUpdateStage.ACCEPTED
        )
        assert await started.result() == 7
        both = await asyncio.gather(
            *(handle.execute_update(Ledger.deposit, 1, id="same") for _ in range(2))
        )
        assert both == [8, 8]
        many = await asyncio.gather(*(handle.execute_update(Ledger.deposit, 1) for _ in range(8)))
        assert sorted(many) and (await handle.execute_update(Ledger.deposit, 1)) == 17
        await handle.execute_update(Ledger.end)
        assert await handle.result() == 17


async def test_update_events_hold_request_and_outcome(wire: Wire) -> None:
    run = await wire.start()
    await wire.step()
    caller = asyncio.create_task(run.update("u"))
    task = await wire.poll()
    (message,) = task.messages
    assert (message.id, message.protocol_instance_id) == ("u/request", "u")
    assert message.event_id == task.started_event_id - 1
    assert request_in(message).input.name == "change"
    await wire.answer(task, accept(message), respond(message, "outcome"))
    response = await caller
    assert response.stage == COMPLETED
    assert response.update_ref.workflow_execution.run_id == run.run_id

    events = await run.history()
    assert types(events) == [
        *IDLE,
        *TASK,
        "WorkflowExecutionUpdateAccepted",
        "WorkflowExecutionUpdateCompleted",
    ]
    accepted = attributes_of(events, "WorkflowExecutionUpdateAccepted")
    assert accepted.protocol_instance_id == "u"
    assert accepted.accepted_request_message_id == "u/request"
    assert accepted.accepted_request_sequencing_event_id == 5
    assert accepted.accepted_request.input.name == "change"
    done = attributes_of(events, "WorkflowExecutionUpdateCompleted")
    assert done.accepted_event_id == 8
    assert read(done.outcome.success) == "outcome"
    await run.terminate()


async def test_update_rides_the_pending_task(wire: Wire) -> None:
    run = await wire.start()
    caller = asyncio.create_task(run.update("u"))
    # Whether it came before the poll or after it, a task brings it.
    task = await wire.poll()
    if not task.messages:
        await wire.complete(task)
        task = await wire.poll()
    (message,) = task.messages
    await wire.answer(task, accept(message), respond(message))
    await caller
    await run.terminate()


async def test_update_completes_in_a_later_task(wire: Wire) -> None:
    run = await wire.start()
    await wire.step()
    caller = asyncio.create_task(run.update("u", ACCEPTED))
    task = await wire.poll()
    (message,) = task.messages
    await wire.answer(task, accept(message))
    accepted = await caller
    assert accepted.stage == ACCEPTED and accepted.outcome.WhichOneof("value") is None
    assert (await run.poll_update("u", NO_WAIT)).stage == ACCEPTED

    waiting = asyncio.create_task(run.poll_update("u"))
    await run.signal()
    await wire.answer(await wire.poll(), respond(message, "late"))
    assert read((await waiting).outcome.success) == "late"
    await run.terminate()


async def test_update_the_worker_ignored_is_rejected(wire: Wire) -> None:
    run = await wire.start()
    await wire.step()
    caller = asyncio.create_task(run.update("u"))
    await wire.step()
    failure = (await caller).outcome.failure
    assert failure.application_failure_info.type == "UnprocessedUpdate"
    assert failure.application_failure_info.non_retryable
    await run.terminate()


async def test_rejected_id_may_be_used_again(wire: Wire) -> None:
    run = await wire.start()
    await wire.step()
    for answer in ("reject", "accept"):
        caller = asyncio.create_task(run.update("u"))
        task = await wire.poll()
        (message,) = task.messages
        if answer == "reject":
            await wire.complete(task, messages=[reject(message)])
            assert (await caller).outcome.HasField("failure")
        else:
            await wire.answer(task, accept(message), respond(message, "now"))
            assert read((await caller).outcome.success) == "now"
    await run.terminate()


async def test_response_before_acceptance_fails_the_task(wire: Wire) -> None:
    run = await wire.start()
    await wire.step()
    caller = asyncio.create_task(run.update("u", ACCEPTED))
    task = await wire.poll()
    (message,) = task.messages
    with refused(INVALID):
        await wire.answer(task, respond(message))
    assert "WorkflowTaskFailed" in await run.types()
    with refused(PRECONDITION):
        await caller
    await run.terminate()


async def test_unsent_update_follows_the_run_that_continues(wire: Wire) -> None:
    run = await wire.start()
    task = await wire.poll()
    caller = asyncio.create_task(wire.run(run.workflow_id).update("u"))
    await wire.complete(task, continue_as_new())
    for _ in range(2):
        task = await wire.poll()
        if task.messages:
            break
        await wire.complete(task)
    (message,) = task.messages
    await wire.answer(task, accept(message), respond(message, "in the next run"))
    assert read((await caller).outcome.success) == "in the next run"
    await wire.run(run.workflow_id).terminate()


async def test_bad_update_requests(wire: Wire) -> None:
    run = await wire.start()
    with refused(DENIED):
        await run.update("u", ADMITTED)
    with refused(INVALID):
        await wire.service.update_workflow_execution(run.update_request("u", name=""))
    with refused(NOT_FOUND):
        await wire.run(fresh("nobody")).update("u")
    with refused(NOT_FOUND):
        await run.poll_update("unknown")
    with refused(NOT_FOUND):
        request = run.update_request("u", first_execution_run_id=fresh("")[1:])
        await wire.service.update_workflow_execution(request)
    await wire.step(complete())
    with refused(NOT_FOUND):
        await run.update("u")


async def test_failing_workflow_task_refuses_updates_at_once(wire: Wire) -> None:
    run = await wire.start()
    await wire.fail(await wire.poll())
    await wire.fail(await wire.poll())
    with refused(PRECONDITION):
        await run.update("u")
    await run.terminate()
