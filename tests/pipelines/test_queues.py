"""What waits for whom: the queue wait that autoscalers read, and workers that go silent."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from conftest import BINARY, PATIENCE, Up, eventually, free_port
from engine_client import connect, for_all

pytestmark = pytest.mark.once

SLEEPS = """
name: sleeps
stages:
  - id: work
    uses: shell.run
    resource: CLASS
    with: { command: "sleep SECONDS" }
"""


DEPTH = 12
"""Tasks that wait in each of two classes."""


@contextmanager
def process(up: Up, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process of the binary beside those of `up`."""
    with (up.folder / "other.log").open("ab") as log:
        started = subprocess.Popen([str(BINARY), *arguments], stdout=log, stderr=log, cwd=up.folder)
    try:
        yield started
    finally:
        started.kill()
        started.wait(timeout=PATIENCE)


def place(up: Up) -> list[str]:
    return ["--engine", up.engine, "--namespace", up.namespace]


def worker(up: Up, *options: str) -> list[str]:
    return ["worker", "--data", str(up.data), "--no-interpreter", *place(up), *options]


@contextmanager
def endpoint(up: Up) -> Iterator[Callable[[str], Any]]:
    """What `tidemill queues --listen` answers for a path."""
    address = f"127.0.0.1:{free_port()}"

    def fetch(path: str) -> Any:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=30) as answer:
            return json.load(answer)

    def answers() -> bool:
        try:
            return "queues" in fetch("/v1/queues")
        except OSError:
            return False

    with process(up, "queues", *place(up), "--listen", address):
        eventually(answers)
        yield fetch


async def start(up: Up, text: str, runs: list[str]) -> None:
    checked = up.command("check", up.write(text), "--json")
    assert checked.code == 0, checked.err
    client = await connect(up)

    async def one(run: str) -> None:
        await client.start_workflow(
            "tidemill.pipeline",
            {"plan": checked.json["plan"], "inputs": {}},
            id=run,
            task_queue="tidemill-pipelines",
        )

    await for_all(runs, one)


async def results(up: Up, runs: list[str]) -> None:
    client = await connect(up)
    await for_all(runs, lambda run: client.get_workflow_handle(run).result())


def shown(up: Up, name: str) -> Any:
    """One class as `tidemill queues` shows it."""
    answer = up.command("queues", "--class", name, "--json")
    assert answer.code == 0, answer.err
    (one,) = answer.json["queues"]
    return one


def test_the_same_depth_of_slower_tasks_asks_for_more_replicas(launch: Callable[..., Up]) -> None:
    up = launch("--offer", "cpu=2")
    runs = {name: [f"{name}-{i}" for i in range(DEPTH)] for name in ("fast", "slow")}
    for name, span in [("fast", "0.1"), ("slow", "1")]:
        text = SLEEPS.replace("CLASS", name).replace("SECONDS", span)
        asyncio.run(start(up, text, runs[name]))
    with endpoint(up) as fetch:

        def figures(name: str) -> Any:
            return fetch(f"/v1/queues/{name}")

        # Nobody serves either class: it is said which, and what to do.
        for name in runs:
            eventually(lambda name=name: figures(name)["backlog"] == DEPTH)
            one = figures(name)
            assert (one["workers"], one["pollers"]) == (0, 0)
            assert f"--offer {name}" in one["advice"]
            assert one["wait_seconds"] == one["backlog_age_seconds"] > 0
        # Also without asking for them by name: their runs are known.
        seen = up.command("queues")
        assert seen.out.count(f"{DEPTH} tasks wait in") == 2, seen.out

        waits: dict[str, dict[int, float]] = {name: {} for name in runs}
        offers = ["--offer", "fast=1", "--offer", "slow=1"]
        with process(up, *worker(up, *offers)):
            while any(min(seen, default=DEPTH) > 0 for seen in waits.values()):
                for name, seen in waits.items():
                    one = figures(name)
                    seen.setdefault(one["backlog"], one["wait_seconds"])
            for name in runs:
                asyncio.run(results(up, runs[name]))
    # At each depth at which both were seen, the slower class waits longer: more replicas.
    # A rate is one over a second at least, so it is looked at after the first few.
    both = sorted(
        depth for depth in waits["fast"] if depth in waits["slow"] and 0 < depth < DEPTH - 3
    )
    assert len(both) >= 3, waits
    for depth in both:
        fast, slow = waits["fast"][depth], waits["slow"][depth]
        assert slow > fast, (depth, waits)
        # KEDA's `Value`: replicas times figure over target.
        target = fast
        assert math.ceil(1 * slow / target) > math.ceil(1 * fast / target) == 1
    assert waits["fast"][0] == waits["slow"][0] == 0


