//! What the server has to do for an outbox entry of these kinds, and what the target has to check.

use tidemill_proto::api::common::v1::WorkflowExecution;
use tidemill_proto::api::enums::v1::{
    CancelExternalWorkflowExecutionFailedCause as CancelFailedCause,
    SignalExternalWorkflowExecutionFailedCause as SignalFailedCause,
};
use tidemill_proto::api::history::v1::{
    RequestCancelExternalWorkflowExecutionInitiatedEventAttributes as CancelInitiated,
    SignalExternalWorkflowExecutionInitiatedEventAttributes as SignalInitiated,
};

use crate::cancel::CancelRequest;
use crate::close::ENGINE_IDENTITY;
use crate::run::Run;
use crate::signal::Signal;
use crate::transition::Outcome;
use crate::tx::{Cx, Tx};

/// What is to be done with an entry.
#[derive(Clone, Debug, PartialEq)]
pub enum Step<T, C> {
    /// Nothing: the run has closed, or the result is recorded. The entry goes.
    Drop,
    /// It is known to fail: record that.
    Fail(C),
    /// Deliver this, then record the result. A target that is missing fails with "not found".
    Deliver(T),
}

/// What to do about a signal that `run` initiated.
pub fn signal(
    run: &Run,
    initiated_id: i64,
    initiated: &SignalInitiated,
) -> Step<Signal, SignalFailedCause> {
    let Some(record) = run
        .external_signals
        .get(&initiated_id)
        .filter(|_| run.is_open())
    else {
        return Step::Drop;
    };
    if is_itself(run, initiated.workflow_execution.as_ref()) {
        return Step::Fail(SignalFailedCause::ExternalWorkflowExecutionNotFound);
    }
    Step::Deliver(Signal {
        name: initiated.signal_name.clone(),
        input: initiated.input.clone(),
        header: initiated.header.clone(),
        identity: ENGINE_IDENTITY.to_owned(),
        request_id: record.request_id.clone(),
        links: Vec::new(),
        external: Some(run.id.execution()),
    })
}

/// What to do about a cancel request that `run` initiated.
pub fn cancel(
    run: &Run,
    initiated_id: i64,
    initiated: &CancelInitiated,
) -> Step<CancelRequest, CancelFailedCause> {
    if !run.is_open() || !run.external_cancels.contains_key(&initiated_id) {
        return Step::Drop;
    }
    if is_itself(run, initiated.workflow_execution.as_ref()) {
        return Step::Fail(CancelFailedCause::ExternalWorkflowExecutionNotFound);
    }
    Step::Deliver(CancelRequest {
        reason: initiated.reason.clone(),
        identity: ENGINE_IDENTITY.to_owned(),
        links: Vec::new(),
        external: Some((run.id.execution(), initiated_id)),
    })
}

/// A workflow cannot reach itself this way, whichever run it names.
fn is_itself(run: &Run, target: Option<&WorkflowExecution>) -> bool {
    target.is_some_and(|t| t.workflow_id == *run.id.workflow_id)
}

/// Whether `target` is a child of `source`. With `child_workflow_only` set, one that is open and
/// is not counts as not found.
pub fn is_child_of(target: &Run, source: &WorkflowExecution) -> bool {
    target.start().parent.as_ref().map(|p| &p.execution) == Some(source)
}

/// The sender has recorded the delivery and will not repeat it: the target forgets its request id.
pub fn forget_signal(target: &Run, request_id: &str, cx: &Cx<'_>) -> Outcome<()> {
    if !target.signal_ids.contains_key(request_id) {
        return Outcome::unchanged(());
    }
    let mut tx = Tx::new(target, cx);
    tx.forget_signal(request_id);
    tx.finish(())
}
