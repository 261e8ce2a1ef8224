//! The workflow task machine as a table: in each state, what each event writes and leads to.

use tidemill_proto::api::enums::v1::{EventType, TimeoutType, WorkflowTaskFailedCause as Cause};
use tidemill_proto::api::failure::v1::Failure;
use tidemill_proto::api::history::v1::WorkflowExecutionStartedEventAttributes;
use tidemill_proto::api::history::v1::history_event::Attributes as A;

use super::failure::REPORTED_PROBLEMS;
use super::*;
use crate::complete::Completion;
use crate::fixture::seconds;
use crate::query::{self, Route};
use crate::testing::{
    Rig, acceptance, complete_workflow, rejection, response, schedule_activity, start_timer,
    sticky, with_messages,
};

/// For each state: events, then reply, what is written (`-` is nothing) and the state that follows,
/// with the number of events that wait.
const TABLE: &str = include_str!("table.txt");

const STATES: [&str; 9] = [
    "none",
    "scheduled",
    "scheduled sticky",
    "scheduled attempt 2",
    "scheduled speculative",
    "started",
    "started sticky",
    "started attempt 2",
    "started speculative",
];

const EVENTS: [&str; 24] = [
    "signal",
    "cancel",
    "activity closes",
    "timer fires",
    "update",
    "query",
    "start",
    "start (sticky poll)",
    "start (old stamp)",
    "complete",
    "complete, new task",
    "complete + close",
    "complete + reject",
    "complete + accept",
    "heartbeat",
    "bad command",
    "bad order",
    "fail",
    "fails to send",
    "5 s pass",
    "10 s pass",
    "reset sticky",
    "terminate",
    "run times out",
];

/// A run with a started activity `a`, a timer `t`, and its workflow task in a state.
fn in_state(state: &str, timer: i64) -> Rig {
    let started = WorkflowExecutionStartedEventAttributes {
        workflow_run_timeout: seconds(3600),
        ..Default::default()
    };
    let mut rig = Rig::with(started);
    let first = rig.poll();
    let commands = vec![schedule_activity("a", 1), start_timer("t", timer)];
    let sticky = if state.contains("sticky") {
        sticky()
    } else {
        None
    };
    rig.complete(
        &first.task,
        Completion {
            commands,
            sticky,
            ..Default::default()
        },
    )
    .unwrap();
    rig.start_activity("a");
    match state {
        "none" => {}
        _ if state.contains("speculative") => drop(rig.update("u")),
        _ => rig.signal("").unwrap(),
    }
    if state.contains("attempt 2") {
        let started = rig.poll();
        rig.fail(&started.task).unwrap();
    }
    if state.contains("started") {
        rig.poll();
    }
    assert_eq!(rig.state(), state);
    rig.types();
    rig
}

/// The pending task as its worker knows it; a made-up one where none has been started.
fn token(rig: &Rig) -> TaskRef {
    let task = rig.run.core.workflow_task.clone().unwrap_or_default();
    TaskRef {
        scheduled_id: task.scheduled_id,
        started_id: task.scheduled_id + 1,
        attempt: task.attempt,
        started_time: rig.now,
    }
}

