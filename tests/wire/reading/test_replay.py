"""A stored history replays with the code that wrote it, and with no other (A2)."""

from __future__ import annotations

from datetime import timedelta

import pytest
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from raw import Wire, fresh
from replay import worker

SOON = timedelta(seconds=20)


@activity.defn
async def load() -> str:
    return "loaded"


@activity.defn
async def store() -> str:
    return "stored"


@workflow.defn(name="Pipeline")
class Pipeline:
    @workflow.run
    async def run(self) -> list[str]:
        return [
            await workflow.execute_activity(load, start_to_close_timeout=SOON),
            str(workflow.uuid4()),
            str(workflow.now()),
            await workflow.execute_activity(store, start_to_close_timeout=SOON),
        ]


@workflow.defn(name="Pipeline")
class Swapped:
    @workflow.run
    async def run(self) -> list[str]:
        return [
            await workflow.execute_activity(store, start_to_close_timeout=SOON),
            await workflow.execute_activity(load, start_to_close_timeout=SOON),
        ]


async def test_swapped_steps_are_found(client: Client, wire: Wire) -> None:
    async with worker(client, wire.task_queue, [Pipeline], [load, store]):
        handle = await client.start_workflow(
            Pipeline.run, id=fresh("pipeline"), task_queue=wire.task_queue
        )
        await handle.result()
    history = await handle.fetch_history()
    same = Replayer(workflows=[Pipeline], workflow_runner=UnsandboxedWorkflowRunner())
    for _ in range(3):
        await same.replay_workflow(history)
    other = Replayer(workflows=[Swapped], workflow_runner=UnsandboxedWorkflowRunner())
    with pytest.raises(workflow.NondeterminismError, match="load"):
        await other.replay_workflow(history)
