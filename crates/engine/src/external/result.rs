//! The results of signals and cancel requests to other workflows, as the sender records them.
//!
//! Each takes the initiated event that it answers and removes the outbox entry. For a run that
//! has closed, or that has recorded a result, that is all.

use tidemill_proto::api::enums::v1::{
    CancelExternalWorkflowExecutionFailedCause as CancelFailedCause,
    SignalExternalWorkflowExecutionFailedCause as SignalFailedCause,
};
use tidemill_proto::api::history::v1::history_event::Attributes;
use tidemill_proto::api::history::v1::{
    ExternalWorkflowExecutionCancelRequestedEventAttributes,
    ExternalWorkflowExecutionSignaledEventAttributes,
    RequestCancelExternalWorkflowExecutionFailedEventAttributes,
    RequestCancelExternalWorkflowExecutionInitiatedEventAttributes as CancelInitiated,
    SignalExternalWorkflowExecutionFailedEventAttributes,
    SignalExternalWorkflowExecutionInitiatedEventAttributes as SignalInitiated,
};

use crate::run::Run;
use crate::transition::Outcome;
use crate::tx::{Cx, Tx};

/// The other workflow was asked to cancel (or has closed).
pub fn cancel_requested(
    run: &Run,
    initiated_id: i64,
    a: &CancelInitiated,
    outbox_id: i64,
    cx: &Cx<'_>,
) -> Outcome<()> {
    let event = ExternalWorkflowExecutionCancelRequestedEventAttributes {
        initiated_event_id: initiated_id,
        namespace: a.namespace.clone(),
        namespace_id: a.namespace_id.clone(),
        workflow_execution: a.workflow_execution.clone(),
    };
    record(run, outbox_id, cx, event, |tx| {
        tx.remove_external_cancel(initiated_id).is_some()
    })
}

/// The other workflow cannot be asked to cancel.
pub fn cancel_failed(
    run: &Run,
    initiated_id: i64,
    a: &CancelInitiated,
    cause: CancelFailedCause,
    outbox_id: i64,
    cx: &Cx<'_>,
) -> Outcome<()> {
    let event = RequestCancelExternalWorkflowExecutionFailedEventAttributes {
        cause: cause as i32,
        workflow_task_completed_event_id: 0,
        namespace: a.namespace.clone(),
        namespace_id: a.namespace_id.clone(),
        workflow_execution: a.workflow_execution.clone(),
        initiated_event_id: initiated_id,
        control: String::new(),
    };
    record(run, outbox_id, cx, event, |tx| {
        tx.remove_external_cancel(initiated_id).is_some()
    })
}

/// The other workflow has the signal. The server has it forget the signal's request id next.
pub fn signaled(
    run: &Run,
    initiated_id: i64,
    a: &SignalInitiated,
    outbox_id: i64,
    cx: &Cx<'_>,
) -> Outcome<()> {
    let event = ExternalWorkflowExecutionSignaledEventAttributes {
        initiated_event_id: initiated_id,
        namespace: a.namespace.clone(),
        namespace_id: a.namespace_id.clone(),
        workflow_execution: a.workflow_execution.clone(),
        control: a.control.clone(),
    };
    record(run, outbox_id, cx, event, |tx| {
        tx.remove_external_signal(initiated_id).is_some()
    })
}

/// The other workflow cannot be signaled.
pub fn signal_failed(
    run: &Run,
    initiated_id: i64,
    a: &SignalInitiated,
    cause: SignalFailedCause,
    outbox_id: i64,
    cx: &Cx<'_>,
) -> Outcome<()> {
    let event = SignalExternalWorkflowExecutionFailedEventAttributes {
        cause: cause as i32,
        workflow_task_completed_event_id: 0,
        namespace: a.namespace.clone(),
        namespace_id: a.namespace_id.clone(),
        workflow_execution: a.workflow_execution.clone(),
        initiated_event_id: initiated_id,
        control: a.control.clone(),
    };
    record(run, outbox_id, cx, event, |tx| {
        tx.remove_external_signal(initiated_id).is_some()
    })
}

/// Writes the event if `take` finds the record that it is about.
fn record(
    run: &Run,
    outbox_id: i64,
    cx: &Cx<'_>,
    event: impl Into<Attributes>,
    take: impl FnOnce(&mut Tx<'_>) -> bool,
) -> Outcome<()> {
    let mut tx = Tx::new(run, cx);
    tx.remove_outbox(outbox_id);
    if run.is_open() && take(&mut tx) {
        tx.push(event);
        tx.want_workflow_task();
    }
    tx.finish(())
}
