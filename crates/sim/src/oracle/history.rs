//! What a history may look like, from its first event on.

use std::collections::{BTreeMap, BTreeSet};

use tidemill_proto::api::enums::v1::{EventType, WorkflowExecutionStatus};
use tidemill_proto::api::history::v1::HistoryEvent;
use tidemill_proto::api::history::v1::history_event::Attributes as E;
use tidemill_proto::wkt;

use crate::workers::STICKY_TIMEOUT;

/// Nanoseconds of Unix time.
pub(crate) fn nanos(time: &wkt::Timestamp) -> i64 {
    time.seconds * 1_000_000_000 + i64::from(time.nanos)
}

pub(crate) fn length(time: &wkt::Duration) -> i64 {
    time.seconds * 1_000_000_000 + i64::from(time.nanos)
}

/// For an event that closes a run, the run that goes on; empty if none does.
pub(crate) fn closing(event: &HistoryEvent) -> Option<String> {
    match event.attributes.as_ref()? {
        E::WorkflowExecutionContinuedAsNewEventAttributes(a) => {
            Some(a.new_execution_run_id.clone())
        }
        _ => (status(event) != WorkflowExecutionStatus::Running).then(String::new),
    }
}

/// The status of a run whose last event this is.
pub(crate) fn status(last: &HistoryEvent) -> WorkflowExecutionStatus {
    match last.event_type() {
        EventType::WorkflowExecutionCompleted => WorkflowExecutionStatus::Completed,
        EventType::WorkflowExecutionFailed => WorkflowExecutionStatus::Failed,
        EventType::WorkflowExecutionTimedOut => WorkflowExecutionStatus::TimedOut,
        EventType::WorkflowExecutionTerminated => WorkflowExecutionStatus::Terminated,
        EventType::WorkflowExecutionCanceled => WorkflowExecutionStatus::Canceled,
        EventType::WorkflowExecutionContinuedAsNew => WorkflowExecutionStatus::ContinuedAsNew,
        _ => WorkflowExecutionStatus::Running,
    }
}

/// What was begun and is not over, by the event that began it.
#[derive(Default)]
struct Open<'a> {
    tasks: BTreeMap<i64, Option<&'a HistoryEvent>>,
    activities: BTreeMap<i64, Option<i64>>,
    timers: BTreeMap<i64, i64>,
    children: BTreeMap<i64, Option<i64>>,
    completed_tasks: BTreeSet<i64>,
    /// Updates that were accepted.
    updates: BTreeSet<&'a str>,
    cancel_requested: bool,
}

/// Ids without gaps, causes before effects, each thing begun before it ends and ended once, nothing early,
/// nothing after the end.
pub(crate) fn check(events: &[HistoryEvent]) -> Result<(), String> {
    let mut open = Open::default();
    for (at, event) in events.iter().enumerate() {
        let id = at as i64 + 1;
        if event.event_id != id {
            return Err(format!("event {} is in place {id}", event.event_id));
        }
        let now = event.event_time.as_ref().map_or(0, nanos);
        // Not the one before: what waited for a workflow task to end has the time at which it came.
        for cause in causes(event) {
            let cause = events
                .get(cause as usize - 1)
                .filter(|cause| cause.event_id < id);
            let Some(cause) = cause.and_then(|cause| cause.event_time.as_ref()) else {
                return Err(format!("event {id} rests on one that is not before it"));
            };
            if now < nanos(cause) {
                return Err(format!("event {id} is older than what it rests on"));
            }
        }
        if (id == 1) != (event.event_type() == EventType::WorkflowExecutionStarted) {
            return Err(format!("event {id} is {:?}", event.event_type()));
        }
        if closing(event).is_some() && at + 1 != events.len() {
            return Err(format!("there are events after the end, {id}"));
        }
        step(&mut open, event, now, events).map_err(|what| format!("event {id}: {what}"))?;
    }
    Ok(())
}

