"""What a worker keeps in its cache, and how it leaves (B12)."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice import v1 as api
from temporalio.client import Client

from commands import complete, timer
from histories import TASK, attributes, types
from raw import SHORTEST_POLL, Run, Wire, fresh
from replay import worker
from waiting import eventually

SOON = timedelta(seconds=30)


@activity.defn
async def pause() -> None:
    await asyncio.sleep(0.05)


@workflow.defn
class Steps:
    @workflow.run
    async def run(self, count: int) -> int:
        for _ in range(count):
            await workflow.execute_activity(pause, start_to_close_timeout=SOON)
        return count


async def test_drained_worker_loses_nothing(client: Client, wire: Wire) -> None:
    """One worker leaves in the middle of the work; the next finishes it without a timeout."""
    async with worker(client, wire.task_queue, [Steps], [pause]):
        handles = [
            await client.start_workflow(Steps.run, 5, id=fresh("steps"), task_queue=wire.task_queue)
            for _ in range(10)
        ]
        await wire.run(handles[0].id).reaches("ActivityTaskCompleted", 2)
    async with worker(client, wire.task_queue, [Steps], [pause]):
        assert [await handle.result() for handle in handles] == [5] * 10
    for handle in handles:
        happened = await wire.run(handle.id).types()
        assert "ActivityTaskTimedOut" not in happened
        assert "WorkflowTaskFailed" not in happened
        assert happened.count("ActivityTaskCompleted") == 5


async def test_work_without_cache_is_the_same_work(client: Client, wire: Wire) -> None:
    async with worker(client, wire.task_queue, [Steps], [pause], max_cached_workflows=0):
        result = await client.execute_workflow(
            Steps.run, 3, id=fresh("steps"), task_queue=wire.task_queue
        )
    assert result == 3


async def test_half_of_the_workers_may_go(client: Client, address: str, wire: Wire) -> None:
    other = await Client.connect(address)  # One connection serves a queue by one worker only.
    async with worker(client, wire.task_queue, [Steps], [pause]):
        async with worker(other, wire.task_queue, [Steps], [pause]):
            handles = [
                await client.start_workflow(
                    Steps.run, 3, id=fresh("steps"), task_queue=wire.task_queue
                )
                for _ in range(6)
            ]
        assert [await handle.result() for handle in handles] == [3] * 6


async def on_sticky(wire: Wire) -> tuple[Run, str]:
    """A run whose worker keeps it cached and still polls for it."""
    run, queue = await wire.start(), fresh("sticky")
    await wire.step(sticky=(queue, 60))
    await wire.poll_response(wire.sticky(queue), SHORTEST_POLL)
    return run, queue


async def test_sticky_task_brings_only_what_is_new(wire: Wire) -> None:
    run, queue = await on_sticky(wire)
    await run.signal()
    task = await wire.poll(wire.sticky(queue))
    assert task.previous_started_event_id == 3
    assert types(task.history.events) == [
        "WorkflowTaskCompleted",
        "WorkflowExecutionSignaled",
        *TASK[:2],
    ]
    assert task.workflow_execution_task_queue.name == wire.task_queue
    await wire.complete(task, complete())


async def test_reset_sticky_returns_to_the_normal_queue(wire: Wire) -> None:
    run, _ = await on_sticky(wire)
    request = api.ResetStickyTaskQueueRequest(namespace=wire.namespace, execution=run.execution)
    await wire.service.reset_sticky_task_queue(request)
    await run.signal()
    task = await wire.poll()
    scheduled = [e for e in task.history.events if e.event_type == 5][-1]
    assert attributes(scheduled).task_queue.name == wire.task_queue
    await wire.complete(task, complete())


async def test_shut_down_worker_gives_its_sticky_tasks_back(wire: Wire) -> None:
    run, queue = await on_sticky(wire)
    request = api.ShutdownWorkerRequest(
        namespace=wire.namespace, sticky_task_queue=queue, identity="wire-worker", reason="drain"
    )
    await wire.service.shutdown_worker(request)
    await run.signal()
    task = await wire.poll()
    assert task.history.events[0].event_id == 1
    await wire.complete(task, complete())


async def test_completion_without_sticky_attributes_ends_stickiness(wire: Wire) -> None:
    run, queue = await on_sticky(wire)
    await run.signal()
    await wire.complete(await wire.poll(wire.sticky(queue)))
    await run.signal()
    assert (await wire.poll()).history.events[0].event_id == 1
    await run.terminate()


async def test_new_task_comes_with_the_completion(wire: Wire) -> None:
    run = await wire.start()
    done = await wire.complete(await wire.poll(), force_new=True, return_new=True)
    task = done.workflow_task
    assert types(task.history.events) == TASK[2:] + TASK[:2]
    assert task.started_event_id == 6
    await wire.complete(task, timer("t", 3600), complete())
    assert await run.status() == "COMPLETED"


async def test_signal_during_a_task_comes_with_the_next_one(wire: Wire) -> None:
    run = await wire.start()
    task = await wire.poll()
    await run.signal()
    done = await wire.complete(task, return_new=True)
    assert types(done.workflow_task.history.events) == [
        "WorkflowTaskCompleted",
        "WorkflowExecutionSignaled",
        *TASK[:2],
    ]
    await wire.complete(done.workflow_task, complete())


async def test_polls_of_a_worker_that_leaves_end_empty(wire: Wire) -> None:
    """They are answered, not dropped: what was on its way is not lost (worker_poll_complete_on_shutdown)."""
    described = await wire.service.describe_namespace(
        api.DescribeNamespaceRequest(namespace=wire.namespace)
    )
    assert described.namespace_info.capabilities.worker_poll_complete_on_shutdown
    key = fresh("instance")

    def poll() -> asyncio.Task[api.PollActivityTaskQueueResponse]:
        request = api.PollActivityTaskQueueRequest(
            namespace=wire.namespace,
            task_queue=TaskQueue(name=wire.task_queue),
            identity="leaving",
            worker_instance_key=key,
        )
        call = wire.service.poll_activity_task_queue(request, timeout=timedelta(seconds=60))
        return asyncio.ensure_future(call)

    before = poll()
    await eventually(
        lambda: wire.service.describe_task_queue(
            api.DescribeTaskQueueRequest(
                namespace=wire.namespace,
                task_queue=TaskQueue(name=wire.task_queue),
                task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
            )
        ),
        lambda queue: len(queue.pollers) == 1,
    )
    await wire.service.shutdown_worker(
        api.ShutdownWorkerRequest(
            namespace=wire.namespace,
            identity="leaving",
            worker_instance_key=key,
            task_queue=wire.task_queue,
            task_queue_types=[TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY],
        )
    )
    # One that waited, and one that was on its way: long before their minute is over.
    answers = await asyncio.wait_for(asyncio.gather(before, poll()), 20)
    assert all(not answer.task_token for answer in answers)
