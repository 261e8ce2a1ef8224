"""Runs that wait for people by the thousand hold no slot, survive all, and can all be answered."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from conftest import Up, eventually
from engine_client import connect, for_all

REVIEW = """
name: review
stages:
  - uses: data.set
    id: draft
    with: { text: "The mill is open on Sundays." }
  - id: review
    approve:
      message: "Publish this? {{ draft.text }}"
      choices: [publish, discard]
      TIMEOUT
      default: discard
outputs: "{{ review }}"
"""
WORK = """
name: work
stages:
  - uses: data.set
    id: number
    with: { value: 7 }
  - uses: shell.run
    id: shell
    with: { command: "cat" }
outputs: "{{ shell.stdout }}"
"""
LAPSES = 25
"""Of so many runs, one has a timeout that ends while everything is down."""


def test_many_wait_for_people_and_hold_nothing(launch: Callable[..., Up], full: bool) -> None:
    up = launch("--offer", "cpu=1")
    count = 10_000 if full else 200
    patient = plan(up, REVIEW.replace("TIMEOUT", "timeout: 30d"))
    lapsing = plan(up, REVIEW.replace("TIMEOUT", "timeout: 5s"))
    answered = [f"patient-{i}" for i in range(count - count // LAPSES)]
    lapsed = [f"lapsing-{i}" for i in range(count // LAPSES)]
    figures: dict[str, Any] = {"runs": count}

    figures["start_s"] = asyncio.run(start(up, patient, answered))
    # One slot, and so many that wait: other work goes through.
    file = up.write(WORK, "work.yaml")
    assert up.run(file, "--id", "meanwhile")["status"] == "done"
    asyncio.run(start(up, lapsing, lapsed))
    figures["rss_mb"] = up.rss_peak_mb()

    up.kill()
    began = time.monotonic()
    up.start()
    eventually(lambda: up.command("show", answered[0]).code == 0)
    figures["restart_s"] = round(time.monotonic() - began, 2)
    assert up.node(answered[0], "review")["status"] == "asking"
    assert up.run(file, "--id", "afterwards")["status"] == "done"

    figures["answer_s"] = asyncio.run(answer(up, answered))
    results = asyncio.run(outcomes(up, answered))
    assert Counter(results) == {("publish", False): len(answered)}
    assert Counter(asyncio.run(outcomes(up, lapsed))) == {("discard", True): len(lapsed)}
    figures["rss_after_mb"] = up.rss_peak_mb()
    print(figures)


def plan(up: Up, text: str) -> Any:
    checked = up.command("check", up.write(text), "--json")
    assert checked.code == 0, checked.err
    return checked.json


async def start(up: Up, checked: Any, runs: list[str]) -> float:
    """Starts runs and returns when all of them ask."""
    client = await connect(up)
    began = time.monotonic()

    async def one(run: str) -> None:
        handle = await client.start_workflow(
            "tidemill.pipeline",
            {"plan": checked["plan"], "inputs": {}},
            id=run,
            task_queue="tidemill-pipelines",
            memo={"pipeline": "review", "plan": checked["hash"]},
        )
        # A short timeout may be over before it is looked at.
        while True:
            state: Any = await handle.query("state")
            if state["nodes"][-1]["status"] not in ("waiting", "running"):
                return
            await asyncio.sleep(0.1)

    await for_all(runs, one)
    return round(time.monotonic() - began, 2)


async def answer(up: Up, runs: list[str]) -> float:
    client = await connect(up)
    began = time.monotonic()

    async def one(run: str) -> None:
        choice = {"node": "review", "choice": "publish", "form": None, "by": "test", "comment": ""}
        await client.get_workflow_handle(run).execute_update("answer", choice)

    await for_all(runs, one)
    return round(time.monotonic() - began, 2)


async def outcomes(up: Up, runs: list[str]) -> list[tuple[str, bool]]:
    """What each run says was chosen, and whether by its timeout."""
    client = await connect(up)

    async def one(run: str) -> tuple[str, bool]:
        result: Any = await client.get_workflow_handle(run).result()
        outputs = result["outputs"]
        return outputs["choice"], outputs["timed_out"]

    return await for_all(runs, one)
