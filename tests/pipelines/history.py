"""What the engine recorded of a run, read through `tidemill workflow history`."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

from conftest import Up


@dataclass
class Task:
    """One task of a run that has ended."""

    stage: str
    input: Any
    """The message to the worker."""
    output: Any
    started: str
    """RFC 3339, so that times compare as texts."""
    ended: str
    attempt: int


def chain(up: Up, run: str) -> list[str]:
    """The engine's ids of a run and of the runs as which it continued, the first one first."""
    query = f"WorkflowId = '{run}'"
    answer = up.command("workflow", "--address", up.engine, "--json", "list", "--query", query)
    assert answer.code == 0, answer.err
    listed = sorted(answer.json, key=lambda one: _time(one["startTime"]))
    return [one["execution"]["runId"] for one in listed]


def events(up: Up, run: str, run_id: str | None = None) -> list[dict[str, Any]]:
    """The latest of a chain of runs, or the one named."""
    which = ["-w", run, *(["-r", run_id] if run_id else [])]
    answer = up.command("workflow", "--address", up.engine, "--json", "history", *which)
    assert answer.code == 0, answer.err
    return answer.json["events"]


def tasks(up: Up, run: str, run_id: str | None = None) -> list[Task]:
    """The tasks of a run that ended well, in the order in which they were scheduled."""
    scheduled: dict[str, Any] = {}
    started: dict[str, Any] = {}
    done: dict[str, Task] = {}
    for event in events(up, run, run_id):
        match event["eventType"]:
            case "EVENT_TYPE_ACTIVITY_TASK_SCHEDULED":
                attributes = event["activityTaskScheduledEventAttributes"]
                scheduled[event["eventId"]] = payload(attributes["input"])
            case "EVENT_TYPE_ACTIVITY_TASK_STARTED":
                attributes = event["activityTaskStartedEventAttributes"]
                started[attributes["scheduledEventId"]] = event
            case "EVENT_TYPE_ACTIVITY_TASK_COMPLETED":
                attributes = event["activityTaskCompletedEventAttributes"]
                key = attributes["scheduledEventId"]
                begun = started[key]
                done[key] = Task(
                    stage=scheduled[key].get("stage", ""),
                    input=scheduled[key],
                    output=payload(attributes["result"]),
                    started=_time(begun["eventTime"]),
                    ended=_time(event["eventTime"]),
                    attempt=begun["activityTaskStartedEventAttributes"]["attempt"],
                )
            case _:
                pass
    return [done[key] for key in scheduled if key in done]


def payload(payloads: dict[str, Any]) -> Any:
    return json.loads(base64.b64decode(payloads["payloads"][0]["data"]))


def _time(text: str) -> str:
    """With all nine digits of the fraction, which are left out where they are zeros."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return f"{whole}.{fraction:0<9}Z"
