use tidemill_proto::api::command::v1::StartChildWorkflowExecutionCommandAttributes;
use tidemill_proto::api::command::v1::command::Attributes as C;
use tidemill_proto::api::common::v1::{Priority, RetryPolicy, WorkflowExecution, WorkflowType};
use tidemill_proto::api::enums::v1::{
    ContinueAsNewInitiator, EventType as E, ParentClosePolicy, RetryState,
    StartChildWorkflowExecutionFailedCause as FailedCause, WorkflowIdReusePolicy,
};
use tidemill_proto::api::history::v1::history_event::Attributes as A;
use tidemill_proto::api::history::v1::{
    HistoryEvent, StartChildWorkflowExecutionInitiatedEventAttributes,
    WorkflowExecutionStartedEventAttributes,
};
use tidemill_proto::api::taskqueue::v1::TaskQueue;

use super::*;
use crate::close::{Termination, terminate_run};
use crate::fixture::{failure, payloads, seconds};
use crate::run::BUFFERED_ID;
use crate::start::create;
use crate::testing::Rig;
use crate::transition::OutboxItem;
use crate::{Error, Run};

fn attributes() -> StartChildWorkflowExecutionCommandAttributes {
    StartChildWorkflowExecutionCommandAttributes {
        workflow_id: "child".into(),
        workflow_type: Some(WorkflowType {
            name: "Child".into(),
        }),
        ..Default::default()
    }
}

fn commands(a: StartChildWorkflowExecutionCommandAttributes) -> Vec<C> {
    vec![C::StartChildWorkflowExecutionCommandAttributes(a)]
}

/// A parent that has initiated a child, and the initiated event.
fn initiated() -> (Rig, HistoryEvent) {
    let mut rig = Rig::new();
    rig.decide(commands(attributes())).unwrap();
    rig.types();
    let event = rig.last(E::StartChildWorkflowExecutionInitiated);
    (rig, event)
}

fn of(event: &HistoryEvent) -> &StartChildWorkflowExecutionInitiatedEventAttributes {
    match &event.attributes {
        Some(A::StartChildWorkflowExecutionInitiatedEventAttributes(a)) => a,
        other => panic!("{other:?}"),
    }
}

fn record_start(rig: &mut Rig, event: &HistoryEvent, run_id: &str) -> Link {
    let outcome = started(&rig.run, event.event_id, of(event), run_id, 1, &rig.cx());
    rig.apply(outcome).unwrap()
}

fn facts(run_id: &str, how: How) -> CloseFacts {
    let execution = WorkflowExecution {
        workflow_id: "child".into(),
        run_id: run_id.into(),
    };
    CloseFacts {
        execution,
        first_run_id: "c1".into(),
        how,
    }
}

fn end(rig: &mut Rig, event: &HistoryEvent, facts: CloseFacts) -> Result<(), Error> {
    let outcome = closed(&rig.run, event.event_id, facts, &rig.cx())?;
    rig.apply(outcome)
}

#[test]
fn defaults_are_shown() {
    let (rig, event) = initiated();
    let a = of(&event);
    assert_eq!(a.parent_close_policy(), ParentClosePolicy::Terminate);
    assert_eq!(
        a.workflow_id_reuse_policy(),
        WorkflowIdReusePolicy::AllowDuplicate
    );
    assert_eq!(a.task_queue.as_ref().unwrap().name, "queue");
    assert_eq!((&*a.namespace, a.namespace_id.len()), ("ns", 36));
    assert_eq!(
        (a.workflow_run_timeout, a.workflow_task_timeout),
        (None, seconds(10))
    );
    assert_eq!(
        (a.retry_policy.as_ref(), a.workflow_task_completed_event_id),
        (None, event.event_id - 1)
    );
    let record = &rig.run.children[&event.event_id];
    assert_eq!(
        (record.initiated_batch_id, record.started_id),
        (event.event_id - 1, 0)
    );
    assert!(
        matches!(&rig.items()[..], [OutboxItem::StartChild(i)] if i.event_id == event.event_id)
    );
}

