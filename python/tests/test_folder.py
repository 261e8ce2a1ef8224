"""The artifact store in a folder: what only a file system does."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from stores import FolderPlace

from tidemill import Artifacts, ArtifactStoreUnavailable


@pytest.fixture
def root(artifacts: Artifacts) -> Path:
    return Path(artifacts.place)


def test_a_new_folder_says_what_it_is(root: Path) -> None:
    assert (root / "tidemill-artifacts").read_text() == "format 1\n"
    names = sorted(one.name for one in root.iterdir())
    assert names == ["cache", "objects", "refs", "tidemill-artifacts", "tmp", "trash"]


def test_several_may_make_it_at_once(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    for number in range(20):
        root = tmp_path / str(number)
        together = threading.Barrier(4)

        def make(root: Path = root, together: threading.Barrier = together) -> Artifacts:
            together.wait()
            return Artifacts.open(root)

        made = [threads.submit(make) for _ in range(4)]
        digests = {one.result().put(b"x").digest for one in made}
        assert len(digests) == 1


def test_the_same_bytes_are_stored_once(artifacts: Artifacts, root: Path) -> None:
    first = artifacts.put(b"again")
    path = next((root / "objects").glob("*/*"))
    before = path.stat().st_ino
    assert artifacts.put(b"again") == first
    assert path.stat().st_ino == before
    assert list((root / "tmp").iterdir()) == []


def test_an_object_that_a_collection_holds_aside_is_found(artifacts: Artifacts, root: Path) -> None:
    artifact = artifacts.put(b"aside")
    path = next((root / "objects").glob("*/*"))
    path.rename(root / "trash" / path.name)
    assert artifacts.get(artifact.digest) == b"aside"


def test_a_store_that_is_gone_is_unavailable_and_not_made_again(
    artifacts: Artifacts, root: Path
) -> None:
    artifact = artifacts.put(b"here")
    shutil.rmtree(root)
    with pytest.raises(ArtifactStoreUnavailable, match="is gone"):
        artifacts.get(artifact.digest)
    with pytest.raises(ArtifactStoreUnavailable, match="is gone"):
        artifacts.for_run("r").put(b"new")
    assert not root.exists()


def test_opens_by_path_or_url_and_refuses_other_folders(tmp_path: Path) -> None:
    store = Artifacts.open(f"file://{tmp_path}/a%20b")
    assert store.place == str(tmp_path / "a b")
    FolderPlace(tmp_path / "a b").open()
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").touch()
    with pytest.raises(ValueError, match="not an artifact store and not empty"):
        Artifacts.open(other)
    with pytest.raises(ValueError, match="use a folder, file:// or s3://"):
        Artifacts.open("gs://bucket/prefix")
    (tmp_path / "a b" / "tidemill-artifacts").write_text("format 9\n")
    with pytest.raises(ValueError, match="another format"):
        Artifacts.open(store.place)
