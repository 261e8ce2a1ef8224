"""Values between stages: JSON, artifacts that stand for large JSON, and collections of items.

The forms are those of `crates/pipeline/src/data.rs`; a worker in any language keeps to them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from .errors import Invalid

CLAIM_CHECK_BYTES = 64 * 1024
"""Bytes of JSON above which a value is kept as an artifact and passed by reference."""


def is_object(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether a JSON value is an object."""
    return isinstance(value, Mapping)


def is_list(value: object) -> TypeGuard[list[Any]]:
    """Whether a JSON value is a list."""
    return isinstance(value, list)


def encode(value: object) -> bytes:
    """JSON in one form for equal values: sorted keys, no spaces, UTF-8."""
    text = json.dumps(
        value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
    )
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise Invalid(
            f"a text has the lone surrogate {error.object[error.start]!r}, which is no character: "
            "decode its bytes with errors='replace'"
        ) from None


@dataclass(frozen=True)
class Artifact:
    """A content-addressed object in the artifact store."""

    digest: str
    """`sha256:` and the hash of its bytes in lower-case hexadecimal."""
    bytes: int
    media_type: str

    @staticmethod
    def is_reference(value: object) -> TypeGuard[Mapping[str, Any]]:
        return is_object(value) and "$artifact" in value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Artifact:
        return cls(
            str(value["$artifact"]),
            int(value.get("bytes", 0)),
            str(value.get("media_type", "application/json")),
        )

    def to_json(self) -> dict[str, Any]:
        return {"$artifact": self.digest, "bytes": self.bytes, "media_type": self.media_type}


@dataclass(frozen=True)
class CollectionRef:
    """Items of one type, too many to travel in messages: a manifest that lists parts."""

    manifest: str
    item: str
    count: int
    parts: int

    @staticmethod
    def is_reference(value: object) -> TypeGuard[Mapping[str, Any]]:
        return is_object(value) and "$collection" in value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CollectionRef:
        return cls(
            str(value["$collection"]),
            str(value.get("item", "any")),
            int(value.get("count", 0)),
            int(value.get("parts", 0)),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "$collection": self.manifest,
            "item": self.item,
            "count": self.count,
            "parts": self.parts,
        }


@dataclass
class Item:
    """One element of a collection."""

    id: str
    """Stable: made from content, unique in its collection."""
    value: Any
    source: str = ""
    """The id of the item of the fan-out's own collection that this one came from: the document of
    a text chunk. Empty for such an item itself."""

    @property
    def source_id(self) -> str:
        return self.source or self.id

    def to_json(self) -> dict[str, Any]:
        if self.source:
            return {"id": self.id, "source": self.source, "value": self.value}
        return {"id": self.id, "value": self.value}


@dataclass
class FailedItem:
    """An item that a stage could not process. It stays with its part, so that later stages know
    that its source is incomplete."""

    id: str
    stage: str
    error: str
    source: str = ""

    @property
    def source_id(self) -> str:
        return self.source or self.id

    def to_json(self) -> dict[str, Any]:
        line = {"id": self.id, "stage": self.stage, "error": self.error}
        if self.source:
            line["source"] = self.source
        return line


def _no_items() -> list[Item]:
    return []


def _no_failures() -> list[FailedItem]:
    return []


@dataclass
class Part:
    """What one chunk of a fan-out reads or writes: one JSON object to a line, items first."""

    items: list[Item] = field(default_factory=_no_items)
    failed: list[FailedItem] = field(default_factory=_no_failures)

    @classmethod
    def parse(cls, content: bytes, where: str) -> Part:
        part = cls()
        for number, text in enumerate(content.splitlines(), start=1):
            if not text.strip():
                continue
            try:
                line: Any = json.loads(text)
                identity, source = str(line["id"]), str(line.get("source", ""))
                if "error" in line:
                    failure = FailedItem(
                        identity, str(line.get("stage", "")), str(line["error"]), source
                    )
                    part.failed.append(failure)
                else:
                    part.items.append(Item(identity, line["value"], source))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise Invalid(f"{where}, line {number} is not an item: {error!r}") from None
        return part

    def encode(self) -> bytes:
        lines = [encode(one.to_json()) for one in (*self.items, *self.failed)]
        return b"".join(line + b"\n" for line in lines)

    @property
    def failed_sources(self) -> int:
        """Items of the fan-out's own collection among whose results one failed."""
        return len({one.source_id for one in self.failed})
