"""Bytes that are no HTTP/2, messages that are no protobuf, clients that vanish."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress

import grpc
import grpc.aio
import psutil
import pytest
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice import v1 as api

import plain
from commands import complete
from raw import Wire
from server import Server
from waiting import eventually

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SERVICE = "/temporal.api.workflowservice.v1.WorkflowService/"


def noise(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


SENT: dict[str, Sequence[bytes]] = {
    "nothing": [],
    "random": [noise(seed, 4096) for seed in range(20)],
    "http 1": [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"],
    "preface then random": [PREFACE + noise(seed, 4096) for seed in range(20)],
    "preface then a huge frame": [PREFACE + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + b"x" * 9000],
    "half a preface": [PREFACE[:9]],
}


async def send(address: str, data: bytes) -> None:
    """Write, then hang up; how the server reacts on this connection is its own business."""
    host, port = address.rsplit(":", 1)
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    with suppress(ConnectionError):  # The server may hang up first.
        await writer.drain()
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("what", SENT)
async def test_bytes_that_are_no_request(address: str, what: str) -> None:
    await asyncio.gather(*(send(address, data) for data in SENT[what]))


@pytest.mark.parametrize("method", ["StartWorkflowExecution", "PollWorkflowTaskQueue", "Nothing"])
async def test_messages_that_are_no_protobuf(address: str, method: str) -> None:
    expected = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL}
    if method == "Nothing":
        expected = {grpc.StatusCode.UNIMPLEMENTED}
    async with grpc.aio.insecure_channel(address) as channel:
        for seed in range(20):
            call = channel.unary_unary(SERVICE + method)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"\xff" + noise(seed, 200), timeout=20)
            assert caught.value.code() in expected, caught.value.details()


def poll_request(wire: Wire, identity: str) -> api.PollWorkflowTaskQueueRequest:
    return api.PollWorkflowTaskQueueRequest(
        namespace=wire.namespace,
        task_queue=TaskQueue(name=wire.task_queue),
        identity=identity,
    )


async def pollers(wire: Wire) -> int:
    request = api.DescribeTaskQueueRequest(
        namespace=wire.namespace,
        task_queue=TaskQueue(name=wire.task_queue),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    )
    return len((await wire.service.describe_task_queue(request)).pollers)


async def vanish(address: str, wire: Wire, polls: int, politely: bool) -> None:
    """Start polls, then cancel each of them, or just close the connection."""
    async with plain.service(address) as service:
        calls = [
            service.PollWorkflowTaskQueue(poll_request(wire, f"{wire.task_queue}-{n}"), timeout=60)
            for n in range(polls)
        ]
        waiting = [asyncio.ensure_future(_ended(call)) for call in calls]
        # A server may spread the polls of a queue, and lists those of one part.
        await eventually(lambda: pollers(wire), lambda count: count >= min(polls // 10, 50))
        if politely:
            for call in calls:
                call.cancel()
    await asyncio.gather(*waiting)


async def _ended(call: grpc.aio.UnaryUnaryCall[object, object]) -> None:
    with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
        await call


@pytest.mark.parametrize("politely", [True, False])
async def test_vanished_polls_take_no_tasks(
    address: str, wire: Wire, server: Server | None, politely: bool
) -> None:
    process = psutil.Process(server.pid) if server is not None else None
    await vanish(address, wire, 10, politely)
    before = process.memory_info().rss if process else 0
    for _ in range(2):
        await vanish(address, wire, 500, politely)
    # Nobody waits any more: each of these waits in the backlog for the poll that follows.
    runs = [await wire.start() for _ in range(5)]
    for _ in runs:
        await wire.step(complete())
    assert {await run.status() for run in runs} == {"COMPLETED"}
    if process is not None:
        grown = process.memory_info().rss - before
        assert grown < 64 << 20, f"1,000 vanished polls cost {grown >> 20} MiB"
