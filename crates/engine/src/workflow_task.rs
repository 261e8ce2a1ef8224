//! The pending workflow task: scheduling, starting, failing and timing out.
//!
//! ```text
//! none ──schedule──▶ scheduled ──start──▶ started ──complete──▶ none
//!                    │   sticky start timeout │ fail / time out
//!                    ▼                        ▼
//!                 scheduled (normal queue)  scheduled, attempt + 1 (transient)
//! ```
//! A task is *transient* from its second attempt on: its events are written only when it
//! completes, so a workflow that fails for days adds nothing to its history. It is
//! *speculative* when only an update wants it: neither it nor its events are stored unless
//! something else is (contract 1.11). Completion is in [`crate::complete`].

mod failure;

use std::time::Duration;

use tidemill_proto::api::common::v1::WorkerVersionStamp;
use tidemill_proto::api::enums::v1::{
    SuggestContinueAsNewReason as Reason, TaskQueueKind, WorkflowExecutionStatus,
};
use tidemill_proto::api::history::v1::{
    HistoryEvent, WorkflowTaskScheduledEventAttributes, WorkflowTaskStartedEventAttributes,
};
use tidemill_proto::api::protocol::v1::Message;
use tidemill_proto::api::query::v1::WorkflowQuery;
use tidemill_proto::api::taskqueue::v1::TaskQueue;

use crate::Error;
use crate::model::{StartedFacts, Sticky, WorkflowTask};
use crate::run::Run;
use crate::time::{Time, nanos, proto_span, span};
use crate::transition::{Effect, Outcome, TaskKind};
use crate::tx::{Cx, Tx};

pub use failure::{TaskFailure, cause_name, fail};
pub(crate) use failure::{clear_problems, fail_task, time_out};

/// A pending task is identified by the ids in its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskRef {
    pub scheduled_id: i64,
    pub started_id: i64,
    pub attempt: i32,
    pub started_time: Time,
}

/// A worker takes a task.
#[derive(Clone, Debug)]
pub struct Start {
    pub scheduled_id: i64,
    pub stamp: i64,
    pub identity: String,
    /// Fresh for each hand-over.
    pub request_id: String,
    /// The poll came from a sticky queue.
    pub from_sticky: bool,
    pub worker_version: Option<WorkerVersionStamp>,
}

/// A started task, as its worker is told of it.
#[derive(Clone, Debug)]
pub struct Started {
    pub task: TaskRef,
    pub previous_started_id: i64,
    pub scheduled_time: Time,
    /// First event that the worker is to get.
    pub history_from: i64,
    /// Last event of it that is in history.
    pub history_to: i64,
    /// Events that follow but are not in history (transient and speculative tasks).
    pub tail: Vec<HistoryEvent>,
    pub messages: Vec<Message>,
    pub queries: Vec<(String, WorkflowQuery)>,
    /// The run's normal task queue.
    pub task_queue: String,
}

/// When a pending task needs attention: its start-to-close, or its schedule-to-start timeout.
pub fn deadline(task: &WorkflowTask) -> Option<Time> {
    if task.started_id != 0 {
        Some(Time(task.started_time + task.timeout))
    } else {
        Time(task.start_deadline).get()
    }
}

/// Whether a workflow task may be scheduled now.
pub(crate) fn may_schedule(run: &Run) -> bool {
    let c = &run.core;
    run.status() == WorkflowExecutionStatus::Running
        && c.workflow_task.is_none()
        && c.backoff_until == 0
        && !c.awaits_parent
}

/// The task queue that a task is scheduled on, as events name it.
fn task_queue(run: &Run, sticky: Option<&Sticky>) -> TaskQueue {
    match sticky {
        Some(s) => TaskQueue {
            name: s.queue.clone(),
            kind: TaskQueueKind::Sticky as i32,
            normal_name: run.task_queue().to_owned(),
        },
        None => TaskQueue {
            name: run.task_queue().to_owned(),
            kind: TaskQueueKind::Normal as i32,
            normal_name: String::new(),
        },
    }
}

/// Start-to-close timeout of an attempt: from the fourth on it grows, so that a worker that
/// cannot keep up is given longer and longer.
fn timeout(run: &Run, attempt: i32) -> Duration {
    let base = span(&run.start().workflow_task_timeout);
    if attempt <= 3 {
        return base;
    }
    let extra = Duration::from_secs(5).saturating_mul(1 << (attempt - 4).min(7));
    base + extra.min(Duration::from_secs(600))
}

