use tidemill_proto::api::enums::v1::WorkflowExecutionStatus;
use tidemill_proto::api::enums::v1::{EventType as E, ResourceExhaustedCause};
use tidemill_proto::api::history::v1::history_event::Attributes as A;

use super::*;
use crate::testing::*;

/// A started workflow task and an update `u` at a stage.
fn at(stage: &str) -> (Rig, workflow_task::TaskRef) {
    let mut rig = Rig::idle();
    if stage == "unknown" || stage == "admitted" {
        rig.signal("").unwrap();
        let started = rig.poll();
        if stage == "admitted" {
            rig.update("u").unwrap();
        }
        rig.types();
        return (rig, started.task);
    }
    rig.update("u").unwrap();
    let mut started = rig.poll();
    let messages = match stage {
        "sent" => None,
        "accepted" => Some(vec![acceptance("u")]),
        "completed" => Some(vec![acceptance("u"), response("u")]),
        "rejected" => Some(vec![rejection("u")]),
        other => panic!("{other}"),
    };
    if let Some(messages) = messages {
        rig.complete(&started.task, with_messages(messages, vec![]))
            .unwrap();
        rig.signal("").unwrap();
        started = rig.poll();
    }
    rig.types();
    rig.update_events();
    (rig, started.task)
}

fn told(rig: &mut Rig) -> String {
    let word = |event: UpdateEvent| match event {
        UpdateEvent::Completed(o) if o == update_result() => "result".to_owned(),
        UpdateEvent::Completed(o) => format!("{:?}", o.value)
            .split('"')
            .nth(1)
            .unwrap_or_default()
            .chars()
            .take(22)
            .collect(),
        UpdateEvent::Rejected(f) => format!(
            "rejected: {}",
            f.message.split('.').next().unwrap_or_default()
        ),
        UpdateEvent::Aborted(e) => format!("{e:?}")
            .split('(')
            .next()
            .unwrap_or_default()
            .to_owned(),
        other => format!("{other:?}"),
    };
    let words: Vec<_> = rig
        .update_events()
        .into_iter()
        .map(|(_, event)| word(event))
        .collect();
    if words.is_empty() {
        "-".into()
    } else {
        words.join(", ")
    }
}

/// Stage by message: what callers are told, what stands in history, what is known afterwards.
const MESSAGES: &str = "
unknown
  accept: Accepted | WorkflowTaskCompleted UpdateAccepted | Accepted
  accept + respond: Accepted, result | WorkflowTaskCompleted UpdateAccepted UpdateCompleted | Completed
  respond: refused, - | WorkflowTaskFailed | unknown
  reject: refused, - | WorkflowTaskFailed | unknown
  nothing: - | WorkflowTaskCompleted | unknown
  close: - | WorkflowTaskCompleted Completed | unknown
admitted
  accept: Accepted | WorkflowTaskCompleted UpdateAccepted | Accepted
  accept + respond: Accepted, result | WorkflowTaskCompleted UpdateAccepted UpdateCompleted | Completed
  respond: refused, - | WorkflowTaskFailed | Admitted
  reject: rejected: failed | WorkflowTaskCompleted | unknown
  nothing: - | WorkflowTaskCompleted | Admitted
  close: NotFound | WorkflowTaskCompleted Completed | unknown
sent
  accept: Accepted | WorkflowTaskScheduled WorkflowTaskStarted WorkflowTaskCompleted UpdateAccepted | Accepted
  accept + respond: Accepted, result | WorkflowTaskScheduled WorkflowTaskStarted WorkflowTaskCompleted UpdateAccepted UpdateCompleted | Completed
  respond: refused, WorkflowNotReady | WorkflowTaskScheduled WorkflowTaskStarted WorkflowTaskFailed | unknown
  reject: rejected: failed |  | unknown
  nothing: rejected: Workflow Update is rejected because it wasn't processed by worker |  | unknown
  close: NotFound | WorkflowTaskScheduled WorkflowTaskStarted WorkflowTaskCompleted Completed | unknown
