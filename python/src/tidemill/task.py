"""One task: what the interpreter asks of a worker, and what comes back.

The forms are those of `crates/pipeline/src/task.rs`. Nothing here knows of an engine: a task is a
JSON object that becomes another.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import inspect
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any

from . import cache, convert, templates
from .artifacts import Artifacts, Collection
from .cache import Cache
from .chunk import Chunk
from .context import Context, enter, leave
from .data import Artifact, CollectionRef, FailedItem, Item, Part, encode, is_list, is_object
from .errors import (
    ArtifactStoreUnavailable,
    Cancelled,
    Invalid,
    RateLimited,
    Retryable,
    StageError,
)
from .log import logger, within_function
from .stage import Drop, Many, Retry, Stage

ERROR_CHARS = 2_000
"""Of an item's error, kept in its part."""
GRACE_S = 10.0
"""How long a cancelled task waits for its sync function to notice."""


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
    stage: Stage[..., Any], task: Task, artifacts: Artifacts, cx: Context, threads: Executor
) -> dict[str, Any]:
    """Runs the stage. Returns the task's output, JSON. Sync functions run in `threads`."""
    token = enter(cx)
    try:
        return await _Performance(stage, task, artifacts, cx, threads).output()
    finally:
        leave(token)


class _Performance:
    def __init__(
        self,
        stage: Stage[..., Any],
        task: Task,
        artifacts: Artifacts,
        cx: Context,
        threads: Executor,
    ) -> None:
        self.stage = stage
        self.task = task
        self.artifacts = artifacts.for_run(task.run_id)
        self.cx = cx
        self.threads = threads
        self.parameters: Any = None
        self.scope: Any = None
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
        if "value" in self.task.input:
            return {"value": await self.value(self.task.input["value"])}
        part = await self.off_loop(self.read_part)
        if self.stage.items:
            outcomes = await self.items(part.items)
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
            arguments = self.stage.parameters(self.parameters)
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
            return await self.group(items, self.stage.parameters(self.parameters))
        outcomes: list[list[Item] | Exception] = [[] for _ in items]
        groups: dict[bytes, tuple[Any, list[int]]] = {}
        for place, item in enumerate(items):
            try:
                value = await self.off_loop(partial(self.artifacts.resolve, item.value))
                given = self.parameters_of(value)
                groups.setdefault(encode(given), (given, []))[1].append(place)
            except Invalid as error:
                outcomes[place] = error
        for given, places in groups.values():
            made = await self.group([items[i] for i in places], self.stage.parameters(given))
            for place, outcome in zip(places, made, strict=True):
                outcomes[place] = outcome
        return outcomes

    async def group(
        self, items: list[Item], arguments: Mapping[str, Any]
    ) -> list[list[Item] | Exception]:
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
        results: object = await self.attempts(self.stage.bind(wanted, arguments), self.stage.retry)
        if not is_list(results) or len(results) != len(places):
            count = len(results) if is_list(results) else convert.shown(results)
            raise Invalid(
                f"the function got {len(places)} items and returned {count}: it has to return a "
                "list with one outcome for each. DROP leaves an item out, Many([...]) makes "
                "several, an exception marks one as failed."
            )
        for place, result in zip(places, results, strict=True):
            outcomes[place] = self.outcome(items[place], result)
        return outcomes

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
        arguments = None if per_item else self.stage.parameters(self.parameters)
        room = asyncio.Semaphore(self.stage.concurrency)

        async def one(item: Item) -> list[Item] | Exception:
            async with room:
                try:
                    value = await self.off_loop(lambda: self.artifacts.resolve(item.value))
                    given = arguments
                    if given is None:
                        given = self.stage.parameters(self.parameters_of(value))
                    result = await self.call(value, given, self.stage.item_retry)
                    return self.outcome(item, result)
                except (ArtifactStoreUnavailable, Cancelled):
                    raise
                except Exception as error:
                    return error

        under_way = [asyncio.ensure_future(one(item)) for item in items]
        try:
            outcomes = await asyncio.gather(*under_way)
        except BaseException:
            # The task will run again: nothing of it may go on.
            for each in under_way:
                each.cancel()
            raise
        passing = [e for e in outcomes if isinstance(e, (Retryable, RateLimited))]
        if passing and len(passing) == len(outcomes):
            # Not one could be processed at this moment: a matter of the whole task.
            raise passing[0]
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
                final = isinstance(error, (Cancelled, ArtifactStoreUnavailable)) or (
                    isinstance(error, StageError) and not error.retryable
                )
                delay_s = retry.delay_s(attempt, error)
                # Told to wait for long, a task rather gives its place to others.
                if final or attempt >= retry.attempts or delay_s > retry.max_delay_s:
                    raise
                self.cx.progress(f"attempt {attempt} failed: {describe(error)}")
                await asyncio.sleep(delay_s)
                attempt += 1

    async def invoke(self, call: Callable[[], Any]) -> Any:
        if self.stage.is_async:
            return await call()
        result = await self.off_loop(call)
        return await result if inspect.isawaitable(result) else result

    async def off_loop(self, call: Callable[[], Any]) -> Any:
        """Runs what may block in a thread, which sees the same context."""
        surroundings = contextvars.copy_context()
        future = asyncio.get_running_loop().run_in_executor(self.threads, surroundings.run, call)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # A thread cannot be interrupted: tell it, and give it a little time.
            self.cx.cancel()
            await asyncio.wait({future}, timeout=GRACE_S)
            if future.done() and not future.cancelled():
                future.exception()
            raise

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