/// Schedules a workflow task. The caller has checked [`may_schedule`].
pub(crate) fn schedule(tx: &mut Tx<'_>) {
    tx.flush_buffered();
    let attempt = tx.run.core.workflow_task_attempt.max(1);
    let task = pending(tx, attempt, false);
    let scheduled_id = if attempt == 1 {
        let event = scheduled_event(&tx.run, &task);
        tx.append(event)
    } else {
        tx.run.core.next_event_id
    };
    let task = WorkflowTask {
        scheduled_id,
        ..task
    };
    offer(tx, task);
}

/// Schedules a task that is stored only if something else is. It exists for waiting updates.
pub(crate) fn schedule_speculative(tx: &mut Tx<'_>) {
    if tx.run.core.workflow_task_attempt > 1 || tx.flush_buffered() {
        return schedule(tx);
    }
    let mut task = pending(tx, 1, true);
    task.scheduled_id = tx.run.core.next_event_id;
    if task.start_deadline == 0 {
        task.start_deadline = tx.now().plus(tx.limits().speculative_start).0;
    }
    let sticky = task.sticky;
    tx.effect(Effect::Speculative {
        queue: queue_name(&tx.run, sticky),
        normal_queue: tx.run.task_queue().to_owned(),
        sticky,
        priority: tx.run.priority_key(),
        scheduled_id: task.scheduled_id,
        stamp: task.stamp,
    });
    tx.run.core.workflow_task = Some(task);
}

fn queue_name(run: &Run, sticky: bool) -> String {
    match (&run.core.sticky, sticky) {
        (Some(s), true) => s.queue.clone(),
        _ => run.task_queue().to_owned(),
    }
}

/// A pending task without its scheduled event id.
fn pending(tx: &mut Tx<'_>, attempt: i32, speculative: bool) -> WorkflowTask {
    let sticky = tx.run.core.sticky.clone();
    let now = tx.now();
    WorkflowTask {
        attempt,
        speculative,
        scheduled_time: now.0,
        original_scheduled_time: now.0,
        timeout: nanos(timeout(&tx.run, attempt)),
        start_deadline: sticky
            .as_ref()
            .map_or(0, |s| now.0.saturating_add(s.timeout)),
        sticky: sticky.is_some(),
        stamp: tx.next_stamp(),
        ..Default::default()
    }
}

fn scheduled_event(run: &Run, task: &WorkflowTask) -> HistoryEvent {
    let sticky = run.core.sticky.as_ref().filter(|_| task.sticky);
    event_at(
        Time(task.scheduled_time),
        WorkflowTaskScheduledEventAttributes {
            task_queue: Some(task_queue(run, sticky)),
            start_to_close_timeout: proto_span(Duration::from_nanos(task.timeout as u64)),
            attempt: task.attempt,
        },
    )
}

fn started_event(task: &WorkflowTask) -> HistoryEvent {
    let facts = task.started.clone().unwrap_or_default();
    event_at(
        Time(task.started_time),
        WorkflowTaskStartedEventAttributes {
            scheduled_event_id: task.scheduled_id,
            identity: task.identity.clone(),
            request_id: task.request_id.clone(),
            suggest_continue_as_new: facts.suggest_continue_as_new,
            suggest_continue_as_new_reasons: facts.reasons,
            history_size_bytes: facts.history_size,
            ..Default::default()
        },
    )
}

fn event_at(
    time: Time,
    attributes: impl Into<tidemill_proto::api::history::v1::history_event::Attributes>,
) -> HistoryEvent {
    let attributes = attributes.into();
    HistoryEvent {
        event_time: Some(time.proto()),
        event_type: attributes.event_type() as i32,
        attributes: Some(attributes),
        ..Default::default()
    }
}

/// Schedules and starts the first task of a run that is being created, for the caller that
/// creates it.
pub fn start_eagerly(tx: &mut Tx<'_>, identity: &str) -> Option<Started> {
    if !may_schedule(&tx.run) {
        return None;
    }
    schedule(tx);
    let task = tx.run.core.workflow_task.as_ref()?;
    let request = Start {
        scheduled_id: task.scheduled_id,
        stamp: task.stamp,
        identity: identity.to_owned(),
        request_id: tx.run.core.create_request_id.clone(),
        from_sticky: false,
        worker_version: None,
    };
    Some(begin(tx, &request, false))
}

