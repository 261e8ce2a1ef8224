//! Applying to the new run what the world sent to the old ones after the point.

use tidemill_proto::api::common::v1::WorkflowExecution;
use tidemill_proto::api::enums::v1::UpdateAdmittedEventOrigin as Origin;
use tidemill_proto::api::history::v1::history_event::Attributes as A;
use tidemill_proto::api::history::v1::{
    HistoryEvent, WorkflowExecutionOptionsUpdatedEventAttributes,
    WorkflowExecutionUpdateAdmittedEventAttributes,
};
use tidemill_proto::api::update::v1::Request;

use super::Exclude;
use super::replay::Options;
use crate::child::{self, How};
use crate::model::{Child, UpdateRecord};
use crate::signal::{self, Signal};
use crate::tx::Tx;

/// Applies events of the base: what was sent to it, and what became of children that the new run
/// shares with it.
pub(super) fn own<'e>(
    tx: &mut Tx<'_>,
    events: impl IntoIterator<Item = &'e HistoryEvent>,
    exclude: Exclude,
) {
    for event in events {
        if !sent(tx, event, exclude) {
            of_child(tx, event);
        }
    }
}

/// Applies events of the runs that followed the base. Their children are not the new run's.
pub(super) fn others<'e>(
    tx: &mut Tx<'_>,
    events: impl IntoIterator<Item = &'e HistoryEvent>,
    exclude: Exclude,
) {
    for event in events {
        sent(tx, event, exclude);
    }
}

/// Applies what was sent from outside; whether the event is of that kind. Requests to cancel or
/// to terminate are not repeated: a reset is the answer to them.
fn sent(tx: &mut Tx<'_>, event: &HistoryEvent, exclude: Exclude) -> bool {
    match &event.attributes {
        Some(A::WorkflowExecutionSignaledEventAttributes(a)) if !exclude.signals => {
            signal::record(
                tx,
                Signal {
                    name: a.signal_name.clone(),
                    input: a.input.clone(),
                    header: a.header.clone(),
                    identity: a.identity.clone(),
                    request_id: a.request_id.clone(),
                    links: event.links.clone(),
                    external: None,
                },
            );
        }
        Some(A::WorkflowExecutionUpdateAdmittedEventAttributes(a)) if !exclude.updates => {
            admit(tx, a.request.as_ref(), a.origin());
        }
        // One without its request was admitted by an event before.
        Some(A::WorkflowExecutionUpdateAcceptedEventAttributes(a)) if !exclude.updates => {
            admit(tx, a.accepted_request.as_ref(), Origin::Reapply);
        }
        Some(A::WorkflowExecutionOptionsUpdatedEventAttributes(a)) => change_options(tx, event, a),
        _ => return false,
    }
    true
}

/// Admits an update that the new run does not know yet, for its next workflow task.
fn admit(tx: &mut Tx<'_>, request: Option<&Request>, origin: Origin) {
    let Some(request) = request else { return };
    let update_id = request.meta.as_ref().map_or("", |m| &m.update_id);
    if tx.run.updates.contains_key(update_id) {
        return;
    }
    let admitted_id = tx.push(WorkflowExecutionUpdateAdmittedEventAttributes {
        request: Some(request.clone()),
        origin: origin as i32,
    });
    tx.run.core.update_count += 1;
    tx.put_update(UpdateRecord {
        update_id: update_id.to_owned(),
        admitted_id,
        request: Some(request.clone()),
        ..Default::default()
    });
}

fn change_options(
    tx: &mut Tx<'_>,
    event: &HistoryEvent,
    a: &WorkflowExecutionOptionsUpdatedEventAttributes,
) {
    if !a.attached_request_id.is_empty() && tx.run.attached.contains_key(&a.attached_request_id) {
        return;
    }
    let event_id = tx.push_event(HistoryEvent {
        attributes: Some(a.clone().into()),
        links: event.links.clone(),
        ..Default::default()
    });
    let Options {
        priority,
        attached,
        callbacks,
    } = Options::of(a, event_id);
    if priority.is_some() {
        tx.run.core.priority_override = priority;
    }
    if let Some(request) = attached {
        tx.put_attached(request);
    }
    if !callbacks.is_empty() {
        tx.change_hidden(|v| v.attached_callbacks.extend(callbacks));
    }
}

/// Applies what became of a child that was initiated before the point. Those initiated after it
/// are initiated anew by the workflow.
fn of_child(tx: &mut Tx<'_>, event: &HistoryEvent) {
    match &event.attributes {
        Some(A::StartChildWorkflowExecutionFailedEventAttributes(a))
            if pending(tx, a.initiated_event_id).is_some_and(|c| c.started_id == 0) =>
        {
            child::record_start_failed(tx, a.initiated_event_id, a.cause());
        }
        Some(A::ChildWorkflowExecutionStartedEventAttributes(a)) => {
            if let Some(record) = pending(tx, a.initiated_event_id).filter(|c| c.started_id == 0) {
                let run_id = a.workflow_execution.as_ref().map_or("", |e| &e.run_id);
                child::record_started(tx, record, run_id, a.header.clone());
            }
        }
        Some(A::ChildWorkflowExecutionCompletedEventAttributes(a)) => {
            let how = How::Completed {
                result: a.result.clone(),
            };
            closed(tx, a.initiated_event_id, &a.workflow_execution, how);
        }
        Some(A::ChildWorkflowExecutionFailedEventAttributes(a)) => {
            let how = How::Failed {
                failure: a.failure.clone(),
                retry_state: a.retry_state(),
            };
            closed(tx, a.initiated_event_id, &a.workflow_execution, how);
        }
        Some(A::ChildWorkflowExecutionCanceledEventAttributes(a)) => {
            let how = How::Canceled {
                details: a.details.clone(),
            };
            closed(tx, a.initiated_event_id, &a.workflow_execution, how);
        }
        Some(A::ChildWorkflowExecutionTimedOutEventAttributes(a)) => {
            let how = How::TimedOut {
                retry_state: a.retry_state(),
            };
            closed(tx, a.initiated_event_id, &a.workflow_execution, how);
        }
        Some(A::ChildWorkflowExecutionTerminatedEventAttributes(a)) => {
            closed(
                tx,
                a.initiated_event_id,
                &a.workflow_execution,
                How::Terminated,
            );
        }
        _ => {}
    }
}

fn pending(tx: &Tx<'_>, initiated_id: i64) -> Option<Child> {
    tx.run.children.get(&initiated_id).map(|c| (**c).clone())
}

fn closed(tx: &mut Tx<'_>, initiated_id: i64, execution: &Option<WorkflowExecution>, how: How) {
    if let Some(record) = pending(tx, initiated_id).filter(|c| c.started_id != 0) {
        child::record_closed(tx, &record, execution.clone().unwrap_or_default(), how);
    }
}
