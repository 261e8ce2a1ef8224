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
from typing import Any

from . import convert, templates
from .artifacts import Artifacts, Collection
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

    async def output(self) -> dict[str, Any]:
        self.parameters = await self.off_loop(lambda: self.artifacts.resolve(self.task.parameters))
        if "value" in self.task.input:
            return {"output": {"value": await self.value(self.task.input["value"])}}
        part = await self.off_loop(self.read_part)
        if self.stage.items:
            outcomes = await self.items(part.items)
        else:
            outcomes = await self.mapped(part.items)
        result = self.collect(part, outcomes)
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
        return {"output": {"part": output}}

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
        members = value.values() if isinstance(value, Collection) else value
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
                given = self.parameters_of(self.artifacts.resolve(item.value))
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
        for place, item in enumerate(items):
            try:
                wanted.append(self.convert_item(item))
                places.append(place)
            except Invalid as error:
                outcomes[place] = error
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
        return templates.evaluate(self.parameters, {**self.task.scope, "item": value})

    def convert_item(self, item: Item) -> Any:
        wanted = self.stage.item_type
        if wanted is Item:
            return item
        return convert.from_json(self.artifacts.resolve(item.value), wanted, f"item {item.id}")

    async def mapped(self, items: list[Item]) -> list[list[Item] | Exception]:
        """Outcomes of a function that is called for each item."""
        per_item = templates.mentions_item(self.parameters)
        arguments = None if per_item else self.stage.parameters(self.parameters)
        room = asyncio.Semaphore(self.stage.concurrency)

        async def one(item: Item) -> list[Item] | Exception:
            async with room:
                try:
                    value = self.artifacts.resolve(item.value)
                    given = arguments
                    if given is None:
                        given = self.stage.parameters(self.parameters_of(value))
                    result = await self.call(value, given, self.stage.item_retry)
                    return self.outcome(item, result)
                except (ArtifactStoreUnavailable, Cancelled):
                    raise
                except Exception as error:
                    return error

        outcomes = await asyncio.gather(*(one(item) for item in items))
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
        return result

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
        chunk = self.task.input["chunk"]
        try:
            collection = CollectionRef.from_json(chunk["collection"])
            index, size = int(chunk["index"]), int(chunk["size"])
        except (KeyError, TypeError, ValueError) as error:
            raise Invalid(f"the task's chunk is not one: {error!r}") from None
        return read_chunk(self.artifacts, collection, index, size)


def read_chunk(artifacts: Artifacts, collection: CollectionRef, index: int, size: int) -> Part:
    """A part of the collection when `size` is 0, otherwise `size` of its items, counted over all
    parts. What failed before in a part goes with the chunk in which the part begins."""
    parts = artifacts.manifest(collection.manifest)
    if size == 0:
        if index >= len(parts):
            raise Invalid(f"the collection has {len(parts)} parts, and chunk {index} is asked for")
        return artifacts.part(parts[index][0])
    first, last = index * size, (index + 1) * size
    final = max(collection.count - 1, 0) // size
    chunk, position = Part(), 0
    for digest, count in parts:
        begin, position = position, position + count
        begins_here = min(begin // size, final) == index
        if not begins_here and not (begin < last and position > first):
            continue
        part = artifacts.part(digest)
        chunk.items.extend(part.items[max(first - begin, 0) : max(last - begin, 0)])
        if begins_here:
            chunk.failed.extend(part.failed)
    return chunk


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
