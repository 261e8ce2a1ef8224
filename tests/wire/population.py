"""Runs in every state that can last, and what a server shows of them."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import Memo, SearchAttributes
from temporalio.api.workflowservice import v1 as api

from commands import activity, child, complete, continue_as_new, fail, timer
from raw import Run, Wire, fresh
from values import payload, payloads, retry, seconds
from waiting import eventually


def octets(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


async def every_run(wire: Wire) -> list[api.ListWorkflowExecutionsResponse]:
    pages = [api.ListWorkflowExecutionsResponse()]
    while pages[-1].next_page_token or len(pages) == 1:
        request = api.ListWorkflowExecutionsRequest(
            namespace=wire.namespace, page_size=5, next_page_token=pages[-1].next_page_token
        )
        pages.append(await wire.service.list_workflow_executions(request))
    return pages[1:]


async def picture(wire: Wire) -> dict[str, bytes]:
    """List, descriptions and histories of everything, as bytes."""
    seen: dict[str, bytes] = {}
    for page in await every_run(wire):
        for info in page.executions:
            run = wire.run(info.execution.workflow_id, info.execution.run_id)
            seen[f"list {run.run_id}"] = octets(info)
            seen[f"describe {run.run_id}"] = octets(await run.describe())
            seen[f"history {run.run_id}"] = b"".join(map(octets, await run.history()))
    return seen


async def begun(wire: Wire, *orders: Command, **options: Any) -> Run:
    """A run that answered its first task with `orders`, on a task queue of its own."""
    own = Wire(wire.service, wire.namespace)
    run = await own.start(**options)
    await own.step(*orders)
    return run


async def populate(wire: Wire) -> tuple[int, list[Run]]:
    """Runs in every state that can last: how many, and those that are open."""
    remembered = {
        "memo": Memo(fields={"note": payload("kept")}),
        "search_attributes": SearchAttributes(indexed_fields={"WireInt": payload(7)}),
    }
    await begun(wire, complete("result"), **remembered)
    await begun(wire, fail())
    await (await begun(wire)).terminate()

    waits = await begun(wire, timer("t", 3600), **remembered)
    scheduled = await begun(wire, activity("a", "nobody", input=payloads("in")))
    backing_off = await begun(wire, activity("a", "fails", retry_policy=retry(first=3600)))
    await wire.fail_activity(await wire.poll_activity("fails"))
    beats = activity("a", "beats", close=3600, heartbeat_timeout=seconds(3000))
    running = await begun(wire, beats)
    await wire.heartbeat(await wire.poll_activity("beats"), "item 500")
    chained = await begun(wire, continue_as_new())
    current = wire.run(chained.workflow_id)
    await current.reaches("WorkflowTaskScheduled")
    base = await begun(wire, timer("t", 3600))
    reset = await base.reset(4)
    born = fresh("child")
    parent = await begun(wire, child(born, task_queue={"name": "nobody"}))
    await parent.reaches("ChildWorkflowExecutionStarted")
    await wire.run(born).reaches("WorkflowTaskScheduled")
    late = await wire.start(workflow_start_delay=seconds(3600))
    await late.signal("kept", 1)
    still = [waits, scheduled, backing_off, running, current, reset, parent, late]
    return 14, still


async def settled(wire: Wire, count: int) -> dict[str, bytes]:
    """The picture once all runs are listed and it no longer changes."""
    previous: dict[str, bytes] = {}

    async def look() -> tuple[bool, dict[str, bytes]]:
        nonlocal previous
        before, previous = previous, await picture(wire)
        return before == previous and len(previous) == 3 * count, previous

    _, seen = await eventually(look, lambda result: result[0])
    return seen


def differences(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
