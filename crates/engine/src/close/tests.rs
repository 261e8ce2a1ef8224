use tidemill_proto::api::command::v1::{
    CancelWorkflowExecutionCommandAttributes, StartChildWorkflowExecutionCommandAttributes,
};
use tidemill_proto::api::common::v1::{RetryPolicy, WorkflowExecution, WorkflowType};
use tidemill_proto::api::enums::v1::EventType as E;
use tidemill_proto::api::history::v1::WorkflowExecutionStartedEventAttributes;
use tidemill_proto::api::history::v1::history_event::Attributes as A;

use super::*;
use crate::fixture::seconds;
use crate::testing::*;

type Started = WorkflowExecutionStartedEventAttributes;

fn cancel_workflow() -> tidemill_proto::api::command::v1::Command {
    command(CancelWorkflowExecutionCommandAttributes::default().into())
}

fn child(id: &str, policy: ParentClosePolicy) -> tidemill_proto::api::command::v1::Command {
    command(
        StartChildWorkflowExecutionCommandAttributes {
            workflow_id: id.into(),
            workflow_type: Some(WorkflowType {
                name: "Child".into(),
            }),
            parent_close_policy: policy as i32,
            ..Default::default()
        }
        .into(),
    )
}

/// Every way to end, with the run's status, the last event and the number of runs that follow.
#[test]
fn ways_to_end() {
    let retried = || Started {
        retry_policy: Some(RetryPolicy {
            initial_interval: seconds(1),
            backoff_coefficient: 1.0,
            ..Default::default()
        }),
        ..Default::default()
    };
    let cron = || Started {
        cron_schedule: "@every 60s".into(),
        ..Default::default()
    };
    let timed = |started: Started| Started {
        workflow_run_timeout: seconds(30),
        ..started
    };
    type End = fn(&mut Rig);
    let completes: End = |rig| drop(rig.task(vec![complete_workflow()]));
    let fails: End = |rig| drop(rig.task(vec![fail_workflow()]));
    let cancels: End = |rig| drop(rig.task(vec![cancel_workflow()]));
    let continues: End = |rig| drop(rig.task(vec![continue_again()]));
    let terminates: End = |rig| rig.terminate().unwrap();
    let times_out: End = |rig| rig.after(30.0);
    let rows = [
        (
            Started::default(),
            completes,
            Status::Completed,
            E::WorkflowExecutionCompleted,
            0,
        ),
        (
            cron(),
            completes,
            Status::Completed,
            E::WorkflowExecutionCompleted,
            1,
        ),
        (
            Started::default(),
            fails,
            Status::Failed,
            E::WorkflowExecutionFailed,
            0,
        ),
        (
            retried(),
            fails,
            Status::Failed,
            E::WorkflowExecutionFailed,
            1,
        ),
        (cron(), fails, Status::Failed, E::WorkflowExecutionFailed, 1),
        (
            retried(),
            cancels,
            Status::Canceled,
            E::WorkflowExecutionCanceled,
            0,
        ),
        (
            cron(),
            cancels,
            Status::Canceled,
            E::WorkflowExecutionCanceled,
            0,
        ),
        (
            Started::default(),
            continues,
            Status::ContinuedAsNew,
            E::WorkflowExecutionContinuedAsNew,
            1,
        ),
        (
            cron(),
            terminates,
            Status::Terminated,
            E::WorkflowExecutionTerminated,
            0,
        ),
        (
            timed(Started::default()),
            times_out,
            Status::TimedOut,
            E::WorkflowExecutionTimedOut,
            0,
        ),
        (
            timed(retried()),
            times_out,
            Status::TimedOut,
            E::WorkflowExecutionTimedOut,
            1,
        ),
    ];
    for (started, end, status, last, follow) in rows {
        // Of a run with a parent: that is told once the chain is over.
        let mut rig = Rig::with(Started {
            parent_workflow_namespace_id: "ns-id".into(),
            parent_workflow_execution: Some(WorkflowExecution {
                workflow_id: "p".into(),
                run_id: "pr".into(),
            }),
            parent_initiated_event_id: 9,
            ..started
        });
        let shown = rig.shown;
        end(&mut rig);
        let name = format!("{status:?}, {follow}");
        assert_eq!(
            (rig.run.status(), rig.others.len(), rig.shown),
            (status, follow, shown + 1),
            "{name}"
        );
        assert_eq!(rig.events().next_back().unwrap().event_type(), last);
        let told: Vec<_> = rig.outbox.iter().filter_map(|e| e.item.clone()).collect();
        let parent = RunAddress {
            namespace_id: "ns-id".into(),
            workflow_id: "p".into(),
            run_id: "pr".into(),
            initiated_id: 9,
        };
        let expected = if follow == 0 {
            vec![OutboxItem::ChildClosed(parent)]
        } else {
            vec![]
        };
        assert_eq!(told, expected, "{name}");
        let next = rig
            .others
            .first()
            .map_or(String::new(), |t| t.run.id.run_id.to_string());
        assert_eq!(rig.run.core.new_run_id, next);
        let said = match rig.last(last).attributes {
            Some(A::WorkflowExecutionCompletedEventAttributes(a)) => a.new_execution_run_id,
            Some(A::WorkflowExecutionFailedEventAttributes(a)) => a.new_execution_run_id,
            Some(A::WorkflowExecutionTimedOutEventAttributes(a)) => a.new_execution_run_id,
            Some(A::WorkflowExecutionContinuedAsNewEventAttributes(a)) => a.new_execution_run_id,
            _ => String::new(),
        };
        assert_eq!(said, next);
    }
}

