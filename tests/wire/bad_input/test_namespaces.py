"""Calls that name no namespace, or one that does not exist."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from temporalio.api.errordetails.v1 import NamespaceNotFoundFailure
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice import v1 as api
from temporalio.client import Client

from errors import INVALID, NOT_FOUND, refused
from raw import Wire, fresh


async def list_runs(wire: Wire) -> None:
    request = api.ListWorkflowExecutionsRequest(namespace=wire.namespace)
    await wire.service.list_workflow_executions(request)


async def count_runs(wire: Wire) -> None:
    request = api.CountWorkflowExecutionsRequest(namespace=wire.namespace)
    await wire.service.count_workflow_executions(request)


async def describe_queue(wire: Wire) -> None:
    request = api.DescribeTaskQueueRequest(
        namespace=wire.namespace, task_queue=TaskQueue(name=wire.task_queue)
    )
    await wire.service.describe_task_queue(request)


async def describe(wire: Wire) -> None:
    request = api.DescribeNamespaceRequest(namespace=wire.namespace)
    await wire.service.describe_namespace(request)


CALLS: dict[str, Callable[[Wire], Awaitable[Any]]] = {
    "start": Wire.start,
    "poll": Wire.poll_response,
    "poll activity": Wire.poll_activity_response,
    "list": list_runs,
    "count": count_runs,
    "describe queue": describe_queue,
    "describe": describe,
}


@pytest.mark.parametrize("name", CALLS)
async def test_unknown_namespace(client: Client, name: str) -> None:
    nowhere = Wire(client.workflow_service, fresh("nowhere"))
    with refused(NOT_FOUND, NamespaceNotFoundFailure):
        await CALLS[name](nowhere)


@pytest.mark.parametrize("name", CALLS)
async def test_no_namespace(client: Client, name: str) -> None:
    with refused(INVALID):
        await CALLS[name](Wire(client.workflow_service, ""))


@pytest.mark.parametrize("name", CALLS)
async def test_long_namespace(client: Client, name: str) -> None:
    with refused(INVALID):
        await CALLS[name](Wire(client.workflow_service, "x" * 5000))
