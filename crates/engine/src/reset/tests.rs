use tidemill_proto::api::command::v1::command::Attributes as C;
use tidemill_proto::api::command::v1::{
    CancelTimerCommandAttributes, CompleteWorkflowExecutionCommandAttributes,
    ContinueAsNewWorkflowExecutionCommandAttributes, ScheduleActivityTaskCommandAttributes,
    SignalExternalWorkflowExecutionCommandAttributes, StartChildWorkflowExecutionCommandAttributes,
    StartTimerCommandAttributes,
};
use tidemill_proto::api::common::v1::{ActivityType, WorkflowExecution, WorkflowType};
use tidemill_proto::api::enums::v1::{EventType as E, WorkflowExecutionStatus as Status};
use tidemill_proto::api::history::v1::history_event::Attributes as A;
use tidemill_proto::api::history::v1::{
    WorkflowExecutionStartedEventAttributes, WorkflowExecutionUpdateAcceptedEventAttributes,
};
use tidemill_proto::api::taskqueue::v1::TaskQueue;
use tidemill_proto::api::update::v1::{Input, Meta, Request as UpdateRequest};

use super::*;
use crate::child::{self, CloseFacts, How};
use crate::fixture::seconds;
use crate::signal::{Signal, signal};
use crate::testing::Rig;
use crate::time::Time;

fn request(finish_event_id: i64) -> Request {
    Request {
        finish_event_id,
        reason: "again".into(),
        request_id: "reset".into(),
        ..Default::default()
    }
}

/// Resets an open or closed base that is current; its rig goes on with what it is left as.
fn reset_base(base: &mut Rig, request: Request) -> Result<Rig, Error> {
    let outcome = reset(
        &base.run,
        &base.history,
        &[],
        Some(&base.run),
        request,
        &base.cx(),
    )?;
    let run_id = outcome.reply.unwrap();
    base.take(outcome.transitions);
    let others = std::mem::take(&mut base.others);
    assert_eq!(others.len(), 1);
    assert!(others[0].created && others[0].run.id.run_id.as_ref() == run_id);
    assert_eq!(base.run.core.reset_run_id, run_id);
    let rig = base.of(&others[0]);
    Ok(rig)
}

fn send(rig: &mut Rig, name: &str) {
    let outcome = signal(
        &rig.run,
        Signal {
            name: name.into(),
            request_id: name.into(),
            ..Default::default()
        },
        &rig.cx(),
    );
    rig.apply(outcome.unwrap()).unwrap();
}

fn timer(id: &str, s: i64) -> C {
    C::StartTimerCommandAttributes(StartTimerCommandAttributes {
        timer_id: id.into(),
        start_to_fire_timeout: seconds(s),
    })
}

fn cancel_timer(id: &str) -> C {
    C::CancelTimerCommandAttributes(CancelTimerCommandAttributes {
        timer_id: id.into(),
    })
}

fn activity(id: &str) -> C {
    C::ScheduleActivityTaskCommandAttributes(ScheduleActivityTaskCommandAttributes {
        activity_id: id.into(),
        activity_type: Some(ActivityType { name: "A".into() }),
        task_queue: Some(TaskQueue {
            name: "q".into(),
            ..Default::default()
        }),
        start_to_close_timeout: seconds(5),
        ..Default::default()
    })
}

fn start_child(id: &str) -> C {
    C::StartChildWorkflowExecutionCommandAttributes(StartChildWorkflowExecutionCommandAttributes {
        workflow_id: id.into(),
        workflow_type: Some(WorkflowType { name: "T".into() }),
        ..Default::default()
    })
}

fn complete() -> Vec<C> {
    vec![C::CompleteWorkflowExecutionCommandAttributes(
        CompleteWorkflowExecutionCommandAttributes::default(),
    )]
}

fn types(rig: &Rig) -> Vec<E> {
    rig.events().map(|e| e.event_type()).collect()
}

