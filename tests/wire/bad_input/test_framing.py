"""Requests whose messages are framed as gRPC does not have it: none, two, half, otherwise packed."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from temporalio.api.workflowservice import v1 as api

import plain
from raw import Wire
from values import payloads

METHOD = "/temporal.api.workflowservice.v1.WorkflowService/StartWorkflowExecution"


@pytest.mark.parametrize("count", [0, 2])
async def test_a_unary_request_is_one_message(address: str, wire: Wire, count: int) -> None:
    request = wire.start_request(input=payloads("x")).SerializeToString()

    async def messages() -> AsyncIterator[bytes]:
        for _ in range(count):
            yield request

    async with grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.stream_unary(METHOD)(messages(), timeout=20)
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert "message" in (caught.value.details() or "")


async def test_an_encoding_that_is_not_understood_is_named(address: str, wire: Wire) -> None:
    request = wire.start_request(input=payloads("x" * 1000))
    async with plain.service(address) as service:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.StartWorkflowExecution(request, compression=grpc.Compression.Deflate)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "deflate" in (caught.value.details() or "")


async def test_large_messages_arrive_in_pieces(address: str, wire: Wire) -> None:
    request = wire.start_request(input=payloads("x" * 1_900_000))
    async with plain.service(address) as service:
        for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
            request.request_id += "'"
            request.workflow_id += "'"
            await service.StartWorkflowExecution(request, compression=compression)
            asked = api.GetWorkflowExecutionHistoryRequest(namespace=wire.namespace)
            asked.execution.workflow_id = request.workflow_id
            answer = await service.GetWorkflowExecutionHistory(asked)
            started = answer.history.events[0].workflow_execution_started_event_attributes
            assert started.input == request.input
