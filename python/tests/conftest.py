"""What the tests share: a store, and a way to perform a task without an engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from engine import Engine

from tidemill import Artifacts, Context, Stage
from tidemill.task import Task, perform

RUN = {"id": "run/1", "pipeline": "p", "plan": "sha256:0"}

Perform = Callable[..., Awaitable[Any]]


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts.open(tmp_path / "artifacts")


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def run(artifacts: Artifacts, threads: ThreadPoolExecutor) -> Perform:
    """Performs a task and returns what is under `output`."""

    async def perform_one(
        stage: Stage[..., Any],
        input: dict[str, Any],
        with_: object = None,
        cx: Context | None = None,
        **more: Any,
    ) -> Any:
        payload = {"run": RUN, "stage": "it", "with": with_, "input": input, **more}
        task = Task.from_json(payload)
        output = await perform(stage, task, artifacts, cx or Context(), threads)
        return output["output"]

    return perform_one


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    started = Engine()
    yield started
    started.stop()
