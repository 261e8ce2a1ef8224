//! Reset: a new run that begins as another one was at one of its workflow tasks (contract 5.5).
//!
//! ```text
//! base    1 ─ … ─ scheduled ─ started │ completed ─ … ─ signaled ─ …
//! new     1 ─ … ─ scheduled ─ started ─ failed (reset) ─ signaled ─ scheduled
//!         └──── history is shared ────┘  └── written here, what came later re-applied ──┘
//! ```
//! The new run's state is that of the base replayed up to the point ([`replay`]); its pending
//! activities are offered again, its timers run on, its children stay connected. What the world
//! sent to the base after the point (signals, updates, the ends of children) is applied to the
//! new run in its order ([`reapply`]). The run that is current is terminated in the same commit.

mod reapply;
mod replay;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use tidemill_proto::api::common::v1::Payloads;
use tidemill_proto::api::enums::v1::{
    EventType, ResetReapplyExcludeType as ExcludeType, ResetReapplyType, RetryState,
    WorkflowTaskFailedCause,
};
use tidemill_proto::api::failure::v1::failure::FailureInfo;
use tidemill_proto::api::failure::v1::{Failure, ResetWorkflowFailureInfo};
use tidemill_proto::api::history::v1::history_event::Attributes;
use tidemill_proto::api::history::v1::{
    ActivityTaskFailedEventAttributes, HistoryEvent, WorkflowTaskFailedEventAttributes,
    WorkflowTaskStartedEventAttributes,
};
use tidemill_proto::api::workflow::v1::WorkflowExecutionOptions;

use crate::close::{self, ENGINE_IDENTITY, Termination};
use crate::run::{Run, RunId};
use crate::transition::{Initiated, OutboxItem, Outcome, Transition};
use crate::tx::{Cx, Tx};
use crate::{DecodedBatch, Error};
use crate::{activity, options, update};

use replay::{PendingActivity, Replay};

/// The identity that ends the run which a reset replaces.
pub const RESETTER_IDENTITY: &str = "history-resetter";

/// What a reset asks for.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The event by which the workflow task ended that is to be done again: the new run begins as
    /// the base was before it. One past a scheduled or a started event, too.
    pub finish_event_id: i64,
    pub reason: String,
    /// A repeat with this id, while its run is the current one, is answered with that run.
    pub request_id: String,
    pub exclude: Exclude,
    /// Changes to the new run's options, each with its field mask.
    pub options: Vec<(Vec<String>, WorkflowExecutionOptions)>,
    pub identity: String,
}

/// What is not to be applied again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exclude {
    pub signals: bool,
    pub updates: bool,
    /// Nothing at all: not the ends of children either, nor changed options.
    pub everything: bool,
}

impl Exclude {
    /// From a request's fields: the types that it excludes, and the older way to say so.
    pub fn of(types: &[i32], reapply: ResetReapplyType) -> Self {
        const ALL: [ExcludeType; 4] = [
            ExcludeType::Signal,
            ExcludeType::Update,
            ExcludeType::Nexus,
            ExcludeType::CancelRequest,
        ];
        let lists = |t: ExcludeType| types.contains(&(t as i32));
        let none = reapply == ResetReapplyType::None;
        let signals = lists(ExcludeType::Signal) || none;
        let updates = lists(ExcludeType::Update) || none || reapply == ResetReapplyType::Signal;
        let everything = ALL.into_iter().all(|t| match t {
            ExcludeType::Signal => signals,
            ExcludeType::Update => updates,
            other => lists(other),
        });
        Self {
            signals,
            updates,
            everything,
        }
    }
}

/// A run that followed the base by continue-as-new, directly or not, with its whole history.
#[derive(Clone, Copy, Debug)]
pub struct LaterRun<'a> {
    pub run_id: &'a str,
    pub history: &'a [Arc<DecodedBatch>],
}

/// The run that a history goes on in by continue-as-new, if it does: what was sent to that one is
/// re-applied as well. Retries and cron runs are not followed.
pub fn continued_in(history: &[Arc<DecodedBatch>]) -> Option<&str> {
    match &history.last()?.events.last()?.attributes {
        Some(Attributes::WorkflowExecutionContinuedAsNewEventAttributes(a)) => {
            Some(&a.new_execution_run_id)
        }
        _ => None,
    }
}