/// The first task as it was started, for a creator that asks again; `None` once it is over.
pub fn resend_first(run: &Run) -> Option<Started> {
    let task = run
        .core
        .workflow_task
        .as_ref()
        .filter(|t| t.attempt == 1 && t.started_id == 3)?;
    Some(Started {
        task: TaskRef {
            scheduled_id: task.scheduled_id,
            started_id: task.started_id,
            attempt: task.attempt,
            started_time: Time(task.started_time),
        },
        previous_started_id: 0,
        scheduled_time: Time(task.scheduled_time),
        history_from: 1,
        history_to: task.started_id,
        tail: Vec::new(),
        messages: Vec::new(),
        queries: Vec::new(),
        task_queue: run.task_queue().to_owned(),
    })
}

/// Gives a scheduled task its row in the store and makes it the pending one.
fn offer(tx: &mut Tx<'_>, mut task: WorkflowTask) {
    let queue = queue_name(&tx.run, task.sticky);
    let normal = task.sticky.then(|| tx.run.task_queue().to_owned());
    let priority = tx.run.priority_key();
    task.task = Some(tx.add_task(
        TaskKind::Workflow,
        &queue,
        priority,
        task.scheduled_id,
        task.stamp,
        normal.as_deref(),
    ));
    tx.run.core.workflow_task = Some(task);
}

/// Writes the events of a speculative task and gives it a row: from here on it is a normal one.
pub(crate) fn make_durable(tx: &mut Tx<'_>) {
    if !tx
        .run
        .core
        .workflow_task
        .as_ref()
        .is_some_and(|t| t.speculative)
    {
        return;
    }
    let Some(mut task) = tx.run.core.workflow_task.take() else {
        return;
    };
    task.speculative = false;
    let event = scheduled_event(&tx.run, &task);
    task.scheduled_id = tx.append(event);
    if task.started_id == 0 {
        if !task.sticky {
            task.start_deadline = 0;
        }
        offer(tx, task);
    } else {
        let event = started_event(&task);
        task.started_id = tx.append(event);
        tx.run.core.workflow_task = Some(task);
    }
}

/// The events of the started task that are not in history (transient and speculative ones).
pub fn unwritten(run: &Run) -> Vec<HistoryEvent> {
    let Some(task) = run.core.workflow_task.as_ref() else {
        return Vec::new();
    };
    if task.started_id == 0 || (task.attempt <= 1 && !task.speculative) {
        return Vec::new();
    }
    let mut scheduled = scheduled_event(run, task);
    scheduled.event_id = task.scheduled_id;
    let mut started = started_event(task);
    started.event_id = task.started_id;
    vec![scheduled, started]
}

/// A worker takes the pending task. `NotFound` when the task is not there any more: the offer is
/// stale and to be dropped.
pub fn start(run: &Run, request: &Start, cx: &Cx<'_>) -> Result<Outcome<Started>, Error> {
    let stale = || Error::not_found("workflow task is gone");
    let task = run.core.workflow_task.as_ref().ok_or_else(stale)?;
    if !run.is_open() || task.scheduled_id != request.scheduled_id || task.stamp != request.stamp {
        return Err(stale());
    }
    if task.started_id != 0 {
        return Err(Error::not_found("workflow task has been started"));
    }
    if request.from_sticky && !(task.sticky && run.core.sticky.is_some()) {
        return Err(stale());
    }
    let mut tx = Tx::new(run, cx);
    // What a worker was sent and has not answered is lost, or this would not be a new task.
    crate::update::unsend(&mut tx);
    if task.speculative
        && !tx
            .run
            .volatile
            .updates
            .values()
            .any(|u| u.stage == crate::run::UpdateStage::Admitted)
    {
        // The update that it was for has gone: so has the task.
        tx.run.core.workflow_task = None;
        crate::query::release(&mut tx);
        return Ok(tx.finish_with(Err(stale())));
    }
    let from_sticky = request.from_sticky;
    let started = begin(&mut tx, request, from_sticky);
    Ok(tx.finish(started))
}