#[test]
fn refused() {
    let with = |f: &dyn Fn(&mut StartChildWorkflowExecutionCommandAttributes)| {
        let mut a = attributes();
        f(&mut a);
        a
    };
    let long = "x".repeat(1001);
    let rows = [
        (
            with(&|a| a.namespace = "other".into()),
            "BadStartChildExecutionAttributes",
        ),
        (
            with(&|a| a.workflow_id.clear()),
            "BadStartChildExecutionAttributes",
        ),
        (
            with(&|a| a.workflow_id = long.clone()),
            "BadStartChildExecutionAttributes",
        ),
        (
            with(&|a| a.workflow_type = None),
            "BadStartChildExecutionAttributes",
        ),
        (
            with(&|a| a.workflow_run_timeout = seconds(-1)),
            "BadStartChildExecutionAttributes",
        ),
        (
            with(&|a| a.cron_schedule = "nonsense".into()),
            "BadStartChildExecutionAttributes",
        ),
        (
            with(&|a| a.cron_schedule = "0 0 31 2 *".into()),
            "BadStartChildExecutionAttributes",
        ),
        (
            with(&|a| {
                a.retry_policy = Some(RetryPolicy {
                    maximum_attempts: -1,
                    ..Default::default()
                })
            }),
            "BadStartChildExecutionAttributes",
        ),
        (
            with(&|a| {
                a.priority = Some(Priority {
                    priority_key: -1,
                    ..Default::default()
                })
            }),
            "BadStartChildExecutionAttributes",
        ),
        (
            with(&|a| {
                a.task_queue = Some(TaskQueue {
                    name: "/_sys/x".into(),
                    ..Default::default()
                })
            }),
            "BadStartChildExecutionAttributes",
        ),
        (
            with(&|a| a.search_attributes = Some(Default::default())),
            "",
        ),
        (
            with(&|a| {
                a.search_attributes
                    .get_or_insert_default()
                    .indexed_fields
                    .extend([("Unknown".to_owned(), Default::default())])
            }),
            "BadSearchAttributes",
        ),
        (with(&|a| a.namespace = "ns".into()), ""),
        (
            with(&|a| a.input = Some(payloads(&"x".repeat(3 << 20)))),
            "BadStartChildExecutionAttributes",
        ),
    ];
    for (i, (attributes, cause)) in rows.into_iter().enumerate() {
        let mut rig = Rig::new();
        let big = attributes.input.is_some();
        match rig.decide(commands(attributes)) {
            Ok(_) => assert_eq!(cause, "", "row {i}"),
            Err(Error::InvalidArgument(text)) => {
                assert!(
                    !cause.is_empty() && text.starts_with(cause),
                    "row {i}: {text}"
                );
                assert!(rig.run.children.is_empty() && rig.outbox.is_empty());
                assert_eq!(rig.run.is_open(), !big, "row {i}");
            }
            Err(other) => panic!("row {i}: {other:?}"),
        }
    }
    let mut rig = Rig::new();
    rig.limits.pending_children = 1;
    let two = [commands(attributes()), commands(attributes())].concat();
    assert!(
        rig.decide(two)
            .unwrap_err()
            .to_string()
            .starts_with("PendingChildWorkflowsLimitExceeded")
    );
}

#[test]
fn what_the_child_is_started_with() {
    let mut rig = Rig::with(WorkflowExecutionStartedEventAttributes {
        priority: Some(Priority {
            priority_key: 2,
            fairness_key: "f".into(),
            ..Default::default()
        }),
        ..Default::default()
    });
    let a = StartChildWorkflowExecutionCommandAttributes {
        cron_schedule: "* * * * *".into(),
        workflow_execution_timeout: seconds(600),
        priority: Some(Priority {
            priority_key: 5,
            ..Default::default()
        }),
        ..attributes()
    };
    rig.decide(commands(a)).unwrap();
    let event = rig.last(E::StartChildWorkflowExecutionInitiated);
    let new = start_request(&rig.run, &event, &rig.cx()).unwrap();
    let s = &new.started;
    assert!(new.awaits_parent);
    assert_eq!(
        new.create_request_id,
        rig.run.children[&event.event_id].create_request_id
    );
    assert_eq!(
        (
            s.parent_workflow_execution.as_ref(),
            s.parent_initiated_event_id
        ),
        (Some(&rig.run.id.execution()), event.event_id)
    );
    assert_eq!(s.root_workflow_execution, Some(rig.run.id.execution()));
    assert_eq!(
        s.priority,
        Some(Priority {
            priority_key: 5,
            fairness_key: "f".into(),
            ..Default::default()
        })
    );
    // The rig begins at 22:13:20.
    assert_eq!(
        (s.initiator(), s.first_workflow_task_backoff),
        (ContinueAsNewInitiator::CronSchedule, seconds(40))
    );
    let expires = crate::Time::from_proto(s.workflow_execution_expiration_time.as_ref().unwrap());
    assert_eq!(expires.since(rig.now).as_secs(), 600);
}

