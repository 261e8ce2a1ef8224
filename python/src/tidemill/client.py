"""A client: starts pipelines on an engine, follows them, answers what they ask."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import uuid
from collections.abc import AsyncIterator, Generator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import Any

from temporalio.client import Client as EngineClient
from temporalio.client import (
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
)
from temporalio.exceptions import (
    ApplicationError,
    CancelledError,
    FailureError,
    TerminatedError,
    TimeoutError,
    WorkflowAlreadyStartedError,
)
from temporalio.service import RPCError, RPCStatusCode

from . import convert
from .data import is_object
from .errors import EngineUnreachable, Invalid, RunFailed
from .pipeline import Compiled, Pipeline, compile_pipeline

WORKFLOW = "tidemill.pipeline"
TASK_QUEUE = "tidemill-pipelines"
STATE_QUERY = "state"
ANSWER = "answer"


class Status(str, Enum):
    """Where a stage of a run is."""

    WAITING = "waiting"
    RUNNING = "running"
    ASKING = "asking"
    """It waits for a person."""
    DONE = "done"
    KEPT = "kept"
    """Its result was taken from an earlier run or from the cache."""
    SKIPPED = "skipped"
    FAILED = "failed"
    FAILED_ALLOWED = "failed_allowed"
    """It failed, and the run was allowed to go on."""
    CANCELED = "canceled"


@dataclass
class StepState:
    """How far a step of a fan-out is."""

    id: str
    uses: str
    chunks_done: int = 0
    chunks: int = 0
    items: int = 0
    """Items that came out."""
    failed: int = 0


def _no_steps() -> list[StepState]:
    return []


def _no_nodes() -> list[NodeState]:
    return []


@dataclass
class NodeState:
    id: str
    status: Status
    started_ms: int = 0
    """Milliseconds since 1970; 0 when it has not begun."""
    ended_ms: int = 0
    uses: str = ""
    output: Any = None
    """JSON, by reference when large; None until it has ended."""
    error: str | None = None
    message: str | None = None
    """Why it waits, or what it asks."""
    steps: list[StepState] = field(default_factory=_no_steps)
    choices: list[str] = field(default_factory=list[str])


@dataclass
class RunState:
    """What is known of a run while it goes on and after."""

    pipeline: str = ""
    plan: str = ""
    nodes: list[NodeState] = field(default_factory=_no_nodes)
    message: str | None = None

    def node(self, identity: str) -> NodeState:
        """The state of a stage. Raises KeyError."""
        for one in self.nodes:
            if one.id == identity:
                return one
        raise KeyError(f"the run has no stage {identity}")

    @property
    def asking(self) -> list[NodeState]:
        """Stages that wait for a person."""
        return [one for one in self.nodes if one.status is Status.ASKING]


class Run:
    """A run of a pipeline."""

    def __init__(self, handle: WorkflowHandle[Any, Any]) -> None:
        self._handle = handle

    @property
    def id(self) -> str:
        return self._handle.id

    async def state(self) -> RunState:
        """Where the run is now. Needs a process that serves interpreters, such as `tidemill up`."""
        with _known(self.id):
            answer: Any = await self._handle.query(STATE_QUERY)
        state: RunState = convert.from_json(answer, RunState, "the run's state")
        return state

    async def follow(self, *, every: timedelta | float = 0.5) -> AsyncIterator[RunState]:
        """The run's states, each time that one differs from the one before, up to the last one.
        `every` is the time between looks; a number is seconds."""
        pause_s = every.total_seconds() if isinstance(every, timedelta) else float(every)
        ended = asyncio.create_task(self._ended())
        last: RunState | None = None
        try:
            while True:
                over = ended.done()
                state = await self._state_if_known()
                if state is not None and state != last:
                    yield state
                    last = state
                if over:
                    # Raises what went wrong with the engine, not with the run.
                    final = await ended
                    if final is not None and final != last:
                        yield final
                    return
                await asyncio.wait({ended}, timeout=pause_s)
        finally:
            ended.cancel()

    async def result(self) -> Any:
        """Waits for the run's end and returns its outputs. Raises `RunFailed`."""
        try:
            with _known(self.id):
                result: Any = await self._handle.result()
        except WorkflowFailureError as error:
            raise _failed(self.id, error) from error
        return result["outputs"] if is_object(result) and "outputs" in result else result

    async def answer(
        self,
        node: str,
        choice: str = "approve",
        *,
        form: Mapping[str, Any] | None = None,
        by: str | None = None,
        comment: str = "",
    ) -> None:
        """Answers an approval. Raises `Invalid` when the answer is refused. `by` says who answers;
        the user of this process unless given."""
        answer = {
            "node": node,
            "choice": choice,
            "form": None if form is None else dict(form),
            "by": _user() if by is None else by,
            "comment": comment,
        }
        try:
            with _known(self.id):
                await self._handle.execute_update(ANSWER, answer)  # pyright: ignore[reportUnknownMemberType]
        except WorkflowUpdateFailedError as error:
            raise Invalid(_message(error.cause)) from error

    async def cancel(self) -> None:
        """Asks the run to end; its `finally` stages still run."""
        with _known(self.id):
            await self._handle.cancel()

    async def _ended(self) -> RunState | None:
        """Waits for the end; the last state is in the result, or in the failure's details."""
        try:
            with _known(self.id):
                result: Any = await self._handle.result()
        except WorkflowFailureError as error:
            cause = error.cause
            details = cause.details if isinstance(cause, (ApplicationError, CancelledError)) else ()
            state: Any = details[0] if details else None
        else:
            state = result.get("state") if is_object(result) else None
        if not is_object(state):
            return None
        return convert.from_json(state, RunState, "the run's last state")

    async def _state_if_known(self) -> RunState | None:
        """None where nobody can say: before the first task, or with no interpreter about."""
        try:
            return await self.state()
        except WorkflowQueryFailedError:
            return None
        except RPCError as error:
            passing = (
                RPCStatusCode.DEADLINE_EXCEEDED,
                RPCStatusCode.FAILED_PRECONDITION,
                RPCStatusCode.UNAVAILABLE,
                RPCStatusCode.INVALID_ARGUMENT,
            )
            if error.status in passing:
                return None
            raise


