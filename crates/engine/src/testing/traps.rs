//! The behaviours that are most likely to be got wrong (contract, section B), as far as one run
//! shows them. The names are the section's numbers.

use tidemill_proto::api::enums::v1::{
    ContinueAsNewInitiator as Initiator, EventType as E, RetryState, TimeoutType,
    WorkflowIdConflictPolicy as Conflict, WorkflowIdReusePolicy as Reuse,
    WorkflowTaskFailedCause as Cause,
};
use tidemill_proto::api::failure::v1::ApplicationFailureInfo;
use tidemill_proto::api::failure::v1::failure::FailureInfo;
use tidemill_proto::api::history::v1::history_event::Attributes as A;

use super::*;
use crate::id_policy::{self, Decision};
use crate::time::span;

fn timed_activity(id: &str, attempts: i32, close: i64, run: i64) -> Command {
    let mut command = schedule_activity(id, attempts);
    if let Some(C::ScheduleActivityTaskCommandAttributes(a)) = &mut command.attributes {
        a.schedule_to_close_timeout = seconds(close);
        a.start_to_close_timeout = seconds(run);
    }
    command
}

/// Takes the next attempt of an activity as soon as it is offered.
fn next_attempt(rig: &mut Rig, id: &str) -> StartedActivity {
    let at = rig.run.activities[&rig.run.activity_ids[id]].scheduled_time;
    rig.now = rig.now.max(Time(at));
    rig.fire();
    rig.start_activity(id)
}

#[test]
fn trap_01_and_02_activity_attempts_leave_no_trace() {
    let mut rig = Rig::new();
    rig.task(vec![schedule_activity("a", 0)]);
    rig.types();
    rig.start_activity("a");
    rig.fail_activity("a", failure("Retry")).unwrap();
    assert_eq!((rig.types(), rig.state()), (vec![], "none".into()));
    let a = rig.run.activities[&5].clone();
    assert_eq!(
        (
            a.attempt,
            a.scheduled_time > rig.now.0,
            a.last_failure.is_some()
        ),
        (2, true, true)
    );
    let second = next_attempt(&mut rig, "a");
    let started_at = rig.now;
    rig.wait(1.0);
    assert_eq!((rig.types(), second.attempt), (vec![], 2));
    rig.complete_activity("a").unwrap();
    let events = rig.new_events();
    let kinds: Vec<_> = events.iter().map(HistoryEvent::event_type).collect();
    assert_eq!(
        kinds,
        [
            E::ActivityTaskStarted,
            E::ActivityTaskCompleted,
            E::WorkflowTaskScheduled
        ]
    );
    assert_eq!(events[0].event_time, Some(started_at.proto()));
    let Some(A::ActivityTaskStartedEventAttributes(s)) = &events[0].attributes else {
        panic!()
    };
    assert_eq!(
        (s.attempt, s.last_failure.is_some(), s.scheduled_event_id),
        (2, true, 5)
    );
}

#[test]
fn trap_03_timeouts_that_leave_no_time_for_a_retry() {
    // The same position by a timeout and by a report.
    for reported in [false, true] {
        let mut rig = Rig::new();
        rig.task(vec![timed_activity("a", 0, 10, 6)]);
        rig.start_activity("a");
        rig.fail_activity("a", failure("First")).unwrap();
        next_attempt(&mut rig, "a");
        if reported {
            rig.wait(8.5);
            rig.fail_activity("a", failure("Second")).unwrap();
            let Some(A::ActivityTaskFailedEventAttributes(a)) =
                rig.last(E::ActivityTaskFailed).attributes
            else {
                panic!()
            };
            assert_eq!(
                (a.retry_state(), a.failure.unwrap()),
                (RetryState::Timeout, failure("Second"))
            );
            continue;
        }
        rig.after(6.0);
        assert_eq!(rig.run.activities[&5].attempt, 3);
        next_attempt(&mut rig, "a");
        rig.after(2.0);
        let Some(A::ActivityTaskTimedOutEventAttributes(a)) =
            rig.last(E::ActivityTaskTimedOut).attributes
        else {
            panic!()
        };
        let failure = a.failure.clone().unwrap();
        let Some(FailureInfo::TimeoutFailureInfo(info)) = &failure.failure_info else {
            panic!()
        };
        assert_eq!(
            (info.timeout_type(), a.retry_state()),
            (TimeoutType::ScheduleToClose, RetryState::Timeout)
        );
        assert!(failure.cause.is_some());
    }
}

