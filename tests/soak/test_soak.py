"""A verdict that cannot fail proves nothing."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from soak import Sample, fit, judge

Change = Callable[[Sample, float], None]


def samples(change: Change) -> list[Sample]:
    """Ten minutes of a quiet engine, with some noise; `change` gets how far each is, from 0 to 1."""
    found = []
    for n in range(120):
        noise = math.sin(n * 1.7)
        each = Sample(n * 5.0, 100 + noise, 22, 30, 20 + noise, 3600, n * 300, 20 + 3 * noise, 90)
        change(each, n / 119)
        found.append(each)
    return found


def memory(each: Sample, part: float) -> None:
    each.rss_mb += 10 * part


def latency(each: Sample, part: float) -> None:
    each.p50_ms += 20 * part


def large_file(each: Sample, part: float) -> None:
    each.file_mb = 35


def retained(each: Sample, part: float) -> None:
    each.live_mb *= 1 + part
    each.file_mb *= 1 + part


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda each, part: None, []),
        (memory, ["memory grows by 1.0"]),
        (latency, ["the median latency goes from"]),
        (large_file, ["the file has 35.0 MB for 20.0 MB"]),
        (retained, ["what is retained grows"]),
    ],
)
def test_what_grows_is_named(change: Change, found: list[str]) -> None:
    _, grew = judge(samples(change))
    assert len(grew) == len(found), grew
    assert all(words in sentence for words, sentence in zip(found, grew, strict=True))


def test_a_line_is_fitted() -> None:
    line = fit([(at, 3.0 + 2 * at) for at in range(10)])
    assert (line.slope, line.begin, line.end) == pytest.approx((2.0, 3.0, 21.0))
    assert line.error == pytest.approx(0.0, abs=1e-9)
