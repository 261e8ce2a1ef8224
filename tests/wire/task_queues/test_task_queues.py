"""Task queues: order, priority, statistics, pollers (B1, B7, B9).

Order holds within one partition of a queue; a server that has several needs to be set to one.
"""

from __future__ import annotations

import asyncio

import pytest
from google.protobuf.wrappers_pb2 import DoubleValue
from temporalio.api.common.v1 import Priority
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue, TaskQueueMetadata
from temporalio.api.workflowservice import v1 as api

from commands import activity, complete
from raw import SHORTEST_POLL, Wire
from values import seconds
from waiting import eventually

WORKFLOW = TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
ACTIVITY = TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY


async def describe(
    wire: Wire, kind: TaskQueueType.ValueType = WORKFLOW
) -> api.DescribeTaskQueueResponse:
    request = api.DescribeTaskQueueRequest(
        namespace=wire.namespace,
        task_queue=TaskQueue(name=wire.task_queue),
        task_queue_type=kind,
        report_stats=True,
    )
    return await wire.service.describe_task_queue(request)


@pytest.mark.ours
async def test_backlog_is_first_in_first_out(wire: Wire) -> None:
    runs = [await wire.start() for _ in range(10)]
    await _backlog(wire, WORKFLOW, 10)
    polled = [(await wire.step(complete())).workflow_execution.run_id for _ in runs]
    assert polled == [run.run_id for run in runs]


async def test_waiting_polls_each_get_one_task(wire: Wire) -> None:
    polls = [asyncio.create_task(wire.poll()) for _ in range(5)]
    runs = await asyncio.gather(*(wire.start() for _ in range(5)))
    tasks = await asyncio.gather(*polls)
    assert {task.workflow_execution.run_id for task in tasks} == {run.run_id for run in runs}
    await asyncio.gather(*(run.terminate() for run in runs))


async def test_workflow_priority_decides_in_a_backlog(wire: Wire) -> None:
    keys = [5, 0, 1, 3, 2, 4, 1]  # 0 is the middle, which is 3.
    started = {}
    for key in keys:
        run = await wire.start(priority=Priority(priority_key=key))
        started[run.run_id] = key or 3
    await _backlog(wire, WORKFLOW, len(keys))
    polled = [(await wire.step(complete())).workflow_execution.run_id for _ in keys]
    assert [started[run_id] for run_id in polled] == sorted(started.values())


async def test_activity_priority_overrides_the_workflows(wire: Wire) -> None:
    run = await wire.start(priority=Priority(priority_key=4))
    order = [("inherits", 0), ("last", 5), ("first", 1), ("default", 3)]
    await wire.step(
        *(
            activity(name, wire.task_queue, priority=Priority(priority_key=key))
            for name, key in order
        )
    )
    await _backlog(wire, ACTIVITY, 4)
    tasks = [await wire.poll_activity() for _ in order]
    assert [task.activity_id for task in tasks] == ["first", "default", "inherits", "last"]
    assert [task.priority.priority_key for task in tasks] == [1, 3, 4, 5]
    await run.terminate()


async def _backlog(wire: Wire, kind: TaskQueueType.ValueType, count: int) -> None:
    await eventually(
        lambda: describe(wire, kind),
        lambda described: described.stats.approximate_backlog_count == count,
    )


async def test_statistics_follow_the_backlog(wire: Wire) -> None:
    for _ in range(5):
        await wire.start()
    await _backlog(wire, WORKFLOW, 5)
    stats = (await describe(wire)).stats
    assert stats.approximate_backlog_age.ToNanoseconds() > 0
    assert stats.tasks_add_rate > 0
    for _ in range(5):
        await wire.step(complete())
    await _backlog(wire, WORKFLOW, 0)
    assert (await describe(wire)).stats.tasks_dispatch_rate > 0


async def test_pollers_are_listed_by_identity_and_kind(wire: Wire) -> None:
    await wire.poll_response(timeout=SHORTEST_POLL)
    (poller,) = (await describe(wire)).pollers
    assert poller.identity == "wire-worker"
    assert poller.HasField("last_access_time")
    assert not (await describe(wire, ACTIVITY)).pollers


async def test_empty_queue_has_empty_statistics(wire: Wire) -> None:
    described = await describe(wire)
    assert not described.pollers
    assert described.stats.approximate_backlog_count == 0
    assert described.stats.approximate_backlog_age.ToNanoseconds() == 0


async def test_partitions_start_with_the_queue_itself(wire: Wire) -> None:
    request = api.ListTaskQueuePartitionsRequest(
        namespace=wire.namespace, task_queue=TaskQueue(name=wire.task_queue)
    )
    listed = await wire.service.list_task_queue_partitions(request)
    for partitions in (
        listed.workflow_task_queue_partitions,
        listed.activity_task_queue_partitions,
    ):
        assert partitions[0].key == wire.task_queue


@pytest.mark.parametrize("zero", [True, False])
async def test_worker_sets_the_rate_of_its_activity_queue(wire: Wire, zero: bool) -> None:
    limit = TaskQueueMetadata(max_tasks_per_second=DoubleValue(value=0 if zero else 100))
    run = await wire.start()
    await wire.poll_activity_response(timeout=SHORTEST_POLL, task_queue_metadata=limit)
    await wire.step(activity("a", wire.task_queue, schedule_to_start_timeout=seconds(60)))
    got = await wire.poll_activity_response(timeout=SHORTEST_POLL, task_queue_metadata=limit)
    assert bool(got.task_token) != zero
    await run.terminate()
