"""Continue-as-new: a new run with a short history (A9)."""

from __future__ import annotations

from temporalio import workflow
from temporalio.api.common.v1 import Memo, SearchAttributes
from temporalio.api.enums.v1 import ContinueAsNewInitiator
from temporalio.client import Client

from commands import complete, continue_as_new, modify_memo, upsert
from errors import INVALID, refused
from histories import STARTED, attributes, attributes_of, type_of
from raw import Run, Wire, fresh
from replay import worker
from values import in_seconds, payload, payloads, read, retry, seconds

WORKFLOW = ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_WORKFLOW


@workflow.defn
class Countdown:
    @workflow.run
    async def run(self, left: int, sum: int) -> int:
        if left:
            workflow.continue_as_new(args=[left - 1, sum + left])
        return sum


async def test_sdk_result_comes_from_the_last_run(client: Client, wire: Wire) -> None:
    async with worker(client, wire.task_queue, [Countdown]):
        result = await client.execute_workflow(
            Countdown.run, args=[2, 0], id=fresh("countdown"), task_queue=wire.task_queue
        )
    assert result == 3


async def next_run(run: Run) -> Run:
    closing = await run.closed()
    assert type_of(closing) == "WorkflowExecutionContinuedAsNew"
    return run.wire.run(run.workflow_id, attributes(closing).new_execution_run_id)


async def test_what_carries_over(wire: Wire) -> None:
    run = await wire.start(
        input=payloads("first"),
        memo=Memo(fields={"old": payload(1)}),
        search_attributes=SearchAttributes(indexed_fields={"WireInt": payload(1)}),
        workflow_execution_timeout=seconds(500),
        workflow_run_timeout=seconds(50),
        retry_policy=retry(3, first=1),
    )
    await wire.step(
        upsert(WireInt=payload(2)),
        modify_memo(new=payload(2)),
        continue_as_new(
            input=payloads("second"), search_attributes={"indexed_fields": {"WireInt": payload(3)}}
        ),
    )
    again = await next_run(run)
    started = attributes_of(await again.history(), STARTED)
    assert read(started.input) == "second"
    assert started.workflow_type.name == "wire"
    assert started.task_queue.name == wire.task_queue
    assert in_seconds(started.workflow_execution_timeout) == 500
    assert in_seconds(started.workflow_run_timeout) == 50
    assert started.initiator == WORKFLOW
    assert started.continued_execution_run_id == run.run_id
    assert started.first_execution_run_id == run.run_id
    assert started.original_execution_run_id == again.run_id
    assert started.attempt == 1
    assert read(started.search_attributes.indexed_fields["WireInt"]) == 3
    assert not started.memo.fields  # Only what the command holds.
    assert not started.HasField("retry_policy")
    first = attributes_of(await run.history(), STARTED)
    assert started.workflow_execution_expiration_time == first.workflow_execution_expiration_time
    assert await run.status() == "CONTINUED_AS_NEW"
    await again.terminate()


async def test_another_type_and_queue(wire: Wire) -> None:
    other = Wire(wire.service, wire.namespace)
    run = await wire.start()
    await wire.step(
        continue_as_new(workflow_type={"name": "other"}, task_queue={"name": other.task_queue})
    )
    task = await other.poll()
    assert task.workflow_type.name == "other"
    assert task.workflow_execution.run_id == (await next_run(run)).run_id
    await other.complete(task, complete())


async def test_signals_are_not_deduplicated_across_runs(wire: Wire) -> None:
    run = await wire.start()
    current = wire.run(run.workflow_id)
    await current.signal(request_id="same")
    await wire.step(continue_as_new())
    await current.signal(request_id="same")
    for one in (run, await next_run(run)):
        assert (await one.types()).count("WorkflowExecutionSignaled") == 1
    await current.terminate()


async def test_cancel_request_does_not_carry_over(wire: Wire) -> None:
    run = await wire.start()
    await run.cancel()
    await wire.step(continue_as_new())
    again = await next_run(run)
    assert "WorkflowExecutionCancelRequested" not in await again.types()
    assert not (await again.describe()).workflow_extended_info.cancel_requested
    await again.terminate()


async def test_buffered_signal_comes_first(wire: Wire) -> None:
    run = await wire.start()
    task = await wire.poll()
    await run.signal()
    with refused(INVALID):
        await wire.complete(task, continue_as_new())
    assert await run.status() == "RUNNING"
    await wire.step(complete())


async def test_first_run_id_addresses_the_chain(wire: Wire) -> None:
    run = await wire.start()
    await wire.step(continue_as_new())
    again = await next_run(run)
    await wire.run(run.workflow_id).terminate(first_execution_run_id=run.run_id)
    assert await again.status() == "TERMINATED"