#[test]
fn trap_04_the_delay_that_a_failure_asks_for() {
    let wants = |s| Failure {
        failure_info: Some(FailureInfo::ApplicationFailureInfo(
            ApplicationFailureInfo {
                next_retry_delay: seconds(s),
                ..Default::default()
            },
        )),
        ..failure("Later")
    };
    let mut command = timed_activity("a", 0, 300, 60);
    if let Some(C::ScheduleActivityTaskCommandAttributes(a)) = &mut command.attributes {
        a.retry_policy = Some(RetryPolicy {
            initial_interval: seconds(1),
            maximum_interval: seconds(2),
            ..Default::default()
        });
    }
    let mut rig = Rig::new();
    rig.task(vec![command]);
    rig.start_activity("a");
    rig.fail_activity("a", wants(100)).unwrap();
    assert_eq!(
        Time(rig.run.activities[&5].scheduled_time),
        rig.now.plus(Duration::from_secs(100))
    );
    next_attempt(&mut rig, "a");
    rig.fail_activity("a", wants(250)).unwrap();
    let Some(A::ActivityTaskFailedEventAttributes(a)) = rig.last(E::ActivityTaskFailed).attributes
    else {
        panic!()
    };
    assert_eq!(a.retry_state(), RetryState::Timeout);
}

#[test]
fn trap_05_cancel_of_an_activity_that_nobody_has() {
    // Never started, and waiting for its second attempt.
    for backing_off in [false, true] {
        let mut rig = Rig::new();
        rig.task(vec![schedule_activity("a", 0)]);
        if backing_off {
            rig.start_activity("a");
            rig.fail_activity("a", failure("Retry")).unwrap();
        }
        rig.signal("").unwrap();
        rig.types();
        rig.task(vec![cancel_activity(5)]);
        assert_eq!(
            rig.types(),
            [
                E::WorkflowTaskStarted,
                E::WorkflowTaskCompleted,
                E::ActivityTaskCancelRequested,
                E::ActivityTaskCanceled,
                E::WorkflowTaskScheduled
            ]
        );
        let Some(A::ActivityTaskCanceledEventAttributes(a)) =
            rig.last(E::ActivityTaskCanceled).attributes
        else {
            panic!()
        };
        assert_eq!(
            a.details.unwrap().payloads[0].data,
            br#""ACTIVITY_ID_NOT_STARTED""#
        );
        assert_eq!((a.scheduled_event_id, a.started_event_id), (5, 0));
    }
}

#[test]
fn trap_06_order_of_buffered_events() {
    let mut rig = Rig::new();
    rig.task(vec![
        schedule_activity("a", 1),
        schedule_activity("b", 1),
        start_timer("t", 3),
    ]);
    rig.start_activity("a");
    rig.start_activity("b");
    rig.signal("").unwrap();
    let started = rig.poll();
    rig.types();
    rig.complete_activity("a").unwrap();
    rig.signal("").unwrap();
    rig.complete_activity("b").unwrap();
    rig.cancel();
    rig.after(3.0);
    assert_eq!((rig.types(), rig.state()), (vec![], "started +7".into()));
    rig.reload();
    rig.commands(&started.task, vec![start_timer("u", 60)])
        .unwrap();
    let events = rig.new_events();
    let kinds: Vec<_> = events.iter().map(HistoryEvent::event_type).collect();
    assert_eq!(
        kinds,
        [
            E::WorkflowTaskCompleted,
            E::TimerStarted,
            E::ActivityTaskStarted,
            E::WorkflowExecutionSignaled,
            E::ActivityTaskStarted,
            E::WorkflowExecutionCancelRequested,
            E::TimerFired,
            E::ActivityTaskCompleted,
            E::ActivityTaskCompleted,
            E::WorkflowTaskScheduled,
        ]
    );
    for (closed, started) in [(7, 2), (8, 4)] {
        let Some(A::ActivityTaskCompletedEventAttributes(a)) = &events[closed].attributes else {
            panic!()
        };
        assert_eq!(a.started_event_id, events[started].event_id);
    }
    assert_eq!(rig.run.core.cancel_requested_id, events[5].event_id);
}