fn signals(rig: &Rig) -> Vec<String> {
    let name = |e: &HistoryEvent| match &e.attributes {
        Some(A::WorkflowExecutionSignaledEventAttributes(a)) => Some(a.signal_name.clone()),
        _ => None,
    };
    rig.events().filter_map(name).collect()
}

use E::{
    TimerStarted, WorkflowExecutionSignaled as Signaled, WorkflowExecutionStarted as Begun,
    WorkflowTaskCompleted as Completed, WorkflowTaskFailed as Failed,
    WorkflowTaskScheduled as Scheduled, WorkflowTaskStarted as Started,
};

/// Started 1, task 2-4, timer 5, signal 6, task 7-8 (running), signal buffered.
fn base() -> Rig {
    let mut base = Rig::with(WorkflowExecutionStartedEventAttributes {
        workflow_run_timeout: seconds(100),
        workflow_execution_timeout: seconds(1000),
        ..Default::default()
    });
    base.decide(vec![timer("t", 50)]).unwrap();
    send(&mut base, "one");
    base.begin();
    send(&mut base, "two");
    assert_eq!(
        types(&base),
        [
            Begun,
            Scheduled,
            Started,
            Completed,
            TimerStarted,
            Signaled,
            Scheduled,
            Started
        ]
    );
    base
}

#[test]
fn where_a_run_can_be_reset_to() {
    let rows: &[(i64, Result<&[E], ()>)] = &[
        (0, Err(())),
        (1, Err(())),
        (2, Err(())),
        (
            3,
            Ok(&[
                Begun, Scheduled, Started, Failed, Signaled, Signaled, Scheduled,
            ]),
        ),
        (
            4,
            Ok(&[
                Begun, Scheduled, Started, Failed, Signaled, Signaled, Scheduled,
            ]),
        ),
        (5, Err(())),
        (6, Err(())),
        (7, Err(())),
        (
            8,
            Ok(&[
                Begun,
                Scheduled,
                Started,
                Completed,
                TimerStarted,
                Signaled,
                Scheduled,
                Started,
                Failed,
                Signaled,
                Scheduled,
            ]),
        ),
        (9, Err(())),
    ];
    for (point, expected) in rows {
        let mut base = base();
        base.wait(20.0);
        let got = reset_base(&mut base, request(*point));
        match expected {
            Err(()) => assert!(matches!(got, Err(Error::InvalidArgument(_))), "{point}"),
            Ok(expected) => {
                let new = got.unwrap_or_else(|e| panic!("{point}: {e:?}"));
                assert_eq!(types(&new), *expected, "{point}");
                assert_eq!(
                    signals(&new),
                    ["one", "two"],
                    "{point}: in order, the buffered one too"
                );
                assert!(points(&base.history).any(|p| p == *point));
                // The base is terminated, and its buffered signal was not lost.
                assert_eq!(
                    (base.run.status(), signals(&base)),
                    (Status::Terminated, vec!["one".into(), "two".into()])
                );
                let Some(A::WorkflowExecutionTerminatedEventAttributes(a)) =
                    base.last(E::WorkflowExecutionTerminated).attributes
                else {
                    panic!()
                };
                assert_eq!((&*a.identity, &*a.reason), (RESETTER_IDENTITY, "again"));
            }
        }
    }
}