@contextlib.contextmanager
def _known(run_id: str) -> Generator[None]:
    """Raises `Invalid` when the engine does not know the run."""
    try:
        yield
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise Invalid(f"there is no run `{run_id}`; `tidemill ps` lists runs") from error
        raise


class Client:
    """A connection to an engine: `await Client.connect()`."""

    def __init__(self, engine: EngineClient) -> None:
        self.engine = engine
        """Temporal's client, for all that is not about pipelines."""

    @classmethod
    async def connect(cls, engine: str | None = None, *, namespace: str | None = None) -> Client:
        """Without an address the engine is where `TIDEMILL_ENGINE` says, or at 127.0.0.1:7233; the
        namespace is `TIDEMILL_NAMESPACE`, or `default`. Raises `EngineUnreachable`."""
        return cls(
            await connect_engine(engine or default_engine(), namespace or default_namespace())
        )

    async def start(
        self,
        pipeline: Pipeline | Compiled | Mapping[str, Any],
        inputs: Mapping[str, Any] | None = None,
        *,
        id: str | None = None,
    ) -> Run:
        """Starts a run. `pipeline` is built in code, compiled, or what `tidemill check --json`
        printed, as JSON. Raises `Invalid` when inputs are missing or a run of that id goes on."""
        if isinstance(pipeline, Pipeline):
            pipeline = await asyncio.to_thread(compile_pipeline, pipeline)
        if isinstance(pipeline, Compiled):
            plan, hash_ = pipeline.plan, pipeline.hash
        else:
            plan, hash_ = plan_of(pipeline), str(pipeline.get("hash", ""))
        given = dict(inputs or {})
        check_inputs(plan, given)
        identity = id or f"{plan.get('name') or 'pipeline'}-{uuid.uuid4().hex[:12]}"
        name = str(plan.get("name", ""))
        try:
            handle = await self.engine.start_workflow(
                WORKFLOW,
                {"plan": plan, "inputs": given},
                id=identity,
                task_queue=TASK_QUEUE,
                # `tidemill ps` shows these.
                memo={"pipeline": name, "plan": hash_},
                static_summary=name,
            )
        except WorkflowAlreadyStartedError as error:
            raise Invalid(f"run {identity} goes on already: choose another id") from error
        return Run(handle)

    def run(self, id: str) -> Run:
        """A run that was started earlier, by its id."""
        return Run(self.engine.get_workflow_handle(id))


def default_engine() -> str:
    return os.environ.get("TIDEMILL_ENGINE") or "127.0.0.1:7233"


def default_namespace() -> str:
    return os.environ.get("TIDEMILL_NAMESPACE") or "default"


async def connect_engine(address: str, namespace: str) -> EngineClient:
    """Temporal's client. Raises `EngineUnreachable`, which says what to do."""
    try:
        return await EngineClient.connect(address, namespace=namespace)
    except (RuntimeError, ValueError, OSError) as error:
        lines = str(error).strip().splitlines()
        raise EngineUnreachable(address, lines[0] if lines else type(error).__name__) from error


def plan_of(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """The plan in what `tidemill check --json` printed, or the plan itself. Raises `Invalid`."""
    plan: Any = value.get("plan", value)
    if not is_object(plan) or "nodes" not in plan:
        raise Invalid(
            "this is no plan: give what `tidemill check --json FILE` printed, or a Pipeline"
        )
    return plan


def check_inputs(plan: Mapping[str, Any], inputs: dict[str, Any]) -> None:
    """Fills in defaults, and refuses unknown and missing inputs by name."""
    schema: Any = plan.get("inputs")
    properties: Any = schema.get("properties") if is_object(schema) else None
    known: Mapping[str, Any] = properties if is_object(properties) else {}
    for name in inputs:
        if name not in known:
            raise convert.unknown_key(name, list(known), f"pipeline {plan.get('name')}'s `inputs`")
    for name, one in known.items():
        if name not in inputs and is_object(one) and "default" in one:
            inputs[name] = one["default"]
    required: list[Any] = schema.get("required") or [] if is_object(schema) else []
    for name in required:
        if name not in inputs:
            raise Invalid(f"pipeline {plan.get('name')} requires the input `{name}`")


def _failed(run_id: str, error: WorkflowFailureError) -> RunFailed:
    cause = error.cause
    status = "failed"
    if isinstance(cause, CancelledError):
        status = "canceled"
    elif isinstance(cause, TerminatedError):
        status = "terminated"
    elif isinstance(cause, TimeoutError):
        status = "timed out"
    return RunFailed(run_id, _message(cause), status=status)


def _message(cause: BaseException | None) -> str:
    """What the innermost failure says: the outer ones only say that something failed."""
    while cause is not None:
        inner = cause.__cause__
        if not isinstance(inner, FailureError):
            break
        cause = inner
    if isinstance(cause, FailureError):
        return cause.message
    return str(cause or "")


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""
