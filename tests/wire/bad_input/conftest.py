"""Whatever a test of this folder sent: afterwards the server works and can tell what is wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from temporalio.client import Client

from commands import complete
from raw import Wire


@pytest_asyncio.fixture(autouse=True)
async def still_serving(client: Client) -> AsyncIterator[None]:
    yield
    wire = Wire(client.workflow_service, "default")
    run = await wire.start()
    await wire.step(complete())
    assert await run.status() == "COMPLETED"