#[test]
fn what_the_new_run_is() {
    let mut base = base();
    base.wait(20.0);
    let mut new = reset_base(&mut base, request(4)).unwrap();
    let Some(A::WorkflowTaskFailedEventAttributes(failed)) = new.last(Failed).attributes else {
        panic!()
    };
    assert_eq!(
        (failed.base_run_id.as_str(), failed.new_run_id.as_str()),
        ("first", &*new.run.id.run_id)
    );
    assert_eq!((failed.scheduled_event_id, failed.started_event_id), (2, 3));
    assert_eq!(failed.cause(), WorkflowTaskFailedCause::ResetWorkflow);
    assert!(matches!(
        failed.failure.unwrap().failure_info,
        Some(FailureInfo::ResetWorkflowFailureInfo(_))
    ));

    let core = &new.run.core;
    assert_eq!(
        (
            new.run.first_run_id(),
            &*new.run.start().original_execution_run_id
        ),
        ("first", "first")
    );
    assert_eq!(
        (core.start_time, core.last_reset_time),
        (base.now.0, base.now.0)
    );
    assert_eq!(core.run_expiration - base.now.0, 100_000_000_000);
    assert_eq!(core.execution_expiration - base.now.0, 1_000_000_000_000);
    assert_eq!(
        (core.create_request_id.as_str(), core.signal_count),
        ("create", 2)
    );
    assert_eq!(
        (
            core.last_completed_started_id,
            core.workflow_task.as_ref().unwrap().attempt
        ),
        (0, 1)
    );
    let bytes: usize = new.history.iter().map(|b| b.bytes.len()).sum();
    assert_eq!(core.history_size, bytes as i64);
    assert!(new.run.timers.is_empty(), "the timer came later");

    // The run goes on like any other.
    new.decide(complete()).unwrap();
    assert_eq!(new.run.status(), Status::Completed);
}

#[test]
fn timers_run_on() {
    // The timer started at 0 for 50 seconds; the reset comes 20 or 70 seconds later.
    for (wait, due) in [(20.0, 30), (70.0, 0)] {
        let mut base = base();
        base.wait(wait);
        let mut new = reset_base(&mut base, request(8)).unwrap();
        let timer = new.run.timers.values().next().unwrap().clone();
        assert_eq!((timer.started_id, timer.timer_id.as_str()), (5, "t"));
        assert_eq!(Time(timer.fire_time).since(new.now).as_secs(), due);
        assert!(
            Time(new.run.core.stored_due) <= Time(timer.fire_time),
            "the store wakes the run in time"
        );
        new.wait(due as f64);
        let outcome = crate::deadline::fire(&new.run, &new.cx());
        new.apply(outcome).unwrap();
        new.last(E::TimerFired);
        // The workflow may cancel it as well.
        let mut base = self::base();
        let mut new = reset_base(&mut base, request(8)).unwrap();
        new.decide(vec![cancel_timer("t")]).unwrap();
        new.last(E::TimerCanceled);
    }
}

#[test]
fn pending_activities_begin_anew() {
    let mut base = Rig::new();
    base.decide(vec![activity("a"), activity("b")]).unwrap();
    let b = base.run.activity_ids["b"];
    let done = activity::Complete {
        activity: activity::ActivityRef::ById {
            activity_id: "b".into(),
        },
        result: None,
        identity: "w".into(),
        worker_version: None,
    };
    let outcome = activity::complete(&base.run, done, &base.cx()).unwrap();
    base.apply(outcome).unwrap();
    base.decide(complete()).unwrap();
    base.wait(30.0);
    // The second workflow task saw that b was done.
    let point = base.last(Started).event_id + 1;
    let outcome = reset(
        &base.run,
        &base.history,
        &[],
        Some(&base.run),
        request(point),
        &base.cx(),
    )
    .unwrap();
    let created = outcome.transitions.last().unwrap();
    let queues: Vec<_> = created
        .tasks_added
        .iter()
        .map(|t| (t.kind, t.place.queue.as_str()))
        .collect();
    use crate::TaskKind::{Activity, Workflow};
    assert_eq!(queues, [(Activity, "q"), (Workflow, "queue")]);
    let new = &created.run;
    assert!(!new.activities.contains_key(&b));
    let a = new.activities.values().next().unwrap();
    assert_eq!(
        (
            a.activity_id.as_str(),
            a.attempt,
            a.first_scheduled_time,
            a.scheduled_batch_id
        ),
        ("a", 1, base.now.0, 4)
    );
    assert_eq!(
        base.run.status(),
        Status::Completed,
        "a closed base stays as it closed"
    );
}

fn closed_child(rig: &mut Rig, initiated_id: i64) {
    let execution = WorkflowExecution {
        workflow_id: "child".into(),
        run_id: "c1".into(),
    };
    let facts = CloseFacts {
        execution,
        first_run_id: "c1".into(),
        how: How::Terminated,
    };
    let outcome = child::closed(&rig.run, initiated_id, facts, &rig.cx()).unwrap();
    rig.apply(outcome).unwrap();
}

