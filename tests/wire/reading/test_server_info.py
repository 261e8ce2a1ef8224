"""What a client asks before anything else."""

from __future__ import annotations

import re

from temporalio.api.workflowservice import v1 as api
from temporalio.client import Client


async def test_system_info(client: Client) -> None:
    info = await client.workflow_service.get_system_info(api.GetSystemInfoRequest())
    assert re.match(r"\d+\.\d+\.\d+", info.server_version)
    capabilities = info.capabilities
    assert capabilities.signal_and_query_header
    assert capabilities.internal_error_differentiation
    assert capabilities.activity_failure_include_heartbeat
    assert capabilities.encoded_failure_attributes
    assert capabilities.upsert_memo
    assert capabilities.eager_workflow_start
    assert capabilities.sdk_metadata
    assert capabilities.count_group_by_execution_status


async def test_cluster_info(client: Client) -> None:
    info = await client.workflow_service.get_cluster_info(api.GetClusterInfoRequest())
    assert info.cluster_name == "active"
    assert info.cluster_id and info.history_shard_count > 0
    assert info.persistence_store == info.visibility_store == "sqlite"


async def test_health(client: Client) -> None:
    assert await client.service_client.check_health()
    assert await client.service_client.check_health(service="")


async def test_search_attribute_names(client: Client) -> None:
    found = await client.workflow_service.get_search_attributes(api.GetSearchAttributesRequest())
    assert {"WorkflowId", "ExecutionStatus", "StartTime"} <= set(found.keys)
