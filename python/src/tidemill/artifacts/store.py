"""The store, over the blobs of a folder or of an object store."""

from __future__ import annotations

import hashlib
import json
import re
import string
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tidemill.data import CLAIM_CHECK_BYTES, Artifact, Part, encode, is_list, is_object
from tidemill.errors import Invalid, StageError

from .blobs import Blobs
from .entry import Entry, digests_in, now_ms
from .folder import Folder
from .objects import s3

JSON = "application/json"
JSON_LINES = "application/jsonl"

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class Artifacts:
    """A handle to the store. From any thread; its methods wait for the disk or the network."""

    def __init__(self, blobs: Blobs, run: str = "") -> None:
        self._blobs = blobs
        self._run = run
        """The run for which this handle puts; what is put without one is kept for a while only."""

    @classmethod
    def open(cls, place: Path | str) -> Artifacts:
        """A folder or its `file://` URL, made if it does not exist; or `s3://bucket/prefix`, whose
        region, endpoint and credentials come from the usual `AWS_...` variables. Raises ValueError
        for what cannot be a store."""
        text = str(place)
        if text.startswith("s3://"):
            return cls(s3(text.removeprefix("s3://")))
        if text.startswith("file://"):
            text = unquote(text.removeprefix("file://"))
        elif "://" in text or text == "memory:":
            raise ValueError(
                f"artifact store {text}: use a folder, file:// or s3://, the same store that the "
                "engine's other workers use"
            )
        return cls(Folder(text))

    @property
    def place(self) -> str:
        """The folder or URL."""
        return self._blobs.name

    def __repr__(self) -> str:
        return f"<artifacts in {self.place}>"

    def for_run(self, run: str) -> Artifacts:
        """A handle whose objects stay for as long as the run is there."""
        return Artifacts(self._blobs, run)

    def put(self, content: bytes, media_type: str = JSON) -> Artifact:
        """Keeps `content`. It is durable when this returns."""
        name = hashlib.sha256(content).hexdigest()
        # The mark first: no collection may take the object away in between.
        self._mark([name])
        self._blobs.write_once(_path(name), content)
        return Artifact(f"sha256:{name}", len(content), media_type)

    def get(self, digest: str) -> bytes:
        """The bytes of an artifact, checked against its digest."""
        found = _DIGEST.fullmatch(digest)
        if not found:
            raise Invalid(
                f"`{digest}` is not a digest: it should be `sha256:` and 64 lower-case hexadecimal "
                "digits"
            )
        name = found[1]
        content = self._blobs.read(_path(name))
        if content is None:
            raise StageError(
                f"artifact {digest} is not in {self.place}: it was collected, or this worker was "
                "given another store than the one it was put into (--artifacts)"
            )
        if hashlib.sha256(content).hexdigest() != name:
            raise StageError(
                f"artifact {digest} is damaged: its bytes do not have that hash. Remove "
                f"{self.place}/{_path(name)} and run the stage that made it again."
            )
        return content

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

    def cached(self, key: str, ttl: timedelta) -> Any:
        """The result that was stored under a key, not longer ago than it was stored for, nor than
        `ttl`; otherwise None. Its objects are the run's from now on. An entry whose objects are
        gone is none."""
        content = self._blobs.read(_cache_path(key))
        entry = Entry.parse(content) if content is not None else None
        if entry is None or not entry.is_good(now_ms(), ttl):
            return None
        self._mark(entry.objects)
        # After the marks: what is still there now stays.
        if not all(self._blobs.refresh(_path(name)) for name in entry.objects):
            return None
        return entry.output

    def put_cached(self, key: str, output: object, ttl: timedelta) -> None:
        """Stores a result under a key. The objects that are named in it by digest, and what is
        named in them, stay until the entry expires."""
        objects = self._reachable(digests_in(encode(output)))
        entry = Entry(now_ms(), ttl // timedelta(milliseconds=1), output, sorted(objects))
        self._blobs.write(_cache_path(key), entry.encode())

    def _reachable(self, named: set[str]) -> set[str]:
        """The objects among these, and those that their bytes name, and so on. A digest may name
        something outside the store; it is left out."""
        seen, left, objects = set(named), list(named), set[str]()
        while left:
            name = left.pop()
            content = self._blobs.read(_path(name))
            if content is None:
                continue
            objects.add(name)
            found = digests_in(content) - seen
            seen |= found
            left.extend(found)
        return objects

    def _mark(self, names: list[str]) -> None:
        if self._run and names:
            self._blobs.mark(f"refs/{encode_name(self._run)}", names)


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


def _path(name: str) -> str:
    return f"objects/{name[:2]}/{name}"


def _cache_path(key: str) -> str:
    return f"cache/{encode_name(key)}"
