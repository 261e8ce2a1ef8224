use tidemill_proto::api::command::v1::command::Attributes as C;
use tidemill_proto::api::command::v1::{
    RequestCancelExternalWorkflowExecutionCommandAttributes as CancelCommand,
    SignalExternalWorkflowExecutionCommandAttributes as SignalCommand,
    StartChildWorkflowExecutionCommandAttributes,
};
use tidemill_proto::api::common::v1::{WorkflowExecution, WorkflowType};
use tidemill_proto::api::enums::v1::{
    CancelExternalWorkflowExecutionFailedCause as CancelFailedCause, EventType as E,
    SignalExternalWorkflowExecutionFailedCause as SignalFailedCause,
};
use tidemill_proto::api::history::v1::history_event::Attributes as A;
use tidemill_proto::api::history::v1::{
    HistoryEvent,
    RequestCancelExternalWorkflowExecutionInitiatedEventAttributes as CancelInitiated,
    SignalExternalWorkflowExecutionInitiatedEventAttributes as SignalInitiated,
};

use super::*;
use crate::close::{Termination, terminate_run};
use crate::fixture::payloads;
use crate::testing::Rig;
use crate::transition::OutboxItem;

fn cancel(id: &str) -> CancelCommand {
    CancelCommand {
        workflow_id: id.into(),
        reason: "why".into(),
        ..Default::default()
    }
}

fn signal(id: &str) -> SignalCommand {
    let execution = WorkflowExecution {
        workflow_id: id.into(),
        run_id: String::new(),
    };
    SignalCommand {
        execution: Some(execution),
        signal_name: "sig".into(),
        input: Some(payloads("in")),
        control: "c".into(),
        ..Default::default()
    }
}

fn both(id: &str) -> Vec<C> {
    vec![
        C::RequestCancelExternalWorkflowExecutionCommandAttributes(cancel(id)),
        C::SignalExternalWorkflowExecutionCommandAttributes(signal(id)),
    ]
}

/// A run that has initiated both, and the initiated events.
fn initiated(id: &str) -> (Rig, HistoryEvent, HistoryEvent) {
    let mut rig = Rig::new();
    rig.decide(both(id)).unwrap();
    rig.types();
    let cancel = rig.last(E::RequestCancelExternalWorkflowExecutionInitiated);
    let signal = rig.last(E::SignalExternalWorkflowExecutionInitiated);
    (rig, cancel, signal)
}

fn of_cancel(event: &HistoryEvent) -> &CancelInitiated {
    match &event.attributes {
        Some(A::RequestCancelExternalWorkflowExecutionInitiatedEventAttributes(a)) => a,
        other => panic!("{other:?}"),
    }
}

fn of_signal(event: &HistoryEvent) -> &SignalInitiated {
    match &event.attributes {
        Some(A::SignalExternalWorkflowExecutionInitiatedEventAttributes(a)) => a,
        other => panic!("{other:?}"),
    }
}

fn close(rig: &mut Rig) {
    let outcome = terminate_run(&rig.run, Termination::default(), &rig.cx()).unwrap();
    rig.apply(outcome).unwrap();
    rig.types();
}

