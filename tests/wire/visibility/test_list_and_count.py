"""The list filter: every operator on every kind of attribute, paging and counting (G3)."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from temporalio.api.common.v1 import Memo, SearchAttributes
from temporalio.api.workflow.v1 import WorkflowExecutionInfo
from temporalio.api.workflowservice.v1 import (
    CountWorkflowExecutionsRequest,
    CountWorkflowExecutionsResponse,
    ListWorkflowExecutionsRequest,
    ListWorkflowExecutionsResponse,
)

from commands import complete, fail
from errors import INVALID, refused
from raw import Run, Wire
from values import nanos, payload, read
from waiting import eventually


async def list_page(wire: Wire, query: str, **fields: Any) -> ListWorkflowExecutionsResponse:
    request = ListWorkflowExecutionsRequest(namespace=wire.namespace, query=query, **fields)
    return await wire.service.list_workflow_executions(request)


async def listed(wire: Wire, query: str) -> list[WorkflowExecutionInfo]:
    return list((await list_page(wire, query)).executions)


async def count(wire: Wire, query: str) -> CountWorkflowExecutionsResponse:
    request = CountWorkflowExecutionsRequest(namespace=wire.namespace, query=query)
    return await wire.service.count_workflow_executions(request)


async def five(wire: Wire) -> list[Run]:
    """Five open runs that differ in their search attributes, all visible."""
    runs = []
    for number in range(5):
        values = {
            "WireInt": number,
            "WireDouble": number + 0.5,
            "WireBool": number % 2 == 0,
            "WireKeyword": f"key-{number}",
            "WireText": f"word{number} shared Text",
            "WireKeywordList": ["all", f"item{number}"],
            "WireDatetime": f"2026-01-0{number + 1}T00:00:00Z",
        }
        if number == 4:
            values = {"WireInt": 4}
        encoded = {name: payload(value) for name, value in values.items()}
        runs.append(
            await wire.start(
                search_attributes=SearchAttributes(indexed_fields=encoded),
                memo=Memo(fields={"number": payload(number)}),
            )
        )
    await eventually(lambda: listed(wire, mine(wire)), lambda found: len(found) == 5)
    return runs


def mine(wire: Wire, rest: str = "") -> str:
    """A filter for the runs of this test, narrowed by `rest`."""
    own = f"TaskQueue = '{wire.task_queue}'"
    return f"{own} AND ({rest})" if rest else own


FILTERS: dict[str, set[int]] = {
    "WireInt = 2": {2},
    "WireInt != 2": {0, 1, 3, 4},
    "WireInt < 2": {0, 1},
    "WireInt >= 3": {3, 4},
    "WireInt BETWEEN 1 AND 3": {1, 2, 3},
    "WireInt NOT BETWEEN 1 AND 3": {0, 4},
    "WireInt IN (0, 4)": {0, 4},
    "WireInt NOT IN (0, 4)": {1, 2, 3},
    "WireDouble > 1.5": {2, 3},
    "WireBool = true": {0, 2},
    "WireBool = false": {1, 3},
    "WireKeyword = 'key-1'": {1},
    'WireKeyword = "key-1"': {1},
    "`WireKeyword` = 'key-1'": {1},
    "WireKeyword STARTS_WITH 'key'": {0, 1, 2, 3},
    "WireKeyword STARTS_WITH 'key-3'": {3},
    "WireKeyword IN ('key-0', 'key-2', 'nothing')": {0, 2},
    "WireKeyword > 'key-2'": {3},
    "WireKeyword IS NULL": {4},
    "WireKeyword IS NOT NULL": {0, 1, 2, 3},
    "WireKeywordList = 'all'": {0, 1, 2, 3},
    "WireKeywordList = 'item2'": {2},
    "WireKeywordList IN ('item0', 'item3')": {0, 3},
    "WireText = 'shared'": {0, 1, 2, 3},
    "WireText = 'word2'": {2},
    "WireText = 'text'": {0, 1, 2, 3},
    "WireDatetime > '2026-01-02T12:00:00Z'": {2, 3},
    "WireDatetime BETWEEN '2025-12-31T12:00:00Z' AND '2026-01-02T12:00:00Z'": {0, 1},
    "WireInt = 1 OR WireInt = 3": {1, 3},
    "WireInt > 0 AND WireBool = true": {2},
    "NOT WireInt = 0": {1, 2, 3, 4},
    "WireInt = 0 OR (WireInt > 1 AND NOT (WireInt = 3 OR WireInt = 4))": {0, 2},
    "ExecutionStatus = 'Running'": {0, 1, 2, 3, 4},
    "ExecutionStatus = 1": {0, 1, 2, 3, 4},
    "ExecutionStatus != 'Running'": set(),
    "ExecutionStatus IN ('Completed', 'Failed')": set(),
    "CloseTime IS NULL": {0, 1, 2, 3, 4},
    "StartTime > '2020-01-01T00:00:00Z'": {0, 1, 2, 3, 4},
    "StartTime < '2020-01-01T00:00:00Z'": set(),
    "WorkflowType = 'wire'": {0, 1, 2, 3, 4},
    "WorkflowType = 'other'": set(),
}


async def test_filters(wire: Wire) -> None:
    runs = await five(wire)
    numbers = {run.run_id: number for number, run in enumerate(runs)}
    wrong = {}
    for query, expected in FILTERS.items():
        found = {numbers[one.execution.run_id] for one in await listed(wire, mine(wire, query))}
        counted = (await count(wire, mine(wire, query))).count
        if found != expected or counted != len(expected):
            wrong[query] = (found, counted)
    assert not wrong
    by_id = f"WorkflowId = '{runs[3].workflow_id}' AND RunId = '{runs[3].run_id}'"
    (one,) = await listed(wire, by_id)
    assert one.execution == runs[3].execution
    await asyncio.gather(*(run.terminate() for run in runs))


async def test_list_entries_say_what_describe_says(wire: Wire) -> None:
    runs = await five(wire)
    (entry,) = await listed(wire, mine(wire, "WireInt = 1"))
    info = (await runs[1].describe()).workflow_execution_info
    assert entry.execution == info.execution
    assert entry.type == info.type
    # A list may keep times in microseconds.
    assert nanos(entry.start_time) // 1000 == nanos(info.start_time) // 1000
    assert entry.status == info.status
    assert entry.task_queue == wire.task_queue
    assert read(entry.memo.fields["number"]) == 1
    attribute = entry.search_attributes.indexed_fields["WireInt"]
    assert (read(attribute), attribute.metadata["type"]) == (1, b"Int")
    await asyncio.gather(*(run.terminate() for run in runs))


async def test_pages_hold_every_run_once(wire: Wire) -> None:
    await asyncio.gather(*(wire.start() for _ in range(23)))
    await eventually(lambda: count(wire, mine(wire)), lambda counted: counted.count == 23)
    sizes, seen, token = [], [], b""
    while True:
        page = await list_page(wire, mine(wire), page_size=10, next_page_token=token)
        sizes.append(len(page.executions))
        seen.extend(info.execution.run_id for info in page.executions)
        token = page.next_page_token
        if not token:
            break
    assert [size for size in sizes if size] == [10, 10, 3]
    assert len(set(seen)) == 23


async def test_new_runs_do_not_move_pages(wire: Wire) -> None:
    first = {run.run_id for run in [await wire.start() for _ in range(6)]}
    await eventually(lambda: count(wire, mine(wire)), lambda counted: counted.count == 6)
    page = await list_page(wire, mine(wire), page_size=3)
    seen = [info.execution.run_id for info in page.executions]
    later = await wire.start()
    await eventually(lambda: count(wire, mine(wire)), lambda counted: counted.count == 7)
    page = await list_page(wire, mine(wire), page_size=10, next_page_token=page.next_page_token)
    seen += [info.execution.run_id for info in page.executions]
    assert len(seen) == len(set(seen)) and first <= set(seen) | {later.run_id}


async def test_open_runs_come_first_then_the_last_closed(wire: Wire) -> None:
    done, failed, still = [await wire.start() for _ in range(3)]
    tasks = {}
    for _ in range(3):
        task = await wire.poll()
        tasks[task.workflow_execution.run_id] = task
    await wire.complete(tasks[done.run_id], complete())
    await wire.complete(tasks[failed.run_id], fail())
    closed = mine(wire, "ExecutionStatus != 'Running'")
    await eventually(lambda: count(wire, closed), lambda counted: counted.count == 2)
    order = [info.execution.run_id for info in await listed(wire, mine(wire))]
    assert order == [still.run_id, failed.run_id, done.run_id]

    grouped = await count(wire, mine(wire) + " GROUP BY ExecutionStatus")
    groups = {read(group.group_values[0]): group.count for group in grouped.groups}
    assert groups == {"Running": 1, "Completed": 1, "Failed": 1}
    assert grouped.count == 3
    (info,) = await listed(wire, mine(wire, "ExecutionStatus = 'Completed' AND HistoryLength > 4"))
    assert info.history_length == 5
    assert info.HasField("close_time") and info.HasField("execution_duration")
    await still.terminate()


BAD = [
    "Nothing = 1",
    "WireInt",
    "WireInt =",
    "WireInt = 1 AND",
    "(WireInt = 1",
    "WireInt = 1)",
    "WireKeyword LIKE 'a%'",
    "WireInt = 1 LIMIT 1",
    "WireInt = WireDouble",
    "WireInt IN (SELECT 1)",
    "count(WireInt) = 1",
    "WireDatetime > 'soon'",
    "ExecutionStatus = 'Sleeping'",
    "WireKeywordList > 'a'",
    "GROUP BY ExecutionStatus",
    "WireInt = 1; DROP TABLE executions",
]


@pytest.mark.parametrize("query", BAD)
async def test_bad_filters_are_refused(wire: Wire, query: str) -> None:
    with refused(INVALID):
        await list_page(wire, query)


@pytest.mark.parametrize("group", ["WorkflowType", "WireInt", "ExecutionStatus, WorkflowType"])
async def test_only_status_may_be_grouped_by(wire: Wire, group: str) -> None:
    with refused(INVALID):
        await count(wire, f"GROUP BY {group}")


async def test_values_are_values_never_syntax(wire: Wire) -> None:
    """A quote in a value neither ends the literal nor reaches the store."""
    marker = uuid4().hex
    hostile = f"{marker}' OR '1'='1"
    attributes = SearchAttributes(indexed_fields={"WireKeyword": payload(hostile)})
    run = await wire.start(search_attributes=attributes)
    escaped = hostile.replace("'", "''")
    for literal in (f"'{escaped}'", f'"{hostile}"'):
        query = mine(wire, f"WireKeyword = {literal}")
        found = await eventually(lambda q=query: listed(wire, q), lambda found: len(found) == 1)
        assert found[0].execution == run.execution
    assert await listed(wire, mine(wire, f"WireKeyword = '{marker}'")) == []
    await run.terminate()


@pytest.mark.ours
@pytest.mark.parametrize("query", ["WireInt = 1 UNION SELECT 1", "WireInt = 1 UNION ALL SELECT 2"])
async def test_second_statement_is_refused(wire: Wire, query: str) -> None:
    with refused(INVALID):
        await list_page(wire, query)


@pytest.mark.ours
async def test_bad_page_token_is_refused(wire: Wire) -> None:
    with refused(INVALID):
        await list_page(wire, mine(wire), next_page_token=b"garbage")