/// How a child lives, from the command to its end.
#[test]
fn a_life() {
    let (mut rig, event) = initiated();
    let new = start_request(&rig.run, &event, &rig.cx()).unwrap();
    let child = create(new, &rig.cx()).into_transitions().remove(0).run;
    assert!(
        child.core.workflow_task.is_none(),
        "it waits for its parent"
    );
    let run_id = child.id.run_id.to_string();
    assert_eq!(record_start(&mut rig, &event, &run_id), Link::Recorded);
    assert_eq!(
        rig.types(),
        [E::ChildWorkflowExecutionStarted, E::WorkflowTaskScheduled]
    );
    assert!(
        matches!(&rig.items()[..], [OutboxItem::ReleaseChild(a)] if a.run_id == run_id && a.workflow_id == "child")
    );
    // A repeat changes nothing.
    assert_eq!(record_start(&mut rig, &event, &run_id), Link::Recorded);
    assert_eq!((rig.types(), rig.items().len()), (vec![], 1));
    assert_eq!(record_start(&mut rig, &event, "another"), Link::Orphaned);

    let child = release(&child, &rig.cx()).transitions.remove(0).run;
    assert!(child.core.workflow_task.is_some());
    assert!(
        release(&child, &rig.cx()).transitions.is_empty(),
        "released once"
    );

    let child = terminate_run(&child, Termination::default(), &rig.cx())
        .unwrap()
        .transitions
        .remove(0);
    let closing = child.batches.last().unwrap().decode().unwrap();
    let close_event = closing.events.last().unwrap();
    let facts = CloseFacts::of(&child.run, close_event).unwrap();
    assert_eq!(
        (&facts.how, &facts.first_run_id),
        (&How::Terminated, &run_id)
    );
    end(&mut rig, &event, facts.clone()).unwrap();
    assert_eq!(rig.types(), [E::ChildWorkflowExecutionTerminated]);
    assert!(rig.run.children.is_empty());
    assert!(matches!(
        end(&mut rig, &event, facts),
        Err(Error::NotFound(_))
    ));
}

#[test]
fn a_backoff_outlasts_the_release() {
    let mut rig = Rig::new();
    rig.decide(commands(StartChildWorkflowExecutionCommandAttributes {
        cron_schedule: "@every 60s".into(),
        ..attributes()
    }))
    .unwrap();
    let event = rig.last(E::StartChildWorkflowExecutionInitiated);
    let new = start_request(&rig.run, &event, &rig.cx()).unwrap();
    let child = create(new, &rig.cx()).into_transitions().remove(0).run;
    let child = release(&child, &rig.cx()).transitions.remove(0).run;
    assert!(child.core.workflow_task.is_none());
    rig.wait(60.0);
    let child: Run = crate::deadline::fire(&child, &rig.cx())
        .transitions
        .remove(0)
        .run;
    assert!(child.core.workflow_task.is_some());
}

/// The parent's record in each state, and each thing that may happen to it.
#[test]
fn every_event_in_every_state() {
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum State {
        Initiated,
        Started,
        Gone,
        ParentClosed,
    }
    use State::*;
    #[derive(Clone, Copy, Debug)]
    enum Input {
        Started,
        StartFailed,
        Closed,
        StartRequest,
    }
    let reach = |state: State| {
        let (mut rig, event) = initiated();
        if state != Initiated {
            record_start(&mut rig, &event, "c1");
        }
        if state == Gone {
            end(&mut rig, &event, facts("c1", How::Terminated)).unwrap();
        }
        if state == ParentClosed {
            let outcome = terminate_run(&rig.run, Termination::default(), &rig.cx()).unwrap();
            rig.apply(outcome).unwrap();
        }
        rig.types();
        (rig, event)
    };
    use E::{
        ChildWorkflowExecutionStarted as StartedEvent, ChildWorkflowExecutionTerminated as Ended,
        StartChildWorkflowExecutionFailed as NotStarted, WorkflowTaskScheduled as Task,
    };
    let rows: &[(State, Input, &[E], &str)] = &[
        (Initiated, Input::StartRequest, &[], "ok"),
        (Initiated, Input::Started, &[StartedEvent, Task], "Recorded"),
        (Initiated, Input::StartFailed, &[NotStarted, Task], "ok"),
        (Initiated, Input::Closed, &[StartedEvent, Ended, Task], "ok"),
        (Started, Input::StartRequest, &[], "not found"),
        (Started, Input::Started, &[], "Recorded"),
        (Started, Input::StartFailed, &[], "ok"),
        // The workflow task that was scheduled by the start is still pending.
        (Started, Input::Closed, &[Ended], "ok"),
        (Gone, Input::StartRequest, &[], "not found"),
        (Gone, Input::Started, &[], "Orphaned"),
        (Gone, Input::StartFailed, &[], "ok"),
        (Gone, Input::Closed, &[], "not found"),
        (ParentClosed, Input::StartRequest, &[], "not found"),
        (ParentClosed, Input::Started, &[], "Orphaned"),
        (ParentClosed, Input::StartFailed, &[], "ok"),
        (ParentClosed, Input::Closed, &[], "not found"),
    ];
    for (state, input, types, expected) in rows {
        let (mut rig, event) = reach(*state);
        let reply = match input {
            Input::Started => format!("{:?}", record_start(&mut rig, &event, "c1")),
            Input::StartFailed => {
                let cause = FailedCause::WorkflowAlreadyExists;
                let outcome = start_failed(&rig.run, event.event_id, cause, 1, &rig.cx());
                assert_eq!(outcome.transitions[0].outbox_removed, [1]);
                rig.apply(outcome).unwrap();
                "ok".into()
            }
            Input::Closed => match end(&mut rig, &event, facts("c1", How::Terminated)) {
                Ok(()) => "ok".into(),
                Err(Error::NotFound(_)) => "not found".into(),
                Err(other) => panic!("{other:?}"),
            },
            Input::StartRequest => match start_request(&rig.run, &event, &rig.cx()) {
                Ok(_) => "ok".into(),
                Err(_) => "not found".into(),
            },
        };
        assert_eq!(
            (reply.as_str(), rig.types().as_slice()),
            (*expected, *types),
            "{state:?} {input:?}"
        );
    }
}