fn happen(rig: &mut Rig, event: &str) -> Result<String, Error> {
    let task = token(rig);
    let complete = |rig: &mut Rig, completion| rig.complete(&task, completion);
    let ok = |()| String::from("ok");
    match event {
        "signal" => rig.signal("").map(ok),
        "cancel" => {
            rig.cancel();
            Ok("ok".into())
        }
        "activity closes" => rig.complete_activity("a").map(ok),
        "timer fires" => {
            rig.after(1.0);
            Ok("ok".into())
        }
        "update" => rig.update("new").map(|status| format!("{status:?}")),
        "query" => {
            let route = query::route(&rig.run, Default::default())?;
            if route == Route::Buffered {
                rig.query("q")?;
            }
            Ok(format!("{route:?}"))
        }
        "start" | "start (sticky poll)" => rig.poll_from(event != "start").map(|s| {
            let from = if s.history_from == 1 { "whole" } else { "rest" };
            format!(
                "{from}, {} messages, {} in tail",
                s.messages.len(),
                s.tail.len()
            )
        }),
        "start (old stamp)" => {
            let scheduled_id = task.scheduled_id;
            let start = Start {
                scheduled_id,
                stamp: 99,
                identity: String::new(),
                request_id: String::new(),
                from_sticky: false,
                worker_version: None,
            };
            rig.start(start).map(|_| String::new())
        }
        "complete" => complete(rig, Completion::default())
            .map(|c| format!("ok, reset to {}", c.reset_history_event_id)),
        "complete, new task" => complete(
            rig,
            Completion {
                return_new_task: true,
                force_new_task: true,
                ..Default::default()
            },
        )
        .map(|c| format!("ok, task {:?}", c.new_task.map(|s| s.task.scheduled_id))),
        "complete + close" => complete(
            rig,
            Completion {
                commands: vec![complete_workflow()],
                ..Default::default()
            },
        )
        .map(|_| "ok".into()),
        "complete + reject" => complete(rig, with_messages(vec![rejection("u")], vec![]))
            .map(|c| format!("ok, reset to {}", c.reset_history_event_id)),
        "complete + accept" => complete(
            rig,
            with_messages(vec![acceptance("u"), response("u")], vec![]),
        )
        .map(|_| "ok".into()),
        "heartbeat" => complete(
            rig,
            Completion {
                force_new_task: true,
                ..Default::default()
            },
        )
        .map(|_| "ok".into()),
        "bad command" => complete(
            rig,
            Completion {
                commands: vec![start_timer("", 1)],
                ..Default::default()
            },
        )
        .map(|_| "ok".into()),
        "bad order" => {
            let commands = vec![complete_workflow(), start_timer("x", 1)];
            complete(
                rig,
                Completion {
                    commands,
                    ..Default::default()
                },
            )
            .map(|_| "ok".into())
        }
        "fail" => rig.fail(&task).map(ok),
        "fails to send" => {
            let failure = TaskFailure::by_engine(Cause::GrpcMessageTooLarge, "", "worker");
            rig.op(|run, cx| fail(run, &task, failure, cx)).map(ok)
        }
        "5 s pass" => {
            rig.after(5.0);
            Ok("ok".into())
        }
        "10 s pass" => {
            rig.after(10.0);
            Ok("ok".into())
        }
        "reset sticky" => rig.op(reset_sticky).map(ok),
        "terminate" => rig.terminate().map(ok),
        "run times out" => {
            rig.after(3600.0);
            Ok("ok".into())
        }
        other => panic!("{other}"),
    }
}

fn short(kinds: &[EventType]) -> String {
    let words: Vec<_> = kinds
        .iter()
        .map(|k| {
            format!("{k:?}")
                .replace("WorkflowTask", "Task")
                .replace("WorkflowExecution", "")
        })
        .collect();
    if words.is_empty() {
        "-".into()
    } else {
        words.join(" ")
    }
}

