"""One task: what the interpreter asks of a worker, and what comes back.

The forms are those of `crates/pipeline/src/task.rs`. Nothing here knows of an engine: a task is a
JSON object that becomes another.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from . import cache, convert, templates
from .artifacts import Artifacts, Collection
from .batch import Batch, Batcher, Entry, WrongCount
from .cache import Cache
from .chunk import Chunk
from .context import Context, enter, leave
from .data import Artifact, CollectionRef, FailedItem, Item, Part, encode, is_list, is_object
from .errors import (
    ArtifactStoreUnavailable,
    Cancelled,
    Invalid,
    OutOfMemory,
    RateLimited,
    Retryable,
    StageError,
)
from .log import logger, within_function
from .served import Models, Served, off_loop
from .stage import Drop, Many, Retry, Stage

ERROR_CHARS = 2_000
"""Of an item's error, kept in its part."""

T = TypeVar("T")


@dataclass
class Task:
    """The input of a task."""

    run_id: str
    pipeline: str
    plan: str
    stage: str
    parameters: Any
    """`with`, as it came."""
    input: Mapping[str, Any]
    """One key: `value`, `chunk` or `part`."""
    scope: Mapping[str, Any]
    """What templates of `with` that speak of an item name besides it."""
    cache: Cache | None = None

    @classmethod
    def from_json(cls, value: object) -> Task:
        if not is_object(value) or not is_object(value.get("run")) or "input" not in value:
            raise Invalid(
                f"a stage's activity takes one task, an object with `run`, `stage`, `with` and "
                f"`input`; this is {convert.shown(value)}"
            )
        run, given = value["run"], value["input"]
        if not is_object(given) or len(given) != 1 or not {"value", "chunk", "part"} & set(given):
            raise Invalid("the `input` of a task has one of the keys `value`, `chunk` and `part`")
        scope = value.get("scope")
        return cls(
            run_id=str(run.get("id", "")),
            pipeline=str(run.get("pipeline", "")),
            plan=str(run.get("plan", "")),
            stage=str(value.get("stage", "")),
            parameters=value.get("with"),
            input=given,
            scope=scope if is_object(scope) else {},
            cache=Cache.from_json(value.get("cache")),
        )


async def perform(
    stage: Stage[..., Any] | Served,
    task: Task,
    artifacts: Artifacts,
    cx: Context,
    threads: Executor,
) -> dict[str, Any]:
    """Runs the stage. Returns the task's output, JSON. Sync functions run in `threads`."""
    token = enter(cx)
    try:
        if isinstance(stage, Served):
            return await _Performance(stage, task, artifacts, cx, threads).output()
        models = Models(threads)
        served = Served(stage, models, threads)
        try:
            return await _Performance(served, task, artifacts, cx, threads).output()
        finally:
            await served.close()
            await models.free()
    finally:
        leave(token)


