"""What is logged of failures: where in the function it happened, and nothing of what is around."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from conftest import Perform

from tidemill import Artifacts, Invalid, Item, Stage, stage
from tidemill.data import Part
from tidemill.log import shorten
from tidemill.worker import failure


def divide(number: int) -> float:
    return 1 / number


@stage(retry=1)
def inverse(input: int) -> float:
    if input < 0:
        raise Invalid(f"{input} is negative")
    return divide(input)


async def logged(run: Perform, one: Stage[..., Any], input: int) -> list[str]:
    """The lines in which the command tells of a task that fails."""
    try:
        await run(one, {"value": input})
    except Exception as error:
        wrapped = failure(error, one.name)
        wrapped.__cause__ = error
        shown = logging.LogRecord(
            "temporalio.activity", logging.WARNING, "", 0, "Failed", (),
            (type(wrapped), wrapped, wrapped.__traceback__),
        )  # fmt: skip
        shown.temporal_activity = {"workflow_id": "r1", "attempt": 2}
        assert shorten(shown)
        return logging.Formatter().format(shown).splitlines()
    raise AssertionError("it did not fail")


async def test_what_a_stage_says_is_one_line(run: Perform) -> None:
    assert await logged(run, inverse, -1) == ["stage inverse: -1 is negative (run r1, attempt 2)"]


async def test_the_traceback_of_anything_else_begins_in_the_function(run: Perform) -> None:
    lines = await logged(run, inverse, 0)
    assert lines[0] == "stage inverse: ZeroDivisionError: division by zero (run r1, attempt 2)"
    assert [line.rpartition(" in ")[2] for line in lines if "File" in line] == ["inverse", "divide"]


async def test_of_items_that_fail_alike_one_is_shown(
    run: Perform, artifacts: Artifacts, caplog: pytest.LogCaptureFixture
) -> None:
    items = [Item("a", 0), Item("b", -1), Item("c", 0), Item("d", 2)]
    await run(inverse, {"part": artifacts.put_part(Part(items)).digest})
    [record] = caplog.records
    assert record.getMessage() == (
        "stage it: 2 of a chunk's items failed in the function, the first so (run run/1)"
    )
    assert "in divide" in caplog.text
    assert "off_loop" not in caplog.text
