"""Items of many tasks become one call, and each gets its own outcome.

`Batch` is what `@stage(batch=...)` says. `Batcher` gathers, calls, and splits what failed; it knows
neither stages nor tasks.
"""

from __future__ import annotations

import asyncio
import bisect
import contextvars
import dataclasses
import itertools
from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from . import convert
from .context import Context
from .data import is_list
from .errors import (
    ArtifactStoreUnavailable,
    Cancelled,
    Invalid,
    OutOfMemory,
    RateLimited,
    Retryable,
)

GRACE_S = 10.0
"""How long calls that nobody waits for any more may take to end when the worker stops."""
_CLOCK_S = 0.0005
"""A timer may fire that much early."""


@dataclass(frozen=True)
class Batch:
    """When a batch is full, and which items may share one."""

    items: int = 32
    """At most."""
    delay: timedelta | float = 0.01
    """How long an item waits for others; a number is seconds."""
    cost: Callable[[Any], float] | None = None
    """What an item costs, in tokens or bytes. Items of like cost are put together."""
    max_cost: float | None = None
    """The sum of the costs that a batch may have. An item above it goes alone."""
    padded: bool = False
    """Every item of a batch costs as much as its dearest, as texts do that are padded."""
    key: Sequence[str] | Callable[[Any, Mapping[str, Any]], Hashable] | None = None
    """Which items may share a call: those for which it is equal. Without it, those with equal
    parameters. Names of parameters: only these have to be equal. A function gets the item and the
    parameters. What the key leaves out, the function gets as one of the items has it."""
    lanes: int = 1
    """Calls at a time. While they run, further items gather."""

    def __post_init__(self) -> None:
        for name in ("items", "lanes"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"Batch: {name} should be a whole number from 1, and is {value!r}")
        if self.delay_s < 0:
            raise ValueError(f"Batch: delay should not be negative, and is {self.delay!r}")
        if self.max_cost is not None and not self.max_cost > 0:
            raise ValueError(f"Batch: max_cost should be above 0, and is {self.max_cost!r}")
        if self.max_cost is not None and self.cost is None:
            raise ValueError("Batch: max_cost needs a cost of each item, such as cost=len")
        if self.padded and self.max_cost is None:
            raise ValueError("Batch: padded says how costs add up to `max_cost`, which is missing")
        if isinstance(self.key, str):
            raise ValueError(f"Batch: key should be a list of names, such as [{self.key!r}]")

    @property
    def delay_s(self) -> float:
        span = self.delay
        return span.total_seconds() if isinstance(span, timedelta) else float(span)

    def exceeds(self, count: int, total: float, dearest: float) -> bool:
        """Whether so many items of this cost are too many for one batch."""
        if count > self.items:
            return True
        if self.max_cost is None or count <= 1:
            return False
        return (dearest * count if self.padded else total) > self.max_cost


@dataclass
class BatchStats:
    """What became of a stage's batches since the worker began."""

    limit: int
    """Items of a batch at most."""
    batches: int = 0
    items: int = 0
    """In those batches."""
    calls: int = 0
    """Of the function: more than batches where some were split."""
    splits: int = 0
    """Calls that failed and were made again with fewer items each."""
    busy_s: float = 0.0
    """Time in which the function was at work; calls side by side count each."""

    @property
    def fill(self) -> float:
        """The mean share of a full batch, 0 to 1."""
        return self.items / (self.batches * self.limit) if self.batches else 0.0

    def __str__(self) -> str:
        return (
            f"{self.items} items in {self.batches} batches, {self.fill:.0%} full, "
            f"{self.calls} calls, {self.splits} splits"
        )


@dataclass
class Entry:
    """An item on its way into a batch."""

    value: Any
    key: Hashable = None
    cost: float = 0.0
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    cx: Context = field(default_factory=Context)


@dataclass(eq=False)
class _Waiting:
    entry: Entry
    outcome: asyncio.Future[Any]
    """An exception is a value here: that of an item that failed."""
    due: float
    number: int
    call: _Call | None = None


@dataclass(eq=False)
class _Call:
    """Under way."""

    members: list[_Waiting]
    task: asyncio.Task[object]


Execute = Callable[[list[Any], Mapping[str, Any], Context], Coroutine[Any, Any, object]]
"""Calls the function with values and arguments; the context is that of the call."""


