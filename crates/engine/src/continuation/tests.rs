use tidemill_proto::api::command::v1::command::Attributes as C;
use tidemill_proto::api::common::v1::{Callback, Memo, Payload, RetryPolicy, WorkflowExecution};
use tidemill_proto::api::enums::v1::WorkflowExecutionStatus as Status;
use tidemill_proto::api::failure::v1::ApplicationFailureInfo;
use tidemill_proto::api::history::v1::history_event::Attributes as A;
use tidemill_proto::wkt;

use super::*;
use crate::Error;
use crate::fixture::{failure, payloads, seconds};
use crate::testing::Rig;

type Started = WorkflowExecutionStartedEventAttributes;

fn policy(maximum_attempts: i32) -> Option<RetryPolicy> {
    let policy = RetryPolicy {
        initial_interval: seconds(10),
        maximum_attempts,
        non_retryable_error_types: vec!["Fatal".into()],
        ..Default::default()
    };
    Some(retry::normalise(Some(policy)))
}

fn asks_for(delay: i64) -> Failure {
    Failure {
        failure_info: Some(FailureInfo::ApplicationFailureInfo(
            ApplicationFailureInfo {
                next_retry_delay: seconds(delay),
                ..Default::default()
            },
        )),
        ..Default::default()
    }
}

