use std::time::Duration;

use tidemill_proto::api::command::v1::{
    ModifyWorkflowPropertiesCommandAttributes, RecordMarkerCommandAttributes,
    ScheduleActivityTaskCommandAttributes, UpsertWorkflowSearchAttributesCommandAttributes,
};
use tidemill_proto::api::enums::v1::{EventType as E, TimeoutType};
use tidemill_proto::api::failure::v1::failure::FailureInfo;
use tidemill_proto::api::history::v1::history_event::Attributes as A;

use super::*;
use crate::fixture::payloads;
use crate::testing::*;
use crate::transition::{Effect, UpdateEvent};

/// Cause and texts of the last workflow task failed event.
fn failed(rig: &Rig) -> (Cause, String, String) {
    let Some(A::WorkflowTaskFailedEventAttributes(a)) = rig.last(E::WorkflowTaskFailed).attributes
    else {
        panic!()
    };
    let failure = a.failure.clone().unwrap();
    assert!(matches!(
        failure.failure_info,
        Some(FailureInfo::ServerFailureInfo(_))
    ));
    (a.cause(), failure.message, a.identity)
}

fn big() -> tidemill_proto::api::common::v1::Payloads {
    payloads(&"x".repeat(3 << 20))
}

#[test]
fn commands_that_are_refused() {
    let empty = |kind: CommandType| Command {
        command_type: kind as i32,
        ..Default::default()
    };
    let sa = |attributes| {
        command(
            UpsertWorkflowSearchAttributesCommandAttributes {
                search_attributes: attributes,
            }
            .into(),
        )
    };
    let marker = |marker_name: &str, details| {
        let details = [("d".to_owned(), details)].into();
        command(
            RecordMarkerCommandAttributes {
                marker_name: marker_name.into(),
                details,
                ..Default::default()
            }
            .into(),
        )
    };
    let message = |id: &str| {
        command(C::ProtocolMessageCommandAttributes(
            tidemill_proto::api::command::v1::ProtocolMessageCommandAttributes {
                message_id: id.into(),
            },
        ))
    };
    let no_type = ScheduleActivityTaskCommandAttributes {
        activity_id: "x".into(),
        ..Default::default()
    };
    let rows = [
        (start_timer("", 1), Cause::BadStartTimerAttributes),
        (
            start_timer(&"t".repeat(1001), 1),
            Cause::BadStartTimerAttributes,
        ),
        (start_timer("t", -1), Cause::BadStartTimerAttributes),
        (start_timer("known", 1), Cause::StartTimerDuplicateId),
        (cancel_timer(""), Cause::BadCancelTimerAttributes),
        (cancel_timer("unknown"), Cause::BadCancelTimerAttributes),
        (
            schedule_activity("known", 1),
            Cause::ScheduleActivityDuplicateId,
        ),
        (
            command(no_type.into()),
            Cause::BadScheduleActivityAttributes,
        ),
        (
            cancel_activity(0),
            Cause::BadRequestCancelActivityAttributes,
        ),
        (
            cancel_activity(77),
            Cause::BadRequestCancelActivityAttributes,
        ),
        (marker("", payloads("")), Cause::BadRecordMarkerAttributes),
        (
            marker(&"m".repeat(1001), payloads("")),
            Cause::BadRecordMarkerAttributes,
        ),
        (sa(None), Cause::BadSearchAttributes),
        (sa(Some(Default::default())), Cause::BadSearchAttributes),
        (
            command(ModifyWorkflowPropertiesCommandAttributes::default().into()),
            Cause::BadModifyWorkflowPropertiesAttributes,
        ),
        (
            command(C::FailWorkflowExecutionCommandAttributes(Default::default())),
            Cause::BadFailWorkflowExecutionAttributes,
        ),
        (message("absent"), Cause::BadUpdateWorkflowExecutionMessage),
        (
            empty(CommandType::StartTimer),
            Cause::BadStartTimerAttributes,
        ),
        (
            empty(CommandType::CompleteWorkflowExecution),
            Cause::BadCompleteWorkflowExecutionAttributes,
        ),
        (
            empty(CommandType::StartChildWorkflowExecution),
            Cause::BadStartChildExecutionAttributes,
        ),
        (
            empty(CommandType::ScheduleNexusOperation),
            Cause::BadScheduleNexusOperationAttributes,
        ),
    ];
    for (command, cause) in rows {
        let mut rig = Rig::new();
        rig.task(vec![
            start_timer("known", 60),
            schedule_activity("known", 1),
        ]);
        rig.signal("").unwrap();
        let started = rig.poll();
        rig.types();
        let name = format!("{cause:?}: {command:?}");
        // What came before the bad command does not stand either.
        let reply = rig.commands(&started.task, vec![start_timer("before", 60), command]);
        let Err(Error::InvalidArgument(text)) = reply else {
            panic!("{name}: {reply:?}")
        };
        assert_eq!(rig.types(), [E::WorkflowTaskFailed], "{name}");
        assert_eq!(rig.state(), "scheduled attempt 2");
        assert!(!rig.run.timer_ids.contains_key("before"));
        let (got, message, identity) = failed(&rig);
        assert_eq!(
            (got, &message, identity.as_str()),
            (cause, &text, "worker"),
            "{name}"
        );
        assert!(text.starts_with(&format!("{cause:?}: ")), "{text}");
    }
    // Too much data ends the run.
    let too_big = [
        (marker("m", big()), Cause::BadRecordMarkerAttributes),
        (
            command(C::CompleteWorkflowExecutionCommandAttributes(
                tidemill_proto::api::command::v1::CompleteWorkflowExecutionCommandAttributes {
                    result: Some(big()),
                },
            )),
            Cause::BadCompleteWorkflowExecutionAttributes,
        ),
    ];
    for (command, cause) in too_big {
        let mut rig = Rig::new();
        let started = rig.poll();
        rig.signal("").unwrap();
        rig.types();
        let reply = rig.commands(&started.task, vec![command]);
        let Err(Error::InvalidArgument(text)) = reply else {
            panic!("{reply:?}")
        };
        // A close command meets the waiting signal first.
        if cause == Cause::BadCompleteWorkflowExecutionAttributes {
            assert_eq!(failed(&rig).0, Cause::UnhandledCommand);
            continue;
        }
        assert_eq!(
            rig.types(),
            [
                E::WorkflowTaskFailed,
                E::WorkflowExecutionSignaled,
                E::WorkflowExecutionTerminated
            ]
        );
        assert_eq!(failed(&rig).0, cause);
        let Some(A::WorkflowExecutionTerminatedEventAttributes(a)) =
            rig.last(E::WorkflowExecutionTerminated).attributes
        else {
            panic!()
        };
        assert_eq!((a.reason, a.identity.as_str()), (text, "history-service"));
    }
}

