"""The batcher, in a time of its own: when a batch goes, what is in it, what follows a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import clock
import pytest

from tidemill import Batch, Context, Invalid, OutOfMemory, RateLimited, context
from tidemill.batch import Batcher, Entry


class Calls:
    """A function that takes a second, and what it was called with, and when."""

    def __init__(self, fail: Callable[[list[Any]], Exception | None] | None = None) -> None:
        self.made: list[tuple[float, list[Any]]] = []
        self.fail = fail
        self.interrupted = 0

    async def __call__(self, values: list[Any], arguments: Mapping[str, Any], cx: Context) -> Any:
        self.made.append((clock.now(), values))
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            self.interrupted += 1
            raise
        error = self.fail(values) if self.fail else None
        if error is not None:
            raise error
        return [f"{one}!" for one in values]

    @property
    def values(self) -> list[list[Any]]:
        return [values for _, values in self.made]


async def one(batcher: Batcher, value: Any, key: str = "", cost: float = 0) -> Any:
    [outcome] = await batcher.submit([Entry(value, key, cost)])
    return outcome


async def many(batcher: Batcher, *values: Any, cost: Callable[[Any], float] = float) -> list[Any]:
    """Each of them from a task of its own."""
    return await asyncio.gather(*(one(batcher, value, cost=cost(value)) for value in values))


def free(value: Any) -> float:
    return 0.0


def test_singles_of_many_tasks_are_few_calls() -> None:
    async def main() -> None:
        calls = Calls()
        batcher = Batcher(Batch(items=32, delay=5), calls)
        outcomes = await many(batcher, *range(64))
        assert outcomes == [f"{n}!" for n in range(64)]
        assert calls.made == [(0, [*range(32)]), (1, [*range(32, 64)])]
        stats = batcher.stats()
        assert (stats.batches, stats.items, stats.calls, stats.splits) == (2, 64, 2, 0)
        assert (stats.fill, stats.busy_s) == (1.0, 2.0)

    clock.run(main())


def test_a_lone_item_leaves_after_the_delay_and_others_join_it_until_then() -> None:
    async def main() -> None:
        calls = Calls()
        batcher = Batcher(Batch(items=3, delay=0.5), calls)
        first = asyncio.create_task(one(batcher, "a"))
        await asyncio.sleep(0.4)
        second = asyncio.create_task(one(batcher, "b"))
        await asyncio.gather(first, second)
        await one(batcher, "c")
        assert calls.made == [(0.5, ["a", "b"]), (2.0, ["c"])]
        assert batcher.stats().fill == 0.5

    clock.run(main())


def test_while_a_batch_is_at_work_others_gather() -> None:
    async def main() -> None:
        calls = Calls()
        batcher = Batcher(Batch(items=4, delay=0.1), calls)
        singles = [asyncio.create_task(one(batcher, "a"))]
        for value in "bcdef":
            await asyncio.sleep(0.15)
            singles.append(asyncio.create_task(one(batcher, value)))
        await asyncio.gather(*singles)
        assert calls.made == [(0.1, ["a"]), (1.1, ["b", "c", "d", "e"]), (2.1, ["f"])]

    clock.run(main())


def test_lanes_work_side_by_side() -> None:
    async def main() -> None:
        calls = Calls()
        await many(Batcher(Batch(items=1, lanes=2), calls), "a", "b", "c", cost=free)
        assert calls.made == [(0, ["a"]), (0, ["b"]), (1, ["c"])]

    clock.run(main())


def test_items_of_different_keys_share_no_call_and_the_oldest_goes_first() -> None:
    async def main() -> None:
        calls = Calls()
        batcher = Batcher(Batch(items=2, delay=0.5), calls)
        keys = {"a1": "a", "b1": "b", "a2": "a", "a3": "a", "b2": "b"}
        await asyncio.gather(*(one(batcher, value, key) for value, key in keys.items()))
        assert calls.values == [["a1", "a2"], ["b1", "b2"], ["a3"]]

    clock.run(main())


@pytest.mark.parametrize(
    ("batch", "values", "made"),
    [
        # Those that are like the oldest, the cheapest first; what is left waits for its delay.
        (Batch(2, cost=float), [9, 1, 8, 2], [[8, 9], [1, 2]]),
        (Batch(9, cost=float, max_cost=10), [4, 4, 4, 3], [[4, 4], [3, 4]]),
        # What is above the budget goes alone.
        (Batch(9, cost=float, max_cost=10), [30, 5, 5], [[30], [5, 5]]),
        # 2 and 9 together are 11, and 18 when they are padded.
        (Batch(9, cost=float, max_cost=12), [2, 9], [[2, 9]]),
        (Batch(9, cost=float, max_cost=12, padded=True), [2, 9], [[2], [9]]),
        (Batch(9, cost=float, max_cost=12, padded=True), [2, 3, 9, 4], [[2, 3, 4], [9]]),
    ],
)
def test_a_batch_keeps_to_its_budget(
    batch: Batch, values: list[int], made: list[list[int]]
) -> None:
    async def main() -> None:
        calls = Calls()
        await Batcher(batch, calls).submit([Entry(one, cost=one) for one in values])
        assert calls.values == made

    clock.run(main())


def test_a_budget_that_is_used_up_does_not_wait() -> None:
    async def main() -> None:
        calls = Calls()
        await many(Batcher(Batch(9, delay=5, cost=float, max_cost=10), calls), 5, 5)
        assert calls.made == [(0, [5, 5])]

    clock.run(main())


def test_a_poison_item_fails_alone() -> None:
    async def main() -> None:
        calls = Calls(lambda values: ValueError("poison") if 13 in values else None)
        batcher = Batcher(Batch(32), calls)
        outcomes = await many(batcher, *range(32))
        failed = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Exception)]
        assert failed == [13]
        assert str(outcomes[13]) == "poison"
        assert sum(isinstance(one, str) for one in outcomes) == 31
        assert batcher.stats().splits == 5
        assert len(calls.made) == 11

    clock.run(main())


def test_an_exception_in_the_list_is_of_its_item() -> None:
    async def main() -> None:
        async def call(values: list[Any], arguments: Mapping[str, Any], cx: Context) -> object:
            return [ValueError("no") if one == 1 else one for one in values]

        batcher = Batcher(Batch(3), call)
        outcomes = await many(batcher, 0, 1, 2)
        assert [outcomes[0], str(outcomes[1]), outcomes[2]] == [0, "no", 2]
        assert batcher.stats().calls == 1

    clock.run(main())


@pytest.mark.parametrize("returned", [[1, 2], (1, 2, 3), None])
def test_as_many_results_as_items_are_wanted(returned: object) -> None:
    async def main() -> None:
        async def call(values: list[Any], arguments: Mapping[str, Any], cx: Context) -> object:
            return returned

        batcher = Batcher(Batch(3), call)
        outcomes = await many(batcher, 0, 1, 2)
        assert all(isinstance(one, Invalid) for one in outcomes)
        assert "got 3 items and returned" in str(outcomes[0])
        # With fewer items it would be no better.
        assert batcher.stats().calls == 1

    clock.run(main())


def test_a_batch_that_is_too_large_is_halved_and_the_size_that_fitted_is_remembered() -> None:
    def memory(values: list[Any]) -> Exception | None:
        return OutOfMemory(kind="batch") if len(values) > 5 else None

    async def main() -> None:
        calls = Calls(memory)
        batcher = Batcher(Batch(16, delay=0.1), calls)
        assert await many(batcher, *range(16)) == [f"{n}!" for n in range(16)]
        assert [len(values) for values in calls.values] == [16, 8, 4, 4, 4, 4]
        calls.made.clear()
        await many(batcher, *range(8))
        assert [len(values) for values in calls.values] == [4, 4]
        assert batcher.stats().splits == 2

    clock.run(main())


def test_an_item_that_does_not_fit_alone_fails_alone() -> None:
    async def main() -> None:
        calls = Calls(lambda values: OutOfMemory(kind="batch") if 2 in values else None)
        outcomes = await many(Batcher(Batch(4), calls), *range(4))
        assert [isinstance(one, OutOfMemory) for one in outcomes] == [False, False, True, False]

    clock.run(main())


@pytest.mark.parametrize(
    "error", [OutOfMemory(), OutOfMemory(kind="model"), RateLimited("closed", retry_after=9)]
)
def test_what_is_no_item_s_fault_is_not_looked_for_among_them(error: Exception) -> None:
    async def main() -> None:
        calls = Calls(lambda values: error)
        assert await many(Batcher(Batch(4), calls), *range(4)) == [error] * 4
        assert len(calls.made) == 1

    clock.run(main())


def test_what_is_cancelled_leaves_a_batch_that_has_not_begun() -> None:
    async def main() -> None:
        calls = Calls()
        batcher = Batcher(Batch(3, delay=1, cost=float, max_cost=100), calls)
        singles = [asyncio.create_task(one(batcher, n, cost=n)) for n in range(3)]
        pair = asyncio.create_task(batcher.submit([Entry(7), Entry(8)]))
        await asyncio.sleep(0.5)
        # 0, 1 and 2 are under way: the one who cancels does not disturb the others.
        singles[1].cancel()
        pair.cancel()
        done = await asyncio.gather(*singles, pair, return_exceptions=True)
        assert [done[0], done[2]] == ["0!", "2!"]
        assert isinstance(done[1], asyncio.CancelledError)
        assert calls.values == [[0, 1, 2]]
        assert await one(batcher, 9) == "9!"
        assert calls.values[1:] == [[9]]
        assert calls.interrupted == 0

    clock.run(main())


def test_a_call_for_which_nobody_waits_any_more_is_ended() -> None:
    async def main() -> None:
        calls = Calls()
        batcher = Batcher(Batch(2), calls)
        both = [asyncio.create_task(one(batcher, n)) for n in range(2)]
        await asyncio.sleep(0.5)
        for each in both:
            each.cancel()
        await asyncio.gather(*both, return_exceptions=True)
        assert await one(batcher, 3) == "3!"
        assert (calls.interrupted, clock.now()) == (1, 1.51)

    clock.run(main())


def test_draining_waits_for_no_others_and_closing_for_no_one() -> None:
    async def main() -> None:
        calls = Calls()
        batcher = Batcher(Batch(4, delay=9), calls)
        waiting = asyncio.create_task(one(batcher, "a"))
        await asyncio.sleep(0)
        batcher.drain()
        assert await waiting == "a!"
        assert await one(batcher, "b") == "b!"
        assert clock.now() == 2

        under_way = asyncio.create_task(one(batcher, "c"))
        await asyncio.sleep(0.5)
        await batcher.close()
        assert str(await under_way) == "the worker stops"
        assert (calls.interrupted, clock.now()) == (1, 2.5)

    clock.run(main())


def test_progress_of_a_call_is_that_of_all_its_tasks() -> None:
    async def main() -> None:
        async def call(values: list[Any], arguments: Mapping[str, Any], cx: Context) -> object:
            cx.progress("half way")
            assert context().run_id == ""
            return values

        lines: list[str] = []
        batcher = Batcher(Batch(3), call)
        tasks = [Context(run_id=name, _report=lines.append) for name in "ab"]
        entries = [Entry(cx.run_id, cx=cx) for cx in tasks]
        await asyncio.gather(batcher.submit(entries[:1] * 2), batcher.submit(entries[1:]))
        assert lines == ["half way", "half way"]

    clock.run(main())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"items": 0}, "items should be a whole number from 1, and is 0"),
        ({"items": True}, "items should be a whole number"),
        ({"lanes": -1}, "lanes should be a whole number from 1, and is -1"),
        ({"delay": -0.1}, "delay should not be negative"),
        ({"max_cost": 5}, "max_cost needs a cost of each item"),
        ({"cost": len, "max_cost": 0}, "max_cost should be above 0"),
        ({"cost": len, "padded": True}, "`max_cost`, which is missing"),
        ({"key": "model"}, r"key should be a list of names, such as \['model'\]"),
    ],
)
def test_what_is_no_batch_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Batch(**wrong)
