"""Large values beside the load: they make the engine write its tables often, and reuse space that deletions free.

Without them, SQLite's log would hardly ever be long enough to be copied into the data file, and no kill
would fall into that.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Iterator
from datetime import timedelta

from temporalio.api.common.v1 import Payload, WorkflowExecution, WorkflowType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice import v1 as api
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from load import insist

NAMESPACE = "ballast"
BYTES = 128 << 10
PAUSE_S = 0.03
KEPT = 60
"""Runs beyond these are deleted, the oldest first."""

CALL = timedelta(seconds=5)


def value(workflow_id: str) -> bytes:
    """What no compression makes smaller, and what can be told again from the id."""
    return random.Random(workflow_id).randbytes(BYTES)


class Ballast:
    def __init__(self, client: Client) -> None:
        self._client = client
        self._service = client.workflow_service
        self.kept: OrderedDict[str, str] = OrderedDict()
        """Run ids by workflow id of runs whose start was acknowledged, and that nobody deleted."""
        self.deleted: dict[str, str] = {}
        """Those whose deletion was acknowledged."""
        self._leaving: set[str] = set()

    @property
    def acknowledged(self) -> int:
        return len(self.kept) + 2 * len(self.deleted)

    async def run(self) -> None:
        """Starts and deletes until it is cancelled."""
        number = 0
        while True:
            await self._start(f"ballast-{number:05}")
            number += 1
            if len(self.kept) > KEPT:
                await self._delete(next(iter(self.kept)))
            await asyncio.sleep(PAUSE_S)

    async def _start(self, workflow_id: str) -> None:
        request = api.StartWorkflowExecutionRequest(
            namespace=NAMESPACE,
            workflow_id=workflow_id,
            workflow_type=WorkflowType(name="ballast"),
            task_queue=TaskQueue(name="nobody-polls-this"),
            # The same when the call is repeated: the answer is the same run.
            request_id=workflow_id,
        )
        request.input.payloads.append(Payload(data=value(workflow_id)))
        answer = await insist(
            lambda: self._service.start_workflow_execution(request, timeout=CALL, retry=False)
        )
        self.kept[workflow_id] = answer.run_id

    async def _delete(self, workflow_id: str) -> None:
        run_id = self.kept[workflow_id]
        target = WorkflowExecution(workflow_id=workflow_id, run_id=run_id)
        request = api.DeleteWorkflowExecutionRequest(namespace=NAMESPACE, workflow_execution=target)

        async def delete() -> None:
            try:
                await self._service.delete_workflow_execution(request, timeout=CALL, retry=False)
            except RPCError as error:
                # An earlier try took effect although its answer was lost.
                if error.status != RPCStatusCode.NOT_FOUND or workflow_id not in self._leaving:
                    raise
            finally:
                self._leaving.add(workflow_id)

        await insist(delete)
        del self.kept[workflow_id]
        self._leaving.discard(workflow_id)
        self.deleted[workflow_id] = run_id

    async def violations(self) -> list[str]:
        """What was acknowledged and does not hold."""
        stored = await self._stored()
        return list(judge(self.kept, self.deleted, self._leaving, stored))

    async def _stored(self) -> dict[str, bytes]:
        """The values of all runs, by run id."""
        stored = {}
        async for listed in self._client.list_workflows():
            handle = self._client.get_workflow_handle(listed.id, run_id=listed.run_id)
            async for event in handle.fetch_history_events():
                began = event.workflow_execution_started_event_attributes
                stored[listed.run_id] = began.input.payloads[0].data
                break
        return stored


def judge(
    kept: dict[str, str], deleted: dict[str, str], leaving: set[str], stored: dict[str, bytes]
) -> Iterator[str]:
    """A deletion that was begun and never acknowledged may have taken effect, or not."""
    for workflow_id, run_id in kept.items():
        found = stored.get(run_id)
        if found is None and workflow_id not in leaving:
            yield f"{workflow_id}: the start of run {run_id} was acknowledged, but it is not listed"
        elif found is not None and found != value(workflow_id):
            yield f"{workflow_id}: run {run_id} has another value than it was started with"
    for workflow_id, run_id in deleted.items():
        if run_id in stored:
            yield f"{workflow_id}: the deletion of run {run_id} was acknowledged, but it is listed"
