"""Results that are used again: what they depend on, and what is kept for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from conftest import RUN, Perform
from stores import Place

from tidemill import Artifacts, ArtifactStoreUnavailable, Context, Invalid, Item, Stage, stage
from tidemill.artifacts import entry
from tidemill.artifacts.entry import Entry
from tidemill.cache import Cache
from tidemill.data import FailedItem, Part, encode
from tidemill.task import Task, perform

HOUR = {"ttl_ms": 3_600_000}


@stage(pure=True)
def double(input: int, by: int = 2) -> int:
    return input * by


@pytest.fixture
def cached(artifacts: Artifacts, perform_in: Perform) -> Callable[..., Any]:
    """Performs a task whose pipeline says `cache:`; tells whether an earlier result was used."""

    async def ask(one: Stage[..., Any], input: int = 4, with_: object = None, **more: Any) -> bool:
        task = {"cache": HOUR, **more}
        done = await perform_in(artifacts, one, {"value": input}, with_, **task)
        return done.get("cached", False)

    return ask


async def test_the_same_task_is_answered_from_the_cache(place: Place, perform_in: Perform) -> None:
    called: list[int] = []

    @stage(pure=True)
    def count(input: int) -> int:
        called.append(input)
        return input + 1

    artifacts = place.open()
    first = await perform_in(artifacts, count, {"value": 1}, cache=HOUR)
    again = await perform_in(artifacts, count, {"value": 1}, cache=HOUR, run={**RUN, "id": "r2"})
    assert first == {"output": {"value": 2}}
    assert again == {"output": {"value": 2}, "cached": True}
    # Without `cache` in the pipeline nothing is looked up.
    assert await perform_in(artifacts, count, {"value": 1}) == first
    assert called == [1, 1]


async def test_whatever_a_result_depends_on_is_in_its_key(cached: Callable[..., Any]) -> None:
    assert not await cached(double, 4, {"by": 3})
    assert await cached(double, 4, {"by": 3})
    other: list[tuple[Stage[..., Any], Any, Any, dict[str, Any]]] = [
        (double, 5, {"by": 3}, {}),
        (double, 4, {"by": 4}, {}),
        (double, 4, {"by": 3}, {"cache": {**HOUR, "key": "2030-01-31"}}),
        (double, 4, {"by": 3}, {"scope": {"inputs": 1}}),
        (stage(pure=True, name="twice")(double.function), 4, {"by": 3}, {}),
        (stage(pure=True, version="2")(double.function), 4, {"by": 3}, {}),
        (stage(pure=True, revision="model 2")(double.function), 4, {"by": 3}, {}),
    ]
    for one, input, with_, more in other:
        assert not await cached(one, input, with_, **more)
        assert await cached(one, input, with_, **more)
    assert await cached(double, 4, {"by": 3}, run={**RUN, "id": "other", "pipeline": "other"})


async def test_another_source_is_another_function(cached: Callable[..., Any]) -> None:
    def made(plus: bool) -> Stage[..., Any]:
        if plus:

            @stage(pure=True)
            def work(input: int) -> int:
                return input + 1
        else:

            @stage(pure=True)
            def work(input: int) -> int:
                return input - 1

        return work

    assert not await cached(made(True))
    assert not await cached(made(False))
    assert await cached(made(True))


async def test_a_revision_may_be_found_for_the_parameters(cached: Callable[..., Any]) -> None:
    revisions = {"small": "1", "large": "1"}

    def revision(parameters: Any) -> str:
        return revisions[parameters["model"]]

    @stage(pure=True, revision=revision)
    def embed(input: str, model: str) -> list[int]:
        return [len(input), len(model)]

    small, large = {"model": "small"}, {"model": "large"}
    assert not await cached(embed, "a", small)
    assert not await cached(embed, "a", large)
    revisions["small"] = "2"
    assert not await cached(embed, "a", small)
    assert await cached(embed, "a", large)

    numbered = stage(pure=True, revision=lambda _: 5)(double.function)  # pyright: ignore[reportArgumentType]
    with pytest.raises(Invalid, match="`revision` should give a text, and gave the number 5"):
        await cached(numbered)


async def test_a_result_is_good_for_as_long_as_both_sides_say(
    cached: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000_000
    monkeypatch.setattr("tidemill.artifacts.store.now_ms", lambda: now)
    assert not await cached(double)
    now += HOUR["ttl_ms"] - 1
    assert await cached(double)
    # A pipeline that wants younger ones.
    assert not await cached(double, cache={"ttl_ms": HOUR["ttl_ms"] - 1})
    assert await cached(double)
    # It was stored for no longer than that.
    now += HOUR["ttl_ms"] - 1
    assert not await cached(double)


async def test_a_chunk_goes_by_its_part_and_only_when_no_item_failed(
    place: Place, perform_in: Perform
) -> None:
    artifacts = place.open()

    @stage(pure=True)
    def positive(input: int) -> int:
        if input < 0:
            raise Invalid("negative")
        return input

    def part(*values: int) -> tuple[str, int]:
        items = [Item(str(one), one) for one in values]
        whole = Part(items, [FailedItem("old", "load", "no file")])
        return artifacts.put_part(whole).digest, len(items)

    def chunk(parts: list[tuple[str, int]], index: int, size: int = 0) -> dict[str, Any]:
        entries = [{"digest": digest, "count": count} for digest, count in parts]
        manifest = artifacts.put(encode({"item": "any", "parts": entries})).digest
        total = sum(count for _, count in parts)
        reference = {"$collection": manifest, "item": "any", "count": total, "parts": len(parts)}
        return {"chunk": {"collection": reference, "index": index, "size": size}}

    async def again(input: dict[str, Any]) -> bool:
        done = await perform_in(artifacts, positive, input, cache=HOUR)
        return done.get("cached", False)

    good, bad = part(1, 2), part(3, -4)
    assert not await again(chunk([good, bad], 0))
    assert await again(chunk([bad, good], 1))
    assert await again({"part": good[0]})
    assert not await again(chunk([good, bad], 1))
    assert not await again(chunk([good, bad], 1)), "an item failed"
    assert not await again(chunk([good, bad], 2, 1))
    assert await again(chunk([good, bad], 2, 1))
    with pytest.raises(Invalid, match="has 1 parts, and chunk 7"):
        await again(chunk([good], 7))


async def test_an_entry_names_what_its_output_needs_and_a_hit_marks_it(
    place: Place, perform_in: Perform
) -> None:
    @stage(pure=True)
    def long(input: int) -> Any:
        return {"text": "x" * 70_000, "source": artifacts.put(b"source").to_json()}

    artifacts = place.open()
    first = await perform_in(artifacts, long, {"value": 1}, cache=HOUR)
    [path] = [one for one in place.names() if one.startswith("cache/")]
    stored: dict[str, Any] = json.loads(place.read(path))
    objects = sorted(one.rpartition("/")[2] for one in place.names() if one.startswith("objects/"))
    # The output is by reference, and what it refers to names another.
    assert stored == {
        "objects": objects,
        "output": first["output"],
        "stored_ms": stored["stored_ms"],
        "ttl_ms": HOUR["ttl_ms"],
    }
    assert len(objects) == 2
    assert abs(stored["stored_ms"] - entry.now_ms()) < 60_000

    again = await perform_in(artifacts, long, {"value": 1}, cache=HOUR, run={**RUN, "id": "r2"})
    assert again == {**first, "cached": True}
    marks = [one.removeprefix("refs/r2/") for one in place.names() if one.startswith("refs/r2/")]
    assert marks == objects

    for name in objects:
        place.remove(f"objects/{name[:2]}/{name}")
    made = await perform_in(artifacts, long, {"value": 1}, cache=HOUR)
    assert made == first, "what it needs was gone"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"stored_ms": 1',
        b"[]",
        b'{"stored_ms":9,"ttl_ms":9,"output":{},"objects":["../.."]}',
        b'{"stored_ms":99999999999999,"ttl_ms":9,"output":{"other":1},"objects":[]}',
    ],
)
async def test_an_entry_that_makes_no_sense_is_none(
    place: Place, perform_in: Perform, content: bytes
) -> None:
    artifacts = place.open()
    made = await perform_in(artifacts, double, {"value": 1}, cache=HOUR)
    [path] = [one for one in place.names() if one.startswith("cache/")]
    place.write(path, content)
    assert await perform_in(artifacts, double, {"value": 1}, cache=HOUR) == made
    assert await perform_in(artifacts, double, {"value": 1}, cache=HOUR) == {**made, "cached": True}


async def test_a_store_that_is_away_fails_the_task_and_is_no_miss(
    artifacts: Artifacts, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise ArtifactStoreUnavailable("away")

    monkeypatch.setattr(Artifacts, "cached", away)
    task = Task.from_json({"run": RUN, "stage": "it", "input": {"value": 1}, "cache": HOUR})
    with pytest.raises(ArtifactStoreUnavailable):
        await perform(double, task, artifacts, Context(), threads)


async def test_a_function_that_is_not_said_to_be_pure_is_not_cached(
    cached: Callable[..., Any],
) -> None:
    with pytest.raises(Invalid, match=r"@stage\(pure=True\)"):
        await cached(stage(double.function))


def test_the_decorator_refuses_what_could_not_be_noticed() -> None:
    scope: dict[str, Any] = {}
    exec("def hidden(input: int) -> int:\n    return input", scope)
    hidden: Callable[[int], int] = scope["hidden"]
    with pytest.raises(TypeError, match=r'its source cannot be read.*add version="1"'):
        stage(pure=True)(hidden)
    assert stage(pure=True, version="1")(hidden).source_hash == ""
    for given in ({"version": "1"}, {"revision": "1"}):
        with pytest.raises(ValueError, match="add pure=True"):
            stage(**given)(double.function)  # pyright: ignore[reportCallIssue, reportArgumentType]


def test_what_a_task_says_of_its_cache() -> None:
    assert Cache.from_json(None) is None
    assert Cache.from_json({"ttl_ms": 5}) == Cache(timedelta(milliseconds=5), None)
    # For ever.
    assert Cache.from_json({"ttl_ms": 2**64 - 1, "key": "k"}) == Cache(
        timedelta.max // timedelta(milliseconds=1) * timedelta(milliseconds=1), "k"
    )
    with pytest.raises(Invalid, match="the number `ttl_ms`"):
        Cache.from_json({"ttl_ms": "1h"})
    assert Entry(0, 2**64 - 1, None, []).is_good(1, timedelta(milliseconds=2))
