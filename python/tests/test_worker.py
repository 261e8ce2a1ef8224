"""Stages served on a real engine: the test's workflow sends tasks as the interpreter does."""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from conftest import RUN
from engine import Engine
from flows import OneTask
from temporalio.client import Client as EngineClient
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner
from temporalio.worker import Worker as EngineWorker

from tidemill import (
    Artifacts,
    Batch,
    Invalid,
    Item,
    Loaded,
    Options,
    OutOfMemory,
    RateLimited,
    Stage,
    Worker,
    context,
    stage,
)
from tidemill.data import Part


@stage
def shout(input: str, marks: int = 1) -> str:
    return input.upper() + "!" * marks


@stage(name="numbers.half")
async def half(input: int) -> float:
    await asyncio.sleep(0)
    if input % 2:
        raise Invalid(f"{input} is odd")
    return input / 2


class Caller:
    """Sends tasks to stages that a worker of its own serves."""

    def __init__(self, client: EngineClient, artifacts: Artifacts) -> None:
        self.client = client
        self.artifacts = artifacts

    async def call(
        self,
        one: Stage[..., Any],
        input: dict[str, Any],
        with_: object = None,
        *,
        attempts: int = 1,
        grace: timedelta = timedelta(0),
    ) -> Any:
        async with Worker(self.client, [one], self.options(grace)) as worker:
            del worker
            return await self.send(one, input, with_, attempts=attempts)

    def options(self, grace: timedelta = timedelta(0)) -> Options:
        self.queue = f"python-{uuid.uuid4().hex}"
        return Options(queue=self.queue, artifacts=self.artifacts.place, slots=4, grace=grace)

    async def send(
        self, one: Stage[..., Any], input: dict[str, Any], with_: object, *, attempts: int = 1
    ) -> Any:
        task = {"run": RUN, "stage": "it", "with": with_, "input": input}
        output: Any = await self.client.execute_workflow(
            "OneTask",
            args=[one.name, task, self.queue, attempts],
            id=uuid.uuid4().hex,
            task_queue="flows",
        )
        return output["output"]


@pytest.fixture
async def caller(engine: Engine, artifacts: Artifacts) -> Any:
    client = await engine.client()
    flows = EngineWorker(
        client,
        task_queue="flows",
        workflows=[OneTask],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )
    async with flows:
        yield Caller(client, artifacts)


def cause(failed: pytest.ExceptionInfo[WorkflowFailureError]) -> ApplicationError:
    activity = failed.value.cause
    assert isinstance(activity, ActivityError)
    assert isinstance(activity.cause, ApplicationError)
    return activity.cause


async def test_a_stage_answers_a_task(caller: Caller) -> None:
    assert await caller.call(shout, {"value": "hi"}, {"marks": 2}) == {"value": "HI!!"}


async def test_items_of_a_part_succeed_and_fail_alone(caller: Caller) -> None:
    part = Part([Item("a", 4), Item("b", 3)])
    digest = caller.artifacts.put_part(part).digest
    output = await caller.call(half, {"part": digest})
    assert (output["part"]["count"], output["part"]["failed"]) == (1, 1)
    assert output["part"]["first_error"] == "b: 3 is odd"
    assert caller.artifacts.part(output["part"]["digest"]).items == [Item("a", 2.0)]


async def test_invalid_is_final(caller: Caller) -> None:
    with pytest.raises(WorkflowFailureError) as failed:
        await caller.call(shout, {"value": 5}, attempts=9)
    error = cause(failed)
    assert error.type == "Invalid"
    assert error.non_retryable
    assert error.message == "stage shout: the input should be a string, and is the number 5"


async def test_what_is_not_a_task_is_invalid(caller: Caller) -> None:
    with pytest.raises(WorkflowFailureError) as failed:
        await caller.call(shout, {"other": 5}, attempts=9)
    assert cause(failed).type == "Invalid"


async def test_other_failures_are_tried_again_by_the_engine(caller: Caller) -> None:
    attempts: list[int] = []

    @stage
    def flaky(input: str) -> str:
        attempts.append(context().attempt)
        if len(attempts) == 1:
            raise RateLimited("slow down", retry_after=0.01)
        if len(attempts) == 2:
            raise ConnectionError("gone")
        return input

    assert await caller.call(flaky, {"value": "x"}, attempts=5) == {"value": "x"}
    assert attempts == [1, 2, 3]

    attempts.clear()
    with pytest.raises(WorkflowFailureError) as failed:
        await caller.call(flaky, {"value": "x"}, attempts=2)
    assert (cause(failed).type, cause(failed).message) == (
        "Failed",
        "stage flaky: ConnectionError: gone",
    )


async def test_heartbeats_keep_a_long_sync_stage_alive(caller: Caller) -> None:
    """The task's heartbeat timeout is one second, and it gets one attempt."""

    @stage
    def long(input: None) -> int:
        threading.Event().wait(2.5)
        return context().attempt

    assert await caller.call(long, {"value": None}) == {"value": 1}


async def test_a_worker_that_stops_lets_its_tasks_end(caller: Caller) -> None:
    begun, may_end = threading.Event(), threading.Event()

    @stage
    def long(input: str) -> str:
        begun.set()
        may_end.wait()
        return input

    worker = Worker(caller.client, [long], caller.options(timedelta(seconds=30)))
    running = asyncio.create_task(worker.run())
    sent = asyncio.create_task(caller.send(long, {"value": "whole"}, None))
    await asyncio.to_thread(begun.wait)
    stopping = asyncio.create_task(worker.stop())
    await asyncio.sleep(0)
    may_end.set()
    assert await sent == {"value": "whole"}
    await stopping
    await running


