"""Reset: a new run that goes on from an earlier workflow task."""

from __future__ import annotations

from datetime import timedelta

import pytest
from temporalio import activity, workflow
from temporalio.api.enums.v1 import ResetReapplyExcludeType
from temporalio.client import Client

from commands import activity as schedule
from commands import complete, timer
from errors import INVALID, NOT_FOUND, refused
from histories import TASK, attributes_of, types
from raw import Wire, fresh
from replay import worker

SIGNAL = ResetReapplyExcludeType.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL
FORKED = ["WorkflowExecutionStarted", *TASK[:2], "WorkflowTaskFailed"]

SOON = timedelta(seconds=20)
runs_of_step: list[str] = []


@activity.defn
async def record(name: str) -> str:
    runs_of_step.append(name)
    return name


@workflow.defn
class TwoSteps:
    @workflow.run
    async def run(self) -> list[str]:
        return [
            await workflow.execute_activity(record, name, start_to_close_timeout=SOON)
            for name in (workflow.info().workflow_id + "/1", workflow.info().workflow_id + "/2")
        ]


async def test_sdk_steps_before_the_point_do_not_run_again(client: Client, wire: Wire) -> None:
    async with worker(client, wire.task_queue, [TwoSteps], [record]):
        handle = await client.start_workflow(
            TwoSteps.run, id=fresh("steps"), task_queue=wire.task_queue
        )
        expected = [f"{handle.id}/1", f"{handle.id}/2"]
        assert await handle.result() == expected
        assert handle.result_run_id is not None
        run = wire.run(handle.id, handle.result_run_id)
        second_task = [e for e in await run.history() if e.event_type == 7][1]
        new = await run.reset(second_task.event_id)
        again = client.get_workflow_handle(handle.id, run_id=new.run_id)
        assert await again.result() == expected
    mine = [name for name in runs_of_step if name.startswith(handle.id)]
    assert mine == [expected[0], expected[1], expected[1]]


@pytest.mark.parametrize("point", [3, 4])
async def test_points_inside_a_task_are_accepted(wire: Wire, point: int) -> None:
    run = await wire.start()
    await wire.step()
    new = await run.reset(point)
    assert await new.types() == [*FORKED, "WorkflowTaskScheduled"]
    await new.terminate()


@pytest.mark.parametrize("point", [-1, 0, 1, 2, 5, 6, 99])
async def test_other_points_are_refused(wire: Wire, point: int) -> None:
    run = await wire.start()
    await wire.step(timer("t", 3600))
    await run.signal()
    with refused(INVALID):
        await run.reset(point)
    assert await run.status() == "RUNNING"
    await run.terminate()


async def test_new_run_is_the_current_one(wire: Wire) -> None:
    run = await wire.start()
    await wire.step()
    with refused(INVALID):
        await run.reset(4, request_id="")
    new = await run.reset(4)
    current = await wire.run(run.workflow_id).describe()
    assert current.workflow_execution_info.execution == new.execution
    assert current.workflow_execution_info.first_run_id == run.run_id
    await new.terminate()


async def test_closed_run_can_be_reset(wire: Wire) -> None:
    run = await wire.start()
    await wire.step(complete("wrong"))
    new = await run.reset(4)
    assert await run.status() == "COMPLETED"
    await wire.step(complete("right"))
    assert await new.status() == "COMPLETED"


async def test_signals_may_be_left_behind(wire: Wire) -> None:
    run = await wire.start()
    await wire.step()
    await run.signal()
    new = await run.reset(4, reset_reapply_exclude_types=[SIGNAL])
    assert await new.types() == [*FORKED, "WorkflowTaskScheduled"]
    await new.terminate()


async def test_cancel_requests_stay_behind(wire: Wire) -> None:
    run = await wire.start()
    await wire.step()
    await run.cancel()
    new = await run.reset(4)
    assert "WorkflowExecutionCancelRequested" not in await new.types()
    await new.terminate()


async def test_pending_activity_and_timer_go_on_in_the_new_run(wire: Wire) -> None:
    run = await wire.start()
    await wire.step(schedule("a", wire.task_queue), timer("t", 1))
    lost = await wire.poll_activity()
    await run.signal()
    await wire.step()
    task_completed = types(await run.history()).index("WorkflowTaskCompleted", 5) + 1
    new = await run.reset(task_completed)
    with refused(NOT_FOUND):
        await wire.complete_activity(lost)
    again = await wire.poll_activity()
    assert again.workflow_execution.run_id == new.run_id
    await wire.complete_activity(again, "done")
    events = await new.reaches("TimerFired")
    assert attributes_of(events, "ActivityTaskCompleted").scheduled_event_id == 5
    await new.terminate()


async def test_old_worker_loses_its_task(wire: Wire) -> None:
    run = await wire.start()
    await wire.step()
    await run.signal()
    task = await wire.poll()
    new = await run.reset(4)
    with refused(NOT_FOUND):
        await wire.complete(task, complete())
    await new.terminate()


async def test_unknown_run(wire: Wire) -> None:
    with refused(NOT_FOUND):
        await wire.run(fresh("nobody")).reset(4)
    with refused(NOT_FOUND):
        run = await wire.start()
        await wire.run(run.workflow_id, fresh("")[1:]).reset(4)
    await run.terminate()
