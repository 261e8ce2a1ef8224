"""The artifact store: the layout that all workers share, and what is said when it is not there."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from tidemill import Artifacts, ArtifactStoreUnavailable, Invalid, Item, StageError
from tidemill.artifacts import encode_name
from tidemill.data import FailedItem, Part


def test_objects_lie_by_their_hash_and_runs_mark_what_they_need(artifacts: Artifacts) -> None:
    artifact = artifacts.for_run("run/1").put(b"hello", "text/plain")
    name = hashlib.sha256(b"hello").hexdigest()
    assert artifact.to_json() == {
        "$artifact": f"sha256:{name}",
        "bytes": 5,
        "media_type": "text/plain",
    }
    assert (artifacts.root / "objects" / name[:2] / name).read_bytes() == b"hello"
    assert (artifacts.root / "refs" / "run%2f1" / name).read_bytes() == b""
    assert (artifacts.root / "tidemill-artifacts").read_text() == "format 1\n"
    assert list((artifacts.root / "tmp").iterdir()) == []
    assert artifacts.get(artifact.digest) == b"hello"


def test_the_same_bytes_are_stored_once(artifacts: Artifacts) -> None:
    first = artifacts.put(b"again")
    path = next((artifacts.root / "objects").glob("*/*"))
    before = path.stat().st_ino
    assert artifacts.put(b"again") == first
    assert path.stat().st_ino == before


def test_an_object_that_a_collection_holds_aside_is_found(artifacts: Artifacts) -> None:
    artifact = artifacts.put(b"aside")
    path = next((artifacts.root / "objects").glob("*/*"))
    path.rename(artifacts.root / "trash" / path.name)
    assert artifacts.get(artifact.digest) == b"aside"


def test_a_damaged_or_missing_object_is_an_error(artifacts: Artifacts) -> None:
    artifact = artifacts.put(b"whole")
    path = next((artifacts.root / "objects").glob("*/*"))
    path.write_bytes(b"other")
    with pytest.raises(StageError, match="is damaged"):
        artifacts.get(artifact.digest)
    path.unlink()
    with pytest.raises(StageError, match="--artifacts"):
        artifacts.get(artifact.digest)
    with pytest.raises(Invalid, match="not a digest"):
        artifacts.get("sha256:../../etc/passwd")


def test_a_store_that_is_gone_is_unavailable_and_not_made_again(artifacts: Artifacts) -> None:
    artifact = artifacts.put(b"here")
    shutil.rmtree(artifacts.root)
    with pytest.raises(ArtifactStoreUnavailable, match="is gone"):
        artifacts.get(artifact.digest)
    with pytest.raises(ArtifactStoreUnavailable, match="is gone"):
        artifacts.for_run("r").put(b"new")
    assert not artifacts.root.exists()


def test_opens_by_path_or_url_and_refuses_other_folders(tmp_path: Path) -> None:
    store = Artifacts.open(f"file://{tmp_path}/a%20b")
    assert store.root == tmp_path / "a b"
    Artifacts.open(store.root)
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").touch()
    with pytest.raises(ValueError, match="not an artifact store and not empty"):
        Artifacts.open(other)
    with pytest.raises(ValueError, match="reads folders only"):
        Artifacts.open("s3://bucket/prefix")
    (store.root / "tidemill-artifacts").write_text("format 9\n")
    with pytest.raises(ValueError, match="another format"):
        Artifacts.open(store.root)


def test_names_of_runs_become_file_names() -> None:
    assert encode_name("Run_1-a.b") == "Run_1-a.b"
    assert encode_name(".é/") == "%2e%c3%a9%2f"
    with pytest.raises(Invalid):
        encode_name("")


def test_large_values_travel_by_reference(artifacts: Artifacts) -> None:
    small, large = {"a": 1}, {"text": "x" * 70_000}
    assert artifacts.put_json(small) is small
    reference = artifacts.put_json(large)
    assert set(reference) == {"$artifact", "bytes", "media_type"}
    assert artifacts.resolve({"deep": [reference]}) == {"deep": [large]}
    text = artifacts.put("grüße".encode(), "text/plain").to_json()
    assert artifacts.resolve(text) == "grüße"
    with pytest.raises(Invalid, match="lone surrogate"):
        artifacts.put_json("a\ud800")
    picture = artifacts.put(b"\x89PNG", "image/png").to_json()
    assert artifacts.resolve(picture) == picture


def test_parts_hold_items_and_failures_line_by_line(artifacts: Artifacts) -> None:
    part = Part(
        [Item("a", {"n": 1}), Item("b", "line\nbreak\u2028", source="doc")],
        [FailedItem("c", "split", "no text", source="doc"), FailedItem("doc", "load", "no file")],
    )
    lines = part.encode().splitlines()
    assert lines[0] == b'{"id":"a","value":{"n":1}}'
    assert lines[2] == b'{"error":"no text","id":"c","source":"doc","stage":"split"}'
    assert artifacts.part(artifacts.put_part(part).digest) == part
    assert part.failed_sources == 1
    with pytest.raises(Invalid, match="line 1 is not an item"):
        artifacts.part(artifacts.put(b'{"value": 1}\n').digest)
