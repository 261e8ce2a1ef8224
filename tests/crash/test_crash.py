"""The crash harness as a test, and tests of its checks: a check that cannot fail proves nothing."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowExecutionStatus, WorkflowHistory

import audit
import ballast
import crash
import workflows
from ledger import Execution
from load import Case


def test_nothing_is_lost_or_repeated(tmp_path: Path) -> None:
    seed = int(os.environ.get("CRASH_SEED") or secrets.randbelow(1_000_000))
    report = asyncio.run(crash.run(crash.SHORT, seed, tmp_path))
    print(report)
    assert not report.violations, (
        f"{len(report.violations)} violations, see above; CRASH_SEED={seed} draws the same"
    )


def history(
    *, gap: bool = False, closed_twice: bool = False, ended_twice: bool = False
) -> list[HistoryEvent]:
    """A run with one activity, which completed at second 100 in its second attempt."""
    scheduled = HistoryEvent(event_type=EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED)
    scheduled.activity_task_scheduled_event_attributes.activity_id = "1"
    started = HistoryEvent(event_type=EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED)
    started.activity_task_started_event_attributes.attempt = 2
    ended = HistoryEvent(event_type=EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED)
    ended.event_time.seconds = 100
    ended.activity_task_completed_event_attributes.scheduled_event_id = 1
    ended.activity_task_completed_event_attributes.started_event_id = 2
    closed = HistoryEvent(event_type=EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED)
    events = [
        scheduled,
        started,
        ended,
        *([ended] if ended_twice else []),
        closed,
        *([closed] if closed_twice else []),
    ]
    copies = []
    for number, event in enumerate(events, start=1):
        copy = HistoryEvent()
        copy.CopyFrom(event)
        copy.event_id = number + (1 if gap and number > 2 else 0)
        copies.append(copy)
    if gap:
        copies[2].activity_task_completed_event_attributes.started_event_id = 2
    return copies


def run_of(
    events: list[HistoryEvent], status: WorkflowExecutionStatus = WorkflowExecutionStatus.COMPLETED
) -> audit.Run:
    return audit.Run("w", "r", status, WorkflowHistory("w", events))


def ran(attempt: int, dispatched: float) -> Execution:
    return Execution("w", "r", "1", attempt, dispatched)


@pytest.mark.parametrize(
    ("executions", "found"),
    [
        ([ran(1, 90), ran(2, 95)], []),
        ([ran(2, 95)], []),
        ([ran(1, 90), ran(2, 95), ran(2, 96)], ["attempt 2 ran 2 times"]),
        ([ran(2, 95), ran(3, 101)], ["attempt 3 ran although attempt 2 completed"]),
        ([ran(2, 95), ran(1, 101)], ["attempt 1 was handed out 1.000 s after the completion"]),
        ([ran(1, 90)], ["attempt 2 completed but never ran"]),
        (
            [ran(2, 95), Execution("w", "r", "9", 1, 95)],
            ["ran, but history has no completion of it"],
        ),
    ],
)
def test_side_effects_are_judged(executions: list[Execution], found: list[str]) -> None:
    sentences = list(audit.side_effects({"r": run_of(history())}, executions))
    assert [any(words in sentence for sentence in sentences) for words in found] == [True] * len(
        found
    )
    assert len(sentences) == len(found), sentences


@pytest.mark.parametrize(
    ("events", "found"),
    [
        (history(), []),
        (history(gap=True), ["event ids are"]),
        (history(closed_twice=True), ["closing events"]),
        (history(ended_twice=True), ["ended 2 times"]),
        (history()[:-1], ["closing events []"]),
    ],
)
def test_histories_are_judged(events: list[HistoryEvent], found: list[str]) -> None:
    sentences = list(audit.histories({"r": run_of(events)}))
    assert len(sentences) == len(found), sentences
    assert all(words in sentence for words, sentence in zip(found, sentences, strict=True))


def sequence_case(result: int = 7) -> Case:
    job = workflows.Job([workflows.Step(3, 0.0), workflows.Step(4, 0.0)])
    return Case("w", workflows.Sequence, job, first_run_id="r", result=result)


@pytest.mark.parametrize(
    ("case", "runs", "found"),
    [
        (sequence_case(), {"r": run_of(history())}, 0),
        (sequence_case(result=8), {"r": run_of(history())}, 1),
        (sequence_case(), {}, 2),
        (sequence_case(), {"r": run_of(history()), "s": run_of(history())}, 2),
        (sequence_case(), {"r": run_of(history(), WorkflowExecutionStatus.FAILED)}, 1),
    ],
)
def test_results_are_judged(case: Case, runs: dict[str, audit.Run], found: int) -> None:
    assert len(list(audit.results([case], runs))) == found


def updates_case(spoil: Callable[[Case], None]) -> Case:
    case = sequence_case()
    case.kind = workflows.Updates
    case.messages, case.acknowledged, case.update_answers = [3, 4], [3, 4], [3, 7]
    spoil(case)
    return case


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda case: None, 0),
        (lambda case: case.acknowledged.pop(), 1),
        (lambda case: case.update_answers.reverse(), 1),
        (lambda case: setattr(case, "first_run_id", "another"), 1),
    ],
)
def test_acknowledgements_are_judged(spoil: Callable[[Case], None], found: int) -> None:
    assert len(list(audit.acknowledged([updates_case(spoil)], {"r": run_of(history())}))) == found


def test_a_changed_history_is_noticed() -> None:
    before, after = {"r": run_of(history())}, {"r": run_of(history()[:-1])}
    assert not list(audit.unchanged(before, before))
    assert len(list(audit.unchanged(before, after))) == 1
    assert len(list(audit.unchanged(before, {}))) == 1


@pytest.mark.parametrize(
    ("stored", "leaving", "found"),
    [
        ({"k": ballast.value("kept")}, set(), []),
        ({}, set(), ["not listed"]),
        ({}, {"kept"}, []),
        ({"k": ballast.value("another")}, {"kept"}, ["another value"]),
        ({"k": ballast.value("kept"), "d": ballast.value("deleted")}, set(), ["but it is listed"]),
    ],
)
def test_large_values_are_judged(
    stored: dict[str, bytes], leaving: set[str], found: list[str]
) -> None:
    sentences = list(ballast.judge({"kept": "k"}, {"deleted": "d"}, leaving, stored))
    assert len(sentences) == len(found), sentences
    assert all(words in sentence for words, sentence in zip(found, sentences, strict=True))
