"""What operators set on a task queue: shown, in force, and still there after a crash (B9)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from temporalio.api.enums.v1 import RateLimitSource, TaskQueueType
from temporalio.api.taskqueue.v1 import RateLimit, TaskQueue, TaskQueueConfig
from temporalio.api.workflowservice import v1 as api
from temporalio.client import Client

from commands import activity
from errors import INVALID, refused
from raw import SHORTEST_POLL, Wire
from server import Server

WORKFLOW = TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
ACTIVITY = TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY
BY_OPERATOR = RateLimitSource.RATE_LIMIT_SOURCE_API


async def limit(
    wire: Wire,
    per_second: float | None,
    reason: str,
    kind: TaskQueueType.ValueType = ACTIVITY,
) -> TaskQueueConfig:
    """Sets the rate of the queue, or removes what was set."""
    rate = None if per_second is None else RateLimit(requests_per_second=per_second)
    update = api.UpdateTaskQueueConfigRequest.RateLimitUpdate(rate_limit=rate, reason=reason)
    request = api.UpdateTaskQueueConfigRequest(
        namespace=wire.namespace,
        identity="operator",
        task_queue=wire.task_queue,
        task_queue_type=kind,
        update_queue_rate_limit=update,
    )
    return (await wire.service.update_task_queue_config(request)).config


async def describe(
    wire: Wire, kind: TaskQueueType.ValueType = ACTIVITY
) -> api.DescribeTaskQueueResponse:
    request = api.DescribeTaskQueueRequest(
        namespace=wire.namespace,
        task_queue=TaskQueue(name=wire.task_queue),
        task_queue_type=kind,
        report_config=True,
    )
    return await wire.service.describe_task_queue(request)


async def test_limit_is_shown_with_who_set_it_and_why(wire: Wire) -> None:
    assert not (await describe(wire)).HasField("config")
    config = await limit(wire, 3, "spare the model")
    described = await describe(wire)
    assert described.config == config
    set_by = config.queue_rate_limit.metadata
    assert (set_by.reason, set_by.update_identity) == ("spare the model", "operator")
    assert set_by.HasField("update_time")
    assert described.effective_rate_limit.requests_per_second == 3
    assert described.effective_rate_limit.rate_limit_source == BY_OPERATOR
    assert not (await describe(wire, WORKFLOW)).HasField("config")


async def test_removed_limit_leaves_who_removed_it(wire: Wire) -> None:
    await limit(wire, 3, "spare the model")
    await limit(wire, None, "a second model")
    described = await describe(wire)
    left = described.config.queue_rate_limit
    assert not left.HasField("rate_limit")
    assert left.metadata.reason == "a second model"
    assert described.effective_rate_limit.rate_limit_source != BY_OPERATOR


async def test_workflow_queues_have_no_limit(wire: Wire) -> None:
    with refused(INVALID):
        await limit(wire, 3, "no", WORKFLOW)
    assert not (await describe(wire, WORKFLOW)).HasField("config")


@pytest.mark.ours
async def test_limit_survives_a_kill(own_server: Callable[[], Server]) -> None:
    server = own_server()
    server.start()
    wire = Wire((await Client.connect(server.address)).workflow_service, "default", "limited")
    config = await limit(wire, 0, "paused")
    before = await describe(wire)
    run = await wire.start()
    await wire.step(activity("a", "limited"))

    server.kill()
    server.start()
    wire = Wire((await Client.connect(server.address)).workflow_service, "default", "limited")
    after = await describe(wire)
    assert after.config == config
    assert after.effective_rate_limit == before.effective_rate_limit
    # It is in force as well: the queue is paused until somebody says otherwise.
    assert not (await wire.poll_activity_response(timeout=SHORTEST_POLL)).task_token
    await limit(wire, None, "go on")
    assert (await wire.poll_activity()).activity_id == "a"
    await wire.run(run.workflow_id).terminate()