fn error_name(error: &Error) -> String {
    let text = format!("{error:?}");
    text.split(['(', ' ', '{'])
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn state_by_event() {
    let mut table = String::new();
    for state in STATES {
        // Events with the same outcome share a line.
        let mut lines: Vec<(Vec<&str>, String)> = Vec::new();
        for event in EVENTS {
            let timer = if event == "timer fires" { 1 } else { 7200 };
            let mut rig = in_state(state, timer);
            let reply = happen(&mut rig, event).unwrap_or_else(|e| error_name(&e));
            let outcome = format!("{reply} | {} | {}", short(&rig.types()), rig.state());
            match lines.iter_mut().find(|(_, known)| *known == outcome) {
                Some((events, _)) => events.push(event),
                None => lines.push((vec![event], outcome)),
            }
        }
        table.push_str(&format!("{state}\n"));
        for (events, outcome) in lines {
            table.push_str(&format!("  {}: {outcome}\n", events.join(" / ")));
        }
    }
    assert!(table.trim() == TABLE.trim(), "the table is now:\n{table}");
}

#[test]
fn failures_stay_out_of_history_from_the_second_on() {
    let mut rig = Rig::new();
    for attempt in 1..=6 {
        let started = rig.poll();
        assert_eq!(started.task.attempt, attempt);
        assert_eq!(started.tail.len(), if attempt == 1 { 0 } else { 2 });
        if attempt > 1 {
            assert_eq!(started.tail, unwritten(&rig.run));
            let Some(A::WorkflowTaskScheduledEventAttributes(a)) = &started.tail[0].attributes
            else {
                panic!()
            };
            assert_eq!(a.attempt, attempt);
            assert_eq!(started.tail[1].event_id, started.task.started_id);
        }
        // From the fourth on a worker is given longer and longer.
        let timeout = rig.run.core.workflow_task.as_ref().unwrap().timeout;
        assert_eq!(
            timeout / 1_000_000_000,
            [10, 10, 10, 15, 20, 30][attempt as usize - 1]
        );
        if attempt % 2 == 0 {
            rig.after(timeout as f64 / 1e9);
        } else {
            rig.fail(&started.task).unwrap();
        }
    }
    use EventType as E;
    let first = [
        E::WorkflowExecutionStarted,
        E::WorkflowTaskScheduled,
        E::WorkflowTaskStarted,
        E::WorkflowTaskFailed,
    ];
    assert_eq!(rig.types(), first);
    rig.task(vec![]);
    assert_eq!(
        rig.types(),
        [
            E::WorkflowTaskScheduled,
            E::WorkflowTaskStarted,
            E::WorkflowTaskCompleted
        ]
    );
    let Some(A::WorkflowTaskScheduledEventAttributes(a)) =
        rig.last(E::WorkflowTaskScheduled).attributes
    else {
        panic!()
    };
    assert_eq!(a.attempt, 7);
    rig.signal("").unwrap();
    assert_eq!(rig.state(), "scheduled");
}

#[test]
fn news_makes_a_retry_a_first_attempt() {
    // News before the retry is started, and while it is.
    for started_before in [false, true] {
        let mut rig = Rig::new();
        for _ in 0..2 {
            let started = rig.poll();
            rig.fail(&started.task).unwrap();
        }
        rig.types();
        if started_before {
            let started = rig.poll();
            rig.signal("").unwrap();
            rig.fail(&started.task).unwrap();
        } else {
            rig.signal("").unwrap();
        }
        let started = rig.poll();
        assert_eq!((started.task.attempt, started.tail.len()), (1, 0));
        use EventType as E;
        assert_eq!(
            rig.types(),
            [
                E::WorkflowExecutionSignaled,
                E::WorkflowTaskScheduled,
                E::WorkflowTaskStarted
            ]
        );
        rig.commands(&started.task, vec![]).unwrap();
    }
}

#[test]
fn a_sticky_failure_is_no_attempt() {
    let mut rig = Rig::sticky();
    rig.signal("").unwrap();
    for (expected, failed) in [
        ("scheduled", 1),
        ("scheduled attempt 2", 2),
        ("scheduled attempt 3", 2),
    ] {
        let started = rig.poll();
        rig.fail(&started.task).unwrap();
        assert_eq!(
            (
                rig.state().as_str(),
                rig.count(EventType::WorkflowTaskFailed)
            ),
            (expected, failed)
        );
    }
}

#[test]
fn problems_become_visible() {
    let problems = |rig: &Rig| {
        let attributes = rig
            .run
            .visible
            .search_attributes
            .clone()
            .unwrap_or_default();
        attributes
            .indexed_fields
            .get(REPORTED_PROBLEMS)
            .map(|p| String::from_utf8(p.data.clone()).unwrap())
    };
    let fail = |rig: &mut Rig| {
        let started = rig.poll();
        rig.fail(&started.task).unwrap();
    };
    let mut rig = Rig::new();
    (0..4).for_each(|_| fail(&mut rig));
    assert_eq!(problems(&rig), None);
    rig.poll();
    rig.after(60.0);
    assert_eq!(
        problems(&rig).unwrap(),
        r#"["category=WorkflowTaskTimedOut","cause=WorkflowTaskTimedOutCauseStartToClose"]"#
    );
    rig.task(vec![]);
    assert_eq!(problems(&rig), None);
    rig.signal("").unwrap();
    (0..5).for_each(|_| fail(&mut rig));
    assert_eq!(
        problems(&rig).unwrap(),
        r#"["category=WorkflowTaskFailed","cause=WorkflowTaskFailedCauseWorkflowWorkerUnhandledFailure"]"#
    );
    rig.task(vec![]);
    assert_eq!(problems(&rig), None);
}

#[test]
fn sticky_tasks_say_so() {
    let mut rig = Rig::sticky();
    rig.signal("").unwrap();
    let scheduled = |rig: &Rig| match rig.last(EventType::WorkflowTaskScheduled).attributes {
        Some(A::WorkflowTaskScheduledEventAttributes(a)) => a.task_queue.unwrap(),
        _ => panic!(),
    };
    let queue = scheduled(&rig);
    assert_eq!(
        (
            queue.name.as_str(),
            queue.kind(),
            queue.normal_name.as_str()
        ),
        ("sticky", TaskQueueKind::Sticky, "queue")
    );
    let task = &rig.tasks[0];
    assert_eq!(
        (
            task.place.queue.as_str(),
            task.sticky,
            task.normal_queue.as_str()
        ),
        ("sticky", true, "queue")
    );
    // The worker's cache is gone: what is on its queue is void, the next goes to the normal one.
    rig.op(reset_sticky).unwrap();
    assert!(matches!(rig.poll_from(true), Err(Error::NotFound(_))));
    rig.after(5.0);
    let queue = scheduled(&rig);
    assert_eq!(
        (
            queue.name.as_str(),
            queue.kind(),
            queue.normal_name.as_str()
        ),
        ("queue", TaskQueueKind::Normal, "")
    );
    let Some(A::WorkflowTaskTimedOutEventAttributes(a)) =
        rig.last(EventType::WorkflowTaskTimedOut).attributes
    else {
        panic!()
    };
    assert_eq!(
        (a.timeout_type(), a.started_event_id),
        (TimeoutType::ScheduleToStart, 0)
    );
}

#[test]
fn a_worker_is_told_when_history_grows_long() {
    let reasons = |rig: &mut Rig| {
        rig.signal("").unwrap();
        let started = rig.poll();
        let Some(A::WorkflowTaskStartedEventAttributes(a)) =
            rig.last(EventType::WorkflowTaskStarted).attributes
        else {
            panic!()
        };
        assert_eq!(
            a.suggest_continue_as_new,
            !a.suggest_continue_as_new_reasons.is_empty()
        );
        let reasons: Vec<_> = a.suggest_continue_as_new_reasons().collect();
        rig.commands(&started.task, vec![]).unwrap();
        reasons
    };
    let mut rig = Rig::idle();
    assert_eq!(reasons(&mut rig), []);
    rig.limits.suggest_continue_as_new_count = 5;
    assert_eq!(reasons(&mut rig), [Reason::TooManyHistoryEvents]);
    rig.limits.suggest_continue_as_new_size = 5;
    assert_eq!(
        reasons(&mut rig),
        [Reason::HistorySizeTooLarge, Reason::TooManyHistoryEvents]
    );
    // An accepted update counts once.
    let mut rig = Rig::idle();
    rig.limits.updates_total = 2;
    rig.update("u").unwrap();
    let started = rig.poll();
    rig.complete(&started.task, with_messages(vec![acceptance("u")], vec![]))
        .unwrap();
    assert_eq!(reasons(&mut rig), []);
    rig.update("v").unwrap();
    let started = rig.poll();
    rig.complete(&started.task, with_messages(vec![acceptance("v")], vec![]))
        .unwrap();
    assert_eq!(reasons(&mut rig), [Reason::TooManyUpdates]);
}

#[test]
fn an_eager_first_task() {
    let (ids, limits) = (crate::fixture::Counter::default(), crate::Limits::default());
    let cx = crate::testing::context(crate::fixture::BEGIN, &ids, &limits);
    let mut tx = crate::start::create(crate::testing::new_run(Default::default()), &cx);
    let eager = start_eagerly(&mut tx, "me").unwrap();
    let transitions = tx.into_transitions();
    assert_eq!(
        (
            eager.task.scheduled_id,
            eager.task.started_id,
            eager.history_from,
            eager.history_to
        ),
        (2, 3, 1, 3)
    );
    let mut rig = Rig::over(
        crate::fixture::Counter::default(),
        limits.clone(),
        crate::fixture::BEGIN,
        transitions,
    );
    assert!(rig.tasks.is_empty());
    // A repeated start gets the same task, until it is over.
    assert_eq!(resend_first(&rig.run).unwrap().task, eager.task);
    rig.commands(&eager.task, vec![]).unwrap();
    assert!(resend_first(&rig.run).is_none());
    // A run that backs off has no task yet.
    let started = WorkflowExecutionStartedEventAttributes {
        first_workflow_task_backoff: seconds(5),
        ..Default::default()
    };
    let mut tx = crate::start::create(crate::testing::new_run(started), &cx);
    assert!(start_eagerly(&mut tx, "me").is_none());
}

#[test]
fn a_failure_that_is_too_large_is_cut() {
    let mut rig = Rig::new();
    let task = rig.poll().task;
    let failure = TaskFailure {
        failure: Some(Failure {
            message: "x".repeat(3 << 20),
            ..Default::default()
        }),
        ..TaskFailure::by_engine(Cause::WorkflowWorkerUnhandledFailure, "", "worker")
    };
    rig.op(|run, cx| fail(run, &task, failure, cx)).unwrap();
    let events = rig.new_events();
    let kept = events.iter().find_map(|event| match &event.attributes {
        Some(A::WorkflowTaskFailedEventAttributes(a)) => a.failure.clone(),
        _ => None,
    });
    let kept = kept.unwrap();
    assert_eq!(kept.message, "Failure exceeds size limit.");
    assert!(kept.cause.unwrap().message.starts_with("xxx"));
}
