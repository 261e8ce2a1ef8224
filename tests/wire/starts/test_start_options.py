"""What a start request asks for is in the first event and in the description."""

from __future__ import annotations

import asyncio

from temporalio.api.common.v1 import Header, Memo, Priority, SearchAttributes
from temporalio.api.sdk.v1 import UserMetadata

from commands import complete
from errors import INVALID, refused
from histories import TASK, attributes, attributes_of, type_of, types
from raw import Wire
from values import in_seconds, payload, payloads, read, retry, seconds


async def test_options_are_recorded(wire: Wire) -> None:
    run = await wire.start(
        input=payloads(1, "two"),
        memo=Memo(fields={"note": payload("kept")}),
        search_attributes=SearchAttributes(indexed_fields={"WireInt": payload(7)}),
        header=Header(fields={"trace": payload("abc")}),
        priority=Priority(priority_key=2),
        user_metadata=UserMetadata(summary=payload("short")),
        retry_policy=retry(3, first=1),
        workflow_execution_timeout=seconds(600),
        workflow_task_timeout=seconds(7),
    )
    (first, _) = await run.history()
    started = attributes(first)
    assert [read(one) for one in started.input.payloads] == [1, "two"]
    assert read(started.header.fields["trace"]) == "abc"
    assert read(first.user_metadata.summary) == "short"
    assert in_seconds(started.workflow_run_timeout) == 600
    assert in_seconds(started.workflow_task_timeout) == 7
    assert in_seconds(started.retry_policy.maximum_interval) == 100
    assert started.attempt == 1
    assert started.first_execution_run_id == started.original_execution_run_id == run.run_id
    assert started.identity == "wire-client"

    described = await run.describe()
    info = described.workflow_execution_info
    assert info.type.name == "wire"
    assert info.task_queue == wire.task_queue
    assert info.first_run_id == run.run_id
    assert info.root_execution.workflow_id == run.workflow_id
    assert info.history_length == 2
    assert read(info.memo.fields["note"]) == "kept"
    attribute = info.search_attributes.indexed_fields["WireInt"]
    assert (read(attribute), attribute.metadata["type"]) == (7, b"Int")
    assert info.priority.priority_key == 2
    assert read(described.execution_config.user_metadata.summary) == "short"
    await run.terminate()


async def test_defaults(wire: Wire) -> None:
    run = await wire.start()
    started = attributes_of(await run.history(), "WorkflowExecutionStarted")
    assert in_seconds(started.workflow_task_timeout) == 10
    assert in_seconds(started.workflow_execution_timeout) == 0
    assert in_seconds(started.workflow_run_timeout) == 0
    assert not started.HasField("retry_policy")
    await run.terminate()


async def test_workflow_task_timeout_is_capped(wire: Wire) -> None:
    run = await wire.start(workflow_task_timeout=seconds(1000))
    scheduled = attributes_of(await run.history(), "WorkflowTaskScheduled")
    assert in_seconds(scheduled.start_to_close_timeout) == 120
    await run.terminate()


async def test_run_timeout_ends_the_run(wire: Wire) -> None:
    run = await wire.start(workflow_run_timeout=seconds(2))
    await wire.step()
    assert type_of(await run.closed()) == "WorkflowExecutionTimedOut"
    assert await run.status() == "TIMED_OUT"


async def test_execution_timeout_ends_the_whole_chain(wire: Wire) -> None:
    run = await wire.start(
        workflow_execution_timeout=seconds(2), retry_policy=retry(first=1, maximum=1)
    )
    assert type_of(await run.closed()) == "WorkflowExecutionTimedOut"
    events = await run.history()
    assert attributes(events[-1]).new_execution_run_id == ""
    assert await wire.run(run.workflow_id).status() == "TIMED_OUT"


async def test_start_delay_holds_the_first_task_back(wire: Wire) -> None:
    run = await wire.start(workflow_start_delay=seconds(1))
    assert await run.types() == ["WorkflowExecutionStarted"]
    polled = await wire.poll()
    assert polled.workflow_execution.run_id == run.run_id
    await wire.complete(polled, complete())
    assert await run.types() == [
        "WorkflowExecutionStarted",
        *TASK,
        "WorkflowExecutionCompleted",
    ]


async def test_delay_and_cron_together_are_refused(wire: Wire) -> None:
    with refused(INVALID):
        await wire.start(workflow_start_delay=seconds(1), cron_schedule="* * * * *")


async def test_eager_start_hands_out_the_first_task(wire: Wire) -> None:
    response = await wire.start_response("eager-" + wire.task_queue, request_eager_execution=True)
    task = response.eager_workflow_task
    assert types(task.history.events) == ["WorkflowExecutionStarted", *TASK[:2]]
    started = attributes(task.history.events[0])
    assert started.eager_execution_accepted
    await wire.complete(task, complete())
    run = wire.run(task.workflow_execution.workflow_id, response.run_id)
    assert await run.status() == "COMPLETED"


async def test_many_ids_started_at_once_are_all_there(wire: Wire) -> None:
    runs = await asyncio.gather(*(wire.start() for _ in range(50)))
    assert len({run.run_id for run in runs}) == 50
    for _ in runs:
        await wire.step(complete())
    assert {await run.status() for run in runs} == {"COMPLETED"}


async def test_one_of_many_racing_starts_of_an_id_wins(wire: Wire) -> None:
    starts = [wire.start("race-" + wire.task_queue) for _ in range(20)]
    results = await asyncio.gather(*starts, return_exceptions=True)
    (winner,) = [result for result in results if not isinstance(result, BaseException)]
    assert await winner.status() == "RUNNING"
    await winner.terminate()
