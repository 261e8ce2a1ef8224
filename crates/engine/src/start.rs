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
use crate::start_facts::StartFacts;
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
    let NewRun {
        id,
        mut started,
        metadata,
        links,
        create_request_id,
        awaits_parent,
    } = new;
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
        backoff_until: if backoff.is_zero() {
            0
        } else {
            execution_time.0
        },
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
    let start = StartFacts::of(&event).expect("it is a start");
    let mut tx = Tx::creating(Run::new(id, Arc::new(start), core, visible), cx);
    tx.push_event(event);
    tx.want_workflow_task();
    tx
}

/// When a run times out: its run timeout counts from the end of the backoff, and the chain's
/// expiration bounds it.
pub fn run_expiration(
    started: &WorkflowExecutionStartedEventAttributes,
    execution_time: Time,
) -> Option<Time> {
    let timeout = span(&started.workflow_run_timeout);
    let by_run = (timeout > Duration::ZERO).then(|| execution_time.plus(timeout));
    let by_chain = started
        .workflow_execution_expiration_time
        .as_ref()
        .map(Time::from_proto);
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
    let task = if task.is_zero() {
        limits.workflow_task_timeout
    } else {
        task
    };
    let task = task.min(limits.workflow_task_timeout_max);
    if run.is_zero() { task } else { task.min(run) }
}

#[cfg(test)]
mod tests {
    use tidemill_proto::api::enums::v1::EventType as E;

    use super::*;
    use crate::fixture::{BEGIN, Counter, seconds};
    use crate::testing::{Rig, context, new_run};

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_is_filled_in() {
        let rig = Rig::with(WorkflowExecutionStartedEventAttributes {
            workflow_execution_timeout: seconds(60),
            workflow_run_timeout: seconds(90),
            ..Default::default()
        });
        let start = rig.run.start().attributes();
        assert_eq!((start.workflow_id.as_str(), start.attempt), ("w", 1));
        assert_eq!(
            (
                start.original_execution_run_id.as_str(),
                start.first_execution_run_id.as_str()
            ),
            ("first", "first")
        );
        assert_eq!(
            start.workflow_execution_expiration_time,
            Some(BEGIN.plus(s(60)).proto())
        );
        assert_eq!(rig.run.core.run_expiration, BEGIN.plus(s(60)).0);
        assert_eq!(
            rig.last(E::WorkflowExecutionStarted).event_time,
            Some(BEGIN.proto())
        );
        // A run of a chain keeps what it was given.
        let given = WorkflowExecutionStartedEventAttributes {
            original_execution_run_id: "o".into(),
            first_execution_run_id: "f".into(),
            attempt: 3,
            workflow_execution_timeout: seconds(60),
            workflow_execution_expiration_time: Some(BEGIN.plus(s(5)).proto()),
            ..Default::default()
        };
        let rig = Rig::with(given);
        let start = rig.run.start().attributes();
        assert_eq!(
            (
                start.original_execution_run_id.as_str(),
                rig.run.first_run_id(),
                start.attempt
            ),
            ("o", "f", 3)
        );
        assert_eq!(rig.run.core.run_expiration, BEGIN.plus(s(5)).0);
    }

    #[test]
    fn a_child_waits_for_its_parent() {
        let (ids, limits) = (Counter::default(), crate::Limits::default());
        let new = NewRun {
            awaits_parent: true,
            ..new_run(Default::default())
        };
        let cx = context(BEGIN, &ids, &limits);
        let mut rig = Rig::over(
            Counter::default(),
            limits.clone(),
            BEGIN,
            create(new, &cx).into_transitions(),
        );
        rig.signal("").unwrap();
        rig.cancel();
        rig.update("u").unwrap();
        rig.after(1.0);
        assert_eq!(rig.state(), "none");
        rig.op(|run, cx| Ok(crate::child::release(run, cx)))
            .unwrap();
        assert_eq!(
            (rig.state().as_str(), rig.poll().messages.len()),
            ("scheduled", 1)
        );
    }

    #[test]
    fn timeouts_bound_each_other() {
        let limits = Limits::default();
        for (run, execution, expected) in [(0, 0, 0), (0, 5, 5), (5, 0, 5), (9, 5, 5), (5, 9, 5)] {
            assert_eq!(run_timeout(s(run), s(execution)), s(expected));
        }
        for (task, run, expected) in [
            (0, 0, 10),
            (0, 5, 5),
            (30, 0, 30),
            (500, 0, 120),
            (500, 60, 60),
        ] {
            assert_eq!(task_timeout(s(task), s(run), &limits), s(expected));
        }
    }
}
