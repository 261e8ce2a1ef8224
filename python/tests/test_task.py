"""The task contract: a task's JSON in, its output's JSON out."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import RUN, Perform

from tidemill import (
    DROP,
    Artifacts,
    ArtifactStoreUnavailable,
    Collection,
    Context,
    Invalid,
    Item,
    Many,
    RateLimited,
    Retry,
    Retryable,
    context,
    stage,
)
from tidemill.chunk import Chunk
from tidemill.data import CollectionRef, FailedItem, Part, encode
from tidemill.task import Task, perform

NO_WAIT = Retry(attempts=3, delay=0)


def collection(artifacts: Artifacts, *parts: Part) -> CollectionRef:
    entries = [{"digest": artifacts.put_part(one).digest, "count": len(one.items)} for one in parts]
    manifest = artifacts.put(encode({"item": "any", "parts": entries}))
    count = sum(len(one.items) for one in parts)
    return CollectionRef(manifest.digest, "any", count, len(parts))


def part_of(artifacts: Artifacts, output: Any) -> Part:
    return artifacts.part(output["part"]["digest"])


def part_input(artifacts: Artifacts, part: Part) -> dict[str, Any]:
    return {"part": artifacts.put_part(part).digest}


def numbers(*values: object) -> Part:
    return Part([Item(f"i{index}", value) for index, value in enumerate(values)])


@stage
def double(input: int) -> int:
    return input * 2


@stage
async def greet(input: str, greeting: str = "hello") -> str:
    await asyncio.sleep(0)
    return f"{greeting} {input}"


async def test_a_value_goes_in_and_out(run: Perform) -> None:
    assert await run(double, {"value": 4}) == {"value": 8}
    assert await run(greet, {"value": "you"}, {"greeting": "hi"}) == {"value": "hi you"}


async def test_references_are_resolved_before_and_made_after(
    run: Perform, artifacts: Artifacts
) -> None:
    @stage
    def join(input: str, other: str) -> str:
        return input + other

    large = artifacts.put_json("a" * 70_000)
    output = await run(join, {"value": large}, {"other": large})
    assert output["value"]["bytes"] == 140_002
    assert artifacts.resolve(output["value"]) == "a" * 140_000
    assert (Path(artifacts.place) / "refs" / "run%2f1").is_dir()


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (5, "takes one task"),
        ({"run": RUN}, "takes one task"),
        ({"run": RUN, "input": {"other": 1}}, "has one of the keys"),
        ({"run": RUN, "input": {"value": 1, "part": "x"}}, "has one of the keys"),
    ],
)
def test_what_is_no_task_is_refused(payload: object, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        Task.from_json(payload)


async def test_a_collection_is_read_lazily_or_as_a_list(run: Perform, artifacts: Artifacts) -> None:
    @stage
    def total(input: list[int]) -> int:
        return sum(input)

    @stage
    def lazy(input: Collection[int]) -> list[int]:
        return [len(input), *input]

    @stage
    def passed(input: Collection[Any]) -> Collection[Any]:
        return input

    @stage
    async def awaited(input: Collection[int]) -> list[int]:
        return [one async for one in input]

    reference = collection(artifacts, numbers(1, 2), numbers(3)).to_json()
    assert await run(awaited, {"value": reference}) == {"value": [1, 2, 3]}
    assert await run(total, {"value": reference}) == {"value": 6}
    assert await run(lazy, {"value": reference}) == {"value": [3, 1, 2, 3]}
    assert await run(passed, {"value": reference}) == {"value": reference}
    with pytest.raises(Invalid, match="takes a collection, and its input is the number 1"):
        await run(lazy, {"value": 1})


async def test_a_mapped_function_runs_for_each_item_and_items_fail_alone(
    run: Perform, artifacts: Artifacts
) -> None:
    tried: list[int] = []

    @stage(retry=NO_WAIT)
    def inverse(input: float) -> float:
        tried.append(int(input))
        return 1 / input

    before = FailedItem("old", "load", "no file", source="doc")
    part = Part([Item("a", 2, source="doc"), Item("b", 0, source="doc"), Item("c", "x")], [before])
    output = await run(inverse, part_input(artifacts, part))
    made = part_of(artifacts, output)
    assert made.items == [Item("a", 0.5, source="doc")]
    assert made.failed == [
        before,
        FailedItem("b", "it", "ZeroDivisionError: float division by zero", source="doc"),
        FailedItem("c", "it", "the input should be a number, and is the string 'x'"),
    ]
    assert output["part"] == {
        "digest": output["part"]["digest"],
        "count": 1,
        "failed": 3,
        "failed_sources": 2,
        "first_error": "old: no file",
    }
    # What may pass is tried again, what is invalid is not.
    assert tried == [2, 0, 0, 0]


async def test_nothing_possible_now_is_the_task_s_failure(
    run: Perform, artifacts: Artifacts
) -> None:
    @stage(retry=1)
    def closed(input: int) -> int:
        if input:
            raise RateLimited("closed", retry_after=5)
        return input

    with pytest.raises(RateLimited):
        await run(closed, part_input(artifacts, numbers(1, 2)))
    output = await run(closed, part_input(artifacts, numbers(1, 0)))
    assert output["part"]["failed"] == 1

    @stage
    def gone(input: int) -> int:
        if input:
            raise ArtifactStoreUnavailable("gone")
        return input

    with pytest.raises(ArtifactStoreUnavailable):
        await run(gone, part_input(artifacts, numbers(0, 1)))


async def test_parameters_that_speak_of_item_are_evaluated_for_each(
    run: Perform, artifacts: Artifacts
) -> None:
    given = {"greeting": "{{ word }} no. {{ item.n }} of {{ item }}"}

    @stage
    def say(input: dict[str, int], greeting: str, n: int = 0, literal: str = "") -> list[Any]:
        return [greeting, n, literal]

    output = await run(
        say,
        part_input(artifacts, numbers({"n": 1}, {"n": 2}, {})),
        {**given, "n": "{{ item.n + 1 }}", "literal": "{{ not a template"},
        scope={"word": "hi"},
    )
    made = part_of(artifacts, output)
    assert [one.value for one in made.items] == [
        ['hi no. 1 of {"n":1}', 2, "{{ not a template"],
        ['hi no. 2 of {"n":2}', 3, "{{ not a template"],
    ]
    assert "with.greeting" in made.failed[0].error


async def test_items_at_once_have_an_outcome_each(run: Perform, artifacts: Artifacts) -> None:
    calls: list[list[str]] = []

    @stage(items=True)
    def work(items: list[str]) -> list[Any]:
        calls.append(items)
        outcomes: dict[str, Any] = {
            "up": "UP",
            "drop": DROP,
            "bad": ValueError("bad luck"),
            "many": Many(["x", "y", "x"]),
        }
        return [outcomes[one] for one in items]

    part = Part(
        [
            Item("1", "up", source="doc"),
            Item("2", "drop"),
            Item("3", "bad"),
            Item("4", "many"),
            Item("5", 5),
        ]
    )
    made = part_of(artifacts, await run(work, part_input(artifacts, part)))
    assert calls == [["up", "drop", "bad", "many"]]
    assert made.items[0] == Item("1", "UP", source="doc")
    many = made.items[1:]
    assert [(one.value, one.source) for one in many] == [("x", "4"), ("y", "4"), ("x", "4")]
    assert len({one.id for one in many}) == 3
    assert [(one.id, one.error) for one in made.failed] == [
        ("3", "ValueError: bad luck"),
        ("5", "item 5 should be a string, and is the number 5"),
    ]
    again = part_of(artifacts, await run(work, part_input(artifacts, part)))
    assert [one.id for one in again.items] == [one.id for one in made.items]


async def test_items_at_once_see_items_whole_and_work_on_lists(
    run: Perform, artifacts: Artifacts
) -> None:
    @stage(items=True)
    def rename(items: list[Item]) -> list[Item]:
        return [Item(f"new-{one.id}", one.value) for one in items]

    made = part_of(artifacts, await run(rename, part_input(artifacts, numbers(1))))
    assert made.items == [Item("new-i0", 1, source="i0")]

    @stage(items=True)
    def plus(items: list[int], by: int) -> list[Any]:
        return [one + by for one in items]

    assert await run(plus, {"value": [1, 2]}, {"by": 10}) == {"value": [11, 12]}
    assert await run(plus, {"value": 1}, {"by": 10}) == {"value": 11}
    output = await run(plus, part_input(artifacts, numbers(1, 2)), {"by": "{{ item * 2 }}"})
    assert [one.value for one in part_of(artifacts, output).items] == [3, 6]
    with pytest.raises(Invalid, match=r"item 1 should be an integer"):
        await run(plus, {"value": [1, "a"]}, {"by": 10})


async def test_a_wrong_number_of_outcomes_is_refused(run: Perform, artifacts: Artifacts) -> None:
    @stage(items=True)
    def lose(items: list[int]) -> list[int]:
        return items[1:]

    with pytest.raises(Invalid, match="got 2 items and returned 1"):
        await run(lose, part_input(artifacts, numbers(1, 2)))


async def test_a_chunk_is_a_part_or_so_many_items(run: Perform, artifacts: Artifacts) -> None:
    failures = [FailedItem(name, "load", "x") for name in "fgh"]
    empty = [Part([], [one]) for one in failures]
    reference = collection(
        artifacts, numbers(0, 1, 2), empty[0], numbers(3), empty[1], numbers(4), empty[2]
    )

    def chunk(index: int, size: int) -> list[Any]:
        return [one.value for one in Chunk(reference, index, size).read(artifacts).items]

    assert [chunk(index, 0) for index in range(3)] == [[0, 1, 2], [], [3]]
    assert [chunk(index, 2) for index in range(3)] == [[0, 1], [2, 3], [4]]
    with pytest.raises(Invalid, match="has 6 parts"):
        chunk(6, 0)
    given = {"chunk": {"collection": reference.to_json(), "index": 1, "size": 2}}
    made = part_of(artifacts, await run(double, given))
    assert [one.value for one in made.items] == [4, 6]
    found = [Chunk(reference, index, 2).read(artifacts).failed for index in range(3)]
    assert found == [[], [failures[0]], [failures[1], failures[2]]]


async def test_templates_of_items_see_values_that_came_by_reference(
    run: Perform, artifacts: Artifacts
) -> None:
    scope = {"load": {"text": "x" * 70_000}}
    reference = {"load": artifacts.put_json(scope["load"])}
    assert "$artifact" in reference["load"]
    given = {"greeting": "{{ load.text }} for {{ item }}"}
    output = await run(greet, part_input(artifacts, numbers("you")), given, scope=reference)
    assert part_of(artifacts, output).items[0].value == f"{'x' * 70_000} for you you"


async def test_a_task_that_fails_leaves_no_item_under_way(
    run: Perform, artifacts: Artifacts
) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    @stage(concurrency=2)
    async def work(input: int) -> int:
        if input == 0:
            await begun.wait()
            raise ArtifactStoreUnavailable("away")
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return input

    with pytest.raises(ArtifactStoreUnavailable):
        await run(work, part_input(artifacts, numbers(0, 1)))
    await ended.wait()


async def test_the_context_says_where_one_is_also_in_threads(run: Perform) -> None:
    lines: list[str] = []

    @stage
    def look(input: None) -> list[str]:
        here = context()
        here.progress("half way")
        return [here.run_id, threading.current_thread().name.partition("_")[0]]

    cx = Context(run_id="r", _report=lines.append)
    output = await run(look, {"value": None}, cx=cx)
    assert output["value"][0] == "r"
    assert output["value"][1] != "MainThread"
    assert lines == ["half way"]
    assert context().run_id == ""


async def test_a_task_is_tried_again_as_its_stage_says(run: Perform) -> None:
    failures = [Retryable("not yet"), ValueError("nor now")]

    @stage(retry=NO_WAIT)
    async def flaky(input: str) -> str:
        if failures:
            raise failures.pop(0)
        return input

    assert await run(flaky, {"value": "done"}) == {"value": "done"}

    @stage
    def once(input: str) -> str:
        failures.append(Retryable("tried"))
        raise failures[-1]

    with pytest.raises(Retryable):
        await run(once, {"value": ""})
    assert len(failures) == 1


async def test_a_sync_function_learns_of_its_cancellation(
    artifacts: Artifacts, threads: ThreadPoolExecutor
) -> None:
    begun, ended = threading.Event(), threading.Event()

    @stage
    def long(input: None) -> None:
        begun.set()
        while not context().cancelled:
            ended.wait(0.01)
        ended.set()

    payload = {"run": RUN, "stage": "it", "input": {"value": None}}
    work = asyncio.create_task(
        perform(long, Task.from_json(payload), artifacts, Context(), threads)
    )
    await asyncio.to_thread(begun.wait)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert ended.is_set()
