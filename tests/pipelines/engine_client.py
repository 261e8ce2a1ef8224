"""Temporal's own client, side by side: for what the commands would take too long for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from temporalio.client import Client
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig

from conftest import Up

T = TypeVar("T")
R = TypeVar("R")

AT_ONCE = 50
"""Calls that wait for their answers at a time."""


async def connect(up: Up) -> Client:
    """A client that does not warn of each call that it repeats."""
    runtime = Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(filter="error")))
    return await Client.connect(up.engine, namespace=up.namespace, runtime=runtime)


async def for_all(what: Iterable[T], do: Callable[[T], Awaitable[R]]) -> list[R]:
    """Many calls side by side; their results in order."""
    free = asyncio.Semaphore(AT_ONCE)

    async def one(it: T) -> R:
        async with free:
            return await do(it)

    return await asyncio.gather(*(one(it) for it in what))
