use tidemill_proto::api::command::v1::ScheduleActivityTaskCommandAttributes;
use tidemill_proto::api::common::v1::RetryPolicy;
use tidemill_proto::api::enums::v1::{EventType as E, RetryState, WorkflowExecutionStatus};
use tidemill_proto::api::failure::v1::ApplicationFailureInfo;
use tidemill_proto::api::history::v1::history_event::Attributes;
use tidemill_proto::api::history::v1::{
    ActivityTaskStartedEventAttributes, HistoryEvent, WorkflowExecutionSignaledEventAttributes,
};

use super::super::fixture::{
    Bench, attempts, attributes, big, by_id, failure, fatal, payload, seconds,
};
use super::*;
use crate::time::Time;

fn failed(events: &[HistoryEvent]) -> &ActivityTaskFailedEventAttributes {
    events
        .iter()
        .find_map(|e| match &e.attributes {
            Some(Attributes::ActivityTaskFailedEventAttributes(a)) => Some(a),
            _ => None,
        })
        .expect("a failed event")
}

fn started(events: &[HistoryEvent]) -> (&HistoryEvent, &ActivityTaskStartedEventAttributes) {
    events
        .iter()
        .find_map(|e| match &e.attributes {
            Some(Attributes::ActivityTaskStartedEventAttributes(a)) => Some((e, a)),
            _ => None,
        })
        .expect("a started event")
}

#[test]
fn completion_writes_started_and_completed() {
    let mut bench = Bench::new();
    let id = bench.schedule(attributes()).unwrap().scheduled_id;
    bench.wait(20);
    let task = bench.start().unwrap().task;
    let began = bench.now;
    bench.wait(300);
    bench.events();
    bench.complete(task.clone()).unwrap();
    let events = bench.events();
    let types: Vec<_> = events.iter().map(HistoryEvent::event_type).collect();
    assert_eq!(
        types,
        [
            E::ActivityTaskStarted,
            E::ActivityTaskCompleted,
            E::WorkflowTaskScheduled
        ]
    );
    let (event, a) = started(&events);
    assert_eq!(Time::from_proto(event.event_time.as_ref().unwrap()), began);
    assert_eq!(
        (a.scheduled_event_id, a.attempt, a.identity.as_str()),
        (id, 1, "worker")
    );
    assert_eq!(a.request_id, "req");
    let Some(Attributes::ActivityTaskCompletedEventAttributes(a)) = &events[1].attributes else {
        panic!()
    };
    assert_eq!(
        (a.scheduled_event_id, a.started_event_id),
        (id, event.event_id)
    );
    assert_eq!(a.result, Some(payload("done")));
    assert_eq!(
        Time::from_proto(events[1].event_time.as_ref().unwrap()),
        bench.now
    );
    assert!(
        matches!(bench.complete(task), Err(Error::NotFound(_))),
        "it has completed"
    );
}

#[test]
fn a_retried_failure_writes_nothing() {
    let mut bench = Bench::new();
    bench.schedule(attributes()).unwrap();
    let first = bench.start().unwrap().task;
    bench.events();
    bench.wait(50);
    bench.fail(first.clone(), failure("first")).unwrap();
    assert!(bench.events().is_empty() && bench.tasks.is_empty());
    let a = bench.activity();
    assert_eq!(a.attempt, 2);
    assert_eq!(a.last_failure.as_ref().unwrap().message, "first");
    assert_eq!(Time(a.last_attempt_complete_time), bench.now);
    assert_eq!(bench.run.next_deadline(), Some(Time(a.scheduled_time)));
    // The token of the attempt that failed is of no use any more.
    assert!(matches!(bench.complete(first), Err(Error::NotFound(_))));
    bench.wait(1000);
    bench.fire();
    let second = bench.start().unwrap().task;
    bench.complete(second).unwrap();
    let events = bench.events();
    let (_, a) = started(&events);
    assert_eq!(
        (a.attempt, a.last_failure.as_ref().unwrap().message.as_str()),
        (2, "first")
    );
}

