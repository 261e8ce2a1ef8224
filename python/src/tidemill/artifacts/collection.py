"""Collections as functions see them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, Generic, TypeVar

from tidemill import convert
from tidemill.data import CollectionRef, Item, Part

from .store import Artifacts

T = TypeVar("T")


class Collection(Generic[T]):
    """A collection that is read part by part, as one goes through it: with `for`, and in an async
    function with `async for`, which does not hold up the worker while it reads."""

    def __init__(self, artifacts: Artifacts, reference: CollectionRef, member: Any = Any) -> None:
        self._artifacts = artifacts
        self._member = member
        self.reference = reference

    def __len__(self) -> int:
        return self.reference.count

    def __iter__(self) -> Iterator[T]:
        for item in self.items():
            yield self._convert(item)

    async def __aiter__(self) -> AsyncIterator[T]:
        for digest, _ in await asyncio.to_thread(self._parts):
            part: Part = await asyncio.to_thread(self._artifacts.part, digest)
            for item in part.items:
                yield self._convert(item)

    def items(self) -> Iterator[Item]:
        """The items with their ids, their values as JSON."""
        for digest, _ in self._parts():
            yield from self._artifacts.part(digest).items

    def values(self) -> list[Any]:
        """All values, as JSON: for collections that fit in memory."""
        return [item.value for item in self.items()]

    def of_type(self, member: Any) -> Collection[Any]:
        return Collection(self._artifacts, self.reference, member)

    def _parts(self) -> list[tuple[str, int]]:
        return self._artifacts.manifest(self.reference.manifest)

    def _convert(self, item: Item) -> T:
        value: T = convert.from_json(item.value, self._member, f"item {item.id}")
        return value
