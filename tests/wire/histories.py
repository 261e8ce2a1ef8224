"""Reads histories in a form that tests can compare exactly."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent

STARTED = "WorkflowExecutionStarted"
TASK = ["WorkflowTaskScheduled", "WorkflowTaskStarted", "WorkflowTaskCompleted"]
"""One workflow task that went well."""


def type_of(event: HistoryEvent) -> str:
    """The event's type in the short form, such as `TimerFired`."""
    name = EventType.Name(event.event_type).removeprefix("EVENT_TYPE_")
    return "".join(word.capitalize() for word in name.split("_"))


def types(events: Iterable[HistoryEvent]) -> list[str]:
    """The events' types in order. Also checks that the ids are contiguous."""
    listed = list(events)
    if listed:
        first = listed[0].event_id
        assert [e.event_id for e in listed] == list(range(first, first + len(listed)))
    return [type_of(event) for event in listed]


def attributes(event: HistoryEvent) -> Any:
    """The attributes message of the event, whichever it is."""
    chosen = event.WhichOneof("attributes")
    assert chosen is not None, event
    return getattr(event, chosen)


def every(events: Iterable[HistoryEvent], type: str) -> list[HistoryEvent]:
    return [event for event in events if type_of(event) == type]


def only(events: Iterable[HistoryEvent], type: str) -> HistoryEvent:
    """The single event of that type."""
    listed = list(events)
    found = every(listed, type)
    assert len(found) == 1, f"{len(found)} {type} in {types(listed)}"
    return found[0]


def attributes_of(events: Iterable[HistoryEvent], type: str) -> Any:
    """The attributes of the single event of that type."""
    return attributes(only(events, type))
