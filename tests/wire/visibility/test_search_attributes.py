"""Search attributes: typed, checked, changed by the workflow (G3)."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.common.v1 import Payload, SearchAttributes
from temporalio.api.enums.v1 import IndexedValueType, WorkflowTaskFailedCause
from temporalio.api.operatorservice.v1 import (
    AddSearchAttributesRequest,
    ListSearchAttributesRequest,
    RemoveSearchAttributesRequest,
)
from temporalio.api.workflowservice import v1 as api
from temporalio.client import Client

from commands import upsert
from errors import INVALID, refused
from histories import attributes_of
from raw import Run, Wire
from server import SEARCH_ATTRIBUTES
from values import payload, read
from waiting import eventually

VALUES: dict[str, Any] = {
    "WireBool": True,
    "WireDatetime": "2026-01-02T03:04:05Z",
    "WireDouble": 1.5,
    "WireInt": 42,
    "WireKeyword": "key",
    "WireKeywordList": ["a", "b"],
    "WireText": "some words",
}


def attributes(**values: Any) -> SearchAttributes:
    return SearchAttributes(indexed_fields={name: payload(v) for name, v in values.items()})


async def described(run: Run) -> dict[str, Payload]:
    info = (await run.describe()).workflow_execution_info
    return dict(info.search_attributes.indexed_fields)


async def test_every_type_comes_back_with_its_type(wire: Wire) -> None:
    run = await wire.start(search_attributes=attributes(**VALUES))
    found = await described(run)
    assert {name: read(found[name]) for name in VALUES} == VALUES
    kinds = {name: found[name].metadata["type"].decode() for name in VALUES}
    assert kinds == SEARCH_ATTRIBUTES
    await run.terminate()


async def test_upsert_replaces_adds_and_removes(wire: Wire) -> None:
    run = await wire.start(search_attributes=attributes(WireInt=1, WireKeyword="old"))
    await wire.step(upsert(WireInt=payload(2), WireBool=payload(True), WireKeyword=payload(None)))
    found = await described(run)
    assert read(found["WireInt"]) == 2 and read(found["WireBool"]) is True
    assert "WireKeyword" not in found
    await run.terminate()


KEYWORD = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
BAD: dict[str, dict[str, Any]] = {
    "undefined": {"NobodyDefinedThis": 1},
    "int as text": {"WireInt": "no number"},
    "bool as int": {"WireBool": 3},
    "datetime": {"WireDatetime": "yesterday"},
    "date": {"WireDatetime": "2026-01-02"},
    "list as text": {"WireKeywordList": "one"},
    "text as list": {"WireKeyword": ["one", "two"]},
    "list of numbers": {"WireKeywordList": [1, 2]},
    "system": {"WorkflowId": "mine"},
    "too large": {"WireKeyword": "x" * 3000},
}


@pytest.mark.parametrize("what", BAD)
async def test_bad_attributes_are_refused_at_start(wire: Wire, what: str) -> None:
    with refused(INVALID):
        await wire.start(search_attributes=attributes(**BAD[what]))


@pytest.mark.parametrize("what", ["undefined", "int as text", "system"])
async def test_bad_upsert_fails_the_workflow_task(wire: Wire, what: str) -> None:
    run = await wire.start()
    command = upsert(**{name: payload(value) for name, value in BAD[what].items()})
    with refused(INVALID):
        await wire.complete(await wire.poll(), command)
    failed = attributes_of(await run.history(), "WorkflowTaskFailed")
    assert failed.cause == WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_SEARCH_ATTRIBUTES
    await run.terminate()


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
async def test_times_that_stand_for_never_and_ever(wire: Wire, time: str) -> None:
    run = await wire.start(search_attributes=attributes(WireDatetime=time))
    assert read((await described(run))["WireDatetime"]) == time
    query = f"WorkflowId = '{run.workflow_id}' AND WireDatetime IS NOT NULL"
    request = api.CountWorkflowExecutionsRequest(namespace=wire.namespace, query=query)
    await eventually(
        lambda: wire.service.count_workflow_executions(request), lambda counted: counted.count == 1
    )
    await run.terminate()


@pytest.mark.parametrize("encoding", [b"json/protobuf", None])
async def test_other_encodings_are_refused(wire: Wire, encoding: bytes | None) -> None:
    metadata = {} if encoding is None else {"encoding": encoding}
    value = Payload(metadata=metadata, data=b'"key"')
    with refused(INVALID):
        await wire.start(search_attributes=SearchAttributes(indexed_fields={"WireKeyword": value}))


async def test_registered_attributes_are_listed(client: Client) -> None:
    operator = client.operator_service
    listed = await operator.list_search_attributes(ListSearchAttributesRequest(namespace="default"))
    assert set(SEARCH_ATTRIBUTES) <= set(listed.custom_attributes)
    system = {"WorkflowId", "ExecutionStatus", "StartTime", "CloseTime", "TaskQueue", "BuildIds"}
    assert system <= set(listed.system_attributes)


@pytest.mark.parametrize("name", ["WorkflowId", "TemporalMine", "BuildIds"])
async def test_reserved_names_cannot_be_registered(client: Client, name: str) -> None:
    request = AddSearchAttributesRequest(namespace="default", search_attributes={name: KEYWORD})
    with refused(INVALID):
        await client.operator_service.add_search_attributes(request)


async def test_system_attributes_cannot_be_removed(client: Client) -> None:
    request = RemoveSearchAttributesRequest(namespace="default", search_attributes=["WorkflowId"])
    with refused(INVALID):
        await client.operator_service.remove_search_attributes(request)