class Batcher:
    def __init__(self, batch: Batch, execute: Execute) -> None:
        self._batch = batch
        self._execute = execute
        self._windows: dict[Hashable, _Window] = {}
        self._fits: dict[Hashable, int] = {}
        """Items that fitted into memory where a batch of more did not."""
        self._free = batch.lanes
        self._numbers = itertools.count()
        self._running: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._draining = False
        # Calls are no task's own: they do not see the surroundings of whoever filled the batch.
        self._surroundings = contextvars.copy_context()
        self._stats = BatchStats(batch.items)

    def stats(self) -> BatchStats:
        return dataclasses.replace(self._stats)

    @property
    def waiting(self) -> int:
        """Items that are in no call yet."""
        return sum(len(window) for window in self._windows.values())

    async def submit(self, entries: Iterable[Entry]) -> list[Any]:
        """The outcome of each: what the function returned for it, or the exception with which it
        failed. Cancelled, it takes back those that are in no call yet."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._batch.delay_s
        members = [_Waiting(one, loop.create_future(), due, next(self._numbers)) for one in entries]
        for one in members:
            window = self._windows.get(one.entry.key)
            if window is None:
                window = self._windows[one.entry.key] = _Window(self._batch)
            window.add(one)
        self._pump()
        try:
            return await asyncio.gather(*(one.outcome for one in members))
        except asyncio.CancelledError:
            self._withdraw(members)
            raise

    def drain(self) -> None:
        """Lets items go without waiting for others: none will come."""
        self._draining = True
        self._pump()

    async def close(self) -> None:
        """Ends what is under way, whether or not somebody waits for it."""
        if self._timer is not None:
            self._timer.cancel()
        for window in self._windows.values():
            _settle(window.all(), Cancelled("the worker stops"))
        self._windows.clear()
        for one in self._running:
            one.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=GRACE_S)

    def _withdraw(self, members: list[_Waiting]) -> None:
        for one in members:
            one.outcome.cancel()
            window = self._windows.get(one.entry.key)
            if one.call is None and window is not None and window.remove(one) and not window:
                del self._windows[one.entry.key]
        for call in {one.call for one in members if one.call is not None}:
            if all(one.outcome.done() for one in call.members):
                call.task.cancel()

    def _pump(self) -> None:
        """Begins what may begin, and sets the timer for what is due next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        while self._free:
            now = loop.time() + _CLOCK_S
            ready = [
                (window.oldest.number, key)
                for key, window in self._windows.items()
                if self._draining or window.is_full(self._fits.get(key)) or window.oldest.due <= now
            ]
            if not ready:
                break
            self._begin(min(ready, key=lambda one: one[0])[1])
        if self._free and self._windows:
            due = min(window.oldest.due for window in self._windows.values())
            self._timer = loop.call_at(due, self._pump)

    def _begin(self, key: Hashable) -> None:
        window = self._windows[key]
        members = window.take(self._fits.get(key))
        if not window:
            del self._windows[key]
        self._free -= 1
        self._stats.batches += 1
        self._stats.items += len(members)
        running = self._surroundings.run(asyncio.ensure_future, self._run(key, members))
        self._running.add(running)

        def ended(task: asyncio.Task[None]) -> None:
            self._running.discard(task)
            self._free += 1
            # Nobody may wait for ever, whatever went wrong here.
            failed = None if task.cancelled() else task.exception()
            _settle(members, failed or Cancelled("the worker stops"))
            self._pump()

        running.add_done_callback(ended)

    async def _run(self, key: Hashable, members: list[_Waiting]) -> None:
        """Calls the function with those that still wait, again and again with parts of them until
        each has an outcome."""
        parts = [members]
        while parts:
            part = [one for one in parts.pop() if not one.outcome.done()]
            fits = self._fits.get(key, len(part))
            if len(part) > fits:
                parts.extend(reversed([part[i : i + fits] for i in range(0, len(part), fits)]))
            elif part:
                error = await self._call(part)
                if error is None:
                    continue
                if len(part) == 1 or _is_of_all(error):
                    _settle(part, error)
                    continue
                half = (len(part) + 1) // 2
                if isinstance(error, OutOfMemory):
                    self._fits[key] = half
                self._stats.splits += 1
                parts.extend([part[half:], part[:half]])

    async def _call(self, members: list[_Waiting]) -> Exception | None:
        """One call. Returns why it failed as a whole; otherwise each has its outcome."""
        cx = _of_all([one.entry.cx for one in members])
        values = [one.entry.value for one in members]
        loop = asyncio.get_running_loop()
        begun = loop.time()
        task = asyncio.ensure_future(self._execute(values, members[0].entry.arguments, cx))
        call = _Call(members, task)
        for one in members:
            one.call = call
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})
            raise
        finally:
            self._stats.calls += 1
            self._stats.busy_s += loop.time() - begun
            for one in members:
                one.call = None
        if task.cancelled():
            return Cancelled("cancelled")
        error = task.exception()
        if error is None:
            results = task.result()
            if is_list(results) and len(results) == len(members):
                for one, result in zip(members, results, strict=True):
                    _settle([one], result)
                return None
            return WrongCount(len(members), results)
        return error if isinstance(error, Exception) else Cancelled(repr(error))


