"""One chunk of a fan-out's collection."""

from __future__ import annotations

from dataclasses import dataclass

from . import convert
from .artifacts import Artifacts
from .data import CollectionRef, Part, is_object
from .errors import Invalid


@dataclass(frozen=True)
class Chunk:
    collection: CollectionRef
    index: int
    """The part, when chunks are parts; otherwise items are counted over all parts."""
    size: int
    """Items of a chunk; 0 when chunks are parts."""

    @classmethod
    def from_json(cls, value: object) -> Chunk:
        if not is_object(value):
            raise Invalid(f"the task's chunk should be an object, and is {convert.shown(value)}")
        try:
            collection = CollectionRef.from_json(value["collection"])
            return cls(collection, int(value["index"]), int(value["size"]))
        except (KeyError, TypeError, ValueError) as error:
            raise Invalid(f"the task's chunk is not one: {error!r}") from None

    def part(self, artifacts: Artifacts) -> str:
        """The digest of the part, when chunks are parts."""
        parts = artifacts.manifest(self.collection.manifest)
        if self.index >= len(parts):
            raise Invalid(
                f"the collection has {len(parts)} parts, and chunk {self.index} is asked for"
            )
        return parts[self.index][0]

    def read(self, artifacts: Artifacts) -> Part:
        """What failed before in a part goes with the chunk in which the part begins."""
        if self.size == 0:
            return artifacts.part(self.part(artifacts))
        first, last = self.index * self.size, (self.index + 1) * self.size
        final = max(self.collection.count - 1, 0) // self.size
        chunk, position = Part(), 0
        for digest, count in artifacts.manifest(self.collection.manifest):
            begin, position = position, position + count
            begins_here = min(begin // self.size, final) == self.index
            if not begins_here and not (begin < last and position > first):
                continue
            part = artifacts.part(digest)
            chunk.items.extend(part.items[max(first - begin, 0) : max(last - begin, 0)])
            if begins_here:
                chunk.failed.extend(part.failed)
        return chunk