async def test_a_task_that_outlasts_the_grace_is_handed_back(caller: Caller) -> None:
    begun, seen = threading.Event(), threading.Event()

    @stage
    def long(input: str) -> str:
        if context().attempt > 1:
            return input
        begun.set()
        while not context().cancelled:
            begun.wait(0.01)
            threading.Event().wait(0.01)
        seen.set()
        return "too late"

    options = caller.options(timedelta(0))
    worker = Worker(caller.client, [long], options)
    running = asyncio.create_task(worker.run())
    sent = asyncio.create_task(caller.send(long, {"value": "other worker"}, None, attempts=5))
    await asyncio.to_thread(begun.wait)
    await worker.stop()
    await running
    assert seen.is_set()
    async with Worker(caller.client, [long], options):
        assert await sent == {"value": "other worker"}


@pytest.mark.parametrize(
    ("error", "kind", "final", "delay_s"),
    [
        (OutOfMemory(retry_after=7), "OutOfMemory", False, 7),
        (MemoryError(), "OutOfMemory", False, 5),
        (OutOfMemory(kind="model", needed=90, available=80), "ModelTooLarge", True, 0),
    ],
)
async def test_shortages_of_memory_have_types_of_their_own(
    caller: Caller, error: Exception, kind: str, final: bool, delay_s: float
) -> None:
    @stage
    def large(input: str) -> str:
        raise error

    @stage(batch=4)
    def batched(items: list[str]) -> list[str]:
        raise error

    for one in (large, batched):
        with pytest.raises(WorkflowFailureError) as failed:
            await caller.call(one, {"value": "x"})
        found = cause(failed)
        assert (found.type, found.non_retryable) == (kind, final)
        assert (found.next_retry_delay or timedelta(0)) == timedelta(seconds=delay_s)
    if final:
        assert "(90 B needed, 80 B available)" in found.message


async def test_a_worker_that_stops_drains_its_batches_and_frees_what_is_loaded(
    caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    """The delay is longer than the test may take."""
    freed = threading.Event()

    def load() -> Iterator[str]:
        loaded.set()
        yield "!"
        freed.set()

    loaded = asyncio.Event()

    @stage(batch=Batch(items=8, delay=600), load=load)
    def loud(items: list[str], mark: Loaded[str]) -> list[str]:
        return [one + mark for one in items]

    caplog.set_level(logging.INFO, "tidemill")
    worker = Worker(caller.client, [loud], caller.options(timedelta(seconds=30)))
    running = asyncio.create_task(worker.run())
    sent = asyncio.create_task(caller.send(loud, {"value": "hi"}, None))
    await loaded.wait()
    await worker.stop()
    await running
    assert await sent == {"value": "hi!"}
    assert freed.is_set()
    assert "stage loud: 1 items in 1 batches, 12% full, 1 calls, 0 splits" in caplog.text


async def test_a_task_that_is_cancelled_is_in_no_batch(
    engine: Engine, artifacts: Artifacts
) -> None:
    seen: list[list[str]] = []

    @stage(batch=Batch(items=2, delay=600))
    def pair(items: list[str]) -> list[str]:
        seen.append(items)
        return items

    client = await engine.client()
    queue = uuid.uuid4().hex
    worker = Worker(client, [pair], Options(queue=queue, artifacts=artifacts.place, slots=1))
    flows = EngineWorker(
        client, task_queue=f"{queue}-flows", workflows=[OneTask],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )  # fmt: skip

    async def start(value: str) -> Any:
        task = {"run": RUN, "stage": "it", "with": None, "input": {"value": value}}
        return await client.start_workflow(
            "OneTask",
            args=[pair.name, task, queue, 1],
            id=uuid.uuid4().hex,
            task_queue=f"{queue}-flows",
        )

    async with worker, flows:
        gone = await start("gone")
        while not worker.waiting:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await gone.cancel()
        with pytest.raises(WorkflowFailureError):
            await gone.result()
        while worker.waiting:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        both = [await start("a"), await start("b")]
        await asyncio.gather(*(one.result() for one in both))
    assert [sorted(one) for one in seen] == [["a", "b"]]


def test_a_worker_takes_enough_tasks_for_full_batches() -> None:
    from tidemill.worker import waiting_slots

    @stage(batch=Batch(items=32, lanes=2))
    def batched(items: list[str]) -> list[str]:
        return items

    assert waiting_slots([shout, half]) == 0
    assert waiting_slots([shout, batched]) == (2 + 3) * 32 + 10


async def test_slots_for_those_that_wait_let_no_more_others_run(caller: Caller) -> None:
    at_work, most = 0, 0
    all_at_work, may_end = asyncio.Event(), asyncio.Event()

    @stage
    async def work(input: int) -> int:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        if at_work == 4:
            all_at_work.set()
        await may_end.wait()
        at_work -= 1
        return input

    @stage(batch=Batch(items=8, delay=600))
    def batched(items: list[int]) -> list[int]:
        return items

    async with Worker(caller.client, [work, batched], caller.options()):
        sent = [asyncio.create_task(caller.send(work, {"value": n}, None)) for n in range(12)]
        await all_at_work.wait()
        # A full batch gets past those that wait for their turn.
        await asyncio.gather(*(caller.send(batched, {"value": n}, None) for n in range(8)))
        may_end.set()
        assert await asyncio.gather(*sent) == [{"value": n} for n in range(12)]
    assert most == 4


def test_two_stages_of_one_name_are_refused() -> None:
    from tidemill.worker import unique

    @stage(name="shout")
    def other(input: str) -> str:
        return input

    assert unique([shout, shout]) == [shout]
    with pytest.raises(ValueError, match="two stages are called shout"):
        unique([shout, other])
    with pytest.raises(ValueError, match="there is no stage to serve"):
        unique([])
