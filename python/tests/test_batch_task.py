"""Tasks of batch stages: what of them goes into a batch, and what becomes of its outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest
from conftest import RUN

from tidemill import (
    DROP,
    Artifacts,
    Batch,
    Context,
    Invalid,
    Item,
    Many,
    OutOfMemory,
    Retry,
    Retryable,
    Stage,
    stage,
)
from tidemill.data import Part
from tidemill.served import Models, Served
from tidemill.task import Task, perform


class Worker:
    """Performs tasks of one stage, side by side."""

    def __init__(self, served: Served, artifacts: Artifacts, threads: ThreadPoolExecutor) -> None:
        self.served = served
        self.artifacts = artifacts
        self.threads = threads

    async def value(self, value: object, with_: object = None) -> Any:
        return (await self.output({"value": value}, with_))["value"]

    async def part(self, *values: object, with_: object = None) -> Part:
        part = Part([Item(f"i{index}", value) for index, value in enumerate(values)])
        given = {"part": self.artifacts.put_part(part).digest}
        output = await self.output(given, with_)
        return self.artifacts.part(output["part"]["digest"])

    async def output(self, given: Mapping[str, Any], with_: object) -> Any:
        task = Task.from_json({"run": RUN, "stage": "it", "with": with_, "input": given})
        done = await perform(self.served, task, self.artifacts, Context(), self.threads)
        return done["output"]


@asynccontextmanager
async def serving(
    one: Stage[..., Any], artifacts: Artifacts, threads: ThreadPoolExecutor
) -> AsyncGenerator[Worker]:
    served = Served(one, Models(threads), threads)
    yield Worker(served, artifacts, threads)
    await served.close()


async def test_values_and_chunks_of_tasks_share_calls(
    artifacts: Artifacts, threads: ThreadPoolExecutor
) -> None:
    calls: list[list[int]] = []

    @stage(batch=Batch(items=6, delay=60))
    def double(items: list[int]) -> list[Any]:
        calls.append(sorted(items))
        special: dict[int, object] = {3: DROP, 4: Many([4, 4])}
        return [special.get(one, 2 * one) for one in items]

    async with serving(double, artifacts, threads) as worker:
        value, part, pair = await asyncio.gather(
            worker.value(1), worker.part(2, 3, 4, "x"), worker.value([6, 7])
        )
    assert calls == [[1, 2, 3, 4, 6, 7]]
    assert (value, pair) == (2, [12, 14])
    assert [one.value for one in part.items] == [4, 4, 4]
    assert [one.error for one in part.failed] == [
        "item i3 should be an integer, and is the string 'x'"
    ]


async def test_only_equal_parameters_share_a_call(
    artifacts: Artifacts, threads: ThreadPoolExecutor
) -> None:
    calls: list[tuple[int, list[int]]] = []

    @stage(batch=Batch(items=2, delay=60))
    async def plus(items: list[int], by: int = 0) -> list[int]:
        calls.append((by, sorted(items)))
        return [one + by for one in items]

    async with serving(plus, artifacts, threads) as worker:
        made = await asyncio.gather(
            worker.value(1, {"by": 10}),
            worker.value(1, {"by": 20}),
            # Of a fan-out, each item with parameters of its own.
            worker.part(10, 20, with_={"by": "{{ item }}"}),
        )
    assert sorted(calls) == [(10, [1, 10]), (20, [1, 20])]
    assert made[:2] == [11, 21]
    assert [one.value for one in made[2].items] == [20, 40]


async def test_a_key_says_what_else_may_share_a_call_and_what_may_not(
    artifacts: Artifacts, threads: ThreadPoolExecutor
) -> None:
    calls: list[list[str]] = []

    def length(item: str, parameters: Mapping[str, Any]) -> Any:
        return parameters["model"], len(item) if item != "wrong" else item[9]

    @stage(batch=Batch(items=2, delay=0, key=length, cost=len))
    def shaped(items: list[str], label: str = "", model: str = "m") -> list[str]:
        calls.append(sorted(items))
        return items

    async with serving(shaped, artifacts, threads) as worker:
        part = await worker.part("a", "bb", "c", "dd", "wrong")
    assert sorted(calls) == [["a", "c"], ["bb", "dd"]]
    assert [one.error for one in part.failed] == ["IndexError: string index out of range"]

    calls.clear()
    named = stage(batch=Batch(items=2, delay=60, key=["model"]))(shaped.function)
    async with serving(named, artifacts, threads) as worker:
        await asyncio.gather(worker.value("a", {"label": "x"}), worker.value("b"))
    assert calls == [["a", "b"]]


async def test_what_passes_is_tried_again_for_those_items_that_it_hit(
    artifacts: Artifacts, threads: ThreadPoolExecutor
) -> None:
    calls: list[list[int]] = []

    @stage(batch=Batch(items=2, delay=0), retry=Retry(3, delay=0))
    async def work(items: list[int]) -> list[int]:
        calls.append(items)
        if len(calls) == 1:
            raise Retryable("not now")
        return items

    async with serving(work, artifacts, threads) as worker:
        part = await worker.part(1, 2, 3, 4)
    assert [one.value for one in part.items] == [1, 2, 3, 4]
    assert calls == [[1, 2], [3, 4], [1, 2]]


async def test_what_fails_in_the_function_is_tried_again_only_where_that_is_said(
    artifacts: Artifacts, threads: ThreadPoolExecutor
) -> None:
    tried: list[list[int]] = []

    async def odd(items: list[int]) -> list[Any]:
        tried.append(items)
        return [ValueError("odd") if one % 2 else one for one in items]

    for retry, calls in ((None, [[1, 2]]), (Retry(2, delay=0), [[1, 2], [1]])):
        tried.clear()
        one = stage(batch=Batch(items=2, delay=0), retry=retry)(odd)
        async with serving(one, artifacts, threads) as worker:
            part = await worker.part(1, 2)
        assert [one.error for one in part.failed] == ["ValueError: odd"]
        assert tried == calls


@pytest.mark.parametrize(
    ("error", "is_of_task"),
    [
        # Others hold the memory: elsewhere all of the chunk may do.
        (OutOfMemory(), True),
        (OutOfMemory(kind="model"), True),
        # This item is too large wherever it goes.
        (OutOfMemory(kind="batch"), False),
        (Invalid("no"), False),
    ],
)
async def test_some_failures_of_an_item_are_those_of_its_task(
    artifacts: Artifacts, threads: ThreadPoolExecutor, error: Exception, is_of_task: bool
) -> None:
    @stage(batch=Batch(items=2, delay=0), retry=1)
    async def work(items: list[int]) -> list[int]:
        if 3 in items:
            raise error
        return items

    async with serving(work, artifacts, threads) as worker:
        if is_of_task:
            with pytest.raises(OutOfMemory):
                await worker.part(1, 2, 3, 4)
        else:
            part = await worker.part(1, 2, 3, 4)
            assert [one.id for one in part.failed] == ["i2"]
        with pytest.raises(type(error)):
            await worker.value(3)
