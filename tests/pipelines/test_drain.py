"""SIGTERM under load: what runs ends or is handed back, and no timeout is needed to find out."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

from conftest import Up, eventually
from history import chain, events
from test_queues import results, start

# Three tasks after one another, so that the interpreter holds the run in memory between them.
STEPS = """
name: steps
stages:
  - { id: one, uses: shell.run, with: { command: [sh, FOLDER/step.sh, "{{ run.id }}", one] } }
  - { id: two, uses: shell.run, with: { command: [sh, FOLDER/step.sh, "{{ run.id }}", two] } }
  - { id: three, uses: shell.run, with: { command: [sh, FOLDER/step.sh, "{{ run.id }}", three] } }
"""
STEP = """
echo "$1 $2" >> FOLDER/begun
sleep 0.2
echo "$1 $2" >> FOLDER/ended
"""
RUNS = 40
DRAINS = 3


def late(up: Up, run: str) -> list[dict[str, Any]]:
    """What timed out or failed in a run and those after it."""
    found = [event for id in chain(up, run) for event in events(up, run, id)]
    return [e for e in found if "TIMED_OUT" in e["eventType"] or "FAILED" in e["eventType"]]


def test_nothing_is_lost_and_nothing_times_out(launch: Callable[..., Up]) -> None:
    up = launch("--offer", "cpu=4", "--grace", "20s")
    folder = str(up.folder)
    up.write(STEP.replace("FOLDER", folder), "step.sh")
    runs = [f"run-{i}" for i in range(RUNS)]
    begun, ended = up.folder / "begun", up.folder / "ended"

    def lines(file: object) -> list[str]:
        return file.read_text().splitlines() if file.exists() else []  # type: ignore[attr-defined]

    asyncio.run(start(up, STEPS.replace("FOLDER", folder), runs))
    for drain in range(1, DRAINS + 1):
        # In the middle of it, each time, with every slot in use.
        eventually(lambda drain=drain: len(lines(begun)) >= drain * RUNS * 3 // (DRAINS + 1))
        assert up.kill(signal.SIGTERM, "worker") == 0, up.log()
        # What had begun has ended: the grace is longer than any task.
        assert Counter(lines(begun)) == Counter(lines(ended))
        assert len(lines(ended)) < RUNS * 3, "it was under load"
        up.start()
    asyncio.run(results(up, runs))

    steps = Counter(f"{run} {step}" for run in runs for step in ("one", "two", "three"))
    assert Counter(lines(ended)) == steps, "each once"
    for run in runs:
        bad = late(up, run)
        assert not bad, (run, bad)
        for id in chain(up, run):
            attempts = [
                event["activityTaskStartedEventAttributes"]["attempt"]
                for event in events(up, run, id)
                if event["eventType"] == "EVENT_TYPE_ACTIVITY_TASK_STARTED"
            ]
            assert set(attempts) == {1}, (run, attempts)
