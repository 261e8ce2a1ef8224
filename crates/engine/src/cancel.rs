//! Requests to cancel a run: recorded once, for the workflow to obey (contract section 5.2).

use tidemill_proto::api::common::v1::{Link, WorkflowExecution};
use tidemill_proto::api::history::v1::{
    HistoryEvent, WorkflowExecutionCancelRequestedEventAttributes,
};

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

#[cfg(test)]
mod tests {
    use tidemill_proto::api::enums::v1::EventType as E;
    use tidemill_proto::api::history::v1::history_event::Attributes as A;

    use super::*;
    use crate::testing::Rig;

    #[test]
    fn a_request_counts_once() {
        let mut rig = Rig::idle();
        rig.signal("").unwrap();
        let started = rig.poll();
        let sender = WorkflowExecution {
            workflow_id: "other".into(),
            run_id: "r".into(),
        };
        let given = CancelRequest {
            reason: "enough".into(),
            identity: "me".into(),
            links: vec![Link::default()],
            external: Some((sender.clone(), 7)),
        };
        rig.op(|run, cx| Ok(request(run, given, cx))).unwrap();
        // Waiting counts as asked.
        rig.cancel();
        assert_eq!(
            (rig.state().as_str(), rig.run.core.cancel_requested),
            ("started +1", true)
        );
        rig.reload();
        rig.commands(&started.task, vec![]).unwrap();
        rig.cancel();
        let event = rig.last(E::WorkflowExecutionCancelRequested);
        assert_eq!(
            (
                rig.count(E::WorkflowExecutionCancelRequested),
                rig.run.core.cancel_requested_id
            ),
            (1, event.event_id)
        );
        let Some(A::WorkflowExecutionCancelRequestedEventAttributes(a)) = event.attributes else {
            panic!()
        };
        assert_eq!(
            (a.cause.as_str(), a.identity.as_str(), event.links.len()),
            ("enough", "me", 1)
        );
        assert_eq!(
            (a.external_workflow_execution, a.external_initiated_event_id),
            (Some(sender), 7)
        );
    }
}
