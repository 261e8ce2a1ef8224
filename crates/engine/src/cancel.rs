//! Requests to cancel a run: recorded once, for the workflow to obey (contract section 5.2).

use tidemill_proto::api::common::v1::{Link, WorkflowExecution};
use tidemill_proto::api::history::v1::{HistoryEvent, WorkflowExecutionCancelRequestedEventAttributes};

use crate::run::Run;
use crate::transition::Outcome;
use crate::tx::{Cx, Tx};

#[derive(Clone, Debug, Default)]
pub struct CancelRequest {
    pub reason: String,
    pub identity: String,
    pub links: Vec<Link>,
    /// The workflow that asked, with its initiated event id, if one did.
    pub external: Option<(WorkflowExecution, i64)>,
}

/// Asks a run to cancel. A closed run, and one that was asked before, stay as they are.
pub fn request(run: &Run, request: CancelRequest, cx: &Cx<'_>) -> Outcome<()> {
    if !run.is_open() || run.core.cancel_requested {
        return Outcome::unchanged(());
    }
    let mut tx = Tx::new(run, cx);
    let (execution, initiated_id) = request.external.unzip();
    tx.run.core.cancel_requested = true;
    let id = tx.push_event(HistoryEvent {
        attributes: Some(
            WorkflowExecutionCancelRequestedEventAttributes {
                cause: request.reason,
                external_initiated_event_id: initiated_id.unwrap_or_default(),
                external_workflow_execution: execution,
                identity: request.identity,
            }
            .into(),
        ),
        links: request.links,
        ..Default::default()
    });
    tx.run.core.cancel_requested_id = id;
    // Unlike a signal, a cancel request does not wait for a start delay to pass.
    tx.run.core.backoff_until = 0;
    tx.want_workflow_task();
    tx.finish(())
}
