"""The worker's process: runs until it is killed, over any number of engine restarts."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from pathlib import Path

from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

import workflows
from ledger import Execution, Ledger


def step_activity(ledger: Ledger):
    """The one activity: records that it runs, works for a while, and returns its value."""

    @activity.defn(name="step")
    async def step(asked: workflows.Step) -> int:
        info = activity.info()
        ledger.record(
            Execution(
                workflow_id=info.workflow_id or "",
                run_id=info.workflow_run_id or "",
                activity_id=info.activity_id,
                attempt=info.attempt,
                dispatched=info.started_time.timestamp(),
            )
        )
        await asyncio.sleep(asked.work_s)
        if info.attempt < asked.fail_before_attempt:
            raise ApplicationError(f"attempt {info.attempt} fails by design")
        return asked.value

    return step


async def serve(address: str, ledger: Ledger) -> None:
    client = await Client.connect(address)
    worker = Worker(
        client,
        task_queue=workflows.TASK_QUEUE,
        workflows=workflows.ALL,
        activities=[step_activity(ledger)],
        workflow_runner=UnsandboxedWorkflowRunner(),
        # A killed worker leaves its sticky queue unserved for this long.
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=2),
    )
    await worker.run()


async def main(address: str, ledger_path: Path) -> None:
    ledger = Ledger(ledger_path)
    while True:
        try:
            await serve(address, ledger)
        except (RPCError, RuntimeError) as error:
            # The engine may be down when the worker connects; that is what this harness is about.
            print(f"worker starts again: {error}", file=sys.stderr, flush=True)
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