/// Resets `base`: makes a new run and terminates `current`, if that is open. The reply is the new
/// run's id.
///
/// `history` is all of the base's; `later` are the runs found by following [`continued_in`], as
/// far as they are still stored; `current` is the workflow's current run (it may be the base), if
/// there is one.
pub fn reset(
    base: &Run,
    history: &[Arc<DecodedBatch>],
    later: &[LaterRun<'_>],
    current: Option<&Run>,
    request: Request,
    cx: &Cx<'_>,
) -> Result<Outcome<String>, Error> {
    if let Some(current) = current.filter(|c| repeats(c, &request.request_id)) {
        return Ok(Outcome::unchanged(current.id.run_id.to_string()));
    }
    let point = request.finish_event_id;
    if point <= 1 || point >= base.core.next_event_id {
        return Err(Error::invalid(
            "Workflow task finish ID must be > 1 && <= workflow last event ID.",
        ));
    }
    let id = RunId {
        no: cx.ids.run_no(),
        namespace_id: base.id.namespace_id,
        workflow_id: base.id.workflow_id.clone(),
        run_id: cx.run_id().into(),
    };
    let replay = replay::replay(base, history, point, &id, cx)?;
    let retired = retire(base, current, &request, &id, cx);
    let mut tx = fork(base, history, replay, &request, id, cx)?;
    if !request.exclude.everything {
        let after = history
            .iter()
            .flat_map(|b| &b.events)
            .filter(|e| e.event_id >= point);
        reapply::own(&mut tx, after, request.exclude);
        reapply::others(
            &mut tx,
            later.iter().flat_map(|r| r.history).flat_map(|b| &b.events),
            request.exclude,
        );
        let last = later.last().map_or(&*base.id.run_id, |r| r.run_id);
        if retired.run_id.as_deref() == Some(last) {
            // What the terminated run had not written yet.
            if later.is_empty() {
                reapply::own(&mut tx, &retired.events, request.exclude);
            } else {
                reapply::others(&mut tx, &retired.events, request.exclude);
            }
        }
    }
    start_children(&mut tx);
    update::restore(&mut tx.run);
    for (paths, change) in &request.options {
        options::change(&mut tx, paths, change, &request.identity)?;
    }
    tx.want_workflow_task();
    let run_id = tx.run.id.run_id.to_string();
    let mut transitions = retired.transitions;
    transitions.extend(tx.into_transitions());
    Ok(Outcome {
        transitions,
        reply: Ok(run_id),
    })
}

/// Whether `current` is what this request has made before.
fn repeats(current: &Run, request_id: &str) -> bool {
    let core = &current.core;
    !request_id.is_empty()
        && (core.reset_request_id == request_id || core.create_request_id == request_id)
}

/// The runs that the new one replaces, as they are left behind.
struct Retired {
    transitions: Vec<Transition>,
    /// The run that was terminated, if one was.
    run_id: Option<String>,
    /// The events by which it ended.
    events: Vec<HistoryEvent>,
}

/// Terminates the current run and marks the base as reset.
fn retire(
    base: &Run,
    current: Option<&Run>,
    request: &Request,
    id: &RunId,
    cx: &Cx<'_>,
) -> Retired {
    let mut retired = Retired {
        transitions: Vec::new(),
        run_id: None,
        events: Vec::new(),
    };
    let mark = |tx: &mut Tx<'_>| {
        tx.run.core.reset_run_id = id.run_id.to_string();
        tx.touch_core();
    };
    let mut marked = false;
    if let Some(current) = current.filter(|c| c.is_open()) {
        let mut tx = Tx::new(current, cx);
        let is_base = current.id.no == base.id.no;
        if is_base {
            mark(&mut tx);
            marked = true;
        }
        close::terminate(
            &mut tx,
            Termination {
                reason: request.reason.clone(),
                identity: RESETTER_IDENTITY.to_owned(),
                for_reset: true,
                ..Default::default()
            },
        );
        if is_base {
            // The new run takes the base's children over: they live on.
            tx.retain_outbox(|item| !matches!(item, OutboxItem::ParentClosed(_)));
        }
        retired.run_id = Some(current.id.run_id.to_string());
        retired.transitions = tx.into_transitions();
        let batches = retired.transitions.iter().take(1).flat_map(|t| &t.batches);
        let events = batches.flat_map(|b| b.decode().expect("it was encoded just now").events);
        retired.events = events.collect();
    }
    if !marked {
        let mut tx = Tx::new(base, cx);
        mark(&mut tx);
        retired.transitions.extend(tx.into_transitions());
    }
    retired
}