def test_an_endpoint_without_its_engine_says_so(launch: Callable[..., Up]) -> None:
    up = launch()
    elsewhere = f"127.0.0.1:{free_port()}"
    address = f"127.0.0.1:{free_port()}"
    with process(up, "queues", "--engine", elsewhere, "--listen", address):
        refused: list[urllib.error.HTTPError] = []

        def answers() -> bool:
            try:
                urllib.request.urlopen(f"http://{address}/v1/queues/cpu", timeout=30).close()
            except urllib.error.HTTPError as error:
                refused.append(error)
            except OSError:
                pass
            return bool(refused)

        eventually(answers)
        # A scaler must not take it for a queue that is empty.
        assert refused[0].code == 503
        assert elsewhere in json.load(refused[0])["error"]
    answer = up.command("queues", "--engine", elsewhere)
    assert answer.code == 1 and elsewhere in answer.err and "--engine" in answer.err


def test_a_killed_worker_is_silent_soon_and_not_counted(up: Up) -> None:
    with process(up, *worker(up, "--offer", "video=3")) as victim:

        def mine() -> Any:
            found = shown(up, "video")["inventory"]
            assert len(found) <= 1
            return found[0] if found else None

        eventually(lambda: mine() is not None)
        first = mine()
        assert first["status"] == "running"
        assert (first["queue"], first["process"]) == ("video", str(victim.pid))
        assert (first["slots_used"], first["slots_free"]) == (0, 3)
        assert first["host"] == os.uname().nodename
        assert 0 <= first["cpu"] <= 1 and 0 < first["memory"] <= 1
        assert first["polls"] >= 1 and first["sdk"].strip()
        assert shown(up, "video")["workers"] == 1

        # Its heartbeats have told their interval once there were two of them.
        async def interval() -> int:
            from temporalio.api.workflowservice.v1 import ListWorkersRequest

            client = await connect(up)
            request = ListWorkersRequest(namespace=up.namespace, query="TaskQueue = 'video'")
            listed = await client.workflow_service.list_workers(request)
            (beat,) = [one.worker_heartbeat for one in listed.workers_info]
            return round(beat.elapsed_since_last_heartbeat.ToMilliseconds() / 1000)

        eventually(lambda: asyncio.run(interval()) >= 4)
        assert asyncio.run(interval()) == 5
        victim.kill()
        victim.wait()
        # Two heartbeats of five seconds; without a known interval it would be two minutes.
        eventually(lambda: mine()["status"] == "silent", patience=30)
        dead = mine()
        assert 10 <= dead["last_heartbeat_seconds"] < 20
        after = shown(up, "video")
        assert (after["workers"], after["pollers"], after["slots"]) == (0, 0, 0)
        assert after["advice"] is None, "nothing waits"
        assert "silent" in up.command("queues").out
        # What waits now is named with the worker that is missed.
        text = SLEEPS.replace("CLASS", "video").replace("SECONDS", "0")
        asyncio.run(start(up, text, ["late"]))
        eventually(lambda: shown(up, "video")["backlog"] == 1)
        advice = shown(up, "video")["advice"]
        assert first["identity"] in advice and "--offer video" in advice
    with process(up, *worker(up, "--offer", "video=3")):
        asyncio.run(results(up, ["late"]))


def test_a_worker_that_ends_in_order_is_not_silent(up: Up) -> None:
    with process(up, *worker(up, "--offer", "video=1")) as leaving:
        eventually(lambda: shown(up, "video")["workers"] == 1)
        leaving.send_signal(signal.SIGTERM)
        assert leaving.wait(timeout=PATIENCE) == 0
        # Its last word was that it goes; it has gone when nothing more is heard of it.
        after = shown(up, "video")
        assert (after["workers"], after["slots"]) == (0, 0)
        eventually(
            lambda: [one["status"] for one in shown(up, "video")["inventory"]] == ["stopped"]
        )