class WrongCount(Invalid):
    """What came back cannot be told apart by items."""

    def __init__(self, wanted: int, results: object) -> None:
        count = len(results) if is_list(results) else convert.shown(results)
        super().__init__(
            f"the function got {wanted} items and returned {count}: it has to return a "
            "list with one outcome for each. DROP leaves an item out, Many([...]) makes "
            "several, an exception marks one as failed."
        )


def _is_of_all(error: Exception) -> bool:
    """Whether a call with fewer items would fail alike."""
    if isinstance(error, OutOfMemory):
        return error.shortage != "batch"
    return isinstance(
        error, (WrongCount, Retryable, RateLimited, ArtifactStoreUnavailable, Cancelled)
    )


def _settle(members: Iterable[_Waiting], outcome: Any) -> None:
    for one in members:
        if not one.outcome.done():
            one.outcome.set_result(outcome)


def _of_all(members: list[Context]) -> Context:
    """The context of a call: it is no run's own, and its progress is that of all."""
    each = list({id(one): one for one in members}.values())

    def report(line: str) -> None:
        for one in each:
            one.progress(line)

    return Context(_report=report)


class _Window:
    """Items of one key that wait. Empty ones are not kept."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._by_age: dict[int, _Waiting] = {}
        self._by_cost: list[tuple[float, int]] = []
        """Of those, where costs are known."""
        self._total = 0.0

    def __len__(self) -> int:
        return len(self._by_age)

    @property
    def oldest(self) -> _Waiting:
        return next(iter(self._by_age.values()))

    def all(self) -> list[_Waiting]:
        return list(self._by_age.values())

    def add(self, one: _Waiting) -> None:
        self._by_age[one.number] = one
        if self._batch.cost is not None:
            bisect.insort(self._by_cost, (one.entry.cost, one.number))
            self._total += one.entry.cost

    def remove(self, one: _Waiting) -> bool:
        if self._by_age.pop(one.number, None) is None:
            return False
        if self._batch.cost is not None:
            del self._by_cost[bisect.bisect_left(self._by_cost, (one.entry.cost, one.number))]
            self._total -= one.entry.cost
        return True

    def is_full(self, fits: int | None) -> bool:
        count, limit = len(self._by_age), self._batch.max_cost
        return count >= min(self._batch.items, fits or self._batch.items) or (
            limit is not None and self._total >= limit
        )

    def take(self, fits: int | None) -> list[_Waiting]:
        """The oldest, and with it those that came next; where costs are known, those that are
        nearest to it in cost, the cheapest first."""
        room = min(self._batch.items, fits or self._batch.items)
        if self._batch.cost is None:
            taken = list(itertools.islice(self._by_age.values(), room))
        else:
            taken = [self._by_age[number] for _, number in self._near_oldest(room)]
        for one in taken:
            self.remove(one)
        return taken

    def _near_oldest(self, room: int) -> list[tuple[float, int]]:
        costs, seed = self._by_cost, self.oldest.entry.cost
        first = bisect.bisect_left(costs, (seed, self.oldest.number))
        last, total = first + 1, seed
        while last - first < room:
            sides: list[tuple[float, int]] = []
            if first > 0:
                sides.append((seed - costs[first - 1][0], first - 1))
            if last < len(costs):
                sides.append((costs[last][0] - seed, last))
            for _, place in sorted(sides):
                cost = costs[place][0]
                dearest = max(cost, costs[last - 1][0])
                if not self._batch.exceeds(last - first + 1, total + cost, dearest):
                    total += cost
                    first, last = min(first, place), max(last, place + 1)
                    break
            else:
                break
        return costs[first:last]
