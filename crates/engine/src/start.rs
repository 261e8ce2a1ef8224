//! Creating runs.

use std::sync::Arc;
use std::time::Duration;

use tidemill_proto::api::common::v1::Link;
use tidemill_proto::api::enums::v1::WorkflowExecutionStatus;
use tidemill_proto::api::history::v1::{HistoryEvent, WorkflowExecutionStartedEventAttributes};
use tidemill_proto::api::sdk::v1::UserMetadata;

use crate::limits::Limits;
use crate::model::{Core, Visible};
use crate::run::{Run, RunId};
use crate::time::{Time, span};
use crate::tx::{Cx, Tx};

/// A run to be created. `started` is complete but for what [`create`] says it fills in.
pub struct NewRun {
    pub id: RunId,
    pub started: WorkflowExecutionStartedEventAttributes,
    pub metadata: Option<UserMetadata>,
    pub links: Vec<Link>,
    /// The start request's id, by which repeats are recognised.
    pub create_request_id: String,
    /// The first workflow task waits for the parent to record the start.
    pub awaits_parent: bool,
}

/// Opens a transition that creates a run: its Started event is written, timers are set, and the
/// first workflow task is asked for unless it has to wait (backoff from
/// `first_workflow_task_backoff`, or the parent). Fills in workflow id, original and first run id
/// (when empty) and the expiration from the execution timeout (when
/// unset).
pub fn create<'a>(new: NewRun, cx: &'a Cx<'a>) -> Tx<'a> {
    let NewRun { id, mut started, metadata, links, create_request_id, awaits_parent } = new;
    started.workflow_id = id.workflow_id.to_string();
    if started.original_execution_run_id.is_empty() {
        started.original_execution_run_id = id.run_id.to_string();
    }
    if started.first_execution_run_id.is_empty() {
        started.first_execution_run_id = id.run_id.to_string();
    }
    started.attempt = started.attempt.max(1);
    let backoff = span(&started.first_workflow_task_backoff);
    let execution_time = cx.now.plus(backoff);
    let execution_timeout = span(&started.workflow_execution_timeout);
    if started.workflow_execution_expiration_time.is_none() && !execution_timeout.is_zero() {
        started.workflow_execution_expiration_time = Some(cx.now.plus(execution_timeout).proto());
    }
    let visible = Visible {
        memo: started.memo.clone(),
        search_attributes: started.search_attributes.clone(),
        reset_points: started.prev_auto_reset_points.clone(),
        attached_callbacks: Vec::new(),
    };
    let core = Core {
        status: WorkflowExecutionStatus::Running as i32,
        next_event_id: 1,
        start_time: cx.now.0,
        execution_time: execution_time.0,
        backoff_until: if backoff.is_zero() { 0 } else { execution_time.0 },
        awaits_parent,
        run_expiration: run_expiration(&started, execution_time).map_or(0, |t| t.0),
        execution_expiration: started
            .workflow_execution_expiration_time
            .as_ref()
            .map_or(0, |t| Time::from_proto(t).0),
        create_request_id,
        ..Default::default()
    };
    let event = HistoryEvent {
        attributes: Some(started.into()),
        user_metadata: metadata,
        links,
        ..Default::default()
    };
    // The event is needed twice: in history, and as the run's own description of itself.
    let mut tx = Tx::creating(Run::new(id, Arc::new(event.clone()), core, visible), cx);
    tx.push_event(event);
    tx.want_workflow_task();
    tx
}

/// When a run times out: its run timeout counts from the end of the backoff, and the chain's
/// expiration bounds it.
pub fn run_expiration(started: &WorkflowExecutionStartedEventAttributes, execution_time: Time) -> Option<Time> {
    let timeout = span(&started.workflow_run_timeout);
    let by_run = (timeout > Duration::ZERO).then(|| execution_time.plus(timeout));
    let by_chain = started.workflow_execution_expiration_time.as_ref().map(Time::from_proto);
    [by_run, by_chain].into_iter().flatten().min()
}

/// A run's timeout: bounded by the chain's, which it is when unset. Zero is none.
pub fn run_timeout(run: Duration, execution: Duration) -> Duration {
    match (run.is_zero(), execution.is_zero()) {
        (true, _) => execution,
        (false, true) => run,
        (false, false) => run.min(execution),
    }
}

/// A workflow task's start-to-close timeout: the default when unset, bounded by the largest
/// allowed and by the run's.
pub fn task_timeout(task: Duration, run: Duration, limits: &Limits) -> Duration {
    let task = if task.is_zero() { limits.workflow_task_timeout } else { task };
    let task = task.min(limits.workflow_task_timeout_max);
    if run.is_zero() { task } else { task.min(run) }
}
