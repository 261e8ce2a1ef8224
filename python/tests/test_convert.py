"""JSON to annotated types, and what is said when it does not fit."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, TypedDict

import pytest

from tidemill import Invalid, convert


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: int
    y: float = 0.5
    tags: list[str] = field(default_factory=list[str])


class Record(TypedDict):
    uri: str
    hash: str


class Loose(TypedDict, total=False):
    limit: int


@pytest.mark.parametrize(
    ("value", "wanted", "expected"),
    [
        (1, Any, 1),
        (1, int, 1),
        (2.0, int, 2),
        (1, float, 1.0),
        ("a", str, "a"),
        (None, Optional[int], None),  # noqa: UP045
        (3, int | None, 3),
        ("3", int | str, "3"),
        ([1, 2], list[int], [1, 2]),
        ([1, 2], Sequence[int], [1, 2]),
        ([1, "a"], tuple[int, str], (1, "a")),
        ([1, 2, 3], tuple[int, ...], (1, 2, 3)),
        (["a", "a"], set[str], {"a"}),
        ({"a": 1}, dict[str, int], {"a": 1}),
        ("b", Literal["a", "b"], "b"),
        ("blue", Color, Color.BLUE),
        (5, Annotated[int, "note"], 5),
        ({"x": 1, "tags": ["t"], "extra": 0}, Point, Point(1, 0.5, ["t"])),
        ([{"x": 1}], list[Point], [Point(1)]),
        ({"uri": "u", "hash": "h", "more": 1}, Record, {"uri": "u", "hash": "h", "more": 1}),
        ({}, Loose, {}),
        ("2030-01-31", date, date(2030, 1, 31)),
        ("2030-01-31T08:00:00Z", datetime, datetime(2030, 1, 31, 8, tzinfo=timezone.utc)),
        (90, timedelta, timedelta(seconds=90)),
        ("a/b", Path, Path("a/b")),
        ("aGk=", bytes, b"hi"),
    ],
)
def test_converts(value: object, wanted: Any, expected: object) -> None:
    assert convert.from_json(value, wanted, "it") == expected


@pytest.mark.parametrize(
    ("value", "wanted", "message"),
    [
        ("1", int, "with.x should be an integer, and is the string '1'"),
        (True, int, "should be an integer, and is true"),
        (1.5, int, "should be an integer, and is the number 1.5"),
        (1, bool, "should be true or false"),
        (None, str, "should be a string, and is null"),
        ("c", Literal["a", "b"], "one of 'a', 'b'"),
        (True, Literal[1], "one of 1"),
        ("green", Color, "one of 'red', 'blue'"),
        ([1, "a"], list[int], "with.x[1] should be an integer"),
        ([1], tuple[int, str], "a list of 2"),
        ({"a": "b"}, dict[str, int], "with.x.a should be an integer"),
        ({"y": 1}, Point, "with.x lacks `x`, which Point requires"),
        ({"x": "1"}, Point, "with.x.x should be an integer"),
        ({"uri": "u"}, Record, "lacks `hash`, which Record requires"),
        ([], Record, "an object (Record)"),
        ("no", datetime, "a time such as"),
        ({}, int | str, "an integer or a string"),
        ("x" * 100, int, "a string of 100 characters"),
    ],
)
def test_refuses_by_place(value: object, wanted: Any, message: str) -> None:
    with pytest.raises(Invalid) as refused:
        convert.from_json(value, wanted, "with.x")
    assert message in str(refused.value)


def test_makes_json_of_what_functions_return() -> None:
    value = {"point": Point(1), "color": Color.RED, "seen": {3}, "when": date(2030, 1, 1)}
    assert convert.to_json(value, "it") == {
        "point": {"x": 1, "y": 0.5, "tags": []},
        "color": "red",
        "seen": [3],
        "when": "2030-01-01",
    }


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), "it is of type object, which has no form in JSON"),
        ([1, float("nan")], "it[1] is nan"),
        ({1: "a"}, "has the key 1"),
        (2**64, "is too large a number for JSON"),
    ],
)
def test_refuses_what_json_cannot_hold(value: object, message: str) -> None:
    with pytest.raises(Invalid, match=message.replace("[", r"\[").replace("]", r"\]")):
        convert.to_json(value, "it")


def test_unknown_keys_come_with_the_nearest_known_one() -> None:
    error = convert.unknown_key("limits", ["limit", "model"], "`with`")
    assert str(error) == "`with` has no `limits`; it takes `limit`, `model`. Did you mean `limit`?"
