"""Results of pure stages, used again where everything that went into them is the same."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from . import convert
from .artifacts import Artifacts
from .chunk import Chunk
from .data import encode, is_object
from .errors import Invalid

if TYPE_CHECKING:
    from .stage import Stage
    from .task import Task

_RULES = 1
"""The rules by which keys are made: others give other keys."""


@dataclass(frozen=True)
class Cache:
    """What a task says of the use of earlier results."""

    ttl: timedelta
    key: str | None
    """A part of the key that the pipeline's author gave."""

    @classmethod
    def from_json(cls, value: object) -> Cache | None:
        if value is None:
            return None
        ttl_ms = value.get("ttl_ms") if is_object(value) else None
        if not is_object(value) or not isinstance(ttl_ms, int):
            raise Invalid(
                "the `cache` of a task is an object with the number `ttl_ms`; this is "
                f"{convert.shown(value)}"
            )
        key = value.get("key")
        ttl = timedelta(milliseconds=min(ttl_ms, timedelta.max // timedelta(milliseconds=1)))
        return cls(ttl, None if key is None else str(key))


def key(stage: Stage[..., Any], task: Task, revision: str | None, artifacts: Artifacts) -> str:
    """The key of the task's result: a hash of all that it depends on."""
    # References stand for content: equal ones are equal values.
    parts = [
        _RULES,
        "python",
        stage.name,
        stage.items,
        stage.version,
        stage.source_hash,
        task.parameters,
        task.scope,
        _input(task, artifacts),
        revision,
        task.cache and task.cache.key,
    ]
    return hashlib.sha256(encode(parts)).hexdigest()


def _input(task: Task, artifacts: Artifacts) -> Any:
    if "chunk" not in task.input:
        return task.input
    chunk = Chunk.from_json(task.input["chunk"])
    if chunk.size == 0:
        # By its part, so that what was added elsewhere in the collection changes nothing here.
        return {"part": chunk.part(artifacts)}
    return {
        "collection": chunk.collection.manifest,
        "index": chunk.index,
        "size": chunk.size,
    }


def get(artifacts: Artifacts, key: str, ttl: timedelta) -> dict[str, Any] | None:
    """An earlier output, kept for this run too."""
    output = artifacts.cached(key, ttl)
    # An entry that a version with other messages wrote is as good as none.
    if not is_object(output) or len(output) != 1 or not {"value", "part"} & set(output):
        return None
    return dict(output)