#[test]
fn a_completion_for_another_task_is_not_found() {
    let mut rig = Rig::new();
    let task = rig.poll().task;
    let wrong = [
        TaskRef {
            scheduled_id: 9,
            ..task.clone()
        },
        TaskRef {
            started_id: 9,
            ..task.clone()
        },
        TaskRef {
            attempt: 2,
            ..task.clone()
        },
        TaskRef {
            started_time: Time(1),
            ..task.clone()
        },
    ];
    for wrong in wrong {
        assert!(
            matches!(rig.commands(&wrong, vec![]), Err(Error::NotFound(_))),
            "{wrong:?}"
        );
        assert!(matches!(rig.fail(&wrong), Err(Error::NotFound(_))));
    }
    rig.commands(&task, vec![]).unwrap();
    assert!(matches!(
        rig.commands(&task, vec![]),
        Err(Error::NotFound(_))
    ));
}

#[test]
fn a_bad_binary_fails_the_task() {
    let mut rig = Rig::new();
    let started = rig.poll();
    let completion = Completion {
        bad_binary: true,
        binary_checksum: "b1".into(),
        ..Default::default()
    };
    assert!(matches!(
        rig.complete(&started.task, completion),
        Err(Error::InvalidArgument(_))
    ));
    assert_eq!(failed(&rig).0, Cause::BadBinary);
    let Some(A::WorkflowTaskFailedEventAttributes(a)) = rig.last(E::WorkflowTaskFailed).attributes
    else {
        panic!()
    };
    assert_eq!(a.binary_checksum, "b1");
}

