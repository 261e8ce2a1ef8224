"""Blobs in an object store that speaks S3's protocol, through the same library that the engine's
other workers use."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, TypeVar

from tidemill.errors import ArtifactStoreUnavailable

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

T = TypeVar("T")

REFRESH_AFTER = timedelta(hours=1)
"""An object older than this is written again when it is put again, which is the only way to make it
young. Collections keep what is younger than their grace, which is longer."""
_CONCURRENCY = 16
"""Requests under way at a time when many marks are made."""
_RETRY: RetryConfig = {"max_retries": 3, "retry_timeout": timedelta(seconds=15)}
"""The run that waits for the store tries for ever, and says so: it should hear of it soon."""
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


class Objects:
    def __init__(self, store: ObjectStore, prefix: str, name: str) -> None:
        self._store = store
        self._prefix = f"{prefix}/" if prefix else ""
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def read(self, path: str) -> bytes | None:
        return self._ask("read", path, lambda at: bytes(self._store.get(at).bytes()))

    def write(self, path: str, content: bytes) -> None:
        # In one request, however large: what is not whole is not there.
        done = self._ask(
            "write", path, lambda at: self._store.put(at, content, use_multipart=False)
        )
        if done is None:
            raise self._unavailable("write", path, "there is no such bucket")

    def write_once(self, path: str, content: bytes) -> None:
        found = self._head(path)
        if found is None or found["size"] != len(content) or _age(found) >= REFRESH_AFTER:
            self.write(path, content)

    def refresh(self, path: str) -> bool:
        found = self._head(path)
        if found is None:
            return False
        if _age(found) >= REFRESH_AFTER:
            content = self.read(path)
            if content is None:
                return False
            self.write(path, content)
        return True

    def mark(self, folder: str, names: Collection[str]) -> None:
        paths = [f"{folder}/{name}" for name in names]
        if len(paths) == 1:
            self.write(paths[0], b"")
            return
        with ThreadPoolExecutor(_CONCURRENCY, thread_name_prefix="marks") as pool:
            for made in [pool.submit(self.write, path, b"") for path in paths]:
                made.result()

    def _head(self, path: str) -> ObjectMeta | None:
        return self._ask("look at", path, self._store.head)

    def _ask(self, what: str, path: str, request: Callable[[str], T]) -> T | None:
        """None where the store says that there is no such thing."""
        from obstore.exceptions import BaseError

        try:
            return request(self._prefix + path)
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            # What follows the first line is for the library's authors.
            reason = str(error).partition("\n")[0]
            raise self._unavailable(what, path, reason) from error

    def _unavailable(self, what: str, path: str, reason: str) -> ArtifactStoreUnavailable:
        return ArtifactStoreUnavailable(
            f"the artifact store is not available: cannot {what} {path} in {self._name}: {reason}"
        )


def _age(found: ObjectMeta) -> timedelta:
    return datetime.now(timezone.utc) - found["last_modified"]


def s3(rest: str) -> Objects:
    """`rest` is `bucket/prefix`. Region, endpoint and credentials come from the usual `AWS_...`
    variables. Raises ValueError."""
    bucket, _, prefix = rest.partition("/")
    prefix = prefix.rstrip("/")
    name = f"s3://{rest}"
    if not bucket or "" in prefix.split("/")[1:] or prefix.startswith("/"):
        raise ValueError(f"artifact store {name}: write s3://bucket or s3://bucket/prefix")
    try:
        from obstore.exceptions import BaseError
        from obstore.store import S3Store
    except ImportError:
        raise ValueError(
            f"artifact store {name}: the package for S3 is not installed: pip install "
            "'tidemill[s3]'"
        ) from None
    endpoint = next((os.environ[one] for one in _ENDPOINTS if one in os.environ), "")
    options: ClientConfig = {}
    if endpoint.startswith("http://"):
        # Whoever writes such an address means it.
        options["allow_http"] = True
    try:
        store = S3Store(bucket, client_options=options, retry_config=_RETRY)
        return Objects(store, prefix, name)
    except (BaseError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"artifact store {name}: {reason}") from error
