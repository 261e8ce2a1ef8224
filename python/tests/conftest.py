"""What the tests share: stores, and a way to perform a task without an engine."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from engine import BINARY, Engine
from stores import Bucket, FolderPlace, Place
from up import Up

from tidemill import Artifacts, Client, Context, Stage
from tidemill.task import Task, perform

RUN = {"id": "run/1", "pipeline": "p", "plan": "sha256:0"}

Perform = Callable[..., Awaitable[Any]]


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts.open(tmp_path / "artifacts")


@pytest.fixture(scope="session")
def bucket() -> Iterator[Bucket]:
    """A bucket of a server that speaks S3's protocol, with the variables that lead to it."""
    with pytest.MonkeyPatch.context() as patch:
        made = Bucket(patch)
        yield made
        made.stop()


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty place for a store, of each kind."""
    if request.param == "folder":
        return FolderPlace(tmp_path / "artifacts")
    found: Bucket = request.getfixturevalue("bucket")
    return found.place(f"tests/{uuid.uuid4().hex}")


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def perform_in(threads: ThreadPoolExecutor) -> Perform:
    """Performs a task with a store and returns what comes back."""

    async def perform_one(
        artifacts: Artifacts,
        stage: Stage[..., Any],
        input: dict[str, Any],
        with_: object = None,
        cx: Context | None = None,
        **more: Any,
    ) -> Any:
        payload = {"run": RUN, "stage": "it", "with": with_, "input": input, **more}
        return await perform(stage, Task.from_json(payload), artifacts, cx or Context(), threads)

    return perform_one


@pytest.fixture
def run(artifacts: Artifacts, perform_in: Perform) -> Perform:
    """Performs a task and returns what is under `output`."""

    async def perform_one(*task: Any, **more: Any) -> Any:
        return (await perform_in(artifacts, *task, **more))["output"]

    return perform_one


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    started = Engine()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    made = Up(tmp_path_factory.mktemp("up"))
    yield made
    made.engine.stop()


@pytest.fixture
async def client(up: Up, monkeypatch: pytest.MonkeyPatch) -> Client:
    """Of that; pipelines are checked by the binary that runs them."""
    monkeypatch.setenv("TIDEMILL_BIN", str(BINARY))
    return Client(await up.engine.client())
