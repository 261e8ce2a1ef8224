"""The service over plain gRPC, for what the SDK's client adds, hides or retries."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
from temporalio.api.workflowservice.v1.service_pb2_grpc import WorkflowServiceStub


@asynccontextmanager
async def service(address: str) -> AsyncIterator[Any]:
    """A stub on a connection of its own; untyped, as the generated types are not for asyncio."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield WorkflowServiceStub(channel)  # pyright: ignore[reportArgumentType]
