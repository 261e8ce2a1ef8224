"""`tidemill queue list` names every queue with a backlog that nobody polls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from commands import activity
from operators.tools import connect, tidemill
from raw import Wire
from server import Server
from waiting import eventually

pytestmark = pytest.mark.ours


async def queues(server: Server, *arguments: str) -> dict[tuple[str, str], Any]:
    listed = await tidemill("queue", "list", "--json", "--engine", server.address, *arguments)
    assert listed.code == 0, listed.error
    return {(queue["name"], queue["kind"]): queue for queue in listed.json["queues"]}


async def test_a_backlog_that_nobody_polls(own_server: Callable[[], Server]) -> None:
    server = own_server()
    server.start()
    wire = await connect(server)
    other = Wire(wire.service, wire.namespace)
    for _ in range(3):
        await wire.start()
    await other.start()
    await other.step(activity("a", "nobody"))
    left = (wire.task_queue, "TASK_KIND_WORKFLOW")
    nobody = ("nobody", "TASK_KIND_ACTIVITY")
    served = (other.task_queue, "TASK_KIND_WORKFLOW")

    found = await queues(server)
    assert {left, nobody, served} <= set(found)
    assert (found[left]["backlog"], found[left]["unattended"]) == (3, True)
    assert "last_poll_ms" not in found[left], "nobody ever polled it"
    assert not found[served]["unattended"] and found[served]["last_poll_ms"] >= 0
    assert set(await queues(server, "--unattended")) == {left, nobody}
    assert set(await queues(server, "--unattended", "--namespace", "default")) == {left, nobody}
    missing = await tidemill("queue", "list", "--engine", server.address, "--namespace", "x")
    assert missing.code == 1 and "x" in missing.error

    # Also by the command for resource classes, whatever the queue is called.
    for command in (["queue", "list"], ["queues"]):
        for_people = await tidemill(*command, "--engine", server.address)
        assert (
            f"! 3 tasks wait in {wire.task_queue} (workflow, namespace default)" in for_people.out
        )
        assert "! 1 task waits in nobody (activity, namespace default)" in for_people.out

    server.kill()
    server.start()
    again = await eventually(
        lambda: queues(server, "--unattended"), lambda found: {left, nobody} <= set(found)
    )
    assert set(again) == {left, nobody}

    # Somebody comes.
    wire = Wire((await connect(server)).service, "default", wire.task_queue)
    await wire.step()
    assert set(await queues(server, "--unattended")) == {nobody}
    await wire.poll_activity("nobody")
    assert await queues(server, "--unattended") == {}
