"""Traps 14 to 18 and 28: updates, queries and update-with-start."""

from __future__ import annotations

import asyncio

from temporalio.api.enums.v1 import (
    QueryResultType,
    ResourceExhaustedCause,
    WorkflowIdConflictPolicy,
)
from temporalio.api.errordetails.v1 import (
    MultiOperationExecutionFailure,
    ResourceExhaustedFailure,
    WorkflowNotReadyFailure,
)
from temporalio.api.failure.v1 import MultiOperationExecutionAborted
from temporalio.api.query.v1 import WorkflowQueryResult
from temporalio.api.workflowservice.v1 import ExecuteMultiOperationRequest
from temporalio.service import RPCError, RPCStatusCode

from commands import complete
from errors import EXHAUSTED, NOT_FOUND, PRECONDITION, refused
from histories import TASK, types
from messages import accept, reject, respond
from raw import ACCEPTED, ADMITTED, COMPLETED, RPC_TIMEOUT, Wire
from values import payloads, read

IDLE = ["WorkflowExecutionStarted", *TASK]
ANSWER = WorkflowQueryResult(
    result_type=QueryResultType.QUERY_RESULT_TYPE_ANSWERED, answer=payloads("answer")
)


async def test_trap_14_rejected_update_leaves_no_trace(wire: Wire) -> None:
    run = await wire.start()
    await wire.step()
    started_ids = []
    for update_id in ("first", "second"):
        caller = asyncio.create_task(run.update(update_id))
        task = await wire.poll()
        started_ids.append(task.started_event_id)
        (request,) = task.messages
        done = await wire.complete(task, messages=[reject(request)])
        assert done.reset_history_event_id == 3
        response = await caller
        assert response.stage == COMPLETED
        assert response.outcome.failure.application_failure_info.type == "Refused"
        assert await run.types() == IDLE
    assert started_ids == [6, 6]


async def test_trap_15_signal_makes_a_started_speculative_task_real(wire: Wire) -> None:
    run = await wire.start()
    await wire.step()
    caller = asyncio.create_task(run.update("u"))
    task = await wire.poll()
    await run.signal()
    assert await run.types() == [*IDLE, *TASK[:2]]
    assert (await run.describe()).workflow_execution_info.history_length == 6

    (request,) = task.messages
    await wire.answer(task, accept(request), respond(request, "changed"))
    assert read((await caller).outcome.success) == "changed"
    assert await run.types() == [
        *IDLE,
        *TASK,
        "WorkflowExecutionUpdateAccepted",
        "WorkflowExecutionUpdateCompleted",
        "WorkflowExecutionSignaled",
        "WorkflowTaskScheduled",
    ]


async def test_trap_16_same_update_id_is_one_update(wire: Wire) -> None:
    run = await wire.start()
    task = await wire.poll()
    callers = [asyncio.create_task(run.update("u")) for _ in range(2)]
    # Updates wait for the end of the task that runs; its successor carries them.
    await wire.complete(task)
    carrier = await wire.poll()
    (request,) = carrier.messages
    await wire.answer(carrier, accept(request), respond(request, "once"))
    results = [read((await caller).outcome.success) for caller in callers]
    assert results == ["once", "once"]
    assert (await run.types()).count("WorkflowExecutionUpdateAccepted") == 1


async def test_trap_16_updates_after_the_run_has_closed(wire: Wire) -> None:
    run = await wire.start()
    await wire.step()
    for update_id in ("done", "unfinished"):
        caller = asyncio.create_task(run.update(update_id, ACCEPTED))
        task = await wire.poll()
        (request,) = task.messages
        finish = [respond(request, "result")] if update_id == "done" else []
        await wire.answer(task, accept(request), *finish)
        await caller
    await run.signal()
    await wire.step(complete())

    assert read((await run.update("done")).outcome.success) == "result"
    assert read((await run.poll_update("done")).outcome.success) == "result"
    failure = (await run.update("unfinished")).outcome.failure
    assert failure.application_failure_info.type == "AcceptedUpdateCompletedWorkflow"
    assert failure.application_failure_info.non_retryable
    for call in (run.update("unknown"), run.poll_update("unknown")):
        with refused(NOT_FOUND):
            await call


