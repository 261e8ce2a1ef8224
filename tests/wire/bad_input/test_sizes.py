"""Payloads and messages that are too large."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest
from temporalio.api.common.v1 import Memo
from temporalio.api.enums.v1 import RetryState

import plain
from commands import activity, complete, marker
from errors import INVALID, refused
from histories import attributes_of, type_of
from raw import Wire
from values import payload, payloads, retry

LARGE = "x" * (3 << 20)
"""Above the 2 MiB that one payload may have, below the 4 MiB of a message."""


async def test_large_arguments_are_refused(wire: Wire) -> None:
    with refused(INVALID):
        await wire.start(input=payloads(LARGE))
    with refused(INVALID):
        await wire.start(memo=Memo(fields={"large": payload(LARGE)}))
    run = await wire.start()
    await wire.step()
    with refused(INVALID):
        await run.signal("s", LARGE)
    with refused(INVALID):
        await run.query("q", LARGE)
    assert (await run.types())[-1] == "WorkflowTaskCompleted"
    await run.terminate()


async def test_large_activity_result_fails_the_activity(wire: Wire) -> None:
    run = await wire.start()
    await wire.step(activity("a", wire.task_queue, retry_policy=retry()))
    await wire.complete_activity(await wire.poll_activity(), LARGE)
    failed = attributes_of(await run.history(), "ActivityTaskFailed")
    assert failed.failure.server_failure_info.non_retryable
    assert failed.retry_state == RetryState.RETRY_STATE_NON_RETRYABLE_FAILURE
    await run.terminate()


async def test_large_heartbeat_ends_the_activity(wire: Wire) -> None:
    run = await wire.start()
    await wire.step(activity("a", wire.task_queue))
    response = await wire.heartbeat(await wire.poll_activity(), LARGE)
    assert response.cancel_requested
    assert "ActivityTaskFailed" in await run.types()
    await run.terminate()


@pytest.mark.parametrize("what", ["result", "marker", "activity input"])
async def test_large_command_terminates_the_run(wire: Wire, what: str) -> None:
    run = await wire.start()
    command = {
        "result": complete(LARGE),
        "marker": marker("m", large=LARGE),
        "activity input": activity("a", wire.task_queue, input=payloads(LARGE)),
    }[what]
    with refused(INVALID):
        await wire.complete(await wire.poll(), command)
    assert type_of(await run.closed()) == "WorkflowExecutionTerminated"
    terminated = attributes_of(await run.history(), "WorkflowExecutionTerminated")
    assert terminated.reason
    if what == "activity input":
        text = "ScheduleActivityTaskCommandAttributes.Input exceeds size limit."
        assert terminated.reason == f"BadScheduleActivityAttributes: {text}"


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
async def test_message_above_the_limit_names_the_limit(
    address: str, wire: Wire, compression: grpc.Compression
) -> None:
    request = wire.start_request(input=payloads("x" * (5 << 20)))
    async with plain.service(address) as service:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.StartWorkflowExecution(request, compression=compression)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (caught.value.details() or "").startswith("grpc: received message")
        # The connection outlives the refusal.
        small = wire.start_request(input=payloads("small"))
        await service.StartWorkflowExecution(small, compression=compression)
    await wire.run(small.workflow_id).terminate()


async def test_many_large_messages_at_once(address: str, wire: Wire) -> None:
    request = wire.start_request(input=payloads("x" * (5 << 20)))
    async with plain.service(address) as service:
        calls = [service.StartWorkflowExecution(request) for _ in range(20)]
        results = await asyncio.gather(*calls, return_exceptions=True)
    codes = {result.code() for result in results if isinstance(result, grpc.aio.AioRpcError)}
    assert codes == {grpc.StatusCode.RESOURCE_EXHAUSTED}