#[test]
fn why_a_failure_is_final() {
    let listed = RetryPolicy {
        non_retryable_error_types: vec!["Bad".into()],
        ..Default::default()
    };
    let typed = |t: &str, delay: Option<i64>| Failure {
        failure_info: Some(FailureInfo::ApplicationFailureInfo(
            ApplicationFailureInfo {
                r#type: t.into(),
                next_retry_delay: delay.and_then(seconds),
                ..Default::default()
            },
        )),
        ..Default::default()
    };
    let short = ScheduleActivityTaskCommandAttributes {
        schedule_to_close_timeout: seconds(5),
        ..attributes()
    };
    let listed = ScheduleActivityTaskCommandAttributes {
        retry_policy: Some(listed),
        ..attributes()
    };
    let rows = [
        (
            attempts(1),
            failure("f"),
            Some(RetryState::MaximumAttemptsReached),
        ),
        (attempts(2), failure("f"), None),
        (
            attributes(),
            fatal("f"),
            Some(RetryState::NonRetryableFailure),
        ),
        (
            listed.clone(),
            typed("Bad", None),
            Some(RetryState::NonRetryableFailure),
        ),
        (listed, typed("Good", None), None),
        // A reported failure stays a failure when the time is too short (unlike a timeout).
        (short.clone(), typed("", Some(6)), Some(RetryState::Timeout)),
        (short, typed("", Some(5)), None),
        (attributes(), typed("", Some(100_000)), None),
    ];
    for (i, (given, failure, expected)) in rows.into_iter().enumerate() {
        let mut bench = Bench::new();
        bench.schedule(given).unwrap();
        let task = bench.start().unwrap().task;
        bench.events();
        bench.fail(task, failure.clone()).unwrap();
        let events = bench.events();
        match expected {
            None => assert!(events.is_empty(), "row {i}: {events:?}"),
            Some(state) => {
                let types: Vec<_> = events.iter().map(HistoryEvent::event_type).collect();
                assert_eq!(
                    types,
                    [
                        E::ActivityTaskStarted,
                        E::ActivityTaskFailed,
                        E::WorkflowTaskScheduled
                    ],
                    "row {i}"
                );
                let a = failed(&events);
                assert_eq!(
                    (a.retry_state(), a.started_event_id),
                    (state, events[0].event_id),
                    "row {i}"
                );
                assert_eq!(a.failure, Some(failure), "row {i}");
            }
        }
    }
}

