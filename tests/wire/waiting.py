"""Waits for what the protocol has no event for, such as visibility catching up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(read: Callable[[], Awaitable[T]], holds: Callable[[T], bool]) -> T:
    """Read until `holds`; the limit only ends a wait for something that never comes."""
    value = await read()
    for _ in range(1200):
        if holds(value):
            return value
        await asyncio.sleep(0.05)
        value = await read()
    raise AssertionError(f"still not so: {value}")