fn heartbeat() -> Completion {
    Completion {
        force_new_task: true,
        return_new_task: true,
        sticky: sticky(),
        ..Default::default()
    }
}

#[test]
fn heartbeats_end_after_half_an_hour() {
    // Sticky: the next task is a first attempt on the normal queue; else it counts as a failure.
    for (sticky_worker, expected, state) in [
        (
            true,
            vec![E::WorkflowTaskTimedOut, E::WorkflowTaskScheduled],
            "scheduled",
        ),
        (false, vec![E::WorkflowTaskTimedOut], "scheduled attempt 2"),
    ] {
        let mut rig = Rig::new();
        let mut task = rig.poll().task;
        let begun = rig.now;
        let beat = || {
            if sticky_worker {
                heartbeat()
            } else {
                Completion {
                    sticky: None,
                    ..heartbeat()
                }
            }
        };
        while rig.now.since(begun) <= Duration::from_secs(1790) {
            rig.wait(9.0);
            task = rig.complete(&task, beat()).unwrap().new_task.unwrap().task;
            let pending = rig.run.core.workflow_task.as_ref().unwrap();
            assert_eq!(pending.original_scheduled_time, begun.0);
            assert_eq!(pending.scheduled_time, rig.now.0);
        }
        rig.update("u").unwrap();
        rig.types();
        rig.wait(9.5);
        assert!(matches!(
            rig.complete(&task, beat()),
            Err(Error::NotFound(_))
        ));
        assert_eq!(rig.types(), expected);
        assert_eq!(rig.state(), state);
        let Some(A::WorkflowTaskTimedOutEventAttributes(a)) =
            rig.last(E::WorkflowTaskTimedOut).attributes
        else {
            panic!()
        };
        assert_eq!(
            (a.timeout_type(), a.started_event_id),
            (TimeoutType::StartToClose, task.started_id)
        );
        assert_eq!(rig.poll().messages.len(), 1);
    }
}

#[test]
fn progress_begins_the_half_hour_again() {
    let mut rig = Rig::new();
    let task = rig.poll().task;
    rig.wait(5.0);
    let completion = Completion {
        commands: vec![start_timer("t", 60)],
        ..heartbeat()
    };
    rig.complete(&task, completion).unwrap();
    assert_eq!(
        rig.run
            .core
            .workflow_task
            .as_ref()
            .unwrap()
            .original_scheduled_time,
        rig.now.0
    );
}

#[test]
fn heartbeats_do_not_repeat_messages() {
    let mut rig = Rig::sticky();
    rig.update("u").unwrap();
    let started = rig.poll();
    assert_eq!(started.messages.len(), 1);
    // With or without progress, what was sent is not rejected, nor sent again to the same worker.
    for commands in [vec![], vec![start_timer("t", 60)]] {
        let task = rig.run.core.workflow_task.clone().unwrap();
        let task = TaskRef {
            scheduled_id: task.scheduled_id,
            started_id: task.started_id,
            attempt: 1,
            started_time: Time(task.started_time),
        };
        let next = rig
            .complete(
                &task,
                Completion {
                    commands,
                    ..heartbeat()
                },
            )
            .unwrap()
            .new_task
            .unwrap();
        assert_eq!(next.messages.len(), 0);
        assert!(rig.update_events().is_empty());
    }
    rig.update("v").unwrap();
    rig.after(10.0);
    // Another worker gets them all.
    let started = rig.poll();
    assert_eq!(started.messages.len(), 2);
    rig.complete(
        &started.task,
        with_messages(vec![acceptance("u"), acceptance("v")], vec![]),
    )
    .unwrap();
}