#[test]
fn refused() {
    type Change<T> = fn(&mut T);
    let cancels: [(Change<CancelCommand>, bool); 7] = [
        (|_| {}, true),
        (|a| a.namespace = "ns".into(), true),
        (
            |a| a.run_id = "00112233-4455-6677-8899-aabbccddeeff".into(),
            true,
        ),
        (|a| a.namespace = "other".into(), false),
        (|a| a.workflow_id.clear(), false),
        (|a| a.workflow_id = "x".repeat(1001), false),
        (|a| a.run_id = "r".into(), false),
    ];
    for (i, (change, allowed)) in cancels.into_iter().enumerate() {
        let mut a = cancel("target");
        change(&mut a);
        let got = Rig::new().decide(vec![
            C::RequestCancelExternalWorkflowExecutionCommandAttributes(a),
        ]);
        assert_eq!(got.is_ok(), allowed, "row {i}: {got:?}");
        if let Err(e) = got {
            assert!(
                e.to_string()
                    .starts_with("BadRequestCancelExternalWorkflowExecutionAttributes"),
                "{e}"
            );
        }
    }
    let signals: [(Change<SignalCommand>, bool); 8] = [
        (|_| {}, true),
        (|a| a.namespace = "ns".into(), true),
        (|a| a.namespace = "other".into(), false),
        (|a| a.execution = None, false),
        (
            |a| {
                a.execution = Some(WorkflowExecution {
                    workflow_id: "t".into(),
                    run_id: "r".into(),
                })
            },
            false,
        ),
        (|a| a.signal_name.clear(), false),
        (|a| a.signal_name = "x".repeat(1001), false),
        (|a| a.input = Some(payloads(&"x".repeat(3 << 20))), false),
    ];
    for (i, (change, allowed)) in signals.into_iter().enumerate() {
        let mut a = signal("target");
        change(&mut a);
        let mut rig = Rig::new();
        let got = rig.decide(vec![C::SignalExternalWorkflowExecutionCommandAttributes(a)]);
        assert_eq!(got.is_ok(), allowed, "row {i}: {got:?}");
        if let Err(e) = got {
            assert!(
                e.to_string()
                    .starts_with("BadSignalWorkflowExecutionAttributes"),
                "{e}"
            );
            assert_eq!(
                rig.run.is_open(),
                i != 7,
                "only what is too large ends the run"
            );
        }
    }
    for (command, cause) in both("target").into_iter().zip([
        "PendingRequestCancelLimitExceeded",
        "PendingSignalsLimitExceeded",
    ]) {
        let mut rig = Rig::new();
        (
            rig.limits.pending_external_cancels,
            rig.limits.pending_external_signals,
        ) = (1, 1);
        let got = rig.decide(vec![command.clone(), command]).unwrap_err();
        assert!(got.to_string().starts_with(cause), "{got}");
    }
}

#[test]
fn a_child_cannot_be_cancelled_by_the_task_that_starts_it() {
    let child = |id: &str| {
        C::StartChildWorkflowExecutionCommandAttributes(
            StartChildWorkflowExecutionCommandAttributes {
                workflow_id: id.into(),
                workflow_type: Some(WorkflowType { name: "T".into() }),
                ..Default::default()
            },
        )
    };
    let cancel = || C::RequestCancelExternalWorkflowExecutionCommandAttributes(cancel("child"));
    assert!(Rig::new().decide(vec![child("child"), cancel()]).is_err());
    assert!(Rig::new().decide(vec![child("other"), cancel()]).is_ok());
    // By a later task it can.
    let mut rig = Rig::new();
    rig.decide(vec![child("child")]).unwrap();
    let outcome =
        crate::signal::signal(&rig.run, crate::signal::Signal::default(), &rig.cx()).unwrap();
    rig.apply(outcome).unwrap();
    rig.decide(vec![cancel()]).unwrap();
}

#[test]
fn what_is_delivered() {
    let (mut rig, c, s) = initiated("target");
    let source = rig.run.id.execution();
    let Step::Deliver(request) = deliver::cancel(&rig.run, c.event_id, of_cancel(&c)) else {
        panic!()
    };
    assert_eq!(
        (request.reason.as_str(), request.external.clone()),
        ("why", Some((source.clone(), c.event_id)))
    );
    let Step::Deliver(sent) = deliver::signal(&rig.run, s.event_id, of_signal(&s)) else {
        panic!()
    };
    assert_eq!(
        (sent.name.as_str(), &sent.input, &sent.external),
        ("sig", &Some(payloads("in")), &Some(source))
    );
    assert_eq!(
        sent.request_id,
        rig.run.external_signals[&s.event_id].request_id
    );

    // The target takes a repeat for what it is, until it is told that there will be none.
    let mut target = Rig::new();
    for _ in 0..2 {
        let outcome = crate::signal::signal(&target.run, sent.clone(), &target.cx()).unwrap();
        target.apply(outcome).unwrap();
    }
    assert_eq!(target.run.core.signal_count, 1);
    let outcome = forget_signal(&target.run, &sent.request_id, &target.cx());
    target.apply(outcome).unwrap();
    assert!(target.run.signal_ids.is_empty());
    assert!(
        forget_signal(&target.run, &sent.request_id, &target.cx())
            .transitions
            .is_empty()
    );

    close(&mut rig);
    assert!(matches!(
        deliver::cancel(&rig.run, c.event_id, of_cancel(&c)),
        Step::Drop
    ));
    assert!(matches!(
        deliver::signal(&rig.run, s.event_id, of_signal(&s)),
        Step::Drop
    ));

    let (rig, c, s) = initiated("w");
    assert!(matches!(
        deliver::cancel(&rig.run, c.event_id, of_cancel(&c)),
        Step::Fail(CancelFailedCause::ExternalWorkflowExecutionNotFound)
    ));
    assert!(matches!(
        deliver::signal(&rig.run, s.event_id, of_signal(&s)),
        Step::Fail(SignalFailedCause::ExternalWorkflowExecutionNotFound)
    ));
}