#[test]
fn trap_07_a_close_command_that_comes_too_early() {
    let mut rig = Rig::new();
    let mut started = rig.poll();
    // It keeps happening, whatever the attempt.
    for round in 0..3 {
        rig.signal("").unwrap();
        rig.types();
        let reply = rig.commands(&started.task, vec![complete_workflow()]);
        assert!(matches!(reply, Err(Error::InvalidArgument(_))));
        assert_eq!(
            rig.types(),
            [
                E::WorkflowTaskFailed,
                E::WorkflowExecutionSignaled,
                E::WorkflowTaskScheduled
            ]
        );
        let Some(A::WorkflowTaskFailedEventAttributes(a)) =
            rig.last(E::WorkflowTaskFailed).attributes
        else {
            panic!()
        };
        assert_eq!(a.cause(), Cause::UnhandledCommand);
        // Not started yet: signals are welcome.
        rig.signal("").unwrap();
        started = rig.poll();
        for refused in [rig.signal("").unwrap_err(), rig.update("u").unwrap_err()] {
            assert!(
                matches!(refused, Error::ResourceExhausted { .. }),
                "round {round}: {refused:?}"
            );
        }
        // The flag goes with the task.
        rig.commands(&started.task, vec![]).unwrap();
        rig.signal("").unwrap();
        started = rig.poll();
    }
    rig.commands(&started.task, vec![complete_workflow()])
        .unwrap();
    assert_eq!(rig.state(), "completed");

    let mut rig = Rig::new();
    let started = rig.poll();
    rig.fail(&started.task).unwrap();
    let started = rig.poll();
    rig.signal("").unwrap();
    rig.types();
    assert!(
        rig.commands(&started.task, vec![complete_workflow()])
            .is_err()
    );
    // The retry's own events were never written, so neither is its failure.
    assert_eq!(
        rig.types(),
        [E::WorkflowExecutionSignaled, E::WorkflowTaskScheduled]
    );
    assert_eq!(rig.state(), "scheduled");
}

#[test]
fn trap_08_cancel_of_a_timer_whose_firing_waits() {
    let mut rig = Rig::new();
    rig.task(vec![start_timer("t", 3)]);
    rig.signal("").unwrap();
    let started = rig.poll();
    rig.after(3.0);
    assert_eq!(rig.state(), "started +1");
    rig.types();
    rig.commands(&started.task, vec![cancel_timer("t"), complete_workflow()])
        .unwrap();
    assert_eq!(
        rig.types(),
        [
            E::WorkflowTaskCompleted,
            E::TimerCanceled,
            E::WorkflowExecutionCompleted
        ]
    );
    let Some(A::TimerCanceledEventAttributes(a)) = rig.last(E::TimerCanceled).attributes else {
        panic!()
    };
    assert_eq!((a.timer_id.as_str(), a.started_event_id), ("t", 5));
    assert_eq!(rig.count(E::TimerFired), 0);
}

#[test]
fn trap_09_to_11_are_in_workflow_task() {
    // A dead worker's sticky task on the normal queue: the same scheduled event, all of history.
    let mut rig = Rig::sticky();
    rig.signal("").unwrap();
    let scheduled = rig.run.last_event_id();
    let started = rig.poll_from(false).unwrap();
    assert_eq!(
        (
            started.task.scheduled_id,
            started.history_from,
            started.history_to
        ),
        (scheduled, 1, scheduled + 1)
    );
    assert_eq!(rig.run.core.sticky, None);
    rig.commands(&started.task, vec![]).unwrap();
    rig.signal("").unwrap();
    assert_eq!(rig.state(), "scheduled");
}

#[test]
fn trap_12_a_second_failure_is_not_recorded() {
    let mut rig = Rig::new();
    let started = rig.poll();
    assert!(
        rig.commands(&started.task, vec![start_timer("", 1)])
            .is_err()
    );
    let started = rig.poll();
    rig.types();
    let writes = rig.writes;
    for _ in 0..2 {
        assert!(matches!(
            rig.commands(&started.task, vec![start_timer("", 1)]),
            Err(Error::InvalidArgument(_))
        ));
        assert_eq!(
            (rig.writes, rig.state().as_str()),
            (writes, "started attempt 2")
        );
    }
    rig.after(10.0);
    assert_eq!(
        (rig.types(), rig.state()),
        (vec![], "scheduled attempt 3".into())
    );
}

#[test]
fn trap_13_bad_order() {
    for close in [complete_workflow(), fail_workflow(), continue_again()] {
        let mut rig = Rig::new();
        let started = rig.poll();
        rig.types();
        let writes = rig.writes;
        for after in [start_timer("t", 1), complete_workflow()] {
            let reply = rig.commands(&started.task, vec![close.clone(), after]);
            assert!(matches!(reply, Err(Error::InvalidArgument(_))));
            assert_eq!(
                (rig.writes, rig.types(), rig.state()),
                (writes, vec![], "started".into())
            );
        }
    }
}

