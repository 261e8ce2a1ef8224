"""What is loaded once and kept, and what it is to be short of memory."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import Perform

from tidemill import Batch, Invalid, Loaded, OutOfMemory, Stage, stage
from tidemill.memory import release, shortage
from tidemill.served import Models, Served


class Model:
    def __init__(self, name: str = "small") -> None:
        self.name = name


class OutOfMemoryError(RuntimeError):
    """As PyTorch names it."""

    __module__ = "torch"


async def called(threads: ThreadPoolExecutor, one: Stage[..., Any], *given: Any) -> list[Any]:
    """What a stage gets loaded for each of these parameters, all asked for at once."""
    models = Models(threads)
    served = Served(one, models, threads)
    made = await asyncio.gather(*(served.arguments(each) for each in given))
    await models.free()
    return [each["model"] for each in made]


async def test_tasks_that_need_a_model_at_once_share_one_load(threads: ThreadPoolExecutor) -> None:
    loads: list[str] = []

    def load(name: str = "small") -> Model:
        loads.append(name)
        return Model(name)

    @stage(load=load)
    def work(input: str, model: Loaded[Model]) -> str:
        return f"{input} {model.name}"

    given = [{}, {"name": "large"}, {}, {"name": "large"}]
    models = await called(threads, work, *given)
    assert [one.name for one in models] == ["small", "large", "small", "large"]
    assert models[0] is models[2]
    assert sorted(loads) == ["large", "small"]
    with pytest.raises(Invalid, match="Did you mean `name`"):
        await called(threads, work, {"names": "large"})
    with pytest.raises(Invalid, match=r"with.name should be a string"):
        await called(threads, work, {"name": 5})


async def test_a_stage_is_given_what_was_loaded(run: Perform) -> None:
    @stage(load=Model)
    async def greet(model: Loaded[Model], input: str) -> str:
        await asyncio.sleep(0)
        return f"{input} {model.name}"

    @stage(batch=4, load=lambda: Model("tiny"))
    def batch(items: list[str], name: Loaded[Model]) -> list[str]:
        return [f"{one} {name.name}" for one in items]

    assert await run(greet, {"value": "hi"}, {"name": "large"}) == {"value": "hi large"}
    assert await run(batch, {"value": ["a", "b"]}) == {"value": ["a tiny", "b tiny"]}
    assert greet.function(Model(), "hi").close() is None
    assert batch(["a"], Model()) == ["a small"]


async def test_what_was_loaded_is_ended_in_reverse_order(threads: ThreadPoolExecutor) -> None:
    said: list[str] = []

    def sync() -> Iterator[Model]:
        yield Model("sync")
        said.append("sync")

    async def other() -> AsyncIterator[Model]:
        yield Model("async")
        said.append("async")

    def empty() -> Iterator[Model]:
        yield from ()

    models = Models(threads)
    for load in (sync, other):
        assert (await models.get(load, {}, b"")).name == load.__name__.replace("other", "async")
    with pytest.raises(TypeError, match="ended without a `yield`"):
        await models.get(empty, {}, b"")
    await models.free()
    assert said == ["async", "sync"]


async def test_a_load_that_failed_is_tried_again(threads: ThreadPoolExecutor) -> None:
    failures: list[Exception] = [OutOfMemoryError("CUDA out of memory.\nMore of it"), ValueError()]

    async def load() -> Model:
        await asyncio.sleep(0)
        if failures:
            raise failures.pop(0)
        return Model()

    models = Models(threads)
    with pytest.raises(OutOfMemory) as short:
        await models.get(load, {}, b"")
    # Another process may hold the memory: it is tried again, elsewhere if possible.
    assert (short.value.shortage, short.value.retryable) == ("transient", True)
    assert short.value.message == "OutOfMemoryError: CUDA out of memory."
    with pytest.raises(ValueError):
        await models.get(load, {}, b"")
    assert (await models.get(load, {}, b"")).name == "small"
    await models.free()


async def test_who_gives_up_waiting_does_not_end_the_load_of_others(
    threads: ThreadPoolExecutor,
) -> None:
    may_end = asyncio.Event()

    async def load() -> Model:
        await may_end.wait()
        return Model()

    models = Models(threads)
    waiting = [asyncio.create_task(models.get(load, {}, b"")) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    may_end.set()
    assert (await waiting[1]).name == "small"
    await models.free()


def test_memory_is_given_back_before_a_smaller_batch_is_tried() -> None:
    class Tensor:
        pass

    held: list[weakref.ref[Tensor]] = []

    def fail() -> None:
        tensor = Tensor()
        held.append(weakref.ref(tensor))
        raise OutOfMemoryError("no")

    with pytest.raises(OutOfMemoryError) as failed:
        fail()
    gc.collect()
    assert held[0]() is not None
    found = failed.value
    del failed
    release(found)
    assert held[0]() is None


def test_only_what_says_so_is_a_shortage_of_memory() -> None:
    own = OutOfMemory("mine", kind="model")
    assert shortage(own, "batch") is own
    found = [shortage(one, "batch") for one in (MemoryError(), OutOfMemoryError("x"))]
    assert [one and one.shortage for one in found] == ["batch", "batch"]
    other = type("OutOfMemoryError", (Exception,), {"__module__": "elsewhere"})
    assert shortage(other(), "batch") is None
    assert shortage(RuntimeError("out of memory"), "batch") is None


@pytest.mark.parametrize(
    ("error", "kind", "retryable", "retry_s", "message"),
    [
        (OutOfMemory(), "OutOfMemory", True, 5, "memory is short at this moment"),
        (OutOfMemory("full", retry_after=60), "OutOfMemory", True, 60, "full"),
        (
            OutOfMemory(kind="model", needed=88_046_829_568, available=30 * 2**30),
            "ModelTooLarge",
            False,
            None,
            "the model needs more memory than there is (82 GiB needed, 30 GiB available)",
        ),
        (
            OutOfMemory(kind="batch", needed=1500),
            "OutOfMemory",
            True,
            5,
            "the batch needs more memory than there is (1.465 KiB needed)",
        ),
    ],
)
def test_a_shortage_says_its_numbers(
    error: OutOfMemory, kind: str, retryable: bool, retry_s: float | None, message: str
) -> None:
    wait = error.retry_after
    assert (error.kind, error.retryable, error.message) == (kind, retryable, message)
    assert (None if wait is None else wait.total_seconds()) == retry_s


def test_a_stage_that_loads_says_who_gets_it() -> None:
    @stage(load=Model)
    def nobody(input: str) -> str:
        return input

    @stage
    def nothing(input: str, model: Loaded[Model]) -> str:
        return f"{input} {model}"

    def other(*names: str) -> Model:
        return Model(*names)

    @stage(load=other)
    def names(input: str, model: Loaded[Model]) -> str:
        return f"{input} {model}"

    @stage(batch=Batch(key=["modle"]))
    def key(items: list[str], model: str) -> list[str]:
        return [model for _ in items]

    @stage(batch=8)
    def alone(model: str) -> list[str]:
        return [model]

    refused: list[tuple[Stage[..., Any], str]] = [
        (nobody, "belong together"),
        (nothing, "belong together"),
        (names, r"takes \*names"),
        (key, "names `modle`, which is no parameter"),
        (alone, "has batch and no parameter for them"),
    ]
    for one, message in refused:
        with pytest.raises(TypeError, match=message):
            one.check()
    with pytest.raises(ValueError, match="items should be a whole number from 1, and is 0"):
        stage(batch=0)(alone.function)