accepted
  accept: refused, - | WorkflowTaskFailed | Accepted
  accept + respond: refused, - | WorkflowTaskFailed | Accepted
  respond: result | WorkflowTaskCompleted UpdateCompleted | Completed
  reject: refused, - | WorkflowTaskFailed | Accepted
  nothing: - | WorkflowTaskCompleted | Accepted
  close: Workflow Update failed | WorkflowTaskCompleted Completed | Failed
completed
  accept: refused, - | WorkflowTaskFailed | Completed
  accept + respond: refused, - | WorkflowTaskFailed | Completed
  respond: refused, - | WorkflowTaskFailed | Completed
  reject: refused, - | WorkflowTaskFailed | Completed
  nothing: - | WorkflowTaskCompleted | Completed
  close: - | WorkflowTaskCompleted Completed | Completed
rejected
  accept: Accepted | WorkflowTaskCompleted UpdateAccepted | Accepted
  accept + respond: Accepted, result | WorkflowTaskCompleted UpdateAccepted UpdateCompleted | Completed
  respond: refused, - | WorkflowTaskFailed | unknown
  reject: refused, - | WorkflowTaskFailed | unknown
  nothing: - | WorkflowTaskCompleted | unknown
  close: - | WorkflowTaskCompleted Completed | unknown
";

#[test]
fn stage_by_message() {
    let stages = [
        "unknown",
        "admitted",
        "sent",
        "accepted",
        "completed",
        "rejected",
    ];
    let answers: [(&str, Vec<Message>, bool); 6] = [
        ("accept", vec![acceptance("u")], false),
        (
            "accept + respond",
            vec![acceptance("u"), response("u")],
            false,
        ),
        ("respond", vec![response("u")], false),
        ("reject", vec![rejection("u")], false),
        ("nothing", vec![], false),
        ("close", vec![], true),
    ];
    let mut table = String::new();
    for stage in stages {
        table.push_str(&format!("{stage}\n"));
        for (name, messages, close) in &answers {
            let (mut rig, task) = at(stage);
            let more = if *close {
                vec![complete_workflow()]
            } else {
                vec![]
            };
            let reply = rig.complete(&task, with_messages(messages.clone(), more));
            let failed = if reply.is_err() { "refused, " } else { "" };
            let events: Vec<_> = rig
                .types()
                .iter()
                .map(|k| format!("{k:?}").replace("WorkflowExecution", ""))
                .collect();
            let known = status(&rig.run, "u").map_or("unknown".into(), |s| format!("{s:?}"));
            let known = known.split([' ', '(']).next().unwrap().to_owned();
            table.push_str(&format!(
                "  {name}: {failed}{} | {} | {known}\n",
                told(&mut rig),
                events.join(" ")
            ));
        }
    }
    assert!(
        table.trim() == MESSAGES.trim(),
        "the table is now:\n{table}"
    );
}

/// How the run, the task or the process of an update ends: what callers are told, and what a later
/// request for it finds (contract 6.3).
const ENDINGS: &str = "
admitted
  completes: NotFound | unknown
  continues as new: Moved | unknown
  is terminated: NotFound | unknown
  worker fails the task: - | Admitted
  engine fails the task: - | Admitted
  task times out: - | Admitted
  task is sent again: - | Admitted
  process dies: - | unknown
sent
  completes: NotFound | unknown
  continues as new: Moved | unknown
  is terminated: NotFound | unknown
  worker fails the task: - | Admitted
  engine fails the task: WorkflowNotReady | unknown
  task times out: - | Admitted
  task is sent again: - | Admitted
  process dies: - | unknown
accepted
  completes: Workflow Update failed | Failed
  continues as new: Workflow Update failed | Failed
  is terminated: Workflow Update failed | Failed
  worker fails the task: - | Accepted
  engine fails the task: - | Accepted
  task times out: - | Accepted
  task is sent again: - | Accepted
  process dies: - | Accepted
completed
  completes: - | Completed
  continues as new: - | Completed
  is terminated: - | Completed
  worker fails the task: - | Completed
  engine fails the task: - | Completed
  task times out: - | Completed
  task is sent again: - | Completed
  process dies: - | Completed
";

