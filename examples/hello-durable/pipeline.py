"""A workflow of five steps, as anyone would write it with Temporal's Python SDK.

Nothing in it knows about crashes: that the finished steps are kept is the engine's work.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from temporalio import activity, workflow

TASK_QUEUE = "hello-durable"
STEPS = ["fetch", "extract", "chunk", "embed", "publish"]
STEP_S = 1.0


@dataclass
class Task:
    number: int
    name: str


@activity.defn
async def work(task: Task) -> str:
    """Stands for something slow and expensive. Notes that it ran, where a crash cannot undo it."""
    note(f"{task.number} {task.name}")
    print(f"step {task.number} of {len(STEPS)}: {task.name} ...", flush=True)
    await asyncio.sleep(STEP_S)
    print(f"step {task.number} of {len(STEPS)}: {task.name} done", flush=True)
    return task.name


def note(line: str) -> None:
    ledger = os.open(Path(os.environ["LEDGER"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(ledger, f"{line}\n".encode())
    os.fsync(ledger)
    os.close(ledger)


@workflow.defn
class HelloDurable:
    @workflow.run
    async def run(self) -> str:
        done = []
        for number, name in enumerate(STEPS, start=1):
            task = Task(number, name)
            done.append(
                await workflow.execute_activity(
                    work, task, start_to_close_timeout=timedelta(seconds=30)
                )
            )
        return " -> ".join(done)
