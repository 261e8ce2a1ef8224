//! The workflow task machine as a table: in each state, what each event writes and leads to.

use tidemill_proto::api::enums::v1::{EventType, SuggestContinueAsNewReason, WorkflowTaskFailedCause as Cause};
use tidemill_proto::api::history::v1::WorkflowExecutionStartedEventAttributes;
use tidemill_proto::api::history::v1::history_event::Attributes as A;

use super::*;
use crate::complete::Completion;
use crate::fixture::seconds;
use crate::query::{self, Route};
use crate::testing::{Rig, accept, complete_workflow, reject, respond, schedule_activity, start_timer, sticky, with_messages};

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
    "signal", "cancel", "activity closes", "timer fires", "update", "query", "start", "start (sticky poll)",
    "start (old stamp)", "complete", "complete, new task", "complete + close", "complete + reject", "complete + accept",
    "heartbeat", "bad command", "bad order", "fail", "fails to send", "5 s pass", "10 s pass", "reset sticky",
    "terminate", "run times out",
];

/// A run with a started activity `a`, a timer `t`, and its workflow task in a state.
fn in_state(state: &str, timer: i64) -> Rig {
    let started = WorkflowExecutionStartedEventAttributes { workflow_run_timeout: seconds(3600), ..Default::default() };
    let mut rig = Rig::with(started);
    let first = rig.poll();
    let commands = vec![schedule_activity("a", 1), start_timer("t", timer)];
    let sticky = if state.contains("sticky") { sticky() } else { None };
    rig.complete(&first.task, Completion { commands, sticky, ..Default::default() }).unwrap();
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
    let ok = |_| String::from("ok");
    match event {
        "signal" => rig.signal("").map(ok),
        "cancel" => Ok(ok(rig.cancel())),
        "activity closes" => rig.complete_activity("a").map(ok),
        "timer fires" => Ok(ok(rig.after(1.0))),
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
            format!("{from}, {} messages, {} in tail", s.messages.len(), s.tail.len())
        }),
        "start (old stamp)" => {
            let scheduled_id = task.scheduled_id;
            let start = Start { scheduled_id, stamp: 99, identity: String::new(), request_id: String::new(), from_sticky: false, worker_version: None };
            rig.start(start).map(|_| String::new())
        }
        "complete" => complete(rig, Completion::default()).map(|c| format!("ok, reset to {}", c.reset_history_event_id)),
        "complete, new task" => {
            complete(rig, Completion { return_new_task: true, force_new_task: true, ..Default::default() })
                .map(|c| format!("ok, task {:?}", c.new_task.map(|s| s.task.scheduled_id)))
        }
        "complete + close" => complete(rig, Completion { commands: vec![complete_workflow()], ..Default::default() }).map(|_| "ok".into()),
        "complete + reject" => {
            complete(rig, with_messages(vec![reject("u")], vec![])).map(|c| format!("ok, reset to {}", c.reset_history_event_id))
        }
        "complete + accept" => complete(rig, with_messages(vec![accept("u"), respond("u")], vec![])).map(|_| "ok".into()),
        "heartbeat" => complete(rig, Completion { force_new_task: true, ..Default::default() }).map(|_| "ok".into()),
        "bad command" => complete(rig, Completion { commands: vec![start_timer("", 1)], ..Default::default() }).map(|_| "ok".into()),
        "bad order" => {
            let commands = vec![complete_workflow(), start_timer("x", 1)];
            complete(rig, Completion { commands, ..Default::default() }).map(|_| "ok".into())
        }
        "fail" => rig.fail(&task).map(ok),
        "fails to send" => {
            let failure = TaskFailure::by_engine(Cause::GrpcMessageTooLarge, "", "worker");
            rig.op(|run, cx| fail(run, &task, failure, cx)).map(ok)
        }
        "5 s pass" => Ok(ok(rig.after(5.0))),
        "10 s pass" => Ok(ok(rig.after(10.0))),
        "reset sticky" => rig.op(reset_sticky).map(ok),
        "terminate" => rig.terminate().map(ok),
        "run times out" => Ok(ok(rig.after(3600.0))),
        other => panic!("{other}"),
    }
}

fn short(kinds: &[EventType]) -> String {
    let words: Vec<_> = kinds
        .iter()
        .map(|k| format!("{k:?}").replace("WorkflowTask", "Task").replace("WorkflowExecution", ""))
        .collect();
    if words.is_empty() { "-".into() } else { words.join(" ") }
}

fn error_name(error: &Error) -> String {
    let text = format!("{error:?}");
    text.split(['(', ' ', '{']).next().unwrap_or_default().to_owned()
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
            table.push_str(&format!("  {}: {outcome}\n", events.join(", ")));
        }
    }
    assert!(table.trim() == TABLE.trim(), "the table is now:\n{table}");
}