fn started_child(rig: &mut Rig, initiated: &HistoryEvent) {
    let Some(A::StartChildWorkflowExecutionInitiatedEventAttributes(a)) = &initiated.attributes
    else {
        panic!()
    };
    let outcome = child::started(&rig.run, initiated.event_id, a, "c1", 1, &rig.cx());
    rig.apply(outcome).unwrap();
}

/// A child that was initiated at 5; the workflow task 6-7 began before it was started.
#[test]
fn children_stay_connected() {
    let rows: [(bool, bool, &[E], usize, bool); 3] = [
        // started later, closed later; events re-applied; children left, and one is to be started.
        (false, false, &[], 1, true),
        (true, false, &[E::ChildWorkflowExecutionStarted], 1, false),
        (
            true,
            true,
            &[
                E::ChildWorkflowExecutionStarted,
                E::ChildWorkflowExecutionTerminated,
            ],
            0,
            false,
        ),
    ];
    for (starts, closes, applied, left, to_start) in rows {
        let mut base = Rig::new();
        let task = base.begin();
        send(&mut base, "s");
        base.end(&task, vec![start_child("child")]).unwrap();
        let initiated = base.last(E::StartChildWorkflowExecutionInitiated);
        base.decide(Vec::new()).unwrap();
        let point = base.last(Started).event_id + 1;
        if starts {
            started_child(&mut base, &initiated);
        }
        if closes {
            closed_child(&mut base, initiated.event_id);
        }
        let mut new = reset_base(&mut base, request(point)).unwrap();
        let expected: Vec<E> = [&[Failed], applied, &[Scheduled]].concat();
        assert_eq!(types(&new)[point as usize - 1..], expected);
        assert_eq!(new.run.children.len(), left);
        assert_eq!(
            matches!(&new.items()[..], [OutboxItem::StartChild(i)] if i.event_id == initiated.event_id),
            to_start
        );
        // No close policy is applied to what the new run has taken over.
        assert!(
            !base
                .items()
                .iter()
                .any(|i| matches!(i, OutboxItem::ParentClosed(_) | OutboxItem::ChildClosed(_)))
        );
        if left == 1 && !to_start {
            closed_child(&mut new, initiated.event_id);
            new.last(E::ChildWorkflowExecutionTerminated);
        }
    }
}

#[test]
fn a_child_that_the_base_had_created_is_found_again() {
    let mut base = Rig::new();
    base.decide(vec![start_child("child")]).unwrap();
    let initiated = base.last(E::StartChildWorkflowExecutionInitiated);
    send(&mut base, "s");
    base.begin();
    let created = child::start_request(&base.run, &initiated, &base.cx()).unwrap();
    let child = crate::start::create(created, &base.cx())
        .into_transitions()
        .remove(0)
        .run;
    let point = base.last(Started).event_id;
    let new = reset_base(&mut base, request(point)).unwrap();
    let unknown = |_: &str| None;
    assert!(child::reconnects(
        &new.run,
        initiated.event_id,
        &child,
        unknown
    ));
    assert!(!child::reconnects(&new.run, 99, &child, unknown));
    assert!(
        !child::reconnects(&base.run, initiated.event_id, &child, unknown),
        "only a reset run reconnects"
    );
    assert!(!child::reconnects(
        &new.run,
        initiated.event_id,
        &Rig::new().run,
        unknown
    ));
}

