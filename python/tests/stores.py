"""Places for stores, looked into from beside: a folder, and a bucket of a server that speaks S3's
protocol."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path
from typing import Any, Protocol

import pytest
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

from tidemill import Artifacts


class Place(Protocol):
    def open(self) -> Artifacts: ...

    def names(self) -> list[str]:
        """The paths of all blobs."""
        ...

    def read(self, path: str) -> bytes: ...

    def write(self, path: str, content: bytes) -> None: ...

    def remove(self, path: str) -> None: ...


class FolderPlace:
    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self) -> Artifacts:
        return Artifacts.open(self.root)

    def names(self) -> list[str]:
        files = [one for one in self.root.rglob("*") if one.is_file()]
        names = [one.relative_to(self.root).as_posix() for one in files]
        return sorted(one for one in names if "/" in one)

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()

    def write(self, path: str, content: bytes) -> None:
        (self.root / path).write_bytes(content)

    def remove(self, path: str) -> None:
        (self.root / path).unlink()


class Bucket:
    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.endpoint = f"http://{host}:{port}"
        for name in [one for one in os.environ if one.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
        }.items():
            patch.setenv(name, value)
        made = urllib.request.Request(f"{self.endpoint}/mill", method="PUT")
        urllib.request.urlopen(made).close()

    def place(self, prefix: str) -> S3Place:
        return S3Place("mill", prefix)

    def stop(self) -> None:
        self._server.stop()


class S3Place:
    def __init__(self, bucket: str, prefix: str) -> None:
        self.url = f"s3://{bucket}/{prefix}"
        self._prefix = prefix
        self._store = S3Store(bucket, client_options={"allow_http": True})

    def open(self) -> Artifacts:
        return Artifacts.open(self.url)

    def names(self) -> list[str]:
        store: Any = self._store  # Its stubs leave types open.
        listed: list[Any] = [one for some in store.list(self._prefix) for one in some]
        return sorted(str(one["path"]).removeprefix(f"{self._prefix}/") for one in listed)

    def read(self, path: str) -> bytes:
        return bytes(self._store.get(f"{self._prefix}/{path}").bytes())

    def write(self, path: str, content: bytes) -> None:
        self._store.put(f"{self._prefix}/{path}", content)

    def remove(self, path: str) -> None:
        self._store.delete(f"{self._prefix}/{path}")
