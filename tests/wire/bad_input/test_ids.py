"""Ids that are too long, empty or not what they should be."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from temporalio.api.common.v1 import WorkflowType
from temporalio.api.enums.v1 import WorkflowTaskFailedCause
from temporalio.api.taskqueue.v1 import TaskQueue

from commands import activity, child, marker, signal_external, timer
from errors import INVALID, refused
from histories import attributes_of
from raw import Wire
from values import retry, seconds

LONGEST = "x" * 1000
TOO_LONG = "x" * 1001
TOO_MANY_BYTES = "é" * 501
NOT_A_RUN_ID = "not-a-uuid"

STARTS: dict[str, dict[str, Any]] = {
    "no workflow id": {"workflow_id": ""},
    "long workflow id": {"workflow_id": TOO_LONG},
    "workflow id of many bytes": {"workflow_id": TOO_MANY_BYTES},
    "long request id": {"request_id": TOO_LONG},
    "no queue": {"task_queue": TaskQueue()},
    "long queue": {"task_queue": TaskQueue(name=TOO_LONG)},
    "reserved queue": {"task_queue": TaskQueue(name="/_sys/mine")},
    "cron": {"cron_schedule": "every now and then"},
    "negative execution timeout": {"workflow_execution_timeout": seconds(-1)},
    "negative run timeout": {"workflow_run_timeout": seconds(-1)},
    "negative task timeout": {"workflow_task_timeout": seconds(-1)},
    "negative delay": {"workflow_start_delay": seconds(-1)},
    "retry coefficient": {"retry_policy": retry(coefficient=0.5)},
    "retry attempts": {"retry_policy": retry(-1)},
    "retry timeout type": {"retry_policy": retry(fatal=("TemporalTimeout:Never",))},
    "priority": {"priority": {"priority_key": -1}},
}


@pytest.mark.parametrize("what", STARTS)
async def test_start_is_refused(wire: Wire, what: str) -> None:
    with refused(INVALID):
        await wire.start(**STARTS[what])


@pytest.mark.parametrize("type", ["", TOO_LONG])
async def test_workflow_type_is_checked(wire: Wire, type: str) -> None:
    request = wire.start_request()
    request.workflow_type.CopyFrom(WorkflowType(name=type))
    with refused(INVALID):
        await wire.service.start_workflow_execution(request)


async def test_longest_ids_are_accepted(wire: Wire) -> None:
    prefix = str(uuid4())
    run = await wire.start(prefix + LONGEST[len(prefix) :], request_id=LONGEST)
    await wire.step(timer(LONGEST, 60), activity(LONGEST, wire.task_queue))
    assert (await wire.poll_activity()).activity_id == LONGEST
    await run.signal(LONGEST)
    await run.terminate()


async def test_calls_check_their_ids(wire: Wire) -> None:
    run = await wire.start()
    nameless = wire.run("", run.run_id)
    no_uuid = wire.run(run.workflow_id, NOT_A_RUN_ID)
    for wrong in (nameless, no_uuid):
        for call in (
            wrong.describe(),
            wrong.history(),
            wrong.signal(),
            wrong.cancel(),
            wrong.terminate(),
            wrong.query(),
            wrong.update("u"),
            wrong.reset(4),
            wrong.delete(),
        ):
            with refused(INVALID):
                await call
    for call in (
        run.signal(TOO_LONG),
        run.signal(request_id=TOO_LONG),
        run.update(TOO_LONG),
    ):
        with refused(INVALID):
            await call
    await run.terminate()


CAUSE = WorkflowTaskFailedCause
COMMANDS = {
    "timer": (timer(TOO_LONG, 1), CAUSE.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_TIMER_ATTRIBUTES),
    "activity": (
        activity(TOO_LONG, "queue"),
        CAUSE.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_ACTIVITY_ATTRIBUTES,
    ),
    "activity type": (
        activity("a", "queue", type=TOO_LONG),
        CAUSE.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_ACTIVITY_ATTRIBUTES,
    ),
    "marker": (marker(TOO_LONG), CAUSE.WORKFLOW_TASK_FAILED_CAUSE_BAD_RECORD_MARKER_ATTRIBUTES),
    "child": (
        child(TOO_LONG),
        CAUSE.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_CHILD_EXECUTION_ATTRIBUTES,
    ),
    "external": (
        signal_external(TOO_LONG),
        CAUSE.WORKFLOW_TASK_FAILED_CAUSE_BAD_SIGNAL_WORKFLOW_EXECUTION_ATTRIBUTES,
    ),
}


@pytest.mark.parametrize("what", COMMANDS)
async def test_long_ids_in_commands_fail_the_task(wire: Wire, what: str) -> None:
    command, cause = COMMANDS[what]
    run = await wire.start()
    with refused(INVALID):
        await wire.complete(await wire.poll(), command)
    assert attributes_of(await run.history(), "WorkflowTaskFailed").cause == cause
    await run.terminate()
