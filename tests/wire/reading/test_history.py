"""Reading histories: pages, directions, waiting."""

from __future__ import annotations

import asyncio

from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice import v1 as api

import plain
from commands import complete, marker
from errors import INVALID, NOT_FOUND, refused
from histories import TASK, type_of, types
from raw import CLOSE_EVENT, Run, Wire, fresh


async def reverse(run: Run, page_size: int) -> list[HistoryEvent]:
    events: list[HistoryEvent] = []
    token = b""
    while True:
        request = api.GetWorkflowExecutionHistoryReverseRequest(
            namespace=run.wire.namespace,
            execution=run.execution,
            maximum_page_size=page_size,
            next_page_token=token,
        )
        page = await run.service.get_workflow_execution_history_reverse(request)
        events.extend(page.history.events)
        token = page.next_page_token
        if not token:
            return events


async def signaled(wire: Wire, times: int) -> Run:
    run = await wire.start()
    await wire.step()
    for number in range(times):
        await run.signal("s", number)
    return run


async def test_any_page_size_gives_the_same_events(wire: Wire) -> None:
    run = await signaled(wire, 12)
    whole = await run.history()
    assert len(types(whole)) == 17
    for size in (1, 2, 5, 1000):
        assert await run.history(maximum_page_size=size) == whole
        assert await reverse(run, size) == whole[::-1]
    await run.terminate()


async def test_event_envelopes(wire: Wire) -> None:
    run = await wire.start()
    await wire.step(marker("m", value=1), complete())
    events = await run.history()
    assert types(events) == [
        "WorkflowExecutionStarted",
        *TASK,
        "MarkerRecorded",
        "WorkflowExecutionCompleted",
    ]
    tasks = [event.task_id for event in events]
    assert tasks == sorted(set(tasks)) and tasks[0] > 0
    times = [event.event_time.ToNanoseconds() for event in events]
    assert times == sorted(times) and times[0] > 0
    assert {event.version for event in events} == {0}


async def test_waiting_reader_is_woken_by_every_event(wire: Wire) -> None:
    run = await wire.start()
    await wire.step()
    page = await run.history_page(wait_new_event=True)
    for name in ("one", "two"):
        reader = asyncio.create_task(
            run.history_page(wait_new_event=True, next_page_token=page.next_page_token)
        )
        await run.signal(name)
        page = await reader
        assert type_of(page.history.events[0]) == "WorkflowExecutionSignaled"
    await run.terminate()


async def test_many_waiting_readers_see_the_end(wire: Wire) -> None:
    run = await wire.start()
    task = await wire.poll()
    readers = [asyncio.create_task(run.closed()) for _ in range(20)]
    await wire.complete(task, complete())
    ends = await asyncio.gather(*readers)
    assert {type_of(event) for event in ends} == {"WorkflowExecutionCompleted"}


async def test_wait_ends_with_the_run_not_with_its_successor(wire: Wire) -> None:
    run = await wire.start()
    current = wire.run(run.workflow_id)
    page = await current.history_page(wait_new_event=True)
    await run.terminate()
    await wire.start(run.workflow_id)
    token = page.next_page_token
    seen: list[HistoryEvent] = []
    while token:
        page = await current.history_page(wait_new_event=True, next_page_token=token)
        seen.extend(page.history.events)
        token = page.next_page_token
    assert type_of(seen[-1]) == "WorkflowExecutionTerminated"
    await current.terminate()


async def test_bad_tokens_and_unknown_runs(wire: Wire) -> None:
    run, other = await signaled(wire, 3), await wire.start()
    with refused(INVALID):
        await run.history_page(next_page_token=b"garbage")
    page = await run.history_page(maximum_page_size=1)
    with refused(INVALID):
        foreign = wire.run(run.workflow_id, other.run_id)
        await foreign.history_page(next_page_token=page.next_page_token)
    with refused(NOT_FOUND):
        await wire.run(fresh("nobody")).history()
    with refused(NOT_FOUND):
        await wire.run(run.workflow_id, other.run_id).history()
    with refused(NOT_FOUND):
        await wire.run(fresh("nobody")).history_page(
            wait_new_event=True, history_event_filter_type=CLOSE_EVENT
        )
    await asyncio.gather(run.terminate(), other.terminate())


async def test_transient_events_are_for_sdks_only(address: str, wire: Wire) -> None:
    run = await wire.start()
    await wire.fail(await wire.poll())
    await wire.poll()
    request = api.GetWorkflowExecutionHistoryRequest(
        namespace=wire.namespace, execution=run.execution
    )
    lengths = {}
    async with plain.service(address) as service:
        for name in ("temporal-cli", "temporal-ui", "temporal-go"):
            metadata = (("client-name", name), ("client-version", "1.18.0"))
            page = await service.GetWorkflowExecutionHistory(request, metadata=metadata)
            lengths[name] = len(page.history.events)
    assert lengths == {"temporal-cli": 4, "temporal-ui": 4, "temporal-go": 6}
    await run.terminate()