#[test]
fn five_ways_to_end() {
    let rows = [
        (
            How::Completed {
                result: Some(payloads("r")),
            },
            E::ChildWorkflowExecutionCompleted,
        ),
        (
            How::Failed {
                failure: Some(failure("A")),
                retry_state: RetryState::Timeout,
            },
            E::ChildWorkflowExecutionFailed,
        ),
        (
            How::Canceled {
                details: Some(payloads("d")),
            },
            E::ChildWorkflowExecutionCanceled,
        ),
        (How::Terminated, E::ChildWorkflowExecutionTerminated),
        (
            How::TimedOut {
                retry_state: RetryState::RetryPolicyNotSet,
            },
            E::ChildWorkflowExecutionTimedOut,
        ),
    ];
    for (how, kind) in rows {
        let (mut rig, event) = initiated();
        record_start(&mut rig, &event, "c1");
        // The last run of the chain need not be the first.
        end(&mut rig, &event, facts("c2", how)).unwrap();
        let text = format!("{:?}", rig.last(kind).attributes);
        assert!(
            text.contains(&format!("initiated_event_id: {}", event.event_id)),
            "{text}"
        );
        assert!(
            text.contains("started_event_id: 6") && text.contains("\"c2\""),
            "{text}"
        );
    }
    // Another run under the child's id is not the child.
    let (mut rig, event) = initiated();
    record_start(&mut rig, &event, "another");
    assert!(matches!(
        end(&mut rig, &event, facts("c1", How::Terminated)),
        Err(Error::NotFound(_))
    ));
}

#[test]
fn both_are_buffered_while_a_workflow_task_runs() {
    let mut rig = Rig::new();
    let other = StartChildWorkflowExecutionCommandAttributes {
        workflow_id: "other".into(),
        ..attributes()
    };
    rig.decide([commands(attributes()), commands(other)].concat())
        .unwrap();
    let is_initiated =
        |e: &&HistoryEvent| e.event_type() == E::StartChildWorkflowExecutionInitiated;
    let event = rig.events().find(is_initiated).cloned().unwrap();
    // The other child's start asks for the workflow task.
    let other = rig.last(E::StartChildWorkflowExecutionInitiated);
    record_start(&mut rig, &other, "o1");
    let task = rig.begin();
    rig.types();
    record_start(&mut rig, &event, "c1");
    assert_eq!(rig.run.children[&event.event_id].started_id, BUFFERED_ID);
    end(&mut rig, &event, facts("c1", How::Terminated)).unwrap();
    assert_eq!(rig.types(), []);
    rig.end(&task, Vec::new()).unwrap();
    assert_eq!(
        rig.types(),
        [
            E::WorkflowTaskCompleted,
            E::ChildWorkflowExecutionStarted,
            E::ChildWorkflowExecutionTerminated,
            E::WorkflowTaskScheduled
        ]
    );
    let Some(A::ChildWorkflowExecutionTerminatedEventAttributes(a)) =
        rig.last(E::ChildWorkflowExecutionTerminated).attributes
    else {
        panic!()
    };
    assert_eq!(
        a.started_event_id,
        rig.last(E::ChildWorkflowExecutionStarted).event_id
    );
}