#[test]
fn what_a_worker_missed_goes_to_the_next() {
    let mut rig = Rig::sticky();
    rig.update("u").unwrap();
    let started = rig.poll();
    // Alive, but the next task goes through the queue, and nobody takes it there.
    rig.complete(
        &started.task,
        Completion {
            return_new_task: false,
            ..heartbeat()
        },
    )
    .unwrap();
    assert_eq!(rig.state(), "scheduled sticky");
    rig.after(5.0);
    assert_eq!(rig.state(), "scheduled");
    assert_eq!(rig.poll().messages.len(), 1);
}

#[test]
fn a_bad_message_fails_a_speculative_task() {
    let mut rig = Rig::idle();
    rig.update("u").unwrap();
    let started = rig.poll();
    let reply = rig.complete(
        &started.task,
        with_messages(vec![rejection("u"), rejection("unknown")], vec![]),
    );
    assert!(matches!(reply, Err(Error::InvalidArgument(_))));
    assert_eq!(
        rig.types(),
        [
            E::WorkflowTaskScheduled,
            E::WorkflowTaskStarted,
            E::WorkflowTaskFailed
        ]
    );
    assert_eq!(failed(&rig).0, Cause::BadUpdateWorkflowExecutionMessage);
    assert!(matches!(
        &rig.update_events()[..],
        [(_, UpdateEvent::Aborted(Error::WorkflowNotReady(_)))]
    ));
}

#[test]
fn a_refused_retry_tells_callers_of_updates() {
    let mut rig = Rig::new();
    let started = rig.poll();
    rig.fail(&started.task).unwrap();
    rig.update("u").unwrap();
    let started = rig.poll();
    assert_eq!(started.messages.len(), 1);
    let writes = rig.writes;
    let refused = rig.complete(
        &started.task,
        with_messages(vec![acceptance("u")], vec![start_timer("", 1)]),
    );
    assert!(matches!(refused, Err(Error::InvalidArgument(_))));
    assert_eq!(
        (rig.writes, rig.state().as_str()),
        (writes, "started attempt 2")
    );
    assert!(matches!(
        &rig.update_events()[..],
        [(_, UpdateEvent::Aborted(Error::WorkflowNotReady(_)))]
    ));
}

#[test]
fn rejections_reach_their_callers_when_the_run_closes() {
    let mut rig = Rig::idle();
    for id in ["no", "yes", "ignored"] {
        rig.update(id).unwrap();
    }
    let started = rig.poll();
    // The rejection has no command; the acceptance has one, before the close command.
    let completion = with_messages(
        vec![rejection("no"), acceptance("yes")],
        vec![complete_workflow()],
    );
    rig.complete(&started.task, completion).unwrap();
    let told = rig.update_events();
    let kind = |id: &str| {
        let of = told.iter().filter(|(update, _)| update == id);
        of.map(|(_, event)| {
            format!("{event:?}")
                .split(['(', ' '])
                .next()
                .unwrap()
                .to_owned()
        })
        .collect::<Vec<_>>()
    };
    assert_eq!(kind("no"), ["Rejected"]);
    assert_eq!(kind("yes"), ["Accepted", "Completed"]);
    assert_eq!(kind("ignored"), ["Aborted"]);
}