#[test]
fn stage_by_ending() {
    let stages = ["admitted", "sent", "accepted", "completed"];
    type Ending = fn(&mut Rig, &workflow_task::TaskRef);
    let endings: [(&str, Ending); 8] = [
        ("completes", |rig, task| {
            drop(rig.commands(task, vec![complete_workflow()]).unwrap())
        }),
        ("continues as new", |rig, task| {
            drop(rig.commands(task, vec![continue_again()]).unwrap())
        }),
        ("is terminated", |rig, _| rig.terminate().unwrap()),
        ("worker fails the task", |rig, task| rig.fail(task).unwrap()),
        ("engine fails the task", |rig, task| {
            drop(rig.commands(task, vec![start_timer("", 1)]).unwrap_err())
        }),
        ("task times out", |rig, _| rig.after(10.0)),
        ("task is sent again", |rig, task| {
            rig.fail(task).unwrap();
            rig.poll();
        }),
        ("process dies", |rig, _| rig.reload()),
    ];
    let mut table = String::new();
    for stage in stages {
        table.push_str(&format!("{stage}\n"));
        for (name, ending) in endings {
            let (mut rig, task) = at(stage);
            ending(&mut rig, &task);
            let known = status(&rig.run, "u").map_or("unknown".into(), |s| format!("{s:?}"));
            let known = known.split([' ', '(']).next().unwrap().to_owned();
            table.push_str(&format!("  {name}: {} | {known}\n", told(&mut rig)));
        }
    }
    assert!(table.trim() == ENDINGS.trim(), "the table is now:\n{table}");
}

#[test]
fn a_request_goes_out_once_and_in_order() {
    let mut rig = Rig::sticky();
    assert_eq!(rig.update("b"), Ok(Status::Admitted));
    assert_eq!(rig.update("a"), Ok(Status::Admitted));
    assert_eq!(rig.update("b"), Ok(Status::Admitted));
    let started = rig.poll();
    assert_eq!((started.task.scheduled_id, started.task.started_id), (5, 6));
    let ids: Vec<_> = started.messages.iter().map(|m| m.id.as_str()).collect();
    assert_eq!(ids, ["b/request", "a/request"]);
    for message in &started.messages {
        assert_eq!(message.sequencing_id, Some(SequencingId::EventId(5)));
        let body = message.body.as_ref().unwrap();
        assert_eq!(
            body.type_url,
            "type.googleapis.com/temporal.api.update.v1.Request"
        );
        assert_eq!(
            Request::decode(&*body.value).unwrap(),
            request(&message.protocol_instance_id)
        );
    }
    assert_eq!(rig.update("a"), Ok(Status::Admitted));
    rig.complete(
        &started.task,
        with_messages(
            vec![acceptance("a"), acceptance("b"), response("b")],
            vec![],
        ),
    )
    .unwrap();
    assert_eq!(rig.update("a"), Ok(Status::Accepted));
    let Ok(Status::Completed { event_id, batch_id }) = rig.update("b") else {
        panic!()
    };
    assert_eq!(rig.state(), "none");
    // The outcome is where it is said to be.
    let batch = rig
        .history
        .iter()
        .find(|b| b.first_event_id == batch_id)
        .unwrap();
    let event = batch
        .events
        .iter()
        .find(|e| e.event_id == event_id)
        .unwrap();
    let Some(A::WorkflowExecutionUpdateCompletedEventAttributes(done)) = &event.attributes else {
        panic!()
    };
    assert_eq!(done.outcome, Some(update_result()));
    let accepted = rig
        .events()
        .nth(done.accepted_event_id as usize - 1)
        .unwrap();
    let Some(A::WorkflowExecutionUpdateAcceptedEventAttributes(a)) = &accepted.attributes else {
        panic!()
    };
    assert_eq!(
        (a.protocol_instance_id.as_str(), a.accepted_request.clone()),
        ("b", Some(request("b")))
    );
    assert_eq!(a.accepted_request_message_id, "b/request");
}

