//! How a child comes to life: created, recorded by its parent, released.

use std::time::Duration;

use tidemill_proto::api::common::v1::{Header, WorkflowExecution, WorkflowType};
use tidemill_proto::api::enums::v1::{
    ContinueAsNewInitiator, StartChildWorkflowExecutionFailedCause as FailedCause,
};
use tidemill_proto::api::history::v1::history_event::Attributes;
use tidemill_proto::api::history::v1::{
    ChildWorkflowExecutionStartedEventAttributes, HistoryEvent,
    StartChildWorkflowExecutionFailedEventAttributes,
    StartChildWorkflowExecutionInitiatedEventAttributes, WorkflowExecutionStartedEventAttributes,
};

use crate::Error;
use crate::activity::priority;
use crate::cron;
use crate::ids::format_uuid;
use crate::model::Child;
use crate::run::{Run, RunId};
use crate::start::NewRun;
use crate::time::{Time, proto_span, span};
use crate::transition::{OutboxItem, Outcome, RunAddress};
use crate::tx::{Cx, Tx};

/// What a parent made of the news that its child was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Recorded, now or before: the child is released in turn.
    Recorded,
    /// The parent has closed or forgotten the child and will never release it: it is to be
    /// terminated, lest it wait for ever.
    Orphaned,
}

/// The child that an outbox entry asks for, for [`crate::start::create`]. `NotFound` when it is
/// not wanted any more (the parent closed) or was recorded as started: the entry is void.
///
/// The server applies the initiated event's id reuse policy (a running namesake always is a
/// conflict) and recognises a child that it created before by `create_request_id`.
pub fn start_request(parent: &Run, initiated: &HistoryEvent, cx: &Cx<'_>) -> Result<NewRun, Error> {
    let Some(Attributes::StartChildWorkflowExecutionInitiatedEventAttributes(a)) =
        &initiated.attributes
    else {
        return Err(Error::Internal(format!(
            "event {} initiates no child",
            initiated.event_id
        )));
    };
    let record = pending(parent, initiated.event_id).filter(|c| c.started_id == 0);
    let record = record
        .ok_or_else(|| Error::not_found("the child workflow is not to be started any more"))?;
    let has_cron = !a.cron_schedule.is_empty();
    let backoff = cron::next_backoff(&a.cron_schedule, cx.now, cx.now).unwrap_or_default();
    let initiator = if has_cron {
        ContinueAsNewInitiator::CronSchedule
    } else {
        ContinueAsNewInitiator::Unspecified
    };
    let started = WorkflowExecutionStartedEventAttributes {
        workflow_type: a.workflow_type.clone(),
        task_queue: a.task_queue.clone(),
        input: a.input.clone(),
        header: a.header.clone(),
        workflow_execution_timeout: a.workflow_execution_timeout,
        workflow_run_timeout: a.workflow_run_timeout,
        workflow_task_timeout: a.workflow_task_timeout,
        workflow_execution_expiration_time: expiration(span(&a.workflow_execution_timeout), cx.now),
        retry_policy: a.retry_policy.clone(),
        attempt: 1,
        cron_schedule: a.cron_schedule.clone(),
        initiator: initiator as i32,
        first_workflow_task_backoff: proto_span(backoff),
        memo: a.memo.clone(),
        search_attributes: a.search_attributes.clone(),
        priority: priority::merge(parent.priority(), a.priority.clone()),
        versioning_override: a.versioning_override.clone(),
        parent_workflow_namespace: cx.namespace.to_owned(),
        parent_workflow_namespace_id: format_uuid(&parent.id.namespace_id),
        parent_workflow_execution: Some(parent.id.execution()),
        parent_initiated_event_id: initiated.event_id,
        root_workflow_execution: Some(root(parent)),
        ..Default::default()
    };
    Ok(NewRun {
        id: RunId {
            no: cx.ids.run_no(),
            namespace_id: parent.id.namespace_id,
            workflow_id: a.workflow_id.as_str().into(),
            run_id: cx.run_id().into(),
        },
        started,
        metadata: initiated.user_metadata.clone(),
        links: Vec::new(),
        create_request_id: record.create_request_id.clone(),
        awaits_parent: true,
    })
}

fn root(parent: &Run) -> WorkflowExecution {
    parent
        .start()
        .root_workflow_execution
        .as_deref()
        .cloned()
        .unwrap_or_else(|| parent.id.execution())
}

/// The chain's end counts from now, whatever the first run waits; rounded to milliseconds.
fn expiration(timeout: Duration, now: Time) -> Option<tidemill_proto::wkt::Timestamp> {
    const MS: i64 = 1_000_000;
    if timeout.is_zero() {
        return None;
    }
    let at = now.plus(timeout).0;
    Some(Time(at.saturating_add(MS / 2) / MS * MS).proto())
}