/// Opens the new run with the base's state at the point; the workflow task of the point has
/// failed.
fn fork<'a>(
    base: &Run,
    history: &[Arc<DecodedBatch>],
    replay: Replay<'_>,
    request: &Request,
    id: RunId,
    cx: &'a Cx<'a>,
) -> Result<Tx<'a>, Error> {
    let point = request.finish_event_id;
    let Some(task) = replay.task else {
        return Err(Error::invalid(format!(
            "Can only reset workflow to event ID in range [WorkflowTaskScheduled +1, WorkflowTaskStarted + 1]: {point}"
        )));
    };
    // Whole batches are copied by the store; one that the point cuts is written anew in part.
    let copied: Vec<_> = history
        .iter()
        .take_while(|b| b.last_event_id < point)
        .collect();
    let below = copied.last().map_or(1, |b| b.last_event_id + 1);
    let mut core = replay.core;
    core.next_event_id = below;
    core.last_first_event_id = copied.last().map_or(0, |b| b.first_event_id);
    core.history_size = copied.iter().map(|b| b.bytes.len() as i64).sum();
    core.create_request_id = base.core.create_request_id.clone();
    core.reset_request_id = request.request_id.clone();
    core.last_reset_time = cx.now.0;
    core.workflow_task_attempt = 1;
    let run_id = id.run_id.to_string();
    let mut tx = Tx::creating(Run::new(id, base.started.clone(), core, replay.visible), cx);
    if !copied.is_empty() {
        tx.copy_history_from(base.id.no, below);
    }
    for event in history
        .iter()
        .flat_map(|b| &b.events)
        .filter(|e| (below..point).contains(&e.event_id))
    {
        tx.append(event.clone());
    }
    let started_event_id = match task.started_id {
        0 => tx.push(WorkflowTaskStartedEventAttributes {
            scheduled_event_id: task.scheduled_id,
            identity: ENGINE_IDENTITY.to_owned(),
            request_id: cx.uuid(),
            history_size_bytes: tx.run.core.history_size,
            ..Default::default()
        }),
        started => started,
    };
    tx.push(WorkflowTaskFailedEventAttributes {
        scheduled_event_id: task.scheduled_id,
        started_event_id,
        cause: WorkflowTaskFailedCause::ResetWorkflow as i32,
        failure: Some(reset_failure(&request.reason, None)),
        identity: ENGINE_IDENTITY.to_owned(),
        base_run_id: base.id.run_id.to_string(),
        new_run_id: run_id,
        ..Default::default()
    });
    for (scheduled_id, pending) in replay.activities {
        resume_activity(&mut tx, scheduled_id, pending, &request.reason);
    }
    replay.records.write(&mut tx);
    Ok(tx)
}

fn reset_failure(reason: &str, last_heartbeat_details: Option<Payloads>) -> Failure {
    Failure {
        message: reason.to_owned(),
        failure_info: Some(FailureInfo::ResetWorkflowFailureInfo(
            ResetWorkflowFailureInfo {
                last_heartbeat_details,
            },
        )),
        ..Default::default()
    }
}

/// A pending activity begins anew, with its first attempt and all its time. One whose start is in
/// the shared history cannot: it fails.
fn resume_activity(tx: &mut Tx<'_>, scheduled_id: i64, pending: PendingActivity<'_>, reason: &str) {
    if let Some((started_event_id, identity)) = pending.started {
        tx.push(ActivityTaskFailedEventAttributes {
            failure: Some(reset_failure(reason, None)),
            scheduled_event_id: scheduled_id,
            started_event_id,
            identity: identity.to_owned(),
            retry_state: RetryState::NonRetryableFailure as i32,
            ..Default::default()
        });
        return;
    }
    let mut record = activity::command::record(tx, pending.scheduled);
    record.scheduled_id = scheduled_id;
    record.scheduled_batch_id = pending.batch_id;
    record.cancel_requested = pending.cancel_requested_id != 0;
    record.cancel_requested_id = pending.cancel_requested_id;
    tx.put_activity(record);
    // It is due now: this offers it.
    activity::fire(tx, scheduled_id);
}

/// Children that were initiated and not started are the new run's to start. The server looks
/// first whether the base had created them after all (`child::reconnects`).
fn start_children(tx: &mut Tx<'_>) {
    let waiting = tx.run.children.values().filter(|c| c.started_id == 0);
    let waiting: Vec<_> = waiting
        .map(|c| (c.initiated_id, c.initiated_batch_id))
        .collect();
    for (event_id, batch_id) in waiting {
        tx.add_outbox(OutboxItem::StartChild(Initiated { event_id, batch_id }));
    }
}

/// The event ids that are legal points of a reset: one past each workflow task's scheduled or
/// started event. For clients that ask for the first or the last one.
pub fn points(history: &[Arc<DecodedBatch>]) -> impl Iterator<Item = i64> + '_ {
    let is_task = |e: &&HistoryEvent| {
        matches!(
            e.event_type(),
            EventType::WorkflowTaskScheduled | EventType::WorkflowTaskStarted
        )
    };
    history
        .iter()
        .flat_map(|b| &b.events)
        .filter(is_task)
        .map(|e| e.event_id + 1)
}
