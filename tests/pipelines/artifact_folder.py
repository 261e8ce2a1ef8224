"""The artifact store as it lies in its folder, read without the product."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from conftest import Up


def artifact(up: Up, digest: str) -> bytes:
    name = digest.removeprefix("sha256:")
    content = (up.data / "artifacts" / "objects" / name[:2] / name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == name
    return content


def part(up: Up, digest: str) -> list[Any]:
    """The items of a part: what failed has an `error` where others have a `value`."""
    return [json.loads(line) for line in artifact(up, digest).splitlines()]


def collection(up: Up, reference: dict[str, Any]) -> Iterator[Any]:
    """The items of a collection, those that failed among them."""
    for entry in json.loads(artifact(up, reference["$collection"]))["parts"]:
        yield from part(up, entry["digest"])
