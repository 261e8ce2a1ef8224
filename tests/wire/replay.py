"""Replays what SDK workers wrote: a history that does not replay is a server bug.

Workers made by `worker` note each run they execute. After the test its history goes through the
SDK's replayer, which fails on any event that the workflow's code does not explain.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import (
    ExecuteWorkflowInput,
    Interceptor,
    Replayer,
    UnsandboxedWorkflowRunner,
    Worker,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)

_classes: dict[str, type] = {}
_executed: set[tuple[str, str, str]] = set()


class _Note(WorkflowInboundInterceptor):
    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        info = workflow.info()
        _executed.add((info.namespace, info.workflow_id, info.run_id))
        return await super().execute_workflow(input)


class _Noting(Interceptor):
    def workflow_interceptor_class(
        self, input: WorkflowInterceptorClassInput
    ) -> type[WorkflowInboundInterceptor]:
        return _Note


@asynccontextmanager
async def worker(
    client: Client,
    task_queue: str,
    workflows: Sequence[type] = (),
    activities: Sequence[Callable[..., Any]] = (),
    **options: Any,
) -> AsyncIterator[Worker]:
    """An SDK worker whose runs are replayed when the test has ended."""
    for one in workflows:
        _classes[one.__qualname__] = one
    async with Worker(
        client,
        task_queue=task_queue,
        workflows=workflows,
        activities=activities,
        interceptors=[_Noting()],
        workflow_runner=UnsandboxedWorkflowRunner(),
        **options,
    ) as running:
        yield running


async def verify(client: Client) -> None:
    """Replay every run that was executed since the last call."""
    runs = sorted(_executed)
    _executed.clear()
    if not runs:
        return
    handles = [client.get_workflow_handle(id, run_id=run) for _, id, run in runs]
    histories = await asyncio.gather(*(handle.fetch_history() for handle in handles))
    replayer = Replayer(
        workflows=list(_classes.values()), workflow_runner=UnsandboxedWorkflowRunner()
    )
    for history in histories:
        await replayer.replay_workflow(history)
