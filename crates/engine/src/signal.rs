//! Signals: data from outside, recorded once per request id (contract section 5.1).

use tidemill_proto::api::common::v1::{Header, Link, Payloads, WorkflowExecution};
use tidemill_proto::api::history::v1::{HistoryEvent, WorkflowExecutionSignaledEventAttributes};

use crate::Error;
use crate::run::Run;
use crate::transition::Outcome;
use crate::tx::{Cx, Tx};

#[derive(Clone, Debug, Default)]
pub struct Signal {
    pub name: String,
    pub input: Option<Payloads>,
    pub header: Option<Header>,
    pub identity: String,
    /// Empty: no repeat is recognised.
    pub request_id: String,
    pub links: Vec<Link>,
    /// The workflow that sent it, if one did.
    pub external: Option<WorkflowExecution>,
}

/// Signals an open run.
pub fn signal(run: &Run, signal: Signal, cx: &Cx<'_>) -> Result<Outcome<()>, Error> {
    if !run.is_open() {
        return Err(Error::already_completed());
    }
    if !signal.request_id.is_empty() && run.signal_ids.contains_key(&signal.request_id) {
        return Ok(Outcome::unchanged(()));
    }
    if run.volatile.close_attempted && run.workflow_task_started() {
        return Err(Error::busy("Workflow is busy closing, try again."));
    }
    if run.core.signal_count >= cx.limits.signals {
        return Err(Error::invalid(format!("exceeded workflow execution limit for signal events ({})", cx.limits.signals)));
    }
    let mut tx = Tx::new(run, cx);
    record(&mut tx, signal);
    Ok(tx.finish(()))
}

/// Writes the signal; the caller has made all checks.
pub fn record(tx: &mut Tx<'_>, signal: Signal) {
    if !signal.request_id.is_empty() && !tx.remember_signal(&signal.request_id) {
        return;
    }
    tx.run.core.signal_count += 1;
    tx.push_event(HistoryEvent {
        attributes: Some(
            WorkflowExecutionSignaledEventAttributes {
                signal_name: signal.name,
                input: signal.input,
                identity: signal.identity,
                header: signal.header,
                external_workflow_execution: signal.external,
                request_id: signal.request_id,
                ..Default::default()
            }
            .into(),
        ),
        links: signal.links,
        ..Default::default()
    });
    tx.want_workflow_task();
}
