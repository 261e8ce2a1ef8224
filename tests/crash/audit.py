"""What must hold when the dust has settled. Each check yields sentences that say what is wrong."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHistory
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

import workflows
from ledger import Execution
from load import Case

CLOSING = {
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW,
}
ACTIVITY_ENDS = {
    EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED: "activity_task_completed_event_attributes",
    EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED: "activity_task_failed_event_attributes",
    EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT: "activity_task_timed_out_event_attributes",
    EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED: "activity_task_canceled_event_attributes",
}


@dataclass
class Run:
    workflow_id: str
    run_id: str
    status: WorkflowExecutionStatus | None
    history: WorkflowHistory

    @property
    def name(self) -> str:
        return f"{self.workflow_id} ({self.run_id})"

    @property
    def events(self) -> list[HistoryEvent]:
        return list(self.history.events)


@dataclass(frozen=True)
class Completion:
    """What history says of an activity that completed."""

    attempt: int
    recorded: float


async def read_runs(client: Client) -> dict[str, Run]:
    """Every run that the engine knows, with its history, by run id."""
    runs = {}
    async for listed in client.list_workflows():
        handle = client.get_workflow_handle(listed.id, run_id=listed.run_id)
        history = await handle.fetch_history()
        runs[listed.run_id] = Run(listed.id, listed.run_id, listed.status, history)
    return runs


def acknowledged(cases: list[Case], runs: dict[str, Run]) -> Iterator[str]:
    """Every acknowledged start, signal and update has its effect, exactly once and in order."""
    for case in cases:
        if case.first_run_id not in runs:
            yield f"{case.workflow_id}: the start of run {case.first_run_id} was acknowledged, but it is not listed"
        if case.acknowledged != case.messages:
            yield f"{case.workflow_id}: {len(case.acknowledged)} of {len(case.messages)} messages were acknowledged"
        if case.kind is workflows.Updates:
            totals = [sum(case.messages[: n + 1]) for n in range(len(case.messages))]
            if case.update_answers != totals:
                yield f"{case.workflow_id}: updates answered {case.update_answers}, expected {totals}"


def results(cases: list[Case], runs: dict[str, Run]) -> Iterator[str]:
    """Every workflow completed, once, with the right result, and nothing else ran."""
    expected_runs: Counter[str] = Counter()
    for case in cases:
        if case.result != case.expected:
            yield f"{case.workflow_id}: result {case.result}, expected {case.expected}"
        expected_runs[case.workflow_id] = case.expected_runs
        for child in range(case.expected_children):
            expected_runs[f"{case.workflow_id}-child-{child}"] = 1
    found: Counter[str] = Counter()
    completed: Counter[str] = Counter()
    for run in runs.values():
        found[run.workflow_id] += 1
        completed[run.workflow_id] += run.status == WorkflowExecutionStatus.COMPLETED
    for workflow_id in sorted(expected_runs.keys() | found.keys()):
        if found[workflow_id] != expected_runs[workflow_id]:
            yield f"{workflow_id}: {found[workflow_id]} runs, expected {expected_runs[workflow_id]}"
        if completed[workflow_id] != 1:
            yield f"{workflow_id}: completed {completed[workflow_id]} times"


def histories(runs: dict[str, Run]) -> Iterator[str]:
    """Ids have no gaps, the one closing event is the last, and no activity ends twice."""
    for run in runs.values():
        ids = [event.event_id for event in run.events]
        if ids != list(range(1, len(ids) + 1)):
            yield f"{run.name}: event ids are {ids}"
        closing = [event.event_id for event in run.events if event.event_type in CLOSING]
        if closing != ids[-1:]:
            yield f"{run.name}: closing events {closing} in a history of {len(ids)}"
        ends = Counter(
            getattr(event, ACTIVITY_ENDS[event.event_type]).scheduled_event_id
            for event in run.events
            if event.event_type in ACTIVITY_ENDS
        )
        for scheduled, times in ends.items():
            if times > 1:
                yield f"{run.name}: the activity scheduled by event {scheduled} ended {times} times"


def _completions(run: Run) -> dict[str, Completion]:
    by_event = {event.event_id: event for event in run.events}
    completions = {}
    for event in run.events:
        if event.event_type != EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            continue
        links = event.activity_task_completed_event_attributes
        scheduled = by_event[links.scheduled_event_id].activity_task_scheduled_event_attributes
        started = by_event[links.started_event_id].activity_task_started_event_attributes
        recorded = event.event_time.seconds + event.event_time.nanos / 1e9
        completions[scheduled.activity_id] = Completion(started.attempt, recorded)
    return completions


def side_effects(runs: dict[str, Run], executions: list[Execution]) -> Iterator[str]:
    """No activity ran again after its completion was recorded, and no attempt was handed out twice."""
    by_activity: defaultdict[tuple[str, str], list[Execution]] = defaultdict(list)
    for execution in executions:
        by_activity[execution.run_id, execution.activity_id].append(execution)
    completions = {
        (run.run_id, activity_id): completion
        for run in runs.values()
        for activity_id, completion in _completions(run).items()
    }
    for key, ran in by_activity.items():
        name = f"{ran[0].workflow_id} ({key[0]}), activity {key[1]}"
        attempts = Counter(execution.attempt for execution in ran)
        for attempt, times in attempts.items():
            if times > 1:
                yield f"{name}: attempt {attempt} ran {times} times"
        if (completion := completions.get(key)) is None:
            yield f"{name}: ran, but history has no completion of it"
            continue
        for execution in ran:
            if execution.attempt > completion.attempt:
                yield f"{name}: attempt {execution.attempt} ran although attempt {completion.attempt} completed"
            elif execution.dispatched > completion.recorded:
                late = execution.dispatched - completion.recorded
                yield f"{name}: attempt {execution.attempt} was handed out {late:.3f} s after the completion"
    for key, completion in completions.items():
        if completion.attempt not in {execution.attempt for execution in by_activity[key]}:
            yield f"run {key[0]}, activity {key[1]}: attempt {completion.attempt} completed but never ran"


async def replays(runs: dict[str, Run]) -> list[str]:
    """The SDK's own replayer agrees with every history."""
    replayer = Replayer(workflows=workflows.ALL, workflow_runner=UnsandboxedWorkflowRunner())
    found = []
    for run in runs.values():
        outcome = await replayer.replay_workflow(run.history, raise_on_replay_failure=False)
        if outcome.replay_failure is not None:
            found.append(f"{run.name}: does not replay: {outcome.replay_failure}")
    return found


def unchanged(before: dict[str, Run], after: dict[str, Run]) -> Iterator[str]:
    """A last kill and start changes nothing: the same runs, statuses and histories, byte by byte."""
    for run_id in sorted(before.keys() ^ after.keys()):
        yield f"run {run_id}: listed only {'before' if run_id in before else 'after'} the last restart"
    for run_id in before.keys() & after.keys():
        old, new = before[run_id], after[run_id]
        if old.status != new.status:
            yield f"{old.name}: status {old.status} became {new.status}"
        old_bytes = [event.SerializeToString(deterministic=True) for event in old.events]
        new_bytes = [event.SerializeToString(deterministic=True) for event in new.events]
        if old_bytes != new_bytes:
            yield f"{old.name}: its history changed"
