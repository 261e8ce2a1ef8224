"""The artifact store, in a folder and in a bucket: the layout that all workers share."""

from __future__ import annotations

import hashlib

import pytest
from stores import Place

from tidemill import Artifacts, Invalid, Item, StageError
from tidemill.artifacts.store import encode_name
from tidemill.data import FailedItem, Part


def test_objects_lie_by_their_hash_and_runs_mark_what_they_need(place: Place) -> None:
    artifacts = place.open()
    artifact = artifacts.for_run("run/1").put(b"hello", "text/plain")
    name = hashlib.sha256(b"hello").hexdigest()
    assert artifact.to_json() == {
        "$artifact": f"sha256:{name}",
        "bytes": 5,
        "media_type": "text/plain",
    }
    at, mark = f"objects/{name[:2]}/{name}", f"refs/run%2f1/{name}"
    assert place.names() == [at, mark]
    assert (place.read(at), place.read(mark)) == (b"hello", b"")
    assert artifacts.get(artifact.digest) == b"hello"


def test_a_damaged_or_missing_object_is_an_error(place: Place) -> None:
    artifacts = place.open()
    artifact = artifacts.put(b"whole")
    [path] = place.names()
    place.write(path, b"other")
    with pytest.raises(StageError, match=f"is damaged.*Remove .*{path} and run"):
        artifacts.get(artifact.digest)
    place.remove(path)
    with pytest.raises(StageError, match="--artifacts"):
        artifacts.get(artifact.digest)
    with pytest.raises(Invalid, match="not a digest"):
        artifacts.get("sha256:../../etc/passwd")


def test_an_object_of_another_size_is_written_again(place: Place) -> None:
    artifacts = place.open()
    artifact = artifacts.put(b"whole")
    [path] = place.names()
    place.write(path, b"who")
    assert artifacts.put(b"whole") == artifact
    assert artifacts.get(artifact.digest) == b"whole"


def test_names_of_runs_become_file_names() -> None:
    assert encode_name("Run_1-a.b") == "Run_1-a.b"
    assert encode_name(".é/") == "%2e%c3%a9%2f"
    with pytest.raises(Invalid):
        encode_name("")


def test_large_values_travel_by_reference(place: Place) -> None:
    artifacts = place.open()
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