#[test]
fn trap_14_a_rejected_update_leaves_no_trace() {
    let mut rig = Rig::sticky();
    for round in 0..2 {
        rig.update(&format!("u{round}")).unwrap();
        let started = rig.poll();
        // The ids that would be next, every time.
        assert_eq!(
            (
                started.task.scheduled_id,
                started.task.started_id,
                started.history_from
            ),
            (5, 6, 4)
        );
        let completion = Completion {
            sticky: sticky(),
            ..with_messages(vec![rejection(&format!("u{round}"))], vec![])
        };
        let done = rig.complete(&started.task, completion).unwrap();
        assert_eq!(
            (done.reset_history_event_id, rig.run.last_event_id()),
            (3, 4)
        );
        assert_eq!(rig.state(), "none");
        let told = rig.update_events();
        assert!(matches!(&told[..], [(_, UpdateEvent::Rejected(f))] if *f == failure("No")));
        assert_eq!(update::status(&rig.run, &format!("u{round}")), None);
    }
    rig.signal("").unwrap();
    rig.poll();
    assert_eq!(
        rig.types(),
        [
            E::WorkflowExecutionSignaled,
            E::WorkflowTaskScheduled,
            E::WorkflowTaskStarted
        ]
    );

    // With events that the worker has seen, only a worker that can see them twice goes back.
    for (able, reset_to) in [(false, 0), (true, 3)] {
        let mut rig = Rig::new();
        rig.task(vec![start_timer("t", 60)]);
        rig.update("u").unwrap();
        let started = rig.poll();
        let completion = Completion {
            discards_with_events: able,
            ..with_messages(vec![rejection("u")], vec![])
        };
        assert_eq!(
            rig.complete(&started.task, completion)
                .unwrap()
                .reset_history_event_id,
            reset_to
        );
        assert_eq!(rig.run.last_event_id(), if able { 5 } else { 8 });
    }
}

#[test]
fn trap_15_a_signal_meets_a_speculative_task() {
    let mut rig = Rig::idle();
    rig.update("u").unwrap();
    let started = rig.poll();
    rig.signal("").unwrap();
    assert_eq!(
        rig.types(),
        [E::WorkflowTaskScheduled, E::WorkflowTaskStarted]
    );
    assert_eq!(rig.state(), "started +1");
    rig.complete(
        &started.task,
        with_messages(vec![acceptance("u"), response("u")], vec![]),
    )
    .unwrap();
    assert_eq!(
        rig.types(),
        [
            E::WorkflowTaskCompleted,
            E::WorkflowExecutionUpdateAccepted,
            E::WorkflowExecutionUpdateCompleted,
            E::WorkflowExecutionSignaled,
            E::WorkflowTaskScheduled,
        ]
    );
    // The same before it is started: both offers of it are good, but only one of them.
    let mut rig = Rig::idle();
    rig.update("u").unwrap();
    let Some(Effect::Speculative {
        scheduled_id,
        stamp,
        ..
    }) = rig.effects.pop()
    else {
        panic!()
    };
    rig.signal("").unwrap();
    let offered = &rig.tasks[0];
    assert_eq!((offered.scheduled_id, offered.stamp), (scheduled_id, stamp));
    assert_eq!(rig.poll().messages.len(), 1);
    assert!(matches!(rig.poll_from(false), Err(Error::NotFound(_))));
}