#[test]
fn unanswered_requests_are_sent_again() {
    let mut base = Rig::new();
    let execution = WorkflowExecution {
        workflow_id: "target".into(),
        run_id: String::new(),
    };
    base.decide(vec![C::SignalExternalWorkflowExecutionCommandAttributes(
        SignalExternalWorkflowExecutionCommandAttributes {
            execution: Some(execution),
            signal_name: "s".into(),
            ..Default::default()
        },
    )])
    .unwrap();
    send(&mut base, "wake");
    base.begin();
    let point = base.last(Started).event_id;
    let new = reset_base(&mut base, request(point)).unwrap();
    assert!(
        matches!(&new.items()[..], [OutboxItem::SignalExternal(i)] if i.event_id == 5 && i.batch_id == 4)
    );
    assert_eq!(new.run.external_signals.len(), 1);
}

fn accepted(id: &str) -> HistoryEvent {
    let request = UpdateRequest {
        meta: Some(Meta {
            update_id: id.into(),
            identity: String::new(),
        }),
        input: Some(Input {
            name: "u".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    HistoryEvent {
        attributes: Some(
            WorkflowExecutionUpdateAcceptedEventAttributes {
                protocol_instance_id: id.into(),
                accepted_request: Some(request),
                ..Default::default()
            }
            .into(),
        ),
        ..Default::default()
    }
}

/// Writes events as a transition of their own.
fn write(rig: &mut Rig, events: Vec<HistoryEvent>) {
    let cx = rig.cx();
    let mut tx = Tx::new(&rig.run, &cx);
    for event in events {
        tx.push_event(event);
    }
    let outcome = tx.finish(());
    rig.apply(outcome).unwrap();
}

#[test]
fn updates_are_admitted_again() {
    let rows = [
        (Exclude::default(), vec!["one"], vec!["before", "u", "v"]),
        (
            Exclude {
                signals: true,
                ..Default::default()
            },
            vec![],
            vec!["before", "u", "v"],
        ),
        (
            Exclude {
                updates: true,
                ..Default::default()
            },
            vec!["one"],
            vec!["before"],
        ),
        (
            Exclude {
                signals: true,
                updates: true,
                everything: true,
            },
            vec![],
            vec!["before"],
        ),
    ];
    for (exclude, sent, updates) in rows {
        let mut base = Rig::new();
        base.decide(Vec::new()).unwrap();
        write(&mut base, vec![accepted("before")]);
        let wake = |b: &mut Rig| {
            let cx = b.cx();
            let mut tx = Tx::new(&b.run, &cx);
            tx.want_workflow_task();
            let outcome = tx.finish(());
            b.apply(outcome).unwrap();
        };
        wake(&mut base);
        base.decide(Vec::new()).unwrap();
        let point = base.last(Completed).event_id;
        write(
            &mut base,
            vec![
                accepted("u"),
                accepted("before"),
                accepted("v"),
                accepted("u"),
            ],
        );
        send(&mut base, "one");
        let new = reset_base(
            &mut base,
            Request {
                exclude,
                ..request(point)
            },
        )
        .unwrap();
        assert_eq!(signals(&new), sent, "{exclude:?}");
        let known: Vec<_> = new.run.updates.keys().cloned().collect();
        assert_eq!(known, updates, "{exclude:?}");
        assert_eq!(new.run.core.update_count, updates.len() as i64);
        let admitted = types(&new)
            .iter()
            .filter(|t| **t == E::WorkflowExecutionUpdateAdmitted)
            .count();
        assert_eq!(
            admitted,
            updates.len() - 1,
            "what was accepted before the point stays accepted"
        );
        let mut live: Vec<_> = new.run.volatile.updates.values().cloned().collect();
        live.sort_by_key(|u| u.seq);
        let ids: Vec<_> = live.iter().map(|u| u.update_id.as_str()).collect();
        assert_eq!(ids, updates, "delivered in their order");
        assert_eq!(types(&new).last(), Some(&Scheduled));
    }
}

#[test]
fn excludes_from_requests() {
    use ResetReapplyType as T;
    type Row = (&'static [i32], T, (bool, bool, bool));
    let rows: &[Row] = &[
        (&[], T::Unspecified, (false, false, false)),
        (&[], T::AllEligible, (false, false, false)),
        (&[1], T::Unspecified, (true, false, false)),
        (&[2], T::Unspecified, (false, true, false)),
        (&[], T::Signal, (false, true, false)),
        (&[], T::None, (true, true, false)),
        (&[3, 4], T::None, (true, true, true)),
        (&[1, 2, 3, 4], T::Unspecified, (true, true, true)),
    ];
    for (types, reapply, (signals, updates, everything)) in rows {
        assert_eq!(
            Exclude::of(types, *reapply),
            Exclude {
                signals: *signals,
                updates: *updates,
                everything: *everything
            }
        );
    }
}

/// The base continued as new: signals of the run that followed are re-applied, and that one, not
/// the base, is terminated.
#[test]
fn a_chain() {
    let mut base = Rig::new();
    let others = base
        .decide(vec![C::ContinueAsNewWorkflowExecutionCommandAttributes(
            ContinueAsNewWorkflowExecutionCommandAttributes::default(),
        )])
        .unwrap();
    let mut next = base.of(&others[0]);
    assert_eq!(continued_in(&base.history), Some(&*next.run.id.run_id));
    send(&mut next, "later");
    let run_id = next.run.id.run_id.to_string();
    let later = [LaterRun {
        run_id: &run_id,
        history: &next.history,
    }];
    let outcome = reset(
        &base.run,
        &base.history,
        &later,
        Some(&next.run),
        request(4),
        &base.cx(),
    )
    .unwrap();
    let [current, marked, created] = &outcome.transitions[..] else {
        panic!()
    };
    assert_eq!(
        (&*current.run.id.run_id, current.run.status()),
        (run_id.as_str(), Status::Terminated)
    );
    assert_eq!(
        (marked.run.id.no, marked.run.status()),
        (1, Status::ContinuedAsNew)
    );
    assert_eq!(marked.run.core.reset_run_id, *created.run.id.run_id);
    assert_eq!(current.run.core.reset_run_id, "");
    let new = base.of(created);
    assert_eq!(signals(&new), ["later"]);
    assert_eq!(
        types(&new),
        [Begun, Scheduled, Started, Failed, Signaled, Scheduled]
    );

    // A repeat of the request is answered with the run that it made.
    let again = reset(
        &base.run,
        &base.history,
        &later,
        Some(&created.run),
        request(4),
        &base.cx(),
    )
    .unwrap();
    assert_eq!(
        (again.reply.unwrap().as_str(), again.transitions.len()),
        (&*created.run.id.run_id, 0)
    );
    // Without a current run (it was deleted) there is nothing to terminate.
    let outcome = reset(&base.run, &base.history, &[], None, request(4), &base.cx()).unwrap();
    assert_eq!(outcome.transitions.len(), 2);
}

#[test]
fn the_point_may_cut_a_batch() {
    // An eager start writes the first task into the first batch: 1, 2, 3.
    let mut base = Rig::new();
    let early = reset_base(&mut base, request(3)).err();
    assert!(
        matches!(early, Some(Error::InvalidArgument(_))),
        "event 3 is not there yet"
    );
    base.begin();
    let batches = std::mem::take(&mut base.history);
    let events: Vec<_> = batches.iter().flat_map(|b| b.events.clone()).collect();
    base.history = vec![Arc::new(DecodedBatch {
        first_event_id: 1,
        last_event_id: 3,
        events,
        bytes: Default::default(),
    })];
    let outcome = reset(
        &base.run,
        &base.history,
        &[],
        Some(&base.run),
        request(3),
        &base.cx(),
    )
    .unwrap();
    let created = outcome.transitions.last().unwrap();
    assert_eq!(
        created.copy_history, None,
        "there is no whole batch below the point"
    );
    let new = base.of(created);
    assert_eq!(types(&new), [Begun, Scheduled, Started, Failed, Scheduled]);
    let Some(A::WorkflowTaskStartedEventAttributes(a)) = new.last(Started).attributes else {
        panic!()
    };
    assert_eq!(
        (a.scheduled_event_id, a.identity.as_str()),
        (2, ENGINE_IDENTITY)
    );
}

#[test]
fn a_broken_history_is_found() {
    let mut base = base();
    base.history.remove(1);
    assert!(matches!(
        reset_base(&mut base, request(8)),
        Err(Error::DataLoss(_))
    ));
}

/// A reset run has the state that the base had when the task began.
#[test]
fn replay_agrees_with_the_live_run() {
    use tidemill_proto::api::command::v1::{
        ModifyWorkflowPropertiesCommandAttributes,
        RequestCancelExternalWorkflowExecutionCommandAttributes,
    };
    use tidemill_proto::api::common::v1::{Memo, Payload};
    let memo = |data: &str| {
        let payload = Payload {
            data: data.into(),
            ..Default::default()
        };
        let memo = Memo {
            fields: [("m".to_owned(), payload)].into(),
        };
        C::ModifyWorkflowPropertiesCommandAttributes(ModifyWorkflowPropertiesCommandAttributes {
            upserted_memo: Some(memo),
        })
    };
    let cancel = |id: &str| {
        C::RequestCancelExternalWorkflowExecutionCommandAttributes(
            RequestCancelExternalWorkflowExecutionCommandAttributes {
                workflow_id: id.into(),
                ..Default::default()
            },
        )
    };
    let steps: Vec<Vec<C>> = vec![
        vec![
            timer("a", 60),
            activity("a"),
            memo("1"),
            start_child("child"),
            cancel("x"),
        ],
        vec![
            cancel_timer("a"),
            timer("b", 1),
            timer("c", 90),
            activity("b"),
        ],
        vec![memo("2"), start_child("other"), cancel("y")],
        vec![timer("a", 5), memo("null")],
        Vec::new(),
    ];
    let mut base = Rig::new();
    for (i, commands) in steps.into_iter().enumerate() {
        let task = base.begin();
        let old = &base.run.clone();
        base.end(&task, commands).unwrap();
        let point = base.last(Completed).event_id;
        let request = Request {
            exclude: Exclude {
                everything: true,
                ..Default::default()
            },
            ..request(point)
        };
        let outcome = reset(&base.run, &base.history, &[], None, request, &base.cx()).unwrap();
        let new = &outcome.transitions.last().unwrap().run;
        assert_eq!(new.timers, old.timers, "step {i}");
        assert_eq!(
            new.deadlines
                .iter()
                .filter(|d| matches!(d.1, crate::run::Deadline::Timer(_)))
                .count(),
            old.timers.len()
        );
        assert_eq!(new.activity_ids, old.activity_ids, "step {i}");
        assert!(
            new.external_cancels.keys().eq(old.external_cancels.keys()),
            "step {i}"
        );
        assert!(new.signal_ids.keys().eq(old.signal_ids.keys()), "step {i}");
        let shape = |r: &Run| -> Vec<_> {
            r.children
                .values()
                .map(|c| crate::model::Child {
                    create_request_id: String::new(),
                    ..(**c).clone()
                })
                .collect()
        };
        assert_eq!(shape(new), shape(old), "step {i}");
        assert_eq!(
            new.visible.memo.clone().unwrap_or_default(),
            old.visible.memo.clone().unwrap_or_default(),
            "step {i}"
        );
        let facts = |r: &Run| {
            let c = &r.core;
            (
                c.signal_count,
                c.cancel_requested,
                c.cancel_requested_id,
                c.last_completed_id,
                c.last_completed_started_id,
                c.update_count,
            )
        };
        assert_eq!(facts(new), facts(old), "step {i}");

        if i == 0 {
            let initiated = base.last(E::StartChildWorkflowExecutionInitiated);
            started_child(&mut base, &initiated);
            let cancel = crate::cancel::request(
                &base.run,
                crate::cancel::CancelRequest::default(),
                &base.cx(),
            );
            base.apply(cancel).unwrap();
        }
        if i == 1 {
            closed_child(&mut base, 8);
            base.wait(2.0);
            let outcome = crate::deadline::fire(&base.run, &base.cx());
            base.apply(outcome).unwrap();
        }
        send(&mut base, &format!("signal {i}"));
    }
}
