"""The clients: start workflows, send their messages, wait for their results, and note what was acknowledged.

An operation is repeated until the engine acknowledges it, each time under the same id, as a careful
client would. So an acknowledged operation must have taken effect exactly once, however often it was sent.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import SignalWorkflowExecutionRequest
from temporalio.client import Client, WorkflowHandle, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.common import WorkflowIDReusePolicy
from temporalio.converter import DataConverter
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

import workflows
from workflows import Job, Step

LOST = {
    RPCStatusCode.UNAVAILABLE,
    RPCStatusCode.DEADLINE_EXCEEDED,
    RPCStatusCode.CANCELLED,
    RPCStatusCode.UNKNOWN,
}
"""What a client sees when the engine dies under its call. Any other status is the engine's own answer."""

CUT = ("transport", "h2 protocol", "connection", "broken pipe")
"""Words of the gRPC client's own message for a connection that ended inside an answer: it calls that INTERNAL."""

Answer = TypeVar("Answer")


@dataclass
class Case:
    """One workflow: what it is asked, what was acknowledged, and what it must return."""

    workflow_id: str
    kind: type
    job: Job
    messages: list[int] = field(default_factory=list)
    acknowledged: list[int] = field(default_factory=list)
    update_answers: list[int] = field(default_factory=list)
    first_run_id: str | None = None
    result: Any = None

    @property
    def expected(self) -> Any:
        if self.kind is workflows.Signals:
            return self.messages
        if self.kind is workflows.Updates:
            return sum(self.messages)
        return sum(step.value for step in self.job.steps)

    @property
    def expected_runs(self) -> int:
        return len(self.job.steps) if self.kind is workflows.ContinueAsNew else 1

    @property
    def expected_children(self) -> int:
        return len(self.job.steps) if self.kind is workflows.Children else 0


def draw(rng: random.Random, count: int) -> list[Case]:
    """Cases of every kind in turn, with sizes and times from `rng`."""
    return [
        _draw_one(rng, index, workflows.ALL[index % len(workflows.ALL)]) for index in range(count)
    ]


def _draw_one(rng: random.Random, index: int, kind: type) -> Case:
    steps = [
        Step(
            value=rng.randint(1, 1_000),
            work_s=rng.uniform(0.0, 0.3),
            fail_before_attempt=rng.randint(2, 4) if kind is workflows.Retries else 1,
        )
        for _ in range(rng.randint(3, 5))
    ]
    case = Case(f"crash-{index:04}-{kind.__name__}", kind, Job(steps))
    if kind is workflows.Timers:
        case.job.sleeps_s = [rng.uniform(0.05, 1.5) for _ in steps]
    if kind in (workflows.Signals, workflows.Updates):
        case.messages = [step.value for step in steps]
        case.job.expected_messages = len(steps)
    return case


async def insist(
    call: Callable[[], Awaitable[Answer]], failed: Callable[[], None] = lambda: None
) -> Answer:
    """Repeats a call while the engine is away; raises what the engine itself answers."""
    while True:
        try:
            return await call()
        except WorkflowUpdateRPCTimeoutOrCancelledError:
            pass
        except RPCError as error:
            cut = error.status == RPCStatusCode.INTERNAL and any(
                word in error.message for word in CUT
            )
            if error.status not in LOST and not cut:
                raise
        failed()
        await asyncio.sleep(0.1)


class Driver:
    """Takes cases from start to result. Counts the calls that had to be repeated."""

    def __init__(self, client: Client, rng: random.Random) -> None:
        self._client = client
        self._pauses = rng
        self.repeated = 0
        self.acknowledged = 0

    async def run(self, case: Case) -> None:
        handle = await self._start(case)
        if case.kind is workflows.Signals:
            await self._signal(case, handle)
        elif case.kind is workflows.Updates:
            await self._update(case, handle)
        case.result = await self._insist(handle.result)

    async def _start(self, case: Case) -> WorkflowHandle[Any, Any]:
        async def start() -> WorkflowHandle[Any, Any]:
            try:
                return await self._client.start_workflow(
                    case.kind.__name__,
                    case.job,
                    id=case.workflow_id,
                    task_queue=workflows.TASK_QUEUE,
                    id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                )
            except WorkflowAlreadyStartedError as already:
                # An earlier try took effect although its answer was lost.
                return self._client.get_workflow_handle(
                    case.workflow_id, first_execution_run_id=already.run_id
                )

        handle = await self._insist(start)
        case.first_run_id = handle.first_execution_run_id
        self.acknowledged += 1
        return handle

    async def _signal(self, case: Case, handle: WorkflowHandle[Any, Any]) -> None:
        for value in case.messages:
            # A raw request, because its id must stay the same when the call is repeated.
            request = SignalWorkflowExecutionRequest(
                namespace=self._client.namespace,
                workflow_execution=WorkflowExecution(workflow_id=handle.id),
                signal_name="arrive",
                request_id=str(uuid.uuid4()),
            )
            request.input.payloads.extend(await DataConverter.default.encode([value]))
            service = self._client.workflow_service
            await self._insist(partial(service.signal_workflow_execution, request, retry=True))
            self._acknowledge(case, value)
            await asyncio.sleep(self._pauses.uniform(0.0, 0.4))

    async def _update(self, case: Case, handle: WorkflowHandle[Any, Any]) -> None:
        for number, step in enumerate(case.job.steps):
            add = partial(
                handle.execute_update,
                "add",
                step,
                id=f"{case.workflow_id}-add-{number}",
                result_type=int,
            )
            case.update_answers.append(await self._insist(add))
            self._acknowledge(case, step.value)

    def _acknowledge(self, case: Case, value: int) -> None:
        case.acknowledged.append(value)
        self.acknowledged += 1

    async def _insist(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        return await insist(call, self._count_repeated)

    def _count_repeated(self) -> None:
        self.repeated += 1
