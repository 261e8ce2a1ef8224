"""Task tokens that are empty, garbage or of the wrong kind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from temporalio.api.workflowservice import v1 as api
from temporalio.service import RPCError, RPCStatusCode

from errors import INVALID, refused
from histories import TASK
from raw import Wire
from values import payloads

Call = Callable[[Wire, bytes], Awaitable[Any]]


def _workflow(token: bytes) -> api.PollWorkflowTaskQueueResponse:
    return api.PollWorkflowTaskQueueResponse(task_token=token)


def _activity(token: bytes) -> api.PollActivityTaskQueueResponse:
    return api.PollActivityTaskQueueResponse(task_token=token)


async def answer_query(wire: Wire, token: bytes) -> None:
    request = api.RespondQueryTaskCompletedRequest(
        namespace=wire.namespace, task_token=token, query_result=payloads(1)
    )
    await wire.service.respond_query_task_completed(request)


WORKFLOW_CALLS: dict[str, Call] = {
    "complete workflow task": lambda wire, token: wire.complete(_workflow(token)),
    "fail workflow task": lambda wire, token: wire.fail(_workflow(token)),
    "answer query": answer_query,
}
ACTIVITY_CALLS: dict[str, Call] = {
    "complete activity": lambda wire, token: wire.complete_activity(_activity(token)),
    "fail activity": lambda wire, token: wire.fail_activity(_activity(token)),
    "cancel activity": lambda wire, token: wire.cancel_activity(_activity(token)),
    "heartbeat": lambda wire, token: wire.heartbeat(_activity(token)),
}
CALLS = WORKFLOW_CALLS | ACTIVITY_CALLS
GARBAGE = [b"", b"garbage", b"\x00", b"\xff" * 40, b"\xff" * 5000]


@pytest.mark.parametrize("name", CALLS)
async def test_garbage_is_an_invalid_argument(wire: Wire, name: str) -> None:
    for token in GARBAGE:
        with refused(INVALID) as refusal:
            await CALLS[name](wire, token)
        assert refusal.message


async def test_damaged_tokens_are_refused_or_still_good(wire: Wire) -> None:
    """Flip each byte of a token: a byte may not matter, but none leads anywhere else."""
    run = await wire.start()
    task = await wire.poll()
    allowed = {RPCStatusCode.INVALID_ARGUMENT, RPCStatusCode.NOT_FOUND}
    token = task.task_token
    for place in range(len(token)):
        damaged = token[:place] + bytes([token[place] ^ 0x55]) + token[place + 1 :]
        try:
            await wire.complete(_workflow(damaged))
        except RPCError as error:
            assert error.status in allowed, (place, error.status, error.message)
        else:
            assert await run.types() == ["WorkflowExecutionStarted", *TASK]
            break
    await run.terminate()