#[test]
fn the_next_task_comes_with_the_answer() {
    let mut rig = Rig::new();
    let started = rig.poll();
    rig.signal("").unwrap();
    rig.types();
    let completion = Completion {
        return_new_task: true,
        sticky: sticky(),
        ..Default::default()
    };
    let next = rig
        .complete(&started.task, completion)
        .unwrap()
        .new_task
        .unwrap();
    assert_eq!(
        rig.types(),
        [
            E::WorkflowTaskCompleted,
            E::WorkflowExecutionSignaled,
            E::WorkflowTaskScheduled,
            E::WorkflowTaskStarted
        ]
    );
    // From the completed event of the task before, up to its own start.
    assert_eq!(
        (next.history_from, next.history_to, next.previous_started_id),
        (4, 7, 3)
    );
    assert!(rig.tasks.is_empty());
    // An update that came meanwhile: the next task is speculative, and its events are in the tail.
    rig.update("u").unwrap();
    let completion = Completion {
        return_new_task: true,
        sticky: sticky(),
        ..Default::default()
    };
    let next = rig
        .complete(&next.task, completion)
        .unwrap()
        .new_task
        .unwrap();
    assert_eq!(rig.types(), [E::WorkflowTaskCompleted]);
    assert_eq!(
        (
            next.history_from,
            next.history_to,
            next.tail.len(),
            next.messages.len()
        ),
        (8, 8, 2, 1)
    );
    assert_eq!(rig.state(), "started sticky speculative");
    assert!(
        !rig.effects
            .iter()
            .any(|e| matches!(e, Effect::Speculative { .. }))
    );
    // Without the wish for it, it is offered instead.
    rig.update("v").unwrap();
    rig.complete(
        &next.task,
        with_messages(vec![acceptance("u"), response("u")], vec![]),
    )
    .unwrap();
    assert_eq!(rig.state(), "scheduled speculative");
    assert!(
        rig.effects
            .iter()
            .any(|e| matches!(e, Effect::Speculative { .. }))
    );
}

#[test]
fn eager_activities_come_with_the_answer() {
    let eager = |id: &str| {
        let mut command = schedule_activity(id, 1);
        if let Some(C::ScheduleActivityTaskCommandAttributes(a)) = &mut command.attributes {
            a.request_eager_execution = true;
        }
        command
    };
    let mut rig = Rig::new();
    let started = rig.poll();
    // The second is cancelled by the same worker's next command.
    let done = rig
        .commands(
            &started.task,
            vec![eager("a"), schedule_activity("b", 1), eager("c")],
        )
        .unwrap();
    let ids: Vec<_> = done
        .activities
        .iter()
        .map(|a| a.activity_id.as_str())
        .collect();
    assert_eq!(ids, ["a", "c"]);
    assert_eq!(rig.tasks.len(), 1);
    // None for a run that closes.
    let mut rig = Rig::new();
    let started = rig.poll();
    let done = rig
        .commands(&started.task, vec![eager("a"), complete_workflow()])
        .unwrap();
    assert!(done.activities.is_empty());
}

#[test]
fn queries_are_answered_or_let_go() {
    let told = |rig: &mut Rig| {
        let effects = std::mem::take(&mut rig.effects);
        effects
            .iter()
            .map(|e| format!("{e:?}").split(' ').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let setup = || {
        let mut rig = Rig::idle();
        rig.limits.buffered_queries = 5;
        rig.signal("").unwrap();
        rig.query("q1").unwrap();
        let started = rig.poll();
        assert_eq!(started.queries.len(), 1);
        // Comes too late for this task.
        rig.query("q2").unwrap();
        (rig, started.task)
    };
    let (mut rig, task) = setup();
    rig.complete(&task, answers(&["q1"])).unwrap();
    assert_eq!(told(&mut rig), ["QueryAnswered", "QueryReleased"]);
    // With a task that follows, what is not answered rides on that.
    let (mut rig, task) = setup();
    let completion = Completion {
        force_new_task: true,
        ..answers(&["q1"])
    };
    rig.complete(&task, completion).unwrap();
    assert_eq!(told(&mut rig), ["QueryAnswered"]);
    assert_eq!(rig.poll().queries[0].0, "q2");
    // A run that closes lets all go.
    let (mut rig, task) = setup();
    rig.commands(&task, vec![complete_workflow()]).unwrap();
    assert_eq!(told(&mut rig), ["QueryReleased", "QueryReleased"]);
    // A failed task answers none: the next one gets both.
    let (mut rig, task) = setup();
    rig.fail(&task).unwrap();
    assert_eq!(rig.poll().queries.len(), 2);
}