/// The record of a child that an open run still waits for.
fn pending(parent: &Run, initiated_id: i64) -> Option<&Child> {
    parent
        .children
        .get(&initiated_id)
        .filter(|_| parent.is_open())
        .map(|c| &**c)
}

/// The child was created (or found to exist by its request id): the parent records its start.
/// `run_id` is the first run of the child's chain.
pub fn started(
    parent: &Run,
    initiated_id: i64,
    initiated: &StartChildWorkflowExecutionInitiatedEventAttributes,
    run_id: &str,
    outbox_id: i64,
    cx: &Cx<'_>,
) -> Outcome<Link> {
    let mut tx = Tx::new(parent, cx);
    tx.remove_outbox(outbox_id);
    let Some(child) = pending(parent, initiated_id) else {
        return tx.finish(Link::Orphaned);
    };
    if child.started_id == 0 {
        record_started(&mut tx, child.clone(), run_id, initiated.header.clone());
        tx.add_outbox(OutboxItem::ReleaseChild(RunAddress {
            namespace_id: child.namespace_id.clone(),
            workflow_id: child.workflow_id.clone(),
            run_id: run_id.to_owned(),
            initiated_id,
        }));
    } else if child.run_id != run_id {
        return tx.finish(Link::Orphaned);
    }
    tx.finish(Link::Recorded)
}

/// Writes the started event and updates the record.
pub(crate) fn record_started(
    tx: &mut Tx<'_>,
    mut child: Child,
    run_id: &str,
    header: Option<Header>,
) -> Child {
    child.run_id = run_id.to_owned();
    child.started_id = tx.push(ChildWorkflowExecutionStartedEventAttributes {
        namespace: child.namespace.clone(),
        namespace_id: child.namespace_id.clone(),
        initiated_event_id: child.initiated_id,
        workflow_execution: Some(WorkflowExecution {
            workflow_id: child.workflow_id.clone(),
            run_id: run_id.to_owned(),
        }),
        workflow_type: Some(WorkflowType {
            name: child.workflow_type.clone(),
        }),
        header,
    });
    tx.put_child(child.clone());
    tx.want_workflow_task();
    child
}

/// The child cannot be created: the parent is told why. Void when the parent has closed or the
/// child has started.
pub fn start_failed(
    parent: &Run,
    initiated_id: i64,
    cause: FailedCause,
    outbox_id: i64,
    cx: &Cx<'_>,
) -> Outcome<()> {
    let mut tx = Tx::new(parent, cx);
    tx.remove_outbox(outbox_id);
    if pending(parent, initiated_id).is_some_and(|c| c.started_id == 0) {
        record_start_failed(&mut tx, initiated_id, cause);
    }
    tx.finish(())
}

/// Writes the failed event in place of a child that has not started.
pub(crate) fn record_start_failed(tx: &mut Tx<'_>, initiated_id: i64, cause: FailedCause) {
    let Some(child) = tx.remove_child(initiated_id) else {
        return;
    };
    tx.push(StartChildWorkflowExecutionFailedEventAttributes {
        namespace: child.namespace.clone(),
        namespace_id: child.namespace_id.clone(),
        workflow_id: child.workflow_id.clone(),
        workflow_type: Some(WorkflowType {
            name: child.workflow_type.clone(),
        }),
        cause: cause as i32,
        control: child.control.clone(),
        initiated_event_id: initiated_id,
        workflow_task_completed_event_id: 0,
    });
    tx.want_workflow_task();
}

/// The parent has recorded the child's start: its first workflow task is scheduled, after its
/// backoff if it has one. Void for a child that was released before or has closed.
pub fn release(child: &Run, cx: &Cx<'_>) -> Outcome<()> {
    if !child.is_open() || !child.core.awaits_parent {
        return Outcome::unchanged(());
    }
    let mut tx = Tx::new(child, cx);
    tx.run.core.awaits_parent = false;
    tx.touch_core();
    tx.want_workflow_task();
    tx.finish(())
}

/// Whether `child`, found under the id of a child that `parent` is to start, is that very child:
/// a run that `parent` was reset from had created it. `original` tells, by run id, which run the
/// child's parent was reset from, if that run is known.
///
/// Then the server calls [`started`] with the child's first run id instead of creating another.
pub fn reconnects(
    parent: &Run,
    initiated_id: i64,
    child: &Run,
    original: impl Fn(&str) -> Option<String>,
) -> bool {
    let start = child.start();
    let Some(parent_then) = start.parent.as_deref() else {
        return false;
    };
    let of = &parent_then.execution;
    let origin = &parent.start().original_execution_run_id;
    let was_reset = *origin != parent.id.run_id;
    was_reset
        && child.is_open()
        && child.id.namespace_id == parent.id.namespace_id
        && of.workflow_id == *parent.id.workflow_id
        && parent_then.initiated_event_id == initiated_id
        && (of.run_id == **origin || original(&of.run_id).as_deref() == Some(&**origin))
}