/// The events that an event names.
fn causes(event: &HistoryEvent) -> impl Iterator<Item = i64> {
    let (one, other) = match &event.attributes {
        Some(E::WorkflowTaskStartedEventAttributes(a)) => (a.scheduled_event_id, 0),
        Some(E::WorkflowTaskCompletedEventAttributes(a)) => {
            (a.scheduled_event_id, a.started_event_id)
        }
        Some(E::WorkflowTaskFailedEventAttributes(a)) => (a.scheduled_event_id, a.started_event_id),
        Some(E::WorkflowTaskTimedOutEventAttributes(a)) => {
            (a.scheduled_event_id, a.started_event_id)
        }
        Some(E::ActivityTaskScheduledEventAttributes(a)) => (a.workflow_task_completed_event_id, 0),
        Some(E::ActivityTaskStartedEventAttributes(a)) => (a.scheduled_event_id, 0),
        Some(E::ActivityTaskCompletedEventAttributes(a)) => {
            (a.scheduled_event_id, a.started_event_id)
        }
        Some(E::ActivityTaskFailedEventAttributes(a)) => (a.scheduled_event_id, a.started_event_id),
        Some(E::ActivityTaskTimedOutEventAttributes(a)) => {
            (a.scheduled_event_id, a.started_event_id)
        }
        Some(E::TimerStartedEventAttributes(a)) => (a.workflow_task_completed_event_id, 0),
        Some(E::TimerFiredEventAttributes(a)) => (a.started_event_id, 0),
        Some(E::StartChildWorkflowExecutionInitiatedEventAttributes(a)) => {
            (a.workflow_task_completed_event_id, 0)
        }
        Some(E::ChildWorkflowExecutionStartedEventAttributes(a)) => (a.initiated_event_id, 0),
        Some(E::ChildWorkflowExecutionCompletedEventAttributes(a)) => {
            (a.initiated_event_id, a.started_event_id)
        }
        _ => (0, 0),
    };
    [one, other].into_iter().filter(|id| *id > 0)
}

fn step<'a>(
    open: &mut Open<'a>,
    event: &'a HistoryEvent,
    now: i64,
    events: &'a [HistoryEvent],
) -> Result<(), String> {
    let id = event.event_id;
    let Some(attributes) = &event.attributes else {
        return Err("it has no attributes".into());
    };
    let by = |open: &Open<'_>, task: i64| {
        let known = open.completed_tasks.contains(&task);
        known
            .then_some(())
            .ok_or(format!("workflow task {task} did not cause it"))
    };
    match attributes {
        E::WorkflowTaskScheduledEventAttributes(_) => {
            if !open.tasks.is_empty() {
                return Err("there is a workflow task already".into());
            }
            open.tasks.insert(id, None);
        }
        E::WorkflowTaskStartedEventAttributes(a) => {
            match open.tasks.get_mut(&a.scheduled_event_id) {
                Some(started @ None) => *started = Some(event),
                _ => return Err("it was not scheduled, or is started already".into()),
            }
        }
        E::WorkflowTaskCompletedEventAttributes(a) => {
            task_ends(open, a.scheduled_event_id, a.started_event_id)?;
            open.completed_tasks.insert(id);
        }
        E::WorkflowTaskFailedEventAttributes(a) => {
            task_ends(open, a.scheduled_event_id, a.started_event_id)?;
        }
        E::WorkflowTaskTimedOutEventAttributes(a) => {
            let started = task_ends(open, a.scheduled_event_id, a.started_event_id)?;
            let timeout = events.iter().find_map(|event| match &event.attributes {
                Some(E::WorkflowExecutionStartedEventAttributes(a)) => {
                    a.workflow_task_timeout.as_ref().map(length)
                }
                _ => None,
            });
            let time = |event: &HistoryEvent| event.event_time.as_ref().map_or(0, nanos);
            let due = match started {
                Some(started) => time(started) + timeout.unwrap_or(0),
                // Nobody took it from the queue of the worker that it was for.
                None => {
                    let scheduled = events.get(a.scheduled_event_id as usize - 1);
                    scheduled.map_or(0, time) + STICKY_TIMEOUT * 1_000_000
                }
            };
            if now < due {
                return Err("the workflow task timed out early".into());
            }
        }
        E::ActivityTaskScheduledEventAttributes(a) => {
            by(open, a.workflow_task_completed_event_id)?;
            open.activities.insert(id, None);
        }
        E::ActivityTaskStartedEventAttributes(a) => {
            match open.activities.get_mut(&a.scheduled_event_id) {
                Some(started @ None) => *started = Some(id),
                _ => return Err("it was not scheduled, or is started already".into()),
            }
        }
        E::ActivityTaskCompletedEventAttributes(a) => {
            activity_ends(open, a.scheduled_event_id, a.started_event_id)?;
        }
        E::ActivityTaskFailedEventAttributes(a) => {
            activity_ends(open, a.scheduled_event_id, a.started_event_id)?;
        }
        E::ActivityTaskTimedOutEventAttributes(a) => {
            activity_ends(open, a.scheduled_event_id, a.started_event_id)?;
        }
        E::TimerStartedEventAttributes(a) => {
            by(open, a.workflow_task_completed_event_id)?;
            let timeout = a.start_to_fire_timeout.as_ref().map_or(0, length);
            open.timers.insert(id, now + timeout);
        }
        E::TimerFiredEventAttributes(a) => match open.timers.remove(&a.started_event_id) {
            None => return Err("no such timer runs".into()),
            Some(due) if now < due => {
                return Err(format!(
                    "the timer fired {} ms early",
                    (due - now) / 1_000_000
                ));
            }
            Some(_) => {}
        },
        E::StartChildWorkflowExecutionInitiatedEventAttributes(a) => {
            by(open, a.workflow_task_completed_event_id)?;
            open.children.insert(id, None);
        }
        E::ChildWorkflowExecutionStartedEventAttributes(a) => {
            match open.children.get_mut(&a.initiated_event_id) {
                Some(started @ None) => *started = Some(id),
                _ => return Err("it was not initiated, or is started already".into()),
            }
        }
        E::StartChildWorkflowExecutionFailedEventAttributes(a)
            if open.children.remove(&a.initiated_event_id) != Some(None) =>
        {
            return Err("it was not initiated, or is started already".into());
        }
        E::ChildWorkflowExecutionCompletedEventAttributes(a) => {
            child_ends(open, a.initiated_event_id, a.started_event_id)?;
        }
        E::ChildWorkflowExecutionTerminatedEventAttributes(a) => {
            child_ends(open, a.initiated_event_id, a.started_event_id)?;
        }
        E::WorkflowExecutionUpdateAcceptedEventAttributes(a)
            if !open.updates.insert(&a.protocol_instance_id) =>
        {
            return Err("the update was accepted before".into());
        }
        E::WorkflowExecutionUpdateCompletedEventAttributes(a) => {
            let accepted = events.get(a.accepted_event_id as usize - 1);
            let accepted = accepted.filter(|event| event.event_id < id);
            let update = match accepted.and_then(|event| event.attributes.as_ref()) {
                Some(E::WorkflowExecutionUpdateAcceptedEventAttributes(a)) => {
                    a.protocol_instance_id.as_str()
                }
                _ => return Err("the update was not accepted".into()),
            };
            if !open.updates.remove(update) {
                return Err("the update was completed before".into());
            }
        }
        E::WorkflowExecutionCancelRequestedEventAttributes(_)
            if std::mem::replace(&mut open.cancel_requested, true) =>
        {
            return Err("it was asked to end before".into());
        }
        E::WorkflowExecutionCanceledEventAttributes(a) => {
            by(open, a.workflow_task_completed_event_id)?;
            all_was_seen(a.workflow_task_completed_event_id, events)?;
        }
        E::WorkflowExecutionCompletedEventAttributes(a) => {
            by(open, a.workflow_task_completed_event_id)?;
            all_was_seen(a.workflow_task_completed_event_id, events)?;
        }
        E::WorkflowExecutionContinuedAsNewEventAttributes(a) => {
            by(open, a.workflow_task_completed_event_id)?;
            all_was_seen(a.workflow_task_completed_event_id, events)?;
        }
        _ => {}
    }
    Ok(())
}

