"""The workflows that are under way while the engine is killed, one per kind of progress to lose."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

TASK_QUEUE = "crash"

# A killed worker's attempt is only given up when this time has passed, so it bounds how long a run waits.
ATTEMPT = timedelta(seconds=6)
RETRY = RetryPolicy(
    initial_interval=timedelta(milliseconds=100), maximum_interval=timedelta(seconds=1)
)


@dataclass
class Step:
    """What an activity is asked to do."""

    value: int
    work_s: float
    fail_before_attempt: int = 1


@dataclass
class Job:
    """What a workflow is asked to do. The driver draws it, so a run needs no randomness of its own."""

    steps: list[Step]
    sleeps_s: list[float] = field(default_factory=list)
    expected_messages: int = 0
    total: int = 0


async def run_step(step: Step) -> int:
    return await workflow.execute_activity(
        "step", step, start_to_close_timeout=ATTEMPT, retry_policy=RETRY, result_type=int
    )


@workflow.defn
class Sequence:
    """Activities one after the other."""

    @workflow.run
    async def run(self, job: Job) -> int:
        total = 0
        for step in job.steps:
            total += await run_step(step)
        return total


@workflow.defn
class Parallel:
    """Activities all at once."""

    @workflow.run
    async def run(self, job: Job) -> int:
        return sum(await asyncio.gather(*(run_step(step) for step in job.steps)))


@workflow.defn
class Timers:
    """A timer before each activity."""

    @workflow.run
    async def run(self, job: Job) -> int:
        total = 0
        for step, sleep_s in zip(job.steps, job.sleeps_s, strict=True):
            await workflow.sleep(sleep_s)
            total += await run_step(step)
        return total


@workflow.defn
class Retries:
    """Activities that fail a few times first."""

    @workflow.run
    async def run(self, job: Job) -> int:
        return sum([await run_step(step) for step in job.steps])


@workflow.defn
class Signals:
    """Returns every signal in the order of arrival, after an activity for each."""

    def __init__(self) -> None:
        self._arrived: list[int] = []

    @workflow.run
    async def run(self, job: Job) -> list[int]:
        for index, step in enumerate(job.steps):
            await workflow.wait_condition(lambda index=index: len(self._arrived) > index)
            await run_step(step)
        return self._arrived

    @workflow.signal
    def arrive(self, value: int) -> None:
        self._arrived.append(value)


@workflow.defn
class Updates:
    """Keeps a total that each update raises and answers with; an activity runs inside each update."""

    def __init__(self) -> None:
        self._total = 0
        self._done = 0
        self._lock = asyncio.Lock()

    @workflow.run
    async def run(self, job: Job) -> int:
        await workflow.wait_condition(lambda: self._done == job.expected_messages)
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self._total

    @workflow.update
    async def add(self, step: Step) -> int:
        async with self._lock:
            self._total += await run_step(step)
            self._done += 1
            return self._total

    @add.validator
    def validate_add(self, step: Step) -> None:
        if step.value < 0:
            raise ValueError("values are positive")


@workflow.defn
class Children:
    """A child workflow per step, two at a time."""

    @workflow.run
    async def run(self, job: Job) -> int:
        slots = asyncio.Semaphore(2)

        async def child(index: int, step: Step) -> int:
            async with slots:
                child_id = f"{workflow.info().workflow_id}-child-{index}"
                return await workflow.execute_child_workflow(Sequence.run, Job([step]), id=child_id)

        return sum(await asyncio.gather(*(child(*numbered) for numbered in enumerate(job.steps))))


@workflow.defn
class ContinueAsNew:
    """A run per step; the total travels in the input."""

    @workflow.run
    async def run(self, job: Job) -> int:
        first, *rest = job.steps
        total = job.total + await run_step(first)
        if rest:
            workflow.continue_as_new(Job(rest, total=total))
        return total


ALL: list[type] = [Sequence, Parallel, Timers, Retries, Signals, Updates, Children, ContinueAsNew]