async def test_trap_17_update_wait_ends_with_the_stage_reached(wire: Wire) -> None:
    admitted = await wire.start()
    waiting = asyncio.create_task(admitted.update("u", ACCEPTED))
    await wire.poll()  # And never answer it.

    other = Wire(wire.service, wire.namespace)
    accepted = await other.start()
    await other.step()
    caller = asyncio.create_task(accepted.update("u", COMPLETED))
    task = await other.poll()
    await other.answer(task, accept(task.messages[0]))

    responses = await asyncio.gather(waiting, caller)
    assert [response.stage for response in responses] == [ADMITTED, ACCEPTED]
    assert not any(response.outcome.WhichOneof("value") for response in responses)


async def test_trap_18_query_with_a_pending_task_rides_it_and_only_one_fits(wire: Wire) -> None:
    run = await wire.start()
    await wire.step()
    await run.signal("before-the-query")
    queries = {asyncio.create_task(run.query()) for _ in range(2)}
    # The refusal of one tells that the other is registered.
    done, waiting = await asyncio.wait(queries, return_when=asyncio.FIRST_COMPLETED)
    error = done.pop().exception()
    assert isinstance(error, RPCError) and error.status == EXHAUSTED, error

    task = await wire.poll()
    assert types(task.history.events)[-3:] == ["WorkflowExecutionSignaled", *TASK[:2]]
    ((query_id, query),) = task.queries.items()
    assert query.query_type == "state"
    await wire.complete(task, queries={query_id: ANSWER})
    assert read((await waiting.pop()).query_result) == "answer"
    assert await run.types() == [*IDLE, "WorkflowExecutionSignaled", *TASK]


async def test_trap_18_closed_workflow_answers_by_full_history(wire: Wire) -> None:
    run = await wire.start()
    await wire.step(complete())
    query = asyncio.create_task(run.query())
    task = await wire.poll()
    assert types(task.history.events) == [*IDLE, "WorkflowExecutionCompleted"]
    assert task.query.query_type == "state"
    assert task.started_event_id == 0
    await wire.answer_query(task, ANSWER)
    assert read((await query).query_result) == "answer"


async def test_trap_18_failing_workflow_task_refuses_queries_at_once(wire: Wire) -> None:
    run = await wire.start()
    await wire.fail(await wire.poll())
    await wire.fail(await wire.poll())
    with refused(PRECONDITION, WorkflowNotReadyFailure):
        await run.query()


async def test_trap_28_multi_operation_error_names_both_operations(wire: Wire) -> None:
    run = await wire.start()
    await wire.step()
    updates = [asyncio.create_task(run.update(f"u{i}", ACCEPTED)) for i in range(10)]
    answered = 0
    while answered < 10:  # Accept, but never complete: each stays in flight.
        task = await wire.poll()
        await wire.answer(task, *map(accept, task.messages))
        answered += len(task.messages)
    await asyncio.gather(*updates)

    operation = ExecuteMultiOperationRequest.Operation
    conflict = WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
    start = wire.start_request(run.workflow_id, workflow_id_conflict_policy=conflict)
    update = wire.run(run.workflow_id).update_request("one-too-many")
    request = ExecuteMultiOperationRequest(
        namespace=wire.namespace,
        operations=[operation(start_workflow=start), operation(update_workflow=update)],
    )
    with refused(EXHAUSTED, MultiOperationExecutionFailure) as refusal:
        await wire.service.execute_multi_operation(request, timeout=RPC_TIMEOUT)
    first, second = refusal.detail(MultiOperationExecutionFailure).statuses
    if first.code == RPCStatusCode.ABORTED:
        assert first.details[0].Is(MultiOperationExecutionAborted.DESCRIPTOR)
    else:
        assert first.code == RPCStatusCode.OK
    assert second.code == RPCStatusCode.RESOURCE_EXHAUSTED
    cause = ResourceExhaustedFailure()
    assert second.details[0].Unpack(cause)
    limit = ResourceExhaustedCause.RESOURCE_EXHAUSTED_CAUSE_CONCURRENT_LIMIT
    assert cause.cause == limit
