"""The load of the power cuts: raw calls, and what each answer told, with the moment when it was told.

A moment is of the system's monotonic clock, as those of the trace are, and taken after the answer came.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice import v1 as api
from temporalio.service import RPCError, RPCStatusCode

import commands
from load import CUT
from raw import Run, Wire
from values import payloads

LARGE = 200 << 10
SETTLED_NS = 3_000_000_000
"""Runs that nobody touched for so long before a cut are checked by sample."""
SAMPLE = 100

CALL = timedelta(seconds=20)
SIGNALED = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
COMPLETED = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED


class Stopping(Exception):
    """A poll was answered without a task: so an engine does that was told to stop."""


def _is_cut(error: RPCError) -> bool:
    """Whether the connection ended, within an answer or before: the client's words, not the engine's."""
    return any(word in error.message for word in (*CUT, "connect error"))


def digest(event: HistoryEvent) -> bytes:
    return hashlib.sha1(event.SerializeToString(deterministic=True)).digest()


@dataclass
class Told:
    """What clients know of one run, each with its moment."""

    started: int
    seen: list[tuple[int, list[bytes]]] = field(default_factory=list)
    """How its history began."""
    signals: list[tuple[int, str]] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    """All signals that were sent, acknowledged or not."""
    closed: int | None = None
    leaving: int | None = None
    """When its deletion was asked for."""
    deleted: int | None = None

    def touched(self, moment: int) -> int:
        """The last thing told of it until then."""
        told = [self.started, self.closed, self.deleted]
        told += [when for when, _ in self.signals] + [when for when, _ in self.seen]
        return max(when for when in told if when is not None and when <= moment)

    def violations(self, events: Sequence[HistoryEvent], moment: int) -> Iterator[str]:
        """What was told until a moment and is not in a history."""
        ids = [event.event_id for event in events]
        if ids != list(range(1, len(ids) + 1)):
            yield f"event ids are {ids}"
        known = [digests for when, digests in self.seen if when <= moment]
        if known:
            longest = max(known, key=len)
            found = [digest(event) for event in events[: len(longest)]]
            if found != longest:
                same = sum(a == b for a, b in zip(found, longest, strict=False))
                yield f"{len(longest)} events were shown; of them {same} are in a history of {len(events)}"
        arrived = [
            event.workflow_execution_signaled_event_attributes.signal_name
            for event in events
            if event.event_type == SIGNALED
        ]
        twice = [name for name, times in Counter(arrived).items() if times > 1]
        if twice or set(arrived) - set(self.sent):
            yield f"signals {arrived} arrived, {self.sent} were sent"
        acknowledged = [name for when, name in self.signals if when <= moment]
        if [name for name in arrived if name in acknowledged] != acknowledged:
            yield f"signals {acknowledged} were acknowledged, {arrived} arrived"
        if self.closed and self.closed <= moment and events[-1].event_type != COMPLETED:
            yield "its end was acknowledged, and it is open"


@dataclass
class Book:
    """All that was told, by run id."""

    runs: dict[str, Told] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    """Workflow ids, by run id."""
    refusals: Counter[str] = field(default_factory=Counter)
    """What the engine said when it was UNAVAILABLE, how many times."""
    done: int = 0
    """Workflows that went from start to end."""
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def refuse(self, message: str) -> None:
        async with self.changed:
            self.refusals[message] += 1
            self.changed.notify_all()

    async def finish(self) -> None:
        async with self.changed:
            self.done += 1
            self.changed.notify_all()

    async def reaches(self, *, done: int = 0, refused: int = 0) -> None:
        """Waits for so many workflows and refusals in all."""
        async with self.changed:
            await self.changed.wait_for(
                lambda: self.done >= done and self.refusals.total() >= refused
            )

    def acknowledged(self, moment: int) -> int:
        """How many operations were, until then."""
        count = 0
        for told in self.runs.values():
            when = [told.started, told.closed, told.deleted, *(when for when, _ in told.signals)]
            count += sum(each is not None and each <= moment for each in when)
        return count

    async def violations(self, wire: Wire, moment: int, rng: random.Random) -> list[str]:
        """What was told until a moment and is not so in an engine."""
        found = []
        listed = await self.listed(wire)
        recent, settled = [], []
        for run_id, told in self.runs.items():
            if told.started > moment:
                continue
            if told.deleted and told.deleted <= moment:
                if run_id in listed:
                    found.append(f"{self.names[run_id]}: deleted, and listed")
            elif run_id not in listed:
                if not told.leaving or told.leaving > moment:
                    found.append(
                        f"{self.names[run_id]}: its start was acknowledged, and it is gone"
                    )
            elif told.leaving is None or told.leaving > moment:
                touched = told.touched(moment)
                (recent if touched > moment - SETTLED_NS else settled).append(run_id)
        settled = rng.sample(settled, min(SAMPLE, len(settled)))
        for run_id in recent + settled:
            run = Run(wire, self.names[run_id], run_id)
            events = await run.history()
            sentences = list(self.runs[run_id].violations(events, moment))
            if listed[run_id] != (events[-1].event_type == COMPLETED):
                sentences.append("list and history disagree on whether it is closed")
            found += [f"{run.workflow_id}: {sentence}" for sentence in sentences]
        return found

    @staticmethod
    async def listed(wire: Wire) -> dict[str, bool]:
        """All runs, and whether they are said to be closed."""
        listed: dict[str, bool] = {}
        token = b""
        while True:
            request = api.ListWorkflowExecutionsRequest(
                namespace=wire.namespace, page_size=1000, next_page_token=token
            )
            page = await wire.service.list_workflow_executions(request, timeout=CALL)
            listed |= {each.execution.run_id: each.status != 1 for each in page.executions}
            if not (token := page.next_page_token):
                return listed


class Lane:
    """One client. Each workflow has a task queue of its own, so that the tasks polled are its own."""

    def __init__(self, wire: Wire, book: Book, rng: random.Random, name: str) -> None:
        self._wire = wire
        self._book = book
        self._rng = rng
        self._name = name

    async def run(self) -> None:
        """Until the engine is gone."""
        number = 0
        while True:
            try:
                await self._workflow(f"{self._name}-{number}")
            except RPCError as error:
                if error.status == RPCStatusCode.UNAVAILABLE and not _is_cut(error):
                    await self._book.refuse(error.message)
                    await asyncio.sleep(0.02)
                elif error.status == RPCStatusCode.CANCELLED or _is_cut(error):
                    return
                else:
                    raise
            except Stopping:
                return
            number += 1

    async def _workflow(self, workflow_id: str) -> None:
        """One workflow from start to end, with signals and an activity."""
        wire, rng = Wire(self._wire.service, self._wire.namespace), self._rng
        size = LARGE if rng.random() < 0.2 else 50
        data = random.Random(workflow_id).randbytes(size)
        values = payloads("")
        del values.payloads[:]
        values.payloads.append(Payload(data=data))
        run = await wire.start(workflow_id, input=values)
        told = Told(time.monotonic_ns())
        self._book.names[run.run_id] = workflow_id
        self._book.runs[run.run_id] = told
        for number in range(rng.randrange(3)):
            await self._signal(run, told, f"{workflow_id}-{number}")
        task = await self._poll(wire)
        self._saw(told, task.history.events)
        await wire.complete(task, commands.activity("step", wire.task_queue))
        await self._look(run, told)
        step = await wire.poll_activity_response()
        if not step.task_token:
            raise Stopping
        await wire.complete_activity(step, "done")
        await self._look(run, told)
        if rng.random() < 0.2:
            return
        task = await self._poll(wire)
        self._saw(told, task.history.events)
        await wire.complete(task, commands.complete("result"))
        told.closed = time.monotonic_ns()
        await self._book.finish()
        await self._look(run, told)
        if rng.random() < 0.2:
            request = api.DeleteWorkflowExecutionRequest(
                namespace=wire.namespace, workflow_execution=run.execution
            )
            told.leaving = time.monotonic_ns()
            await wire.service.delete_workflow_execution(request, timeout=CALL)
            told.deleted = time.monotonic_ns()

    async def _poll(self, wire: Wire) -> api.PollWorkflowTaskQueueResponse:
        task = await wire.poll_response()
        if not task.task_token:
            raise Stopping
        return task

    async def _signal(self, run: Run, told: Told, name: str) -> None:
        told.sent.append(name)
        request = api.SignalWorkflowExecutionRequest(
            namespace=self._wire.namespace,
            workflow_execution=run.execution,
            signal_name=name,
            request_id=name,
        )
        await self._wire.service.signal_workflow_execution(request, timeout=CALL)
        told.signals.append((time.monotonic_ns(), name))

    async def _look(self, run: Run, told: Told) -> None:
        if self._rng.random() < 0.3:
            self._saw(told, await run.history())

    def _saw(self, told: Told, events: Sequence[HistoryEvent]) -> None:
        told.seen.append((time.monotonic_ns(), [digest(event) for event in events]))
