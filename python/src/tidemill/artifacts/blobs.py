"""What the artifact store needs from the place in which it lies."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol


class Blobs(Protocol):
    """Named bytes. Paths are relative, with `/` between their segments. From any thread.

    A place that cannot be reached or written raises `ArtifactStoreUnavailable`.
    """

    @property
    def name(self) -> str:
        """The place, for messages."""
        ...

    def read(self, path: str) -> bytes | None: ...

    def write(self, path: str, content: bytes) -> None:
        """Writes whole or not at all, over what is there. A crash of the machine may lose it."""
        ...

    def write_once(self, path: str, content: bytes) -> None:
        """Writes whole or not at all, and durably, unless bytes of that number are there already;
        then they count as young again."""
        ...

    def refresh(self, path: str) -> bool:
        """Makes what is there young again, so that no collection takes it; False if nothing is."""
        ...

    def mark(self, folder: str, names: Collection[str]) -> None:
        """Makes empty blobs in a folder, durably."""
        ...