class _Performance:
    def __init__(
        self,
        served: Served,
        task: Task,
        artifacts: Artifacts,
        cx: Context,
        threads: Executor,
    ) -> None:
        self.served = served
        self.stage = served.stage
        self.task = task
        self.artifacts = artifacts.for_run(task.run_id)
        self.cx = cx
        self.threads = threads
        self.parameters: Any = None
        self.scope: Any = None
        self.is_value = "value" in task.input
        """Whether there is no fan-out, in which items fail alone."""
        self.is_whole = True
        """Whether no item failed here."""

    async def output(self) -> dict[str, Any]:
        wanted = self.task.cache
        if wanted is None:
            return {"output": await self.made()}
        key = await self.key()
        earlier = await self.off_loop(lambda: cache.get(self.artifacts, key, wanted.ttl))
        if earlier is not None:
            return {"output": earlier, "cached": True}
        output = await self.made()
        # A result in which items failed is not used again: they may well succeed next time.
        if self.is_whole:
            await self.off_loop(lambda: self.artifacts.put_cached(key, output, wanted.ttl))
        return {"output": output}

    async def key(self) -> str:
        if not self.stage.pure:
            raise Invalid(
                "the pipeline wants its results cached, and it is not said to be pure: write "
                "@stage(pure=True) if equal input gives equal output, or take `cache` from the "
                "pipeline"
            )
        revision = self.stage.revision
        if callable(revision):
            find = revision
            given = await self.off_loop(lambda: self.artifacts.resolve(self.task.parameters or {}))
            revision = await self.off_loop(lambda: find(given))
        if revision is not None and not isinstance(revision, str):
            raise Invalid(f"its `revision` should give a text, and gave {convert.shown(revision)}")
        return await self.off_loop(
            lambda: cache.key(self.stage, self.task, revision, self.artifacts)
        )

    async def made(self) -> dict[str, Any]:
        self.parameters = await self.off_loop(lambda: self.artifacts.resolve(self.task.parameters))
        self.scope = await self.off_loop(lambda: self.artifacts.resolve(self.task.scope))
        if self.is_value:
            return {"value": await self.value(self.task.input["value"])}
        part = await self.off_loop(self.read_part)
        if self.stage.items:
            outcomes = await self.items(part.items)
            if self.stage.batch is not None:
                _raise_if_none_possible(outcomes)
        else:
            outcomes = await self.mapped(part.items)
        result = self.collect(part, outcomes)
        self.is_whole = len(result.failed) == len(part.failed)
        artifact = await self.off_loop(lambda: self.artifacts.put_part(result))
        output: dict[str, Any] = {
            "digest": artifact.digest,
            "count": len(result.items),
            "failed": len(result.failed),
            "failed_sources": result.failed_sources,
        }
        if result.failed:
            first = result.failed[0]
            output["first_error"] = f"{first.id}: {first.error}"
        return {"part": output}

    async def value(self, value: Any) -> Any:
        """A call of the function on one value, or of an `items=True` function on a list or the one
        value."""
        value = await self.off_loop(lambda: self.resolve_input(value))
        if self.stage.items:
            result = await self.items_of_list(value)
        else:
            arguments = await self.served.arguments(self.parameters)
            result = await self.call(value, arguments, self.stage.retry)
        return await self.off_loop(lambda: self.artifacts.put_json(result))

    async def call(self, value: Any, arguments: Mapping[str, Any], retry: Retry) -> Any:
        wanted = await self.off_loop(lambda: self.stage.convert_input(value))
        result = await self.attempts(self.stage.bind(wanted, arguments), retry)
        if isinstance(result, Collection):
            reference: CollectionRef = result.reference
            return reference.to_json()
        return convert.to_json(result, f"what stage {self.stage.name} returned")

    async def items_of_list(self, value: Any) -> Any:
        """Without a fan-out there is nowhere to keep an item's failure, so it is the task's."""
        members = await self.off_loop(value.values) if isinstance(value, Collection) else value
        whole = is_list(members)
        items = [Item(str(i), one) for i, one in enumerate(members if whole else [members])]
        results: list[Any] = []
        for made in await self.items(items):
            if isinstance(made, BaseException):
                raise made
            results.extend(one.value for one in made)
        return results if whole or len(results) != 1 else results[0]

    async def items(self, items: list[Item]) -> list[list[Item] | Exception]:
        """Outcomes of an `items=True` function, one for each item: it is called once, or once for
        each distinct value of its parameters where they speak of `item`."""
        if not templates.mentions_item(self.parameters):
            return await self.group(items, self.parameters)
        outcomes: list[list[Item] | Exception] = [[] for _ in items]
        groups: dict[bytes, tuple[Any, list[int]]] = {}
        for place, item in enumerate(items):
            try:
                value = await self.off_loop(partial(self.artifacts.resolve, item.value))
                given = self.parameters_of(value)
                groups.setdefault(encode(given), (given, []))[1].append(place)
            except Invalid as error:
                outcomes[place] = error

        async def one(given: Any, places: list[int]) -> None:
            made = await self.group([items[i] for i in places], given)
            for place, outcome in zip(places, made, strict=True):
                outcomes[place] = outcome

        calls = [one(given, places) for given, places in groups.values()]
        if self.stage.batch is not None:
            # Each waits for items of others.
            await _together(calls)
        else:
            for call in calls:
                await call
        return outcomes

    async def group(self, items: list[Item], given: Any) -> list[list[Item] | Exception]:
        """Outcomes of items that have these parameters."""
        arguments = await self.served.arguments(given)
        outcomes: list[list[Item] | Exception] = [[] for _ in items]
        wanted: list[Any] = []
        places: list[int] = []
        for place, value in enumerate(await self.off_loop(lambda: self.convert_items(items))):
            if isinstance(value, Invalid):
                outcomes[place] = value
            else:
                wanted.append(value)
                places.append(place)
        if not places:
            return outcomes
        batch, batcher = self.stage.batch, self.served.batcher
        results: object
        if batch is not None and batcher is not None:
            results = await self.batched(batch, batcher, wanted, arguments, given)
        else:
            results = await self.attempts(self.stage.bind(wanted, arguments), self.stage.retry)
        if not is_list(results) or len(results) != len(places):
            raise WrongCount(len(places), results)
        for place, result in zip(places, results, strict=True):
            outcomes[place] = self.outcome(items[place], result)
        return outcomes

    async def batched(
        self,
        batch: Batch,
        batcher: Batcher,
        values: list[Any],
        arguments: Mapping[str, Any],
        given: Any,
    ) -> list[Any]:
        """One outcome for each value, from calls that items of other tasks are in too."""
        key = encode(given)
        outcomes: list[Any] = await self.off_loop(
            lambda: [self.served.entry(batch, one, arguments, key, self.cx) for one in values]
        )
        under_way = {i: one for i, one in enumerate(outcomes) if isinstance(one, Entry)}
        attempt = 1
        while under_way:
            made = await batcher.submit(under_way.values())
            delay_s = 0.0
            for place, outcome in zip(list(under_way), made, strict=True):
                outcomes[place] = outcome
                delay = self.delay_in_batch(outcome, attempt)
                if delay is None:
                    del under_way[place]
                else:
                    delay_s = max(delay_s, delay)
            if under_way:
                self.cx.progress(f"attempt {attempt} failed for {len(under_way)} items")
                await asyncio.sleep(delay_s)
                attempt += 1
        for one in outcomes:
            if isinstance(one, Exception) and _is_of_task(one):
                raise one
        return outcomes

    def delay_in_batch(self, outcome: object, attempt: int) -> float | None:
        """Seconds until an item is tried again, if it is."""
        if not isinstance(outcome, Exception) or _is_final(outcome):
            return None
        passing = isinstance(outcome, (Retryable, RateLimited, OutOfMemory))
        retry = self.stage.item_retry if passing and not self.is_value else self.stage.retry
        delay_s = retry.delay_s(attempt, outcome)
        return delay_s if attempt < retry.attempts and delay_s <= retry.max_delay_s else None

    def parameters_of(self, value: Any) -> Any:
        """`with`, for the item that has this value."""
        return templates.evaluate(self.parameters, {**self.scope, "item": value})

    def convert_items(self, items: list[Item]) -> list[Any]:
        """What an `items=True` function wants to see of each, or why that cannot be."""
        wanted = self.stage.item_type

        def convert_one(item: Item) -> Any:
            try:
                value = self.artifacts.resolve(item.value)
                return convert.from_json(value, wanted, f"item {item.id}")
            except Invalid as error:
                return error

        return items if wanted is Item else [convert_one(item) for item in items]

    async def mapped(self, items: list[Item]) -> list[list[Item] | Exception]:
        """Outcomes of a function that is called for each item."""
        per_item = templates.mentions_item(self.parameters)
        arguments = None if per_item else await self.served.arguments(self.parameters)
        room = asyncio.Semaphore(self.stage.concurrency)

        async def one(item: Item) -> list[Item] | Exception:
            async with room:
                try:
                    value = await self.off_loop(lambda: self.artifacts.resolve(item.value))
                    given = arguments
                    if given is None:
                        given = await self.served.arguments(self.parameters_of(value))
                    result = await self.call(value, given, self.stage.item_retry)
                    return self.outcome(item, result)
                except Exception as error:
                    if _is_of_task(error):
                        raise
                    return error

        outcomes = await _together([one(item) for item in items])
        _raise_if_none_possible(outcomes)
        return outcomes

    def outcome(self, item: Item, result: object) -> list[Item] | Exception:
        if isinstance(result, Exception):
            return result
        if isinstance(result, Drop):
            return []
        try:
            if isinstance(result, Many):
                where = f"what stage {self.stage.name} made of item {item.id}"
                return _numbered(item, [convert.to_json(one, where) for one in result.values])
            if isinstance(result, Item):
                value = convert.to_json(result.value, f"item {result.id}")
                source = result.source or (item.source_id if result.id != item.id else item.source)
                return [Item(result.id, value, source)]
            return [
                Item(
                    item.id, convert.to_json(result, f"the outcome of item {item.id}"), item.source
                )
            ]
        except Invalid as error:
            return error

    def collect(self, part: Part, outcomes: list[list[Item] | Exception]) -> Part:
        """Earlier failures are carried on, before those of this stage."""
        result = Part(failed=list(part.failed))
        for item, made in zip(part.items, outcomes, strict=True):
            if isinstance(made, Exception):
                text = describe(made)[:ERROR_CHARS]
                result.failed.append(FailedItem(item.id, self.task.stage, text, item.source))
            else:
                result.items.extend(made)
        self.log_unexpected([one for one in outcomes if isinstance(one, Exception)])
        return result

    def log_unexpected(self, failures: list[Exception]) -> None:
        """The part has only what a failure says; where it happened is for whoever wrote the
        function. Once for a chunk, whose items mostly fail alike."""
        unexpected = [one for one in failures if not isinstance(one, StageError)]
        if unexpected:
            logger.warning(
                "stage %s: %d of a chunk's items failed in the function, the first so (run %s)",
                self.task.stage,
                len(unexpected),
                self.task.run_id,
                exc_info=within_function(unexpected[0]),
            )

    async def attempts(self, call: Callable[[], Any], retry: Retry) -> Any:
        """Calls the function, as often as `retry` allows."""
        attempt = 1
        while True:
            try:
                return await self.invoke(call)
            except Exception as error:
                delay_s = retry.delay_s(attempt, error)
                # Told to wait for long, a task rather gives its place to others.
                if _is_final(error) or attempt >= retry.attempts or delay_s > retry.max_delay_s:
                    raise
                self.cx.progress(f"attempt {attempt} failed: {describe(error)}")
                await asyncio.sleep(delay_s)
                attempt += 1

    async def invoke(self, call: Callable[[], Any]) -> Any:
        return await self.served.invoke(call, self.threads, self.cx)

    async def off_loop(self, call: Callable[[], Any]) -> Any:
        return await off_loop(self.threads, self.cx, call)

    def resolve_input(self, value: Any) -> Any:
        if CollectionRef.is_reference(value):
            return Collection[Any](self.artifacts, CollectionRef.from_json(value))
        resolved = self.artifacts.resolve(value)
        if CollectionRef.is_reference(resolved) and Artifact.is_reference(value):
            return Collection[Any](self.artifacts, CollectionRef.from_json(resolved))
        return resolved

    def read_part(self) -> Part:
        if "part" in self.task.input:
            return self.artifacts.part(str(self.task.input["part"]))
        return Chunk.from_json(self.task.input["chunk"]).read(self.artifacts)


