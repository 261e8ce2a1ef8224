"""Queries: read the run's state without leaving an event."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from temporalio import workflow
from temporalio.api.enums.v1 import QueryRejectCondition, QueryResultType
from temporalio.api.errordetails.v1 import QueryFailedFailure, WorkflowNotReadyFailure
from temporalio.api.query.v1 import WorkflowQueryResult
from temporalio.client import Client, WorkflowQueryFailedError

from commands import complete
from errors import INVALID, NOT_FOUND, PRECONDITION, refused
from raw import Wire, fresh
from replay import worker
from values import application_failure, payloads, read, seconds

ANSWER = WorkflowQueryResult(
    result_type=QueryResultType.QUERY_RESULT_TYPE_ANSWERED, answer=payloads("answer")
)
FAILURE = WorkflowQueryResult(
    result_type=QueryResultType.QUERY_RESULT_TYPE_FAILED,
    error_message="cannot say",
    failure=application_failure("cannot say", type="Unknown"),
)


@workflow.defn
class Counter:
    def __init__(self) -> None:
        self.count = 0

    @workflow.run
    async def run(self) -> int:
        await workflow.wait_condition(lambda: self.count >= 3)
        return self.count

    @workflow.signal
    def increase(self) -> None:
        self.count += 1

    @workflow.query
    def current(self) -> int:
        return self.count

    @workflow.query
    def broken(self) -> int:
        raise RuntimeError("never")


async def test_sdk_query_sees_the_signal_just_sent(client: Client, wire: Wire) -> None:
    async with worker(client, wire.task_queue, [Counter]):
        handle = await client.start_workflow(
            Counter.run, id=fresh("counter"), task_queue=wire.task_queue
        )
        for count in (1, 2, 3):
            await handle.signal(Counter.increase)
            assert await handle.query(Counter.current) == count
        assert await handle.result() == 3
        assert await handle.query(Counter.current) == 3
        with pytest.raises(WorkflowQueryFailedError):
            await handle.query(Counter.broken)
    # Another worker, with nothing in its cache, rebuilds the closed run.
    async with worker(client, wire.task_queue, [Counter]):
        assert await handle.query(Counter.current) == 3


async def test_idle_run_is_asked_by_a_query_task(wire: Wire) -> None:
    run = await wire.start()
    await wire.step()
    before = await run.history()
    query = asyncio.create_task(run.query())
    task = await wire.poll()
    assert (task.query.query_type, task.started_event_id, task.attempt) == ("state", 0, 1)
    await wire.answer_query(task, ANSWER)
    assert read((await query).query_result) == "answer"
    assert await run.history() == before
    with refused(NOT_FOUND):
        await wire.answer_query(task, ANSWER)
    await run.terminate()


async def test_sticky_query_task_brings_no_history(wire: Wire) -> None:
    run, queue = await wire.start(), fresh("sticky")
    await wire.step(sticky=(queue, 10))
    poll = asyncio.create_task(wire.poll(wire.sticky(queue)))
    query = asyncio.create_task(run.query())
    # The queue may count as abandoned until the poll has arrived; then the normal one is asked.
    fallback = asyncio.create_task(wire.poll())
    done, other = await asyncio.wait({poll, fallback}, return_when=asyncio.FIRST_COMPLETED)
    task = done.pop().result()
    assert bool(task.history.events) == fallback.done()
    await wire.answer_query(task, ANSWER)
    assert read((await query).query_result) == "answer"
    other.pop().cancel()
    await run.terminate()


async def test_failed_query_has_its_failure_in_the_detail(wire: Wire) -> None:
    run = await wire.start()
    await wire.step()
    query = asyncio.create_task(run.query())
    await wire.answer_query(await wire.poll(), FAILURE)
    with refused(INVALID, QueryFailedFailure) as refusal:
        await query
    assert refusal.detail(QueryFailedFailure).failure.message == "cannot say"
    await run.terminate()


@pytest.mark.parametrize("condition", ["NOT_OPEN", "NOT_COMPLETED_CLEANLY"])
@pytest.mark.parametrize("how", ["COMPLETED", "TERMINATED"])
async def test_reject_conditions(wire: Wire, condition: str, how: str) -> None:
    run = await wire.start()
    await wire.step()
    if how == "TERMINATED":
        await run.terminate()
    else:
        await run.signal()
        await wire.step(complete())
    value = QueryRejectCondition.Value(f"QUERY_REJECT_CONDITION_{condition}")
    query = asyncio.create_task(run.query(query_reject_condition=value))
    if condition == "NOT_COMPLETED_CLEANLY" and how == "COMPLETED":
        await wire.answer_query(await wire.poll(), ANSWER)
        assert read((await query).query_result) == "answer"
    else:
        rejected = (await query).query_rejected
        assert rejected.status == (await run.describe()).workflow_execution_info.status


async def test_query_nobody_can_answer_is_refused_before_its_deadline(wire: Wire) -> None:
    run = await wire.start(f"alone-{wire.task_queue}")
    other = Wire(wire.service, wire.namespace)
    moved = await other.start()
    await run.terminate()
    with refused(PRECONDITION, WorkflowNotReadyFailure):
        await run.query()  # Closed before any workflow task was completed.
    with refused(NOT_FOUND):
        await wire.run(fresh("nobody")).query()
    await moved.terminate()


async def test_query_during_the_first_backoff_is_not_ready(wire: Wire) -> None:
    run = await wire.start(workflow_start_delay=seconds(3600))
    with refused(PRECONDITION, WorkflowNotReadyFailure):
        await run.query(timeout=timedelta(seconds=5))
    await run.terminate()
