"""The artifact store: a folder of content-addressed files that all workers of an engine share."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import unquote

from . import convert
from .data import CLAIM_CHECK_BYTES, Artifact, CollectionRef, Item, Part, encode, is_list, is_object
from .errors import ArtifactStoreUnavailable, Invalid, StageError

T = TypeVar("T")

JSON = "application/json"
JSON_LINES = "application/jsonl"

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_FORMAT_FILE = "tidemill-artifacts"
_FORMAT = "format 1\n"
_FOLDERS = ("objects", "refs", "cache", "tmp", "trash")


class Artifacts:
    """A store in a folder, in the layout of the engine's other workers. Objects never change, so
    any number of processes may use it at once.

    - `objects/<first two hex digits>/<sha256>`: the objects.
    - `refs/<run>/<sha256>`: an empty mark says that the run needs the object.
    """

    def __init__(self, root: Path, run: str = "") -> None:
        self.root = root
        self._run = run
        """The run for which this handle puts; what is put without one is kept for a while only."""

    @classmethod
    def open(cls, place: Path | str) -> Artifacts:
        """A folder, or its `file://` URL. Made if it does not exist; what holds something else is
        refused with ValueError."""
        text = str(place)
        if text.startswith("file://"):
            text = unquote(text.removeprefix("file://"))
        elif "://" in text or text == "memory:":
            raise ValueError(
                f"artifact store {text}: a Python worker reads folders only. Mount the store as a "
                "folder, or run the stage as a subprocess with shell.run."
            )
        root = Path(text).absolute()
        try:
            format = (root / _FORMAT_FILE).read_text()
        except FileNotFoundError:
            _create(root)
        except OSError as error:
            raise ValueError(f"artifact store {root} cannot be read: {error}") from error
        else:
            if format != _FORMAT:
                raise ValueError(
                    f"{root} is an artifact store of another format ({format.strip()[:40]}): use "
                    "the version of tidemill that wrote it, or a newer one"
                )
        return cls(root)

    def for_run(self, run: str) -> Artifacts:
        """A handle whose objects stay for as long as the run is there."""
        return Artifacts(self.root, run)

    def put(self, content: bytes, media_type: str = JSON) -> Artifact:
        """Keeps `content`. It is durable when this returns."""
        name = hashlib.sha256(content).hexdigest()
        try:
            # The mark first: no collection may take the object away in between.
            if self._run:
                self._mark(name)
            self._write_once(name, content)
        except OSError as error:
            self._require_store()
            raise ArtifactStoreUnavailable(
                f"the artifact store {self.root} cannot be written: {error}"
            ) from error
        return Artifact(f"sha256:{name}", len(content), media_type)

    def _mark(self, name: str) -> None:
        folder = self.root / "refs" / encode_name(self._run)
        if not folder.is_dir():
            _make_folder(folder)
        (folder / name).touch(exist_ok=True)
        _flush_folder(folder)

    def _write_once(self, name: str, content: bytes) -> None:
        path = self._path(name)
        if path.is_file() and path.stat().st_size == len(content):
            # Young again, so that no collection takes it; one may just have done so.
            os.utime(path)
            if path.is_file():
                _flush_folder(path.parent)
                return
        temporary = self.root / "tmp" / f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if not path.parent.is_dir():
                _make_folder(path.parent)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        _flush_folder(path.parent)

    def get(self, digest: str) -> bytes:
        """The bytes of an artifact, checked against its digest."""
        found = _DIGEST.fullmatch(digest)
        if not found:
            raise Invalid(
                f"`{digest}` is not a digest: it should be `sha256:` and 64 lower-case hexadecimal "
                "digits"
            )
        name = found[1]
        content = self._read(name)
        if content is None:
            raise StageError(
                f"artifact {digest} is not in {self.root}: it was collected, or this worker was "
                "given another store than the one it was put into (--artifacts)"
            )
        if hashlib.sha256(content).hexdigest() != name:
            raise StageError(
                f"artifact {digest} is damaged: its bytes do not have that hash. Remove "
                f"{self._path(name)} and run the stage that made it again."
            )
        return content

    def _read(self, name: str) -> bytes | None:
        # A collection takes an object aside before it decides, and may put it back.
        path = self._path(name)
        for place in (path, self.root / "trash" / name, path):
            try:
                return place.read_bytes()
            except FileNotFoundError:
                self._require_store()
            except OSError as error:
                raise ArtifactStoreUnavailable(
                    f"the artifact store {self.root} cannot be read: {error}"
                ) from error
        return None

    def put_json(self, value: object) -> Any:
        """The value itself when it is small, otherwise the reference to its artifact."""
        content = encode(value)
        if len(content) <= CLAIM_CHECK_BYTES:
            return value
        return self.put(content).to_json()

    def resolve(self, value: object) -> Any:
        """The value with artifacts of JSON and text in place of their references. References to
        collections, and to artifacts of other kinds, stay."""
        if Artifact.is_reference(value):
            artifact = Artifact.from_json(value)
            if artifact.media_type.startswith("application/json"):
                try:
                    return self.resolve(json.loads(self.get(artifact.digest)))
                except ValueError as error:
                    raise Invalid(f"artifact {artifact.digest} is not JSON: {error}") from error
            if artifact.media_type.startswith("text/"):
                return self.get(artifact.digest).decode(errors="replace")
            return value
        if is_object(value):
            return {key: self.resolve(one) for key, one in value.items()}
        if is_list(value):
            return [self.resolve(one) for one in value]
        return value

    def part(self, digest: str) -> Part:
        return Part.parse(self.get(digest), f"part {digest}")

    def put_part(self, part: Part) -> Artifact:
        return self.put(part.encode(), JSON_LINES)

    def manifest(self, digest: str) -> list[tuple[str, int]]:
        """The parts of a collection: the digest of each and the number of its items."""
        try:
            manifest: Any = json.loads(self.get(digest))
            return [(str(one["digest"]), int(one["count"])) for one in manifest["parts"]]
        except (ValueError, KeyError, TypeError) as error:
            raise Invalid(f"artifact {digest} is not a manifest: {error!r}") from error

    def _path(self, name: str) -> Path:
        return self.root / "objects" / name[:2] / name

    def _require_store(self) -> None:
        """Without its format file, nothing that is missing is known to be missing."""
        if not (self.root / _FORMAT_FILE).is_file():
            raise ArtifactStoreUnavailable(
                f"the artifact store is not available: its folder {self.root} is gone or cannot be "
                "read"
            )


def encode_name(text: str) -> str:
    """Any text as a file name: all but letters, digits, `-`, `_` and inner dots is `%xx`."""
    name = "".join(
        chr(byte) if chr(byte) in _PLAIN or (byte == ord(".") and at > 0) else f"%{byte:02x}"
        for at, byte in enumerate(text.encode())
    )
    if not 0 < len(name) <= 240:
        raise Invalid(f"`{text}` cannot name a run: it must have 1 to 240 bytes")
    return name


_PLAIN = frozenset(string.ascii_letters + string.digits + "-_")


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
        temporary = root / f"{_FORMAT_FILE}.{os.getpid()}"
        with temporary.open("w") as file:
            file.write(_FORMAT)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(root / _FORMAT_FILE)
        _flush_folder(root)
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


class Collection(Generic[T]):
    """A collection that is read part by part, as one goes through it."""

    def __init__(self, artifacts: Artifacts, reference: CollectionRef, member: Any = Any) -> None:
        self._artifacts = artifacts
        self._member = member
        self.reference = reference

    def __len__(self) -> int:
        return self.reference.count

    def __iter__(self) -> Iterator[T]:
        for item in self.items():
            yield convert.from_json(item.value, self._member, f"item {item.id}")

    def items(self) -> Iterator[Item]:
        """The items with their ids, their values as JSON."""
        for digest, _ in self._artifacts.manifest(self.reference.manifest):
            yield from self._artifacts.part(digest).items

    def values(self) -> list[Any]:
        """All values, as JSON: for collections that fit in memory."""
        return [item.value for item in self.items()]

    def of_type(self, member: Any) -> Collection[Any]:
        return Collection(self._artifacts, self.reference, member)
