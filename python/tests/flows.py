"""Workflows that stand for the interpreter: they send tasks and hand back what comes."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError


@workflow.defn
class OneTask:
    """Sends one task to a stage. Returns its output."""

    @workflow.run
    async def run(self, stage: str, task: Any, queue: str, attempts: int) -> Any:
        result: Any = await workflow.execute_activity(
            stage,
            task,
            task_queue=queue,
            start_to_close_timeout=timedelta(seconds=30),
            heartbeat_timeout=timedelta(seconds=1),
            retry_policy=RetryPolicy(
                initial_interval=timedelta(milliseconds=10), maximum_attempts=attempts
            ),
        )
        return result


@workflow.defn(name="tidemill.pipeline")
class Interpreter:
    """Does what a client sees of the interpreter, with one approval in place of a pipeline."""

    def __init__(self) -> None:
        self.choice: dict[str, Any] | None = None
        self.status = "waiting"

    @workflow.run
    async def run(self, message: dict[str, Any]) -> Any:
        self.status = "asking"
        try:
            await workflow.wait_condition(lambda: self.choice is not None)
        except asyncio.CancelledError:
            self.status = "canceled"
            raise
        answer = self.choice or {}
        self.status = "done" if answer["choice"] == "approve" else "failed"
        if self.status == "failed":
            raise ApplicationError("stage review: rejected", self.state(), type="Rejected")
        outputs = {"answer": answer, "inputs": message["inputs"]}
        return {"outputs": outputs, "state": self.state()}

    @workflow.query
    def state(self) -> dict[str, Any]:
        node = {
            "id": "review",
            "uses": "approve",
            "status": self.status,
            "started_ms": 1,
            "ended_ms": 0,
            "output": None,
            "choices": ["approve", "reject"],
        }
        return {"pipeline": "demo", "plan": "sha256:0", "nodes": [node], "newer": "field"}

    @workflow.update
    def answer(self, answer: dict[str, Any]) -> None:
        self.choice = answer

    @answer.validator
    def check(self, answer: dict[str, Any]) -> None:
        if answer["choice"] not in ("approve", "reject"):
            raise ValueError(f"`{answer['choice']}` is no choice of stage `review`")
