"""A class with a target for the host's CPU takes no work while others use it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from conftest import Up, eventually, free_port
from test_queues import results, shown, start

pytestmark = pytest.mark.once

TOUCHES = """
name: touches
stages:
  - { uses: shell.run, with: { command: "touch FOLDER/begun" } }
"""


@contextmanager
def hogs() -> Iterator[None]:
    """More work for the CPU than it has cores."""
    loops = [
        subprocess.Popen(["sh", "-c", "while :; do :; done"])
        for _ in range(2 * (os.cpu_count() or 1))
    ]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
        for loop in loops:
            loop.wait()


def test_no_task_begins_while_the_cpu_is_above_the_target(launch: Callable[..., Up]) -> None:
    address = f"127.0.0.1:{free_port()}"

    def metric(name: str) -> float:
        try:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return -1
        line = next((line for line in lines if line.startswith(f'{name}{{class="cpu"}} ')), "0 -1")
        return float(line.split()[-1])

    with hogs():
        offer = "cpu:slots=4,cpu_target=60%"
        up = launch("--offer", offer, "--metrics-listen", address)
        begun = up.folder / "begun"
        eventually(lambda: metric("tidemill_admissions_closed") == 1)
        asyncio.run(start(up, TOUCHES.replace("FOLDER", str(up.folder)), ["held"]))
        # It waits in the engine, or in the worker when a poll was open already.
        eventually(
            lambda: shown(up, "cpu")["backlog"] == 1 or metric("tidemill_slots_waiting") == 1
        )
        assert not begun.exists()
        assert metric("tidemill_slots_used") == 0
    asyncio.run(results(up, ["held"]))
    assert begun.exists()