#[test]
fn a_retry_without_delay_is_offered_at_once() {
    let mut bench = Bench::new();
    bench.schedule(attributes()).unwrap();
    let task = bench.start().unwrap().task;
    let mut now = failure("again");
    if let Some(FailureInfo::ApplicationFailureInfo(a)) = &mut now.failure_info {
        a.next_retry_delay = seconds(0);
    }
    bench.fail(task, now).unwrap();
    assert_eq!(bench.tasks.len(), 1);
    assert_eq!(bench.start().unwrap().attempt, 2);
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Got {
    Done,
    NotFound,
    Invalid,
}

/// Every call, by token and by id, in every state.
#[test]
fn calls_by_state() {
    use Got::{Done, Invalid, NotFound};
    type Call = fn(&mut Bench, ActivityRef) -> Result<(), Error>;
    let calls: [(&str, Call); 4] = [
        ("complete", |b, r| b.complete(r)),
        ("fail", |b, r| b.fail(r, failure("f")).map(|_| ())),
        ("cancel", |b, r| b.cancel(r)),
        ("heartbeat", |b, r| b.heartbeat(r, None).map(|_| ())),
    ];
    type Setup = fn(&mut Bench) -> ActivityRef;
    fn scheduled(b: &mut Bench) -> ActivityRef {
        let scheduled_id = b.schedule(attributes()).unwrap().scheduled_id;
        ActivityRef::ByToken {
            scheduled_id,
            attempt: 1,
            started_time: Time(0),
        }
    }
    fn running(b: &mut Bench) -> ActivityRef {
        scheduled(b);
        b.start().unwrap().task
    }
    // Results by token, then by id, in the order of the calls above.
    let states: [(&str, Setup, [Got; 4], [Got; 4]); 8] = [
        (
            "never was",
            |_| ActivityRef::ByToken {
                scheduled_id: 5,
                attempt: 1,
                started_time: Time(1),
            },
            [NotFound; 4],
            [NotFound; 4],
        ),
        (
            "waits for a worker",
            scheduled,
            [NotFound; 4],
            [Done, NotFound, NotFound, NotFound],
        ),
        (
            "runs",
            running,
            [Done, Done, Invalid, Done],
            [Done, Done, Invalid, Done],
        ),
        (
            "backs off",
            |b| {
                let task = running(b);
                b.fail(task.clone(), failure("f")).unwrap();
                task
            },
            [NotFound; 4],
            [Done, NotFound, NotFound, NotFound],
        ),
        (
            "runs in another attempt",
            |b| {
                let task = running(b);
                b.fail(task.clone(), failure("f")).unwrap();
                b.wait(1000);
                b.fire();
                b.start().unwrap();
                task
            },
            [NotFound; 4],
            [Done, Done, Invalid, Done],
        ),
        (
            "is to be canceled",
            |b| {
                let task = running(b);
                let id = b.activity().scheduled_id;
                b.request_cancel(id).unwrap();
                task
            },
            [Done; 4],
            [Done; 4],
        ),
        (
            "has closed",
            |b| {
                let task = running(b);
                b.complete(task.clone()).unwrap();
                task
            },
            [NotFound; 4],
            [NotFound; 4],
        ),
        (
            "its run has closed",
            |b| {
                let task = running(b);
                b.run.core.status = WorkflowExecutionStatus::Completed as i32;
                task
            },
            [NotFound; 4],
            [NotFound; 4],
        ),
    ];
    for (state, setup, by_token, with_id) in states {
        for (i, (name, call)) in calls.iter().enumerate() {
            for (kind, expected) in [("token", by_token[i]), ("id", with_id[i])] {
                let mut bench = Bench::new();
                let token = setup(&mut bench);
                let reference = if kind == "id" { by_id() } else { token };
                let got = match call(&mut bench, reference) {
                    Ok(()) => Done,
                    Err(Error::NotFound(_)) => NotFound,
                    Err(Error::InvalidArgument(_)) => Invalid,
                    Err(other) => panic!("{other:?}"),
                };
                assert_eq!(got, expected, "{name} by {kind} while it {state}");
            }
        }
    }
}

#[test]
fn a_token_names_one_start() {
    let mut bench = Bench::new();
    bench.schedule(attributes()).unwrap();
    let ActivityRef::ByToken {
        scheduled_id,
        attempt,
        started_time,
    } = bench.start().unwrap().task
    else {
        panic!("tasks have tokens")
    };
    let rows = [
        (scheduled_id + 1, attempt, started_time),
        (scheduled_id, attempt + 1, started_time),
        (scheduled_id, attempt, Time(started_time.0 + 1)),
    ];
    for (scheduled_id, attempt, started_time) in rows {
        let other = ActivityRef::ByToken {
            scheduled_id,
            attempt,
            started_time,
        };
        assert!(matches!(bench.complete(other), Err(Error::NotFound(_))));
    }
    bench
        .complete(ActivityRef::ByToken {
            scheduled_id,
            attempt,
            started_time,
        })
        .unwrap();
}

#[test]
fn completed_by_id_without_a_worker() {
    let mut bench = Bench::new();
    bench.schedule(attributes()).unwrap();
    bench.events();
    bench.complete(by_id()).unwrap();
    assert!(bench.tasks.is_empty());
    let events = bench.events();
    let (event, a) = started(&events);
    assert_eq!((a.request_id.as_str(), a.identity.as_str()), ("", "worker"));
    let Some(Attributes::ActivityTaskCompletedEventAttributes(a)) = &events[1].attributes else {
        panic!()
    };
    assert_eq!(a.started_event_id, event.event_id);
    assert!(matches!(
        bench.complete(ActivityRef::ById {
            activity_id: String::new()
        }),
        Err(Error::InvalidArgument(_))
    ));
}

#[test]
fn a_failure_by_token_must_be_the_applications() {
    let mut bench = Bench::new();
    bench.schedule(attributes()).unwrap();
    let task = bench.start().unwrap().task;
    let plain = Failure {
        message: "f".into(),
        ..Default::default()
    };
    assert!(matches!(
        bench.fail(task.clone(), plain),
        Err(Error::InvalidArgument(_))
    ));
    let none = Fail {
        activity: task,
        failure: None,
        last_heartbeat_details: Some(payload("late")),
        identity: String::new(),
        worker_version: None,
        cause: 0,
    };
    let outcome = fail(&bench.run, none, &bench.cx()).unwrap();
    assert_eq!(bench.apply(outcome).unwrap(), []);
    let a = bench.activity();
    assert_eq!((a.attempt, a.heartbeat_details), (2, Some(payload("late"))));
}

#[test]
fn heartbeats_keep_details_over_attempts() {
    let mut bench = Bench::new();
    bench.schedule(attributes()).unwrap();
    let task = bench.start().unwrap().task;
    bench.wait(10);
    let reply = bench.heartbeat(task.clone(), Some(payload("1"))).unwrap();
    assert_eq!(reply, HeartbeatReply::default());
    assert_eq!(Time(bench.activity().last_heartbeat_time), bench.now);
    bench.fail(task, failure("f")).unwrap();
    assert_eq!(bench.activity().heartbeat_details, Some(payload("1")));
    assert_eq!(bench.types(), [E::ActivityTaskScheduled]);
}

#[test]
fn too_much_fails_the_attempt_for_good() {
    type Call = fn(&mut Bench, ActivityRef);
    let rows: [(&str, Call); 3] = [
        ("Complete result", |b, activity| {
            let request = Complete {
                activity,
                result: Some(big()),
                identity: "worker".into(),
                worker_version: None,
            };
            let outcome = complete(&b.run, request, &b.cx()).unwrap();
            b.apply(outcome).unwrap();
        }),
        ("Cancel details", |b, activity| {
            let request = Cancel {
                activity,
                details: Some(big()),
                identity: "worker".into(),
                worker_version: None,
            };
            let outcome = cancel(&b.run, request, &b.cx()).unwrap();
            b.apply(outcome).unwrap();
        }),
        ("Heartbeat details", |b, activity| {
            let reply = b.heartbeat(activity, Some(big())).unwrap();
            assert!(reply.cancel_requested);
        }),
    ];
    for (text, call) in rows {
        let mut bench = Bench::new();
        bench.schedule(attributes()).unwrap();
        let task = bench.start().unwrap().task;
        bench.events();
        call(&mut bench, task);
        let events = bench.events();
        let a = failed(&events);
        assert_eq!(a.retry_state(), RetryState::NonRetryableFailure);
        let failure = a.failure.as_ref().unwrap();
        assert!(failure.message.contains(text), "{}", failure.message);
        assert!(
            matches!(&failure.failure_info, Some(FailureInfo::ServerFailureInfo(s)) if s.non_retryable)
        );
    }
    // By id of one that no worker has there is no attempt that could fail.
    let mut bench = Bench::new();
    bench.schedule(attributes()).unwrap();
    let request = Complete {
        activity: by_id(),
        result: Some(big()),
        identity: String::new(),
        worker_version: None,
    };
    assert!(matches!(
        complete(&bench.run, request, &bench.cx()),
        Err(Error::NotFound(_))
    ));
}

#[test]
fn an_oversize_failure_is_cut_and_final() {
    let mut bench = Bench::new();
    bench.schedule(attributes()).unwrap();
    let task = bench.start().unwrap().task;
    bench.events();
    let problems = bench.fail(task, failure(&"x".repeat(3 << 20))).unwrap();
    let events = bench.events();
    let a = failed(&events);
    assert_eq!(a.failure.as_ref(), problems.first());
    assert_eq!(a.retry_state(), RetryState::NonRetryableFailure);
    assert!(
        a.failure
            .as_ref()
            .unwrap()
            .cause
            .as_ref()
            .unwrap()
            .message
            .len()
            <= 512 << 10
    );

    // Oversize heartbeat details are dropped; the failure itself is retried.
    let mut bench = Bench::new();
    bench.schedule(attributes()).unwrap();
    let request = Fail {
        activity: bench.start().unwrap().task,
        failure: Some(failure("f")),
        last_heartbeat_details: Some(big()),
        identity: String::new(),
        worker_version: None,
        cause: 0,
    };
    let outcome = fail(&bench.run, request, &bench.cx()).unwrap();
    assert_eq!(bench.apply(outcome).unwrap().len(), 1);
    let a = bench.activity();
    assert_eq!((a.attempt, a.heartbeat_details), (2, None));
}

#[test]
fn a_kept_failure_is_cut() {
    let mut bench = Bench::new();
    bench.schedule(attributes()).unwrap();
    let task = bench.start().unwrap().task;
    assert_eq!(bench.fail(task, failure(&"x".repeat(10_000))).unwrap(), []);
    let kept = bench.activity().last_failure.unwrap();
    assert!(matches!(
        kept.failure_info,
        Some(FailureInfo::ServerFailureInfo(_))
    ));
    assert!(kept.encoded_len() < 5000);
}

#[test]
fn a_long_identity_is_refused() {
    let mut bench = Bench::new();
    bench.schedule(attributes()).unwrap();
    let activity = bench.start().unwrap().task;
    let request = Heartbeat {
        activity,
        details: None,
        identity: "x".repeat(1001),
    };
    assert!(matches!(
        heartbeat(&bench.run, request, &bench.cx()),
        Err(Error::InvalidArgument(_))
    ));
}

/// Contract 1.10 and trap 6: close events go behind everything else, with the right ids.
#[test]
fn buffered_behind_a_signal() {
    let mut bench = Bench::new();
    let id = bench.schedule(attributes()).unwrap().scheduled_id;
    let task = bench.start().unwrap().task;
    bench.events();
    bench.busy();
    bench.complete(task).unwrap();
    let cx = bench.cx();
    let mut tx = Tx::new(&bench.run, &cx);
    tx.push(WorkflowExecutionSignaledEventAttributes::default());
    let outcome = tx.finish(());
    bench.apply(outcome).unwrap();
    assert!(bench.events().is_empty() && bench.run.activities.is_empty());
    bench.idle();
    let events = bench.events();
    let types: Vec<_> = events.iter().map(HistoryEvent::event_type).collect();
    assert_eq!(
        types,
        [
            E::ActivityTaskStarted,
            E::WorkflowExecutionSignaled,
            E::ActivityTaskCompleted,
            E::WorkflowTaskScheduled
        ]
    );
    let Some(Attributes::ActivityTaskCompletedEventAttributes(a)) = &events[2].attributes else {
        panic!()
    };
    assert_eq!(
        (a.scheduled_event_id, a.started_event_id),
        (id, events[0].event_id)
    );
}
