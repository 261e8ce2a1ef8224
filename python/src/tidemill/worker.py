"""A worker: serves stages on a task queue of an engine, through Temporal's Python SDK."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio import activity
from temporalio.client import Client as EngineClient
from temporalio.exceptions import ApplicationError
from temporalio.worker import PollerBehaviorSimpleMaximum
from temporalio.worker import Worker as EngineWorker

from .artifacts import Artifacts
from .batch import BatchStats
from .context import Context
from .errors import StageError
from .log import logger
from .served import Models, Served
from .stage import Stage
from .task import Task, describe, perform

DEFAULT_QUEUE = "python"
_SILENCE_S = 10.0
"""Time between heartbeats when the task has no heartbeat timeout."""
_POLLERS = 5
_POLLERS_FOR_BATCHES = 10
"""A batch of many tasks is there sooner with more of them."""
_KEYS = 3
"""So many batches, of different keys, fill while others are at work."""
_THREADS_FOR_WAITING = 8
"""Read and write for tasks that wait for batches."""


@dataclass
class Options:
    queue: str = DEFAULT_QUEUE
    """The resource class that pipelines name: `resource: python`."""
    artifacts: Path | str = field(default_factory=lambda: default_artifacts())
    """The artifact store, the same that the engine's other workers use: a folder or
    `s3://bucket/prefix`."""
    slots: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Tasks at a time. Those that wait for a batch are not counted: of them the worker takes as
    many as fill the batches under way and the next ones."""
    grace: timedelta = timedelta(seconds=10)
    """How long running tasks may go on after the worker was told to stop. What still runs then is
    cancelled and handed back."""


def default_artifacts() -> str:
    """`TIDEMILL_ARTIFACTS`, or the folder that `tidemill up` makes in its data folder."""
    data = Path(os.environ.get("TIDEMILL_DATA", ".tidemill"))
    return os.environ.get("TIDEMILL_ARTIFACTS", str(data / "artifacts"))


class Worker:
    """Serves stages until it is stopped."""

    def __init__(
        self,
        engine: EngineClient,
        stages: Sequence[Stage[..., Any]],
        options: Options | None = None,
    ) -> None:
        """Raises TypeError or ValueError when a function cannot be a stage, or names clash."""
        options = options or Options()
        self.stages = unique(stages)
        artifacts = Artifacts.open(options.artifacts)
        self.artifacts: str = artifacts.place
        """The artifact store: its folder or URL."""
        parallel = max(one.concurrency for one in self.stages)
        waiting = waiting_slots(self.stages)
        self._threads = ThreadPoolExecutor(
            options.slots * parallel + min(waiting, _THREADS_FOR_WAITING),
            thread_name_prefix="stage",
        )
        self._models = Models(self._threads)
        self._served = [Served(one, self._models, self._threads) for one in self.stages]
        # Slots for those that wait do not let more of the others run.
        room = asyncio.Semaphore(options.slots)
        self._worker = EngineWorker(
            engine,
            task_queue=options.queue,
            activities=[_activity(one, artifacts, self._threads, room) for one in self._served],
            max_concurrent_activities=options.slots + waiting,
            activity_task_poller_behavior=PollerBehaviorSimpleMaximum(
                _POLLERS_FOR_BATCHES if waiting else _POLLERS
            ),
            graceful_shutdown_timeout=options.grace,
            identity=f"tidemill-python@{os.getpid()}@{socket.gethostname()}",
        )

    async def run(self) -> None:
        """Serves until `stop`. Raises when the engine refuses the worker."""
        try:
            await self._worker.run()
        finally:
            await self._end()

    async def stop(self) -> None:
        """Takes no more tasks, lets running ones end, and returns when they have."""
        self._drain()
        await self._worker.shutdown()

    def stats(self) -> dict[str, BatchStats]:
        """What became of batches, by the stage's name."""
        return {
            one.stage.name: one.batcher.stats() for one in self._served if one.batcher is not None
        }

    async def __aenter__(self) -> Worker:
        await self._worker.__aenter__()
        return self

    async def __aexit__(self, *failure: Any) -> None:
        self._drain()
        try:
            await self._worker.__aexit__(*failure)
        finally:
            await self._end()

    @property
    def waiting(self) -> int:
        """Items that wait for a batch."""
        return sum(one.batcher.waiting for one in self._served if one.batcher is not None)

    def _drain(self) -> None:
        for one in self._served:
            if one.batcher is not None:
                one.batcher.drain()

    async def _end(self) -> None:
        for one in self._served:
            await one.close()
        await self._models.free()
        self._threads.shutdown(wait=False, cancel_futures=True)
        for name, stats in self.stats().items():
            logger.info("stage %s: %s", name, stats)