#[test]
fn what_follows() {
    use Initiator::{CronSchedule as Cron, Retry};
    use RetryState as R;
    let failed = |kind: &str| Closing::Failed {
        failure: failure(kind),
    };
    let completed = || Closing::Completed {
        result: Some(payloads("new")),
    };
    let with = |retry_policy, cron: &str, attempt, execution| Started {
        retry_policy,
        cron_schedule: cron.into(),
        attempt,
        workflow_execution_timeout: execution,
        last_completion_result: Some(payloads("old")),
        ..Default::default()
    };
    // The run closes after 100 seconds, 40 seconds into a minute: the next one begins in 20.
    // Then the next run: initiator, backoff, attempt, last result, whether it has a failure.
    type Next = Option<(Initiator, u64, i32, Option<&'static str>, bool)>;
    let rows: Vec<(Started, Closing, RetryState, Next)> = vec![
        (with(None, "", 1, None), completed(), R::Unspecified, None),
        (
            with(policy(0), "", 1, None),
            completed(),
            R::Unspecified,
            None,
        ),
        (
            with(None, "", 1, None),
            failed("A"),
            R::RetryPolicyNotSet,
            None,
        ),
        (
            with(policy(0), "", 1, None),
            failed("A"),
            R::InProgress,
            Some((Retry, 10, 2, None, true)),
        ),
        (
            with(policy(0), "", 3, None),
            failed("A"),
            R::InProgress,
            Some((Retry, 40, 4, None, true)),
        ),
        (
            with(policy(3), "", 3, None),
            failed("A"),
            R::MaximumAttemptsReached,
            None,
        ),
        (
            with(policy(0), "", 1, None),
            failed("Fatal"),
            R::NonRetryableFailure,
            None,
        ),
        (
            with(policy(0), "", 1, seconds(105)),
            failed("A"),
            R::Timeout,
            None,
        ),
        (
            with(policy(0), "", 1, seconds(110)),
            failed("A"),
            R::InProgress,
            Some((Retry, 10, 2, None, true)),
        ),
        (
            with(policy(0), "", 1, None),
            Closing::Failed {
                failure: asks_for(7),
            },
            R::InProgress,
            Some((Retry, 7, 2, None, true)),
        ),
        (
            with(policy(0), "", 1, None),
            Closing::Failed {
                failure: asks_for(5000),
            },
            R::InProgress,
            Some((Retry, 1000, 2, None, true)),
        ),
        (
            with(policy(0), "", 1, None),
            Closing::TimedOut,
            R::InProgress,
            Some((Retry, 10, 2, Some("old"), true)),
        ),
        (
            with(policy(0), "* * * * *", 1, seconds(100)),
            Closing::TimedOut,
            R::Timeout,
            None,
        ),
        (
            with(None, "* * * * *", 1, None),
            completed(),
            R::Unspecified,
            Some((Cron, 20, 1, Some("new"), false)),
        ),
        (
            with(None, "* * * * *", 1, None),
            failed("A"),
            R::RetryPolicyNotSet,
            Some((Cron, 20, 1, Some("old"), true)),
        ),
        (
            with(None, "* * * * *", 1, None),
            Closing::TimedOut,
            R::RetryPolicyNotSet,
            Some((Cron, 20, 1, Some("old"), true)),
        ),
        (
            with(policy(0), "* * * * *", 1, None),
            failed("A"),
            R::InProgress,
            Some((Retry, 10, 2, None, true)),
        ),
        (
            with(policy(2), "* * * * *", 2, None),
            failed("A"),
            R::MaximumAttemptsReached,
            Some((Cron, 20, 1, Some("old"), true)),
        ),
        (
            with(None, "0 0 31 2 *", 1, None),
            completed(),
            R::Unspecified,
            None,
        ),
    ];
    for (i, (started, closing, state, next)) in rows.into_iter().enumerate() {
        let mut rig = Rig::with(started);
        rig.run.core.execution_time = 1_699_999_980_000_000_000;
        rig.run.core.start_time = rig.run.core.execution_time;
        if rig.run.core.execution_expiration != 0 {
            rig.run.core.execution_expiration -= 20_000_000_000;
        }
        rig.now = Time(1_700_000_080_000_000_000);
        let (got, run) = retry_or_cron(&rig.run, closing, &rig.cx());
        assert_eq!(got, state, "row {i}");
        let run = run.map(|r| {
            assert_eq!(r.started.first_execution_run_id, "first");
            assert_eq!(r.started.continued_execution_run_id, "first");
            assert_eq!(r.started.root_workflow_execution, None);
            (
                r.started.initiator(),
                span(&r.started.first_workflow_task_backoff).as_secs(),
                r.started.attempt,
                r.started.last_completion_result,
                r.started.continued_failure.is_some(),
            )
        });
        let next = next.map(|(i, b, a, result, failed)| (i, b, a, result.map(payloads), failed));
        assert_eq!(run, next, "row {i}");
    }
}

#[test]
fn a_chain_does_not_spin() {
    // Lifetime of the closing run, backoff asked for, backoff given; milliseconds.
    let rows = [
        (0, 0, 1000),
        (300, 0, 700),
        (300, 500, 700),
        (300, 700, 700),
        (300, 701, 701),
        (999, 0, 1),
        (1000, 0, 0),
        (5000, 20, 20),
        (-2000, 100, 3000),
    ];
    for (lifetime, asked, given) in rows {
        let mut rig = Rig::new();
        rig.run.core.execution_time = rig.now.0 - lifetime * 1_000_000;
        let got = min_backoff(&rig.run, Duration::from_millis(asked), &rig.cx());
        assert_eq!(got, Duration::from_millis(given), "{lifetime} {asked}");
    }
}

fn memo(key: &str, data: &str) -> Option<Memo> {
    let payload = Payload {
        data: data.into(),
        ..Default::default()
    };
    Some(Memo {
        fields: [(key.to_owned(), payload)].into(),
    })
}

#[test]
fn a_retry_begins_as_its_first_run_did() {
    let callback = Callback::default();
    let mut rig = Rig::with(Started {
        input: Some(payloads("input")),
        memo: memo("m", "1"),
        retry_policy: policy(0),
        completion_callbacks: vec![callback.clone()],
        workflow_run_timeout: seconds(60),
        workflow_execution_timeout: seconds(3600),
        parent_workflow_execution: Some(WorkflowExecution {
            workflow_id: "p".into(),
            run_id: "pr".into(),
        }),
        parent_initiated_event_id: 5,
        root_workflow_execution: Some(WorkflowExecution {
            workflow_id: "root".into(),
            run_id: "rr".into(),
        }),
        ..Default::default()
    });
    // What the run made of its memo is not what the next one begins with.
    rig.op(|run, cx| {
        let mut tx = crate::Tx::new(run, cx);
        tx.change_visible(|visible| visible.memo = memo("m", "2"));
        Ok(tx.finish(()))
    })
    .unwrap();
    let fail = tidemill_proto::api::command::v1::FailWorkflowExecutionCommandAttributes {
        failure: Some(failure("A")),
    };
    let others = rig
        .decide(vec![C::FailWorkflowExecutionCommandAttributes(fail)])
        .unwrap();
    assert_eq!(rig.run.status(), Status::Failed);
    let next = &others[0].run;
    assert!(others[0].created && others.len() == 1);
    let (old, new) = (rig.run.start().attributes(), next.start().attributes());
    assert_eq!(
        (&new.input, &new.memo, &new.root_workflow_execution),
        (&old.input, &old.memo, &old.root_workflow_execution)
    );
    assert_eq!(
        (
            new.attempt,
            new.parent_initiated_event_id,
            new.completion_callbacks.len()
        ),
        (2, 5, 1)
    );
    assert_eq!(
        new.workflow_execution_expiration_time,
        old.workflow_execution_expiration_time
    );
    assert_eq!(rig.run.core.new_run_id, *next.id.run_id);
    // No workflow task before the backoff is over, and the run timeout counts from there.
    assert!(next.core.workflow_task.is_none());
    assert_eq!(
        Time(next.core.backoff_until).since(rig.now),
        Duration::from_secs(10)
    );
    assert_eq!(
        Time(next.core.run_expiration).since(rig.now),
        Duration::from_secs(70)
    );
    assert!(
        rig.items().is_empty(),
        "the parent hears of the last run only"
    );
}

fn continue_as_new(a: ContinueAsNewWorkflowExecutionCommandAttributes) -> Vec<C> {
    vec![C::ContinueAsNewWorkflowExecutionCommandAttributes(a)]
}

#[test]
fn continued_as_new() {
    let mut rig = Rig::with(Started {
        workflow_run_timeout: seconds(60),
        workflow_execution_timeout: seconds(600),
        memo: memo("m", "1"),
        attempt: 3,
        ..Default::default()
    });
    rig.wait(0.25);
    let others = rig
        .decide(continue_as_new(
            ContinueAsNewWorkflowExecutionCommandAttributes {
                input: Some(payloads("next")),
                workflow_run_timeout: seconds(1000),
                memo: memo("gone", "null"),
                ..Default::default()
            },
        ))
        .unwrap();
    assert_eq!(rig.run.status(), Status::ContinuedAsNew);
    let next = &others[0].run;
    let Some(A::WorkflowExecutionContinuedAsNewEventAttributes(event)) = rig
        .last(tidemill_proto::api::enums::v1::EventType::WorkflowExecutionContinuedAsNew)
        .attributes
    else {
        panic!()
    };
    assert_eq!(event.new_execution_run_id, *next.id.run_id);
    assert_eq!(
        (event.initiator(), event.workflow_run_timeout),
        (Initiator::Workflow, seconds(600))
    );
    let new = next.start().attributes();
    assert_eq!(
        (next.workflow_type(), next.task_queue(), new.attempt),
        ("Type", "queue", 1)
    );
    assert_eq!(
        (&new.input, new.initiator()),
        (&Some(payloads("next")), Initiator::Workflow)
    );
    assert_eq!(
        new.memo,
        Some(Memo::default()),
        "only what the command holds, without nulls"
    );
    assert_eq!(
        new.first_workflow_task_backoff,
        Some(wkt::Duration {
            seconds: 0,
            nanos: 750_000_000
        })
    );
    assert_eq!(new.workflow_task_timeout, seconds(10));
    assert_eq!(
        next.core.execution_expiration,
        rig.run.core.execution_expiration
    );
    assert_eq!(new.original_execution_run_id, *next.id.run_id);
}

#[test]
fn refused() {
    type Command = ContinueAsNewWorkflowExecutionCommandAttributes;
    let rows = [
        (
            Command {
                workflow_type: Some(WorkflowType {
                    name: "x".repeat(1001),
                }),
                ..Default::default()
            },
            false,
        ),
        (
            Command {
                workflow_run_timeout: seconds(-1),
                ..Default::default()
            },
            false,
        ),
        (
            Command {
                backoff_start_interval: seconds(-1),
                ..Default::default()
            },
            false,
        ),
        (
            Command {
                retry_policy: Some(RetryPolicy {
                    backoff_coefficient: 0.1,
                    ..Default::default()
                }),
                ..Default::default()
            },
            false,
        ),
        (
            Command {
                input: Some(payloads(&"x".repeat(3 << 20))),
                ..Default::default()
            },
            true,
        ),
        (
            Command {
                memo: memo("m", &"x".repeat(3 << 20)),
                ..Default::default()
            },
            true,
        ),
    ];
    for (i, (attributes, terminates)) in rows.into_iter().enumerate() {
        let mut rig = Rig::new();
        let error = rig.decide(continue_as_new(attributes)).unwrap_err();
        assert!(
            matches!(&error, Error::InvalidArgument(t) if t.starts_with("BadContinueAsNewAttributes")),
            "row {i}: {error:?}"
        );
        let status = if terminates {
            Status::Terminated
        } else {
            Status::Running
        };
        assert_eq!(rig.run.status(), status, "row {i}");
    }
}
