"""Namespaces on an engine that is given by its address: a test never sees the runs of another."""

from __future__ import annotations

import asyncio

from google.protobuf.duration_pb2 import Duration
from temporalio.api.workflowservice.v1 import (
    ListWorkflowExecutionsRequest,
    RegisterNamespaceRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

PATIENCE_S = 60


def make_namespace(engine: str, name: str) -> str:
    """Makes a namespace and waits until the engine knows it everywhere."""
    asyncio.run(asyncio.wait_for(_make(engine, name), PATIENCE_S))
    return name


async def _make(engine: str, name: str) -> None:
    client = await Client.connect(engine)
    day = Duration(seconds=24 * 60 * 60)
    request = RegisterNamespaceRequest(namespace=name, workflow_execution_retention_period=day)
    await client.workflow_service.register_namespace(request)
    # A server with caches takes a while to see what it has made.
    while True:
        try:
            listing = ListWorkflowExecutionsRequest(namespace=name)
            await client.workflow_service.list_workflow_executions(listing)
            return
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            await asyncio.sleep(0.1)
