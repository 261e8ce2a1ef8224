"""The artifact store in a bucket: what only an object store does."""

from __future__ import annotations

import sys
import uuid
from datetime import timedelta

import pytest
from engine import free_port
from obstore.store import S3Store
from stores import Bucket

from tidemill import Artifacts, ArtifactStoreUnavailable
from tidemill.artifacts import objects


def test_a_store_may_be_a_whole_bucket(bucket: Bucket) -> None:
    artifact = Artifacts.open("s3://mill").put(b"at the top")
    assert Artifacts.open("s3://mill/").get(artifact.digest) == b"at the top"
    name = artifact.digest.removeprefix("sha256:")
    assert f"objects/{name[:2]}/{name}" in bucket.place("").names()


@pytest.mark.usefixtures("bucket")
def test_what_is_old_is_written_again_so_that_it_is_young(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    class Watched(objects.Objects):
        def write(self, path: str, content: bytes) -> None:
            written.append(path)
            super().write(path, content)

    store = Watched(
        S3Store("mill", client_options={"allow_http": True}), uuid.uuid4().hex, "watched"
    )
    store.write_once("objects/ab/abc", b"one")
    store.write_once("objects/ab/abc", b"one")
    assert store.refresh("objects/ab/abc")
    assert len(written) == 1
    monkeypatch.setattr(objects, "REFRESH_AFTER", timedelta(0))
    store.write_once("objects/ab/abc", b"one")
    assert store.refresh("objects/ab/abc")
    assert len(written) == 3
    assert not store.refresh("objects/ab/abd")


def test_a_service_that_does_not_answer_is_unavailable() -> None:
    away = S3Store(
        "mill",
        endpoint=f"http://127.0.0.1:{free_port()}",
        access_key_id="key",
        secret_access_key="secret",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},  # How often it asks is not the point here.
    )
    artifacts = Artifacts(objects.Objects(away, "x", "s3://mill/x"))
    with pytest.raises(ArtifactStoreUnavailable, match="cannot look at objects/"):
        artifacts.put(b"new")
    with pytest.raises(ArtifactStoreUnavailable, match="cannot write refs/r/"):
        artifacts.for_run("r").put(b"new")
    with pytest.raises(ArtifactStoreUnavailable, match="cannot read objects/") as failed:
        artifacts.get("sha256:" + "0" * 64)
    assert "\n" not in failed.value.message


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_is_not_there_is_unavailable() -> None:
    artifacts = Artifacts.open("s3://other/x")
    with pytest.raises(ArtifactStoreUnavailable, match="in s3://other/x: there is no such bucket"):
        artifacts.put(b"new")


def test_a_wrong_url_and_a_missing_package_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("s3://", "s3:///prefix", "s3://bucket//prefix", "s3://bucket/a//b"):
        with pytest.raises(ValueError, match="write s3://bucket or s3://bucket/prefix"):
            Artifacts.open(url)
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(ValueError, match=r"pip install 'tidemill\[s3\]'"):
        Artifacts.open("s3://bucket")
