"""Traps 27 and 30: history long polls, and rules of the transport."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import grpc
import grpc.aio
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from temporalio.api.common.v1 import Priority
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflow.v1 import WorkflowExecutionOptions
from temporalio.api.workflowservice import v1 as api

import plain
from commands import complete
from errors import INVALID, PRECONDITION, refused
from histories import TASK, attributes, type_of, types
from raw import CLOSE_EVENT, SHORTEST_POLL, Wire
from values import payloads


async def test_trap_27_waiting_read_returns_what_exists_then_blocks(wire: Wire) -> None:
    run = await wire.start()
    first = await run.history_page(wait_new_event=True)
    assert types(first.history.events) == ["WorkflowExecutionStarted", "WorkflowTaskScheduled"]
    assert first.next_page_token

    waiting = asyncio.create_task(
        run.history_page(wait_new_event=True, next_page_token=first.next_page_token)
    )
    await wire.poll()
    # The start of a task, or the signal that came after it, whichever ends the wait.
    seen: list[HistoryEvent] = list((await waiting).history.events)
    assert [type_of(event) for event in seen] == ["WorkflowTaskStarted"]


async def test_trap_27_idle_wait_ends_empty_with_a_token(wire: Wire) -> None:
    run = await wire.start()
    await wire.step()
    open_page = await run.history_page(wait_new_event=True)
    quiet, unclosed, asked_once = await asyncio.gather(
        run.history_page(wait_new_event=True, next_page_token=open_page.next_page_token),
        run.history_page(wait_new_event=True, history_event_filter_type=CLOSE_EVENT),
        # Without the wish to wait there is no token to come back with.
        run.history_page(history_event_filter_type=CLOSE_EVENT),
    )
    for page in (quiet, unclosed, asked_once):
        assert not page.history.events
        assert bool(page.next_page_token) == (page is not asked_once)


async def test_trap_27_close_filter_gives_exactly_the_close_event(wire: Wire) -> None:
    run = await wire.start()
    await wire.step(complete())
    for wait in (False, True):
        page = await run.history_page(history_event_filter_type=CLOSE_EVENT, wait_new_event=wait)
        assert [type_of(event) for event in page.history.events] == ["WorkflowExecutionCompleted"]
        assert not page.next_page_token


async def test_trap_27_token_of_a_task_reads_on_to_its_started_event(wire: Wire) -> None:
    run = await wire.start()
    for _ in range(130):  # Two batches each: more than the 256 of one page.
        await run.signal()
        await wire.step()
    await run.signal()
    await wire.fail(await wire.poll())
    task = await wire.poll()
    assert task.attempt == 2 and task.next_page_token
    events, token = list(task.history.events), task.next_page_token
    while token:
        page = await run.history_page(next_page_token=token)
        events.extend(page.history.events)
        token = page.next_page_token
    assert types(events)[-3:] == ["WorkflowTaskFailed", *TASK[:2]]
    assert events[-1].event_id == task.started_event_id
    assert attributes(events[-2]).attempt == 2
    # Only the last page carries the tail that is not written yet.
    assert types(events).count("WorkflowTaskFailed") == 1


async def test_trap_27_page_size_counts_batches(wire: Wire) -> None:
    run = await wire.start()
    await wire.step()
    # Batches: started and scheduled; task started; task completed.
    sizes, token = [], b""
    while True:
        page = await run.history_page(maximum_page_size=1, next_page_token=token)
        sizes.append(len(page.history.events))
        token = page.next_page_token
        if not token:
            break
    assert [size for size in sizes if size] == [2, 1, 1]


async def test_trap_30_empty_poll_is_ok_with_an_empty_token(wire: Wire) -> None:
    workflow, activity = await asyncio.gather(
        wire.poll_response(timeout=SHORTEST_POLL),
        wire.poll_activity_response(timeout=SHORTEST_POLL),
    )
    assert not workflow.task_token and not activity.task_token


async def test_trap_30_oversize_message_is_named_as_core_expects(address: str, wire: Wire) -> None:
    request = wire.start_request(input=payloads("x" * (5 << 20)))
    async with plain.service(address) as service:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.StartWorkflowExecution(request, timeout=30)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (caught.value.details() or "").startswith("grpc: received message larger than max")


async def test_trap_30_options_updated_may_be_ignored_by_workers(wire: Wire) -> None:
    run = await wire.start()
    request = api.UpdateWorkflowExecutionOptionsRequest(
        namespace=wire.namespace,
        workflow_execution=run.execution,
        workflow_execution_options=WorkflowExecutionOptions(priority=Priority(priority_key=1)),
        update_mask=FieldMask(paths=["priority"]),
    )
    await wire.service.update_workflow_execution_options(request)
    events = await run.history()
    ignorable = [type_of(event) for event in events if event.worker_may_ignore]
    assert ignorable == ["WorkflowExecutionOptionsUpdated"]
    await run.terminate()


async def test_trap_30_order_by_is_refused_and_group_by_status_counts(wire: Wire) -> None:
    listing = api.ListWorkflowExecutionsRequest(
        namespace=wire.namespace, query="ORDER BY StartTime"
    )
    with refused(INVALID):
        await wire.service.list_workflow_executions(listing)
    counting = api.CountWorkflowExecutionsRequest(
        namespace=wire.namespace, query="GROUP BY ExecutionStatus"
    )
    counted = await wire.service.count_workflow_executions(counting)
    assert counted.count == sum(group.count for group in counted.groups)


async def test_trap_30_poll_deadline_too_near_is_refused(wire: Wire) -> None:
    with refused(PRECONDITION):
        await wire.poll_response(timeout=timedelta(seconds=0.5))
