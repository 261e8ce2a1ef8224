"""The decorator: which parameter is the input, and what `with` may hold."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tidemill import Input, Invalid, Pipeline, RateLimited, Retry, Stage, stage


@dataclasses.dataclass
class Options:
    depth: int = 1


@stage
def shout(input: str, marks: int = 1) -> str:
    """Says it louder.

    More about it.
    """
    return input.upper() + "!" * marks


@stage(name="text.walk")
async def walk(limit: int, text: Input[str], options: Options | None = None) -> str:
    return f"{text} {limit} {options}"


@stage
def count(**rest: Any) -> int:
    return len(rest)


def test_a_stage_is_still_its_function() -> None:
    assert shout("hi", marks=2) == "HI!!"
    assert shout.name == "shout"
    assert shout.summary == "Says it louder."
    assert walk.name == "text.walk"


def test_the_input_goes_to_the_named_or_annotated_parameter() -> None:
    assert shout.bind("a", shout.parameters({"marks": 3}))() == "A!!!"
    given = walk.parameters({"limit": 2, "options": {"depth": 4}})
    assert given == {"limit": 2, "options": Options(4)}
    assert walk.input_type.__origin__ is str
    assert not count.takes_input
    assert count.bind("ignored", count.parameters({"a": 1, "b": 2}))() == 2


@pytest.mark.parametrize(
    ("one", "given", "message"),
    [
        (shout, {"mark": 1}, "Did you mean `marks`?"),
        (shout, {"marks": "1"}, "with.marks should be an integer"),
        (shout, [], "`with` of stage shout should be an object, and is a list of 0"),
        (walk, {}, "stage text.walk requires `with.limit`"),
        (walk, {"limit": 1, "options": {"depth": "x"}}, "with.options.depth should be an integer"),
    ],
)
def test_wrong_parameters_are_named(one: Stage[..., Any], given: object, message: str) -> None:
    with pytest.raises(Invalid) as refused:
        one.parameters(given)
    assert message in str(refused.value)


def test_a_function_that_cannot_be_a_stage_is_refused_when_the_worker_starts() -> None:
    @stage
    def many(*values: int) -> None: ...

    @stage(items=True)
    def no_items(limit: int) -> list[int]:
        return [limit]

    @stage
    def unknown(input: int) -> None: ...

    unknown.function.__annotations__["input"] = "Missing"
    refused: list[tuple[Stage[..., Any], str]] = [
        (many, r"takes \*values"),
        (no_items, "no parameter for them"),
        (unknown, "annotation cannot be resolved"),
    ]
    for one, message in refused:
        with pytest.raises(TypeError, match=message):
            one.check()
    with pytest.raises(ValueError, match="no name of a stage"):
        stage(name="a b")(shout.function)
    with pytest.raises(ValueError, match="at least 1"):
        stage(retry=0)(shout.function)


def test_a_pipeline_built_in_code_caches_pure_functions_only() -> None:
    with pytest.raises(ValueError, match="stage shout cannot be cached"):
        Pipeline("p").stage(shout, cache="1h")
    pure = stage(pure=True)(shout.function)
    [entry] = Pipeline("p").stage(pure, cache={"ttl": "1h"}).to_list()
    assert entry["cache"] == {"ttl": "1h"}
    Pipeline("p").stage(shout, cache=False)


def test_delays_grow_and_obey_who_refused() -> None:
    retry = Retry(attempts=5, delay=1, backoff=2, max_delay=3)
    failed = RuntimeError()
    assert [retry.delay_s(n, failed) for n in (1, 2, 3, 4)] == [1, 2, 3, 3]
    assert retry.delay_s(1, RateLimited("slow down", retry_after=9)) == 9