#[test]
fn where_a_request_waits() {
    let mut rig = Rig::new();
    // A pending task takes it along.
    rig.update("u").unwrap();
    assert_eq!(rig.state(), "scheduled");
    let started = rig.poll();
    assert_eq!(started.messages.len(), 1);
    // A started one does not.
    rig.update("v").unwrap();
    let completion = with_messages(vec![acceptance("u")], vec![]);
    rig.complete(&started.task, completion).unwrap();
    assert_eq!(rig.state(), "scheduled speculative");
    let started = rig.poll();
    let sent: Vec<_> = started
        .messages
        .iter()
        .map(|m| m.protocol_instance_id.as_str())
        .collect();
    assert_eq!(sent, ["v"]);
    // Buffered events make the next task a normal one, which takes it along as well.
    rig.signal("").unwrap();
    rig.update("w").unwrap();
    rig.complete(&started.task, with_messages(vec![acceptance("v")], vec![]))
        .unwrap();
    assert_eq!(rig.state(), "scheduled");
    assert_eq!(rig.poll().messages.len(), 1);
}

#[test]
fn what_is_refused() {
    let limited = |what: &str| {
        let mut rig = Rig::idle();
        match what {
            "in flight" => rig.limits.updates_in_flight = 1,
            "bytes" => rig.limits.updates_in_flight_bytes = 2 * request("u").encoded_len() - 1,
            "total" => rig.limits.updates_total = 1,
            _ => {}
        }
        rig.update("u").unwrap();
        rig
    };
    for what in ["in flight", "bytes"] {
        let error = limited(what).update("v").unwrap_err();
        let Error::ResourceExhausted { cause, .. } = error else {
            panic!("{what}: {error:?}")
        };
        assert_eq!(cause, ResourceExhaustedCause::ConcurrentLimit);
    }
    let mut rig = limited("total");
    assert!(matches!(rig.update("v"), Err(Error::FailedPrecondition(_))));
    // A rejected one does not count; one that is done does.
    let started = rig.poll();
    rig.complete(&started.task, with_messages(vec![rejection("u")], vec![]))
        .unwrap();
    rig.update("v").unwrap();
    let started = rig.poll();
    rig.complete(
        &started.task,
        with_messages(vec![acceptance("v"), response("v")], vec![]),
    )
    .unwrap();
    assert!(matches!(rig.update("w"), Err(Error::FailedPrecondition(_))));
    assert!(matches!(rig.update("v"), Ok(Status::Completed { .. })));

    let mut rig = Rig::idle();
    rig.run.core.status = WorkflowExecutionStatus::Paused as i32;
    let cx = rig.cx();
    assert!(matches!(
        admit(&rig.run, request("u"), &cx),
        Err(Error::FailedPrecondition(_))
    ));

    // A workflow whose task keeps failing takes none.
    let mut rig = Rig::new();
    for _ in 0..2 {
        rig.update("known").unwrap();
        let started = rig.poll();
        rig.fail(&started.task).unwrap();
    }
    assert_eq!(rig.state(), "scheduled attempt 3");
    assert!(matches!(rig.update("u"), Err(Error::WorkflowNotReady(_))));
    assert_eq!(rig.update("known"), Ok(Status::Admitted));

    let mut rig = Rig::new();
    rig.terminate().unwrap();
    assert!(matches!(rig.update("u"), Err(Error::NotFound(_))));
}

#[test]
fn a_killed_process_keeps_what_was_accepted() {
    let mut rig = Rig::idle();
    rig.update("u").unwrap();
    let started = rig.poll();
    rig.complete(
        &started.task,
        with_messages(vec![acceptance("u")], vec![start_timer("t", 1)]),
    )
    .unwrap();
    rig.update("lost").unwrap();
    let lost = rig.poll();
    rig.reload();
    assert_eq!(
        (status(&rig.run, "u"), status(&rig.run, "lost")),
        (Some(Status::Accepted), None)
    );
    assert!(matches!(
        rig.commands(&lost.task, vec![]),
        Err(Error::NotFound(_))
    ));
    rig.after(1.0);
    let started = rig.poll();
    rig.complete(&started.task, with_messages(vec![response("u")], vec![]))
        .unwrap();
    rig.reload();
    assert!(matches!(rig.update("u"), Ok(Status::Completed { .. })));
    assert_eq!(
        rig.types()
            .iter()
            .filter(|k| **k == E::WorkflowExecutionUpdateCompleted)
            .count(),
        1
    );
}