/// The worker that closed the run knew of all that came from outside.
fn all_was_seen(completed: i64, events: &[HistoryEvent]) -> Result<(), String> {
    let started = events.iter().find_map(|event| match &event.attributes {
        Some(E::WorkflowTaskCompletedEventAttributes(a)) if event.event_id == completed => {
            Some(a.started_event_id)
        }
        _ => None,
    });
    let unseen = events.iter().find(|event| {
        event.event_id > started.unwrap_or(0)
            && matches!(
                event.event_type(),
                EventType::WorkflowExecutionSignaled
                    | EventType::WorkflowExecutionCancelRequested
                    | EventType::ActivityTaskCompleted
                    | EventType::TimerFired
                    | EventType::ChildWorkflowExecutionCompleted
            )
    });
    match unseen {
        Some(event) => Err(format!("its worker had not seen event {}", event.event_id)),
        None => Ok(()),
    }
}

fn task_ends<'a>(
    open: &mut Open<'a>,
    scheduled: i64,
    started: i64,
) -> Result<Option<&'a HistoryEvent>, String> {
    match open.tasks.remove(&scheduled) {
        Some(event) if event.is_some_and(|event| event.event_id == started) => Ok(event),
        // A sticky task that nobody took.
        Some(None) if started == 0 => Ok(None),
        _ => Err(format!("there is no workflow task {scheduled}, {started}")),
    }
}

fn activity_ends(open: &mut Open<'_>, scheduled: i64, started: i64) -> Result<(), String> {
    match open.activities.remove(&scheduled) {
        Some(event) if event.unwrap_or(0) == started => Ok(()),
        _ => Err(format!("there is no activity {scheduled}, {started}")),
    }
}

fn child_ends(open: &mut Open<'_>, initiated: i64, started: i64) -> Result<(), String> {
    match open.children.remove(&initiated) {
        Some(event) if event.unwrap_or(0) == started => Ok(()),
        _ => Err(format!("there is no child {initiated}, {started}")),
    }
}