def waiting_slots(stages: Sequence[Stage[..., Any]]) -> int:
    """Tasks that may wait for a batch, each with one item at least: those in calls, a full batch
    of each of some keys, and what pollers have not yet handed over."""
    batches = [one.batch for one in stages if one.batch is not None]
    return sum((one.lanes + _KEYS) * one.items + _POLLERS_FOR_BATCHES for one in batches)


def unique(stages: Sequence[Stage[..., Any]]) -> list[Stage[..., Any]]:
    """Each stage once, checked."""
    by_name: dict[str, Stage[..., Any]] = {}
    for one in stages:
        one.check()
        if by_name.setdefault(one.name, one) is not one:
            raise ValueError(
                f"two stages are called {one.name}: {by_name[one.name].function.__module__} and "
                f"{one.function.__module__}. Give one another name with @stage(name=...)."
            )
    if not by_name:
        raise ValueError("there is no stage to serve: mark functions with @tidemill.stage")
    return list(by_name.values())


def _activity(
    served: Served, artifacts: Artifacts, threads: ThreadPoolExecutor, room: asyncio.Semaphore
) -> Callable[[Any], Awaitable[Any]]:
    stage = served.stage
    entrance = room if stage.batch is None else contextlib.nullcontext()

    @activity.defn(name=stage.name)
    async def run(payload: Any) -> Any:
        try:
            task = Task.from_json(payload)
            async with _alive() as report:
                cx = Context(
                    run_id=task.run_id,
                    pipeline=task.pipeline,
                    plan=task.plan,
                    stage=task.stage,
                    attempt=activity.info().attempt,
                    artifacts=artifacts.for_run(task.run_id),
                    _report=report,
                )
                try:
                    async with entrance:
                        return await perform(served, task, artifacts, cx, threads)
                except asyncio.CancelledError:
                    cx.cancel()
                    raise
        except asyncio.CancelledError:
            if activity.is_worker_shutdown():
                # Not the run's cancellation: another worker may have it.
                raise ApplicationError("the worker stops", type="Cancelled") from None
            raise
        except Exception as error:
            raise failure(error, stage.name) from error

    return run


def failure(error: Exception, stage: str) -> ApplicationError:
    """What the engine is told of an exception."""
    message = f"stage {stage}: {describe(error)}"
    if isinstance(error, StageError):
        return ApplicationError(
            message,
            type=error.kind,
            non_retryable=not error.retryable,
            next_retry_delay=error.retry_after,
        )
    return ApplicationError(message, type=StageError.kind)


@contextlib.asynccontextmanager
async def _alive() -> AsyncGenerator[Callable[[str], None]]:
    """Sends heartbeats, as long as the event loop runs; gives what reports progress."""
    loop = asyncio.get_running_loop()
    surroundings = contextvars.copy_context()
    timeout = activity.info().heartbeat_timeout
    pause_s = timeout.total_seconds() / 3 if timeout else _SILENCE_S
    latest = ""

    def beat() -> None:
        activity.heartbeat(*([latest] if latest else []))

    def report(line: str) -> None:
        nonlocal latest
        latest = line or latest
        # A task's thread may outlive the loop when the process ends.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(beat, context=surroundings)

    async def keep_on() -> None:
        while True:
            beat()
            await asyncio.sleep(pause_s)

    beating = asyncio.create_task(keep_on())
    try:
        yield report
    finally:
        beating.cancel()
