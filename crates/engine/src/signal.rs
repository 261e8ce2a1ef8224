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
        return Err(Error::invalid(format!(
            "exceeded workflow execution limit for signal events ({})",
            cx.limits.signals
        )));
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

#[cfg(test)]
mod tests {
    use tidemill_proto::api::enums::v1::EventType as E;
    use tidemill_proto::api::history::v1::history_event::Attributes as A;

    use super::*;
    use crate::fixture::{BEGIN, Counter, payloads};
    use crate::start::create;
    use crate::testing::{Rig, complete_workflow, context, new_run};

    #[test]
    fn a_request_id_counts_once() {
        let mut rig = Rig::idle();
        rig.signal("r").unwrap();
        rig.signal("r").unwrap();
        let started = rig.poll();
        rig.signal("buffered").unwrap();
        rig.signal("buffered").unwrap();
        rig.reload();
        rig.signal("buffered").unwrap();
        rig.signal("r").unwrap();
        assert_eq!(
            (
                rig.count(E::WorkflowExecutionSignaled),
                rig.state().as_str()
            ),
            (1, "started +1")
        );
        // Without one every signal counts.
        rig.signal("").unwrap();
        rig.signal("").unwrap();
        rig.commands(&started.task, vec![]).unwrap();
        assert_eq!(
            (
                rig.count(E::WorkflowExecutionSignaled),
                rig.run.core.signal_count
            ),
            (4, 4)
        );
    }

    #[test]
    fn the_event_says_all() {
        let mut rig = Rig::idle();
        let sender = WorkflowExecution {
            workflow_id: "other".into(),
            run_id: "r".into(),
        };
        let given = Signal {
            name: "S".into(),
            input: Some(payloads("in")),
            identity: "me".into(),
            request_id: "id".into(),
            links: vec![Link::default()],
            external: Some(sender.clone()),
            ..Default::default()
        };
        rig.op(|run, cx| signal(run, given, cx)).unwrap();
        let event = rig.last(E::WorkflowExecutionSignaled);
        let Some(A::WorkflowExecutionSignaledEventAttributes(a)) = event.attributes else {
            panic!()
        };
        assert_eq!(
            (a.signal_name.as_str(), a.input, a.identity.as_str()),
            ("S", Some(payloads("in")), "me")
        );
        assert_eq!(
            (
                a.request_id.as_str(),
                a.external_workflow_execution,
                event.links.len()
            ),
            ("id", Some(sender), 1)
        );
    }

    #[test]
    fn too_many_signals() {
        let mut rig = Rig::idle();
        rig.limits.signals = 2;
        rig.signal("").unwrap();
        rig.signal("r").unwrap();
        assert!(matches!(rig.signal(""), Err(Error::InvalidArgument(_))));
        // A repeat is no new one.
        rig.signal("r").unwrap();
    }

    #[test]
    fn signal_with_start() {
        let (ids, limits) = (Counter::default(), crate::Limits::default());
        let cx = context(BEGIN, &ids, &limits);
        let mut tx = create(new_run(Default::default()), &cx);
        record(
            &mut tx,
            Signal {
                name: "S".into(),
                request_id: "create".into(),
                ..Default::default()
            },
        );
        let mut rig = Rig::over(
            Counter::default(),
            limits.clone(),
            BEGIN,
            tx.into_transitions(),
        );
        assert_eq!(
            rig.types(),
            [
                E::WorkflowExecutionStarted,
                E::WorkflowExecutionSignaled,
                E::WorkflowTaskScheduled
            ]
        );
        assert_eq!(rig.history.len(), 1);
        rig.signal("create").unwrap();
        assert_eq!(rig.types(), []);
        rig.task(vec![complete_workflow()]);
        assert!(matches!(rig.signal("create"), Err(Error::NotFound(_))));
    }
}