#[test]
fn a_reset_is_not_told_to_the_parent() {
    let mut rig = Rig::with(Started {
        parent_workflow_execution: Some(WorkflowExecution {
            workflow_id: "p".into(),
            run_id: "pr".into(),
        }),
        ..Default::default()
    });
    let termination = Termination {
        for_reset: true,
        ..Default::default()
    };
    rig.op(|run, cx| terminate_run(run, termination, cx))
        .unwrap();
    assert!(rig.outbox.is_empty());
}

#[test]
fn children_of_a_run_that_ends() {
    use ParentClosePolicy as P;
    let mut rig = Rig::new();
    let policies = [P::Unspecified, P::Terminate, P::RequestCancel, P::Abandon];
    let mut commands: Vec<_> = policies
        .iter()
        .map(|p| child(&format!("{p:?}"), *p))
        .collect();
    commands.push(child("not started", P::Terminate));
    rig.task(commands);
    for entry in rig.outbox.clone() {
        let Some(OutboxItem::StartChild(initiated)) = entry.item else {
            panic!()
        };
        let event = rig
            .events()
            .nth(initiated.event_id as usize - 1)
            .unwrap()
            .clone();
        let Some(A::StartChildWorkflowExecutionInitiatedEventAttributes(a)) = event.attributes
        else {
            panic!()
        };
        if a.workflow_id != "not started" {
            rig.op(|run, cx| {
                Ok(crate::child::started(
                    run,
                    event.event_id,
                    &a,
                    "run",
                    entry.id,
                    cx,
                ))
            })
            .unwrap();
        }
    }
    rig.outbox.clear();
    rig.task(vec![child("same task", P::Abandon), complete_workflow()]);
    let told: Vec<_> = rig
        .outbox
        .iter()
        .map(|e| match &e.item {
            Some(OutboxItem::ParentClosed(p)) => (p.child.clone().unwrap().workflow_id, p.policy()),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [
        ("Unspecified", P::Terminate),
        ("Terminate", P::Terminate),
        ("RequestCancel", P::RequestCancel),
    ];
    assert_eq!(told, expected.map(|(id, policy)| (id.to_owned(), policy)));
}

#[test]
fn a_run_that_grows_too_large_ends() {
    let mut rig = Rig::idle();
    rig.limits.history_count = 6;
    rig.signal("").unwrap();
    assert_eq!(rig.state(), "scheduled");
    rig.types();
    rig.poll();
    assert_eq!(
        rig.types(),
        [
            E::WorkflowTaskStarted,
            E::WorkflowTaskFailed,
            E::WorkflowExecutionTerminated
        ]
    );

    let mut rig = Rig::idle();
    rig.limits.history_size = rig.run.core.history_size;
    rig.signal("").unwrap();
    assert!(rig.run.is_open());
    rig.signal("").unwrap();
    assert_eq!(rig.state(), "terminated");
}

#[test]
fn a_task_that_keeps_too_much_waiting_fails() {
    let mut rig = Rig::new();
    rig.limits.buffered_events = 3;
    let task = rig.poll().task;
    (0..3).for_each(|_| rig.signal("").unwrap());
    assert_eq!(rig.state(), "started +3");
    rig.types();
    rig.signal("").unwrap();
    let mut expected = vec![E::WorkflowTaskFailed];
    expected.extend([E::WorkflowExecutionSignaled; 4]);
    expected.push(E::WorkflowTaskScheduled);
    assert_eq!((rig.types(), rig.state()), (expected, "scheduled".into()));
    let Some(A::WorkflowTaskFailedEventAttributes(a)) = rig.last(E::WorkflowTaskFailed).attributes
    else {
        panic!()
    };
    assert_eq!(a.cause(), Cause::ForceCloseCommand);
    assert!(matches!(
        rig.commands(&task, vec![]),
        Err(Error::NotFound(_))
    ));
}

#[test]
fn own_events_do_not_stop_a_close_command() {
    let mut rig = Rig::new();
    rig.task(vec![schedule_activity("a", 1)]);
    rig.signal("").unwrap();
    rig.types();
    rig.task(vec![cancel_activity(5), complete_workflow()]);
    assert_eq!(rig.state(), "completed");
    assert_eq!(rig.types().last(), Some(&E::WorkflowExecutionCompleted));
}
