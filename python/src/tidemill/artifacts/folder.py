"""Blobs in a folder of the file system.

A blob is written to `tmp/`, flushed, renamed to its place, and the folder of that place is flushed.
The root is made when the store is opened and never after: a disk that is not mounted must not be
mistaken for an empty store.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection
from pathlib import Path

from tidemill.errors import ArtifactStoreUnavailable

_FORMAT_FILE = "tidemill-artifacts"
"""Says that a folder is an artifact store, and of which format."""
_FORMAT = "format 1\n"
_FOLDERS = ("objects", "refs", "cache", "tmp", "trash")


class Folder:
    """Made if it does not exist. Raises ValueError for a folder that holds something else."""

    def __init__(self, place: Path | str) -> None:
        # Absolute, so that a change of the working folder changes nothing.
        self._root = Path(place).absolute()
        try:
            format = (self._root / _FORMAT_FILE).read_text()
        except FileNotFoundError:
            _create(self._root)
        except OSError as error:
            raise ValueError(f"artifact store {self._root} cannot be read: {error}") from error
        else:
            if format != _FORMAT:
                raise ValueError(
                    f"{self._root} is an artifact store of another format "
                    f"({format.strip()[:40]}): use the version of tidemill that wrote it, or a "
                    "newer one"
                )

    @property
    def name(self) -> str:
        return str(self._root)

    def read(self, path: str) -> bytes | None:
        # A collection takes an object aside before it decides, and may put it back.
        at = self._root / path
        for place in (at, self._root / "trash" / at.name, at):
            try:
                return place.read_bytes()
            except FileNotFoundError:
                self._require_store()
            except OSError as error:
                raise self._unavailable("read", error) from error
        return None

    def write(self, path: str, content: bytes) -> None:
        try:
            self._write(self._root / path, content, durable=False)
        except OSError as error:
            raise self._unavailable("written", error) from error

    def write_once(self, path: str, content: bytes) -> None:
        at = self._root / path
        try:
            # Another size is what a damaged disk leaves; then it is written again.
            if at.is_file() and at.stat().st_size == len(content) and self.refresh(path):
                # Whoever wrote it may not have come to that yet.
                _flush_folder(at.parent)
            else:
                self._write(at, content, durable=True)
        except OSError as error:
            raise self._unavailable("written", error) from error

    def refresh(self, path: str) -> bool:
        at = self._root / path
        try:
            os.utime(at)
        except FileNotFoundError:
            self._require_store()
            return False
        except OSError as error:
            raise self._unavailable("written", error) from error
        # A collection may have taken it in between; it looks at the time after it took it.
        return at.is_file()

    def mark(self, folder: str, names: Collection[str]) -> None:
        at = self._root / folder
        try:
            for name in names:
                try:
                    (at / name).touch()
                except FileNotFoundError:
                    # A collection removes folders that are empty.
                    _make_folder(at)
                    (at / name).touch()
            _flush_folder(at)
        except OSError as error:
            raise self._unavailable("written", error) from error

    def _write(self, at: Path, content: bytes, *, durable: bool) -> None:
        temporary = self._root / "tmp" / f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            with temporary.open("xb") as file:
                file.write(content)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            if not at.parent.is_dir():
                _make_folder(at.parent)
            temporary.replace(at)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        if durable:
            _flush_folder(at.parent)

    def _unavailable(self, what: str, error: OSError) -> ArtifactStoreUnavailable:
        """An error of the file system; that of a store that is gone says so."""
        self._require_store()
        return ArtifactStoreUnavailable(
            f"the artifact store is not available: {self._root} cannot be {what}: {error}"
        )

    def _require_store(self) -> None:
        """Without its format file, nothing that is missing is known to be missing."""
        if not (self._root / _FORMAT_FILE).is_file():
            raise ArtifactStoreUnavailable(
                f"the artifact store is not available: its folder {self._root} is gone or cannot "
                "be read"
            )


def _create(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        for entry in root.iterdir():
            # Another process may be at it as well.
            if entry.name not in _FOLDERS and not entry.name.startswith(_FORMAT_FILE):
                raise ValueError(
                    f"{root} is not an artifact store and not empty ({entry.name} is in it): name "
                    "another folder"
                )
        for folder in _FOLDERS:
            _make_folder(root / folder)
        # The format comes last: a store that has it is complete.
        temporary = root / f"{_FORMAT_FILE}.{os.getpid()}-{secrets.token_hex(8)}"
        with temporary.open("w", newline="\n") as file:
            file.write(_FORMAT)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(root / _FORMAT_FILE)
        _flush_folder(root)
        _flush_folder(root.parent)
    except OSError as error:
        raise ValueError(f"the artifact store {root} cannot be made: {error}") from error


def _make_folder(path: Path) -> None:
    """Makes a folder in one that exists, durably."""
    path.mkdir(exist_ok=True)
    _flush_folder(path.parent)


def _flush_folder(path: Path) -> None:
    """Makes the names in a folder durable."""
    if os.name == "nt":  # It neither can nor needs to.
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