#[test]
fn results_are_recorded_once() {
    type Record = fn(&Rig, &HistoryEvent, &HistoryEvent) -> crate::Outcome<()>;
    let rows: [(Record, E, usize); 4] = [
        (
            |b, c, _| cancel_requested(&b.run, c.event_id, of_cancel(c), 1, &b.cx()),
            E::ExternalWorkflowExecutionCancelRequested,
            0,
        ),
        (
            |b, c, _| {
                cancel_failed(
                    &b.run,
                    c.event_id,
                    of_cancel(c),
                    CancelFailedCause::NamespaceNotFound,
                    1,
                    &b.cx(),
                )
            },
            E::RequestCancelExternalWorkflowExecutionFailed,
            0,
        ),
        (
            |b, _, s| signaled(&b.run, s.event_id, of_signal(s), 2, &b.cx()),
            E::ExternalWorkflowExecutionSignaled,
            1,
        ),
        (
            |b, _, s| {
                signal_failed(
                    &b.run,
                    s.event_id,
                    of_signal(s),
                    SignalFailedCause::SignalCountLimitExceeded,
                    2,
                    &b.cx(),
                )
            },
            E::SignalExternalWorkflowExecutionFailed,
            1,
        ),
    ];
    for (record, kind, entry) in rows {
        let (mut rig, c, s) = initiated("target");
        assert!(
            matches!(&rig.items()[..], [OutboxItem::CancelExternal(a), OutboxItem::SignalExternal(b)]
            if a.event_id == c.event_id && b.event_id == s.event_id && b.batch_id == c.event_id - 1)
        );
        let outcome = record(&rig, &c, &s);
        rig.apply(outcome).unwrap();
        assert_eq!(rig.types(), [kind, E::WorkflowTaskScheduled]);
        assert_eq!(rig.outbox.len(), 1);
        let text = format!("{:?}", rig.last(kind).attributes);
        let event_id = [&c, &s][entry].event_id;
        assert!(
            text.contains(&format!("initiated_event_id: {event_id}"))
                && text.contains("\"target\""),
            "{text}"
        );
        assert_eq!(
            (
                rig.run.external_cancels.len(),
                rig.run.external_signals.len()
            ),
            (entry, 1 - entry)
        );
        // Again.
        let outcome = record(&rig, &c, &s);
        rig.apply(outcome).unwrap();
        assert_eq!(rig.types(), []);

        // A run that has closed only lets go of the entry.
        let (mut rig, c, s) = initiated("target");
        close(&mut rig);
        let outcome = record(&rig, &c, &s);
        assert_eq!(outcome.transitions[0].outbox_removed, [entry as i64 + 1]);
        assert!(outcome.transitions[0].batches.is_empty());
    }
}

#[test]
fn children_only() {
    let mut rig = Rig::new();
    let parent = rig.run.id.execution();
    assert!(!is_child_of(&rig.run, &parent));
    let started = tidemill_proto::api::history::v1::WorkflowExecutionStartedEventAttributes {
        parent_workflow_execution: Some(parent.clone()),
        ..Default::default()
    };
    rig = Rig::with(started);
    assert!(is_child_of(&rig.run, &parent));
    assert!(!is_child_of(
        &rig.run,
        &WorkflowExecution {
            run_id: "another".into(),
            ..parent
        }
    ));
}
