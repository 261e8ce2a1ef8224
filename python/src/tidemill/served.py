"""A stage as one worker serves it: with what it has loaded, and the items that wait for a batch."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Hashable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from . import memory
from .batch import Batch, Batcher, Entry
from .context import Context, enter, leave
from .errors import Invalid, Shortage
from .log import logger
from .stage import Stage

GRACE_S = 10.0
"""How long what was cancelled waits for its sync function to notice."""
_NOTHING = object()


async def off_loop(
    threads: Executor, cx: Context, call: Callable[[], Any], grace_s: float | None = GRACE_S
) -> Any:
    """Runs what may block in a thread, which sees the same surroundings."""
    surroundings = contextvars.copy_context()
    future = asyncio.get_running_loop().run_in_executor(threads, surroundings.run, call)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        # A thread cannot be interrupted: tell it, and give it a little time.
        cx.cancel()
        await asyncio.wait({future}, timeout=grace_s)
        if future.done() and not future.cancelled():
            future.exception()
        raise


async def short_of_memory(
    call: Coroutine[Any, Any, Any], threads: Executor, otherwise: Shortage
) -> Any:
    """Awaits `call`. What fails for want of memory, whatever library says so, becomes an
    `OutOfMemory`, when what its frames held has been given back."""
    try:
        return await call
    except Exception as error:
        short = memory.shortage(error, otherwise)
        if short is None:
            raise
        await off_loop(threads, Context(), functools.partial(memory.release, error))
    raise short


class Models:
    """What `@stage(load=...)` loads, once for each function and what it was given."""

    def __init__(self, threads: Executor) -> None:
        self._threads = threads
        self._loads: dict[Hashable, asyncio.Task[Any]] = {}
        self._to_end: list[Generator[Any] | AsyncGenerator[Any]] = []
        # A load is no task's own, whoever needed it first.
        self._surroundings = contextvars.copy_context()

    async def get(self, load: Callable[..., Any], arguments: Mapping[str, Any], key: bytes) -> Any:
        """`key` stands for the arguments."""
        place = (load, key)
        loading = self._loads.get(place)
        if loading is None:
            call = short_of_memory(self._load(load, arguments), self._threads, "transient")
            loading = self._loads[place] = self._surroundings.run(asyncio.ensure_future, call)

            def ended(task: asyncio.Task[Any]) -> None:
                if task.cancelled() or task.exception() is not None:
                    self._loads.pop(place, None)

            loading.add_done_callback(ended)
        return await asyncio.shield(loading)

    async def _load(self, load: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        call = functools.partial(load, **arguments)
        if inspect.isasyncgenfunction(load) or inspect.isgeneratorfunction(load):
            steps = call()
            made = await self._step(steps)
            if made is _NOTHING:
                raise TypeError(f"{load.__qualname__}, which loads, ended without a `yield`")
            self._to_end.append(steps)
            return made
        if inspect.iscoroutinefunction(load):
            return await call()
        return await off_loop(self._threads, Context(), call)

    async def _step(self, steps: Generator[Any] | AsyncGenerator[Any]) -> Any:
        if isinstance(steps, Generator):
            return await off_loop(self._threads, Context(), lambda: next(steps, _NOTHING))
        return await anext(steps, _NOTHING)

    async def free(self) -> None:
        """Ends what is loaded, the latest first, and drops it."""
        if not self._loads:
            return
        for one in self._loads.values():
            one.cancel()
        while self._to_end:
            try:
                await self._step(self._to_end.pop())
            except Exception:
                logger.warning("what was loaded could not be freed", exc_info=True)
        self._loads.clear()
        await off_loop(self._threads, Context(), memory.release)


class Served:
    def __init__(self, stage: Stage[..., Any], models: Models, threads: Executor) -> None:
        self.stage = stage
        self._models = models
        self._threads = threads
        self.batcher: Batcher | None = None
        if stage.batch is not None:
            # The same threads for all calls: libraries of arrays keep much for a thread.
            self._lanes = ThreadPoolExecutor(stage.batch.lanes, f"batch-{stage.name}")
            self.batcher = Batcher(stage.batch, self._execute)

    async def arguments(self, given: object) -> dict[str, Any]:
        """The function's keyword arguments for `with`, what is loaded for it among them."""
        arguments = self.stage.parameters(given)
        if self.stage.load is not None:
            wanted, key = self.stage.load_parameters(given)
            loaded = await self._models.get(self.stage.load, wanted, key)
            arguments[self.stage.loaded_name] = loaded
        return arguments

    async def invoke(
        self,
        call: Callable[[], Any],
        threads: Executor,
        cx: Context,
        grace_s: float | None = GRACE_S,
    ) -> Any:
        """Calls the function, a sync one in a thread."""

        async def invoked() -> Any:
            if self.stage.is_async:
                return await call()
            result = await off_loop(threads, cx, call, grace_s)
            return await result if inspect.isawaitable(result) else result

        return await short_of_memory(invoked(), threads, "batch")

    def entry(
        self, batch: Batch, value: Any, arguments: Mapping[str, Any], given: bytes, cx: Context
    ) -> Entry | Exception:
        """An item for the batcher, or why it cannot be one. `given` stands for the arguments."""
        try:
            cost = 0.0 if batch.cost is None else float(batch.cost(value))
            if not cost >= 0:
                raise Invalid(f"the cost of an item should not be negative, and is {cost}")
            key: Hashable = given
            if batch.key is not None:
                known = {**self.stage.defaults, **arguments}
                if callable(batch.key):
                    key = batch.key(value, known)
                else:
                    key = tuple(repr(known.get(name)) for name in batch.key)
            # Never with another model than its own, whatever the key says.
            key = (key, id(arguments.get(self.stage.loaded_name)))
            hash(key)
        except Exception as error:
            return error
        return Entry(value, key, cost, arguments, cx)

    async def _execute(
        self, values: list[Any], arguments: Mapping[str, Any], cx: Context
    ) -> object:
        token = enter(cx)
        try:
            call = self.stage.bind(values, arguments)
            # A lane is free when its thread is, however long that takes.
            return await self.invoke(call, self._lanes, cx, grace_s=None)
        finally:
            leave(token)

    async def close(self) -> None:
        if self.batcher is not None:
            await self.batcher.close()
            self._lanes.shutdown(wait=False, cancel_futures=True)