#[test]
fn trap_16_updates_and_closed_runs() {
    let mut rig = Rig::idle();
    rig.update("done").unwrap();
    rig.update("open").unwrap();
    let started = rig.poll();
    let messages = vec![acceptance("done"), response("done"), acceptance("open")];
    rig.complete(
        &started.task,
        with_messages(messages, vec![complete_workflow()]),
    )
    .unwrap();
    for _ in 0..2 {
        assert!(matches!(
            rig.update("done"),
            Ok(UpdateStatus::Completed { .. })
        ));
        let Ok(UpdateStatus::Failed(failure)) = rig.update("open") else {
            panic!()
        };
        let Some(FailureInfo::ApplicationFailureInfo(info)) = failure.failure_info else {
            panic!()
        };
        assert_eq!(
            (info.r#type.as_str(), info.non_retryable),
            ("AcceptedUpdateCompletedWorkflow", true)
        );
        assert!(matches!(rig.update("unknown"), Err(Error::NotFound(_))));
        rig.reload();
    }
}

#[test]
fn trap_18_how_queries_are_answered() {
    use query::Route;
    let route = |rig: &Rig| query::route(&rig.run, Default::default());
    let mut rig = Rig::idle();
    assert_eq!(route(&rig), Ok(Route::Direct));
    rig.signal("").unwrap();
    assert_eq!(route(&rig), Ok(Route::Buffered));
    rig.query("q").unwrap();
    assert!(matches!(
        rig.query("other"),
        Err(Error::ResourceExhausted { .. })
    ));
    let started = rig.poll();
    assert_eq!(
        (started.queries.len(), started.history_to),
        (1, rig.run.last_event_id())
    );
    rig.fail(&started.task).unwrap();
    assert_eq!(route(&rig), Ok(Route::Buffered));
    let started = rig.poll();
    rig.fail(&started.task).unwrap();
    assert!(matches!(route(&rig), Err(Error::WorkflowNotReady(_))));
    // Closed while failing: what it was can be asked.
    rig.terminate().unwrap();
    assert_eq!(route(&rig), Ok(Route::Direct));
}

#[test]
fn trap_19_operations_on_closed_runs() {
    let mut rig = Rig::idle();
    rig.cancel();
    rig.cancel();
    assert_eq!(
        rig.types(),
        [
            E::WorkflowExecutionCancelRequested,
            E::WorkflowTaskScheduled
        ]
    );
    rig.terminate().unwrap();
    let writes = rig.writes;
    rig.cancel();
    rig.fire();
    assert!(matches!(rig.signal("").unwrap_err(), Error::NotFound(_)));
    assert!(matches!(rig.terminate().unwrap_err(), Error::NotFound(_)));
    assert_eq!(rig.writes, writes);
}

#[test]
fn trap_20_start_delay() {
    let delayed = || {
        Rig::with(WorkflowExecutionStartedEventAttributes {
            first_workflow_task_backoff: seconds(60),
            workflow_run_timeout: seconds(100),
            ..Default::default()
        })
    };
    let mut rig = delayed();
    rig.types();
    assert_eq!(
        rig.run.core.execution_time,
        BEGIN.plus(Duration::from_secs(60)).0
    );
    rig.signal("").unwrap();
    assert_eq!(
        (rig.types(), rig.state()),
        (vec![E::WorkflowExecutionSignaled], "none".into())
    );
    assert!(matches!(
        query::route(&rig.run, Default::default()),
        Err(Error::WorkflowNotReady(_))
    ));
    rig.update("u").unwrap();
    rig.after(59.0);
    assert_eq!(rig.state(), "none");
    rig.after(1.0);
    assert_eq!(rig.types(), [E::WorkflowTaskScheduled]);
    assert_eq!(rig.poll().messages.len(), 1);
    rig.after(99.0);
    assert!(rig.run.is_open());
    rig.after(1.0);
    assert_eq!(rig.state(), "timedout");

    let mut rig = delayed();
    rig.types();
    rig.cancel();
    assert_eq!(
        rig.types(),
        [
            E::WorkflowExecutionCancelRequested,
            E::WorkflowTaskScheduled
        ]
    );
    // The end of the delay finds it awake.
    rig.task(vec![]);
    rig.types();
    rig.after(60.0);
    assert_eq!((rig.types(), rig.state()), (vec![], "none".into()));

    let mut rig = delayed();
    rig.terminate().unwrap();
    assert_eq!(rig.state(), "terminated");
}

#[test]
fn trap_21_and_22_starts_of_a_known_id() {
    let mut rig = Rig::new();
    let decide = |rig: &Rig, id: &str, reuse, conflict| {
        id_policy::decide(Some(&rig.run), id, reuse, conflict)
    };
    let refused = decide(&rig, "other", Reuse::AllowDuplicate, Conflict::Fail).unwrap_err();
    let Error::WorkflowExecutionAlreadyStarted {
        start_request_id,
        run_id,
        first_execution_run_id,
        ..
    } = refused
    else {
        panic!()
    };
    assert_eq!(
        (
            start_request_id.as_str(),
            run_id.as_str(),
            first_execution_run_id.as_str()
        ),
        ("create", "first", "first")
    );
    for _ in 0..2 {
        assert_eq!(
            decide(&rig, "create", Reuse::RejectDuplicate, Conflict::Fail),
            Ok(Decision::Repeated)
        );
        if rig.run.is_open() {
            rig.terminate().unwrap();
        }
    }
}

#[test]
fn trap_23_continue_as_new_waits_a_second() {
    let mut rig = Rig::new();
    rig.wait(0.3);
    let child = command(
        tidemill_proto::api::command::v1::StartChildWorkflowExecutionCommandAttributes {
            workflow_id: "child".into(),
            workflow_type: Some(WorkflowType {
                name: "Child".into(),
            }),
            ..Default::default()
        }
        .into(),
    );
    rig.task(vec![child]);
    let initiated = rig.last(E::StartChildWorkflowExecutionInitiated);
    let Some(A::StartChildWorkflowExecutionInitiatedEventAttributes(a)) = &initiated.attributes
    else {
        panic!()
    };
    let entry = rig.outbox[0].id;
    rig.op(|run, cx| {
        Ok(crate::child::started(
            run,
            initiated.event_id,
            a,
            "child-run",
            entry,
            cx,
        ))
    })
    .unwrap();
    rig.task(vec![continue_again()]);
    assert_eq!(rig.state(), "continuedasnew");
    // The child is told; the parent has none to tell.
    let closed = rig
        .outbox
        .iter()
        .filter(|e| matches!(e.item, Some(crate::OutboxItem::ParentClosed(_))));
    assert_eq!(closed.count(), 1);
    let next = &rig.others[0];
    assert_eq!(
        span(&next.run.start().attributes().first_workflow_task_backoff),
        Duration::from_millis(700)
    );
    let mut next = Rig::over(
        Counter::default(),
        rig.limits.clone(),
        rig.now,
        rig.others.clone(),
    );
    assert_eq!(
        (next.types(), next.state()),
        (vec![E::WorkflowExecutionStarted], "none".into())
    );
    next.after(0.7);
    assert_eq!(next.state(), "scheduled");
}

#[test]
fn trap_24_cron() {
    let mut rig = Rig::with(WorkflowExecutionStartedEventAttributes {
        cron_schedule: "@every 60s".into(),
        initiator: Initiator::CronSchedule as i32,
        first_workflow_task_backoff: seconds(60),
        last_completion_result: Some(payloads("before")),
        ..Default::default()
    });
    rig.after(60.0);
    rig.wait(10.0);
    rig.task(vec![fail_workflow()]);
    let next = rig.others[0].run.start().attributes();
    assert_eq!(next.initiator(), Initiator::CronSchedule);
    // From the execution time, not from the end: fifty seconds are left.
    assert_eq!(
        span(&next.first_workflow_task_backoff),
        Duration::from_secs(50)
    );
    assert_eq!(
        (
            next.last_completion_result.clone(),
            next.continued_failure.is_some()
        ),
        (Some(payloads("before")), true)
    );
    let Some(A::WorkflowExecutionFailedEventAttributes(a)) =
        rig.last(E::WorkflowExecutionFailed).attributes
    else {
        panic!()
    };
    assert_eq!(a.new_execution_run_id, *rig.others[0].run.id.run_id);
}

#[test]
fn trap_25_terminate_meets_a_started_task() {
    let mut rig = Rig::new();
    rig.poll();
    rig.signal("").unwrap();
    rig.types();
    rig.terminate().unwrap();
    assert_eq!(
        rig.types(),
        [
            E::WorkflowTaskFailed,
            E::WorkflowExecutionSignaled,
            E::WorkflowExecutionTerminated
        ]
    );
    let Some(A::WorkflowTaskFailedEventAttributes(a)) = rig.last(E::WorkflowTaskFailed).attributes
    else {
        panic!()
    };
    assert_eq!(a.cause(), Cause::ForceCloseCommand);
    assert_eq!(rig.update("u"), Err(Error::already_completed()));
}

#[test]
fn trap_27_the_tail_of_a_poll() {
    // History ends at the task's own started event, be that written or not.
    let mut rig = Rig::new();
    let started = rig.poll();
    assert_eq!(
        (started.history_to, started.tail.len()),
        (started.task.started_id, 0)
    );
    rig.fail(&started.task).unwrap();
    let started = rig.poll();
    let ids: Vec<_> = started.tail.iter().map(|e| e.event_id).collect();
    assert_eq!(ids, [started.history_to + 1, started.task.started_id]);
    assert_eq!(
        ids,
        [rig.run.core.next_event_id, rig.run.core.next_event_id + 1]
    );
    // Their events are numbered by nobody yet.
    assert!(started.tail.iter().all(|e| e.task_id == 0));
}
