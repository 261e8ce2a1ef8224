"""What `/metrics` says of task queues and of the store (B10)."""

from __future__ import annotations

import asyncio
import re
import urllib.request

import pytest

from commands import activity, complete
from raw import Wire
from server import Server
from waiting import eventually

pytestmark = pytest.mark.ours


def scrape(server: Server) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as response:
        return response.read().decode()


def value(text: str, name: str, **labels: str) -> float:
    """The value of the one series of this name that has these labels; 0 where there is none."""
    found = [
        float(number)
        for series, shown, number in re.findall(r"(?m)^(\w+)(?:{(.*)})? (\S+)$", text)
        if series == name and all(f'{key}="{text}"' in shown for key, text in labels.items())
    ]
    assert len(found) <= 1, (name, labels, found)
    return found[0] if found else 0.0


async def test_backlog_open_polls_and_latencies_of_a_queue(wire: Wire, server: Server) -> None:
    async def of(name: str, kind: str) -> float:
        text = await asyncio.to_thread(scrape, server)
        return value(text, name, taskqueue=wire.task_queue, task_type=kind)

    run = await wire.start()
    assert await of("approximate_backlog_count", "Workflow") == 1
    assert await of("approximate_backlog_age_seconds", "Workflow") > 0
    poll = asyncio.create_task(wire.poll_activity())
    await eventually(lambda: of("open_polls", "Activity"), lambda polls: polls == 1)
    await wire.step(activity("a", wire.task_queue))
    await wire.complete_activity(await poll)
    assert await of("approximate_backlog_count", "Workflow") == 1, "the next workflow task waits"
    await wire.step(complete())
    for kind, tasks in {"Workflow": 2, "Activity": 1}.items():
        assert await of("approximate_backlog_count", kind) == 0
        assert await of("open_polls", kind) == 0
        for name in ("task_schedule_to_start_latency_seconds", "poll_latency_seconds"):
            assert await of(f"{name}_count", kind) == tasks, name
    await run.closed()


async def test_commits_of_the_store(wire: Wire, server: Server) -> None:
    before = scrape(server)
    await (await wire.start()).terminate()
    after = scrape(server)
    for name in ("commits_total", "fsyncs_total", "commit_batch_size_count"):
        name = f"tidemill_store_{name}"
        assert value(after, name) > value(before, name), name
    assert value(after, "tidemill_store_commit_latency_seconds_sum") > 0
    assert value(after, "tidemill_store_commits_failed_total") == 0
    assert value(after, "tidemill_contained_failures_total") == 0
