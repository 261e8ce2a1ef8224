"""Namespaces: made, described, changed, retired."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.enums.v1 import NamespaceState
from temporalio.api.errordetails.v1 import (
    NamespaceAlreadyExistsFailure,
    NamespaceInvalidStateFailure,
    NamespaceNotFoundFailure,
)
from temporalio.api.namespace.v1 import NamespaceConfig, UpdateNamespaceInfo
from temporalio.api.operatorservice.v1 import DeleteNamespaceRequest
from temporalio.api.workflowservice import v1 as api
from temporalio.client import Client

from commands import complete
from errors import EXISTS, INVALID, NOT_FOUND, PRECONDITION, refused
from raw import Wire, fresh
from values import in_seconds, seconds

DEPRECATED = NamespaceState.NAMESPACE_STATE_DEPRECATED
DAY = 24 * 3600


async def register(client: Client, **fields: Any) -> str:
    name = fresh("namespace")
    fields.setdefault("workflow_execution_retention_period", seconds(DAY))
    request = api.RegisterNamespaceRequest(namespace=name, **fields)
    await client.workflow_service.register_namespace(request)
    return name


async def describe(client: Client, name: str) -> api.DescribeNamespaceResponse:
    request = api.DescribeNamespaceRequest(namespace=name)
    return await client.workflow_service.describe_namespace(request)


async def test_registered_namespace_works_at_once(client: Client) -> None:
    name = await register(client, description="about", owner_email="a@example.org", data={"k": "v"})
    described = await describe(client, name)
    info = described.namespace_info
    assert (info.name, info.description, info.owner_email) == (name, "about", "a@example.org")
    assert info.state == NamespaceState.NAMESPACE_STATE_REGISTERED
    assert dict(info.data) == {"k": "v"}
    assert in_seconds(described.config.workflow_execution_retention_ttl) == DAY
    assert not described.is_global_namespace
    by_id = await client.workflow_service.describe_namespace(
        api.DescribeNamespaceRequest(id=info.id)
    )
    assert by_id.namespace_info.name == name

    wire = Wire(client.workflow_service, name)
    run = await wire.start()
    await wire.step(complete())
    assert await run.status() == "COMPLETED"


async def test_capabilities_that_sdks_read(client: Client) -> None:
    capabilities = (await describe(client, "default")).namespace_info.capabilities
    assert capabilities.eager_workflow_start
    assert capabilities.sync_update and capabilities.async_update
    assert capabilities.worker_heartbeats


async def test_bad_registrations(client: Client) -> None:
    for fields in ({"workflow_execution_retention_period": None}, {"is_global_namespace": True}):
        with refused(INVALID):
            await register(client, **fields)
    with refused(INVALID):
        await register(client, workflow_execution_retention_period=seconds(60))
    taken = api.RegisterNamespaceRequest(
        namespace="default", workflow_execution_retention_period=seconds(DAY)
    )
    with refused(EXISTS, NamespaceAlreadyExistsFailure):
        await client.workflow_service.register_namespace(taken)
    with refused(INVALID):
        await client.workflow_service.register_namespace(
            api.RegisterNamespaceRequest(workflow_execution_retention_period=seconds(DAY))
        )


async def test_update_merges(client: Client) -> None:
    name = await register(client, description="old", data={"a": "1", "b": "2"})
    request = api.UpdateNamespaceRequest(
        namespace=name,
        update_info=UpdateNamespaceInfo(description="new", data={"b": "3"}),
        config=NamespaceConfig(workflow_execution_retention_ttl=seconds(2 * DAY)),
    )
    await client.workflow_service.update_namespace(request)
    described = await describe(client, name)
    assert described.namespace_info.description == "new"
    assert dict(described.namespace_info.data) == {"a": "1", "b": "3"}
    assert in_seconds(described.config.workflow_execution_retention_ttl) == 2 * DAY


async def test_deprecated_namespace_still_takes_signals(client: Client) -> None:
    name = await register(client)
    wire = Wire(client.workflow_service, name)
    run = await wire.start()
    await client.workflow_service.deprecate_namespace(api.DeprecateNamespaceRequest(namespace=name))
    described = await describe(client, name)
    assert described.namespace_info.state == DEPRECATED

    await run.signal()


async def test_list_has_every_namespace(client: Client) -> None:
    name = await register(client)
    names: set[str] = set()
    token = b""
    while True:
        page = await client.workflow_service.list_namespaces(
            api.ListNamespacesRequest(page_size=5, next_page_token=token)
        )
        names |= {one.namespace_info.name for one in page.namespaces}
        token = page.next_page_token
        if not token:
            break
    assert {name, "default", "temporal-system"} <= names


async def test_deleted_namespace_is_gone(client: Client) -> None:
    name = await register(client)
    deleted = await client.operator_service.delete_namespace(DeleteNamespaceRequest(namespace=name))
    assert deleted.deleted_namespace.startswith(f"{name}-deleted-")
    with refused(NOT_FOUND, NamespaceNotFoundFailure):
        await describe(client, name)


@pytest.mark.ours
async def test_deprecation_counts_at_once(client: Client) -> None:
    """Other servers may go on for as long as their namespace cache lives."""
    name = await register(client)
    await client.workflow_service.deprecate_namespace(api.DeprecateNamespaceRequest(namespace=name))
    with refused(PRECONDITION, NamespaceInvalidStateFailure):
        await Wire(client.workflow_service, name).start()