/// Starts the pending task and collects what goes with it. `partial`: the worker has the run in
/// its cache and needs only what is new.
pub(crate) fn begin(tx: &mut Tx<'_>, request: &Start, partial: bool) -> Started {
    let mut task = tx.run.core.workflow_task.take().expect("a task is pending");
    if let Some(place) = task.task.take() {
        tx.remove_task(TaskKind::Workflow, place);
    }
    if !partial {
        tx.run.core.sticky = None;
        task.sticky = false;
    }
    if task.attempt > 1 && task.scheduled_id != tx.run.core.next_event_id {
        // Something happened since it was scheduled: no longer the same attempt over again.
        task.attempt = 1;
        tx.run.core.workflow_task_attempt = 1;
        let event = scheduled_event(&tx.run, &task);
        task.scheduled_id = tx.append(event);
    }
    let now = tx.now();
    task.started_id = task.scheduled_id + 1;
    task.started_time = now.0;
    task.identity = request.identity.clone();
    task.request_id = request.request_id.clone();
    task.start_deadline = 0;
    task.started = Some(facts(tx));
    let in_history = task.attempt == 1 && !task.speculative;
    let mut tail = Vec::new();
    if in_history {
        let event = started_event(&task);
        task.started_id = tx.append(event);
    } else {
        let mut scheduled = scheduled_event(&tx.run, &task);
        scheduled.event_id = task.scheduled_id;
        let mut started = started_event(&task);
        started.event_id = task.started_id;
        tail = vec![scheduled, started];
    }
    let messages = crate::update::send(tx, &mut task);
    let queries = crate::query::send(tx);
    let previous_started_id = tx.run.core.last_completed_started_id;
    let started = Started {
        task: TaskRef {
            scheduled_id: task.scheduled_id,
            started_id: task.started_id,
            attempt: task.attempt,
            started_time: now,
        },
        previous_started_id,
        scheduled_time: Time(task.scheduled_time),
        history_from: if partial { previous_started_id + 1 } else { 1 },
        history_to: tx.run.core.next_event_id - 1,
        tail,
        messages,
        queries,
        task_queue: tx.run.task_queue().to_owned(),
    };
    tx.touch_core();
    tx.run.core.workflow_task = Some(task);
    started
}

fn facts(tx: &Tx<'_>) -> StartedFacts {
    let limits = tx.limits();
    let core = &tx.run.core;
    let updates = core.update_count + crate::update::unaccepted(&tx.run);
    let reasons: Vec<i32> = [
        (
            core.history_size >= limits.suggest_continue_as_new_size,
            Reason::HistorySizeTooLarge,
        ),
        (
            core.next_event_id >= limits.suggest_continue_as_new_count,
            Reason::TooManyHistoryEvents,
        ),
        (
            updates * 10 >= limits.updates_total * 9,
            Reason::TooManyUpdates,
        ),
    ]
    .into_iter()
    .filter_map(|(met, reason)| met.then_some(reason as i32))
    .collect();
    StartedFacts {
        history_size: core.history_size,
        suggest_continue_as_new: !reasons.is_empty(),
        reasons,
    }
}

/// The started task that a token names; `NotFound` when it is not pending any more.
pub(crate) fn find<'r>(run: &'r Run, task: &TaskRef) -> Result<&'r WorkflowTask, Error> {
    if !run.is_open() {
        return Err(Error::already_completed());
    }
    run.core
        .workflow_task
        .as_ref()
        .filter(|t| {
            t.started_id != 0
                && t.scheduled_id == task.scheduled_id
                && t.started_id == task.started_id
                && t.attempt == task.attempt
                && t.started_time == task.started_time.0
        })
        .ok_or_else(|| Error::not_found("Workflow task not found."))
}

/// Writes the scheduled and started events of a transient task that is about to complete.
pub(crate) fn write_transient(tx: &mut Tx<'_>) {
    let Some(mut task) = tx.run.core.workflow_task.take() else {
        return;
    };
    let event = scheduled_event(&tx.run, &task);
    task.scheduled_id = tx.append(event);
    let event = started_event(&task);
    task.started_id = tx.append(event);
    tx.run.core.workflow_task = Some(task);
}

/// Acts on the pending task's deadline if it has passed.
pub(crate) fn fire(tx: &mut Tx<'_>) {
    let now = tx.now();
    let Some(task) = tx.run.core.workflow_task.clone() else {
        return;
    };
    if deadline(&task).is_none_or(|at| at > now) {
        return;
    }
    if task.started_id == 0 {
        failure::start_timed_out(tx);
    } else {
        time_out(tx);
    }
}

/// The worker that holds the run's cache is gone: the next task goes to the normal queue.
pub fn reset_sticky(run: &Run, cx: &Cx<'_>) -> Result<Outcome<()>, Error> {
    if !run.is_open() {
        return Err(Error::already_completed());
    }
    let mut tx = Tx::new(run, cx);
    if tx.run.core.sticky.take().is_some() {
        tx.touch_core();
    }
    Ok(tx.finish(()))
}

/// The first workflow task of a run that waited (start delay, cron, retry) is due.
pub(crate) fn end_backoff(tx: &mut Tx<'_>) {
    tx.run.core.backoff_until = 0;
    tx.touch_core();
    tx.want_workflow_task();
}

#[cfg(test)]
mod tests;