async def _together(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    under_way = [asyncio.ensure_future(one) for one in calls]
    try:
        return await asyncio.gather(*under_way)
    except BaseException:
        # The task will run again: nothing of it may go on.
        for each in under_way:
            each.cancel()
        raise


def _is_final(error: BaseException) -> bool:
    """Whether trying again within the task is useless."""
    return isinstance(error, (Cancelled, ArtifactStoreUnavailable)) or (
        isinstance(error, StageError) and not error.retryable
    )


def _is_of_task(error: BaseException) -> bool:
    """Whether what an item failed with is a matter of the whole task."""
    if isinstance(error, OutOfMemory):
        return error.shortage != "batch"
    return isinstance(error, (ArtifactStoreUnavailable, Cancelled))


def _raise_if_none_possible(outcomes: list[Any]) -> None:
    """Raises when not one item could be processed at this moment: a matter of the whole task."""
    passing = [e for e in outcomes if isinstance(e, (Retryable, RateLimited, OutOfMemory))]
    if passing and len(passing) == len(outcomes):
        raise passing[0]


def _numbered(item: Item, values: list[Any]) -> list[Item]:
    """Ids from content, as the engine's own stages make them: equal values are told apart by how
    many came before."""
    seen: dict[bytes, int] = {}
    made: list[Item] = []
    for value in values:
        content = encode(value)
        occurrence = seen.get(content, 0)
        seen[content] = occurrence + 1
        key = b"\0".join((item.id.encode(), content, str(occurrence).encode()))
        made.append(Item(hashlib.sha256(key).hexdigest()[:32], value, item.source_id))
    return made


def describe(error: BaseException) -> str:
    """What a failure says, on one line."""
    if isinstance(error, StageError):
        return error.message
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
