"""What the bench runs; apart, as the SDK imports a workflow's module once more in its sandbox."""

from __future__ import annotations

from datetime import timedelta

from temporalio import activity, workflow


@activity.defn
async def step(number: int) -> int:
    return number + 1


@workflow.defn
class ThreeSteps:
    @workflow.run
    async def run(self, number: int) -> int:
        for _ in range(3):
            number = await workflow.execute_activity(
                step, number, start_to_close_timeout=timedelta(minutes=1)
            )
        return number
