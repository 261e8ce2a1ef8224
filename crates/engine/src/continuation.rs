//! The run that follows a closing one: continue-as-new, workflow retry, cron (contract sections
//! 4.6 and 5.6).
//!
//! | closes by | with retry policy | with cron schedule | else |
//! |---|---|---|---|
//! | continue-as-new | the command's new run | (carried by the command) | |
//! | completed | – | next match, with the result | ends |
//! | failed, timed out | next attempt, if one is allowed | else next match, with the failure | ends |
//! | canceled, terminated | ends | ends | ends |
//!
//! A retried or repeated run starts as its first one did: input, memo and search attributes are
//! those of its started event, not as they were changed since. Nothing is scheduled here: the new
//! run's first workflow task waits for the backoff in its started event.

use std::time::Duration;

use prost::Message as _;
use tidemill_proto::api::command::v1::ContinueAsNewWorkflowExecutionCommandAttributes;
use tidemill_proto::api::common::v1::{Callback, Payloads, WorkflowType};
use tidemill_proto::api::enums::v1::{
    ContinueAsNewInitiator as Initiator, RetryState, TimeoutType, WorkflowTaskFailedCause as Cause,
};
use tidemill_proto::api::failure::v1::failure::FailureInfo;
use tidemill_proto::api::failure::v1::{Failure, TimeoutFailureInfo};
use tidemill_proto::api::history::v1::{
    WorkflowExecutionContinuedAsNewEventAttributes, WorkflowExecutionStartedEventAttributes,
};
use tidemill_proto::api::workflow::v1::{VersioningOverride, versioning_override::Override};

use crate::command::{CommandContext, Refused};
use crate::retry::{self, Backoff};
use crate::run::{Run, RunId};
use crate::start::{self, NewRun};
use crate::time::{Time, nanos, proto_span, span};
use crate::transition::Transition;
use crate::tx::{Cx, Tx};
use crate::{cron, run_options, upsert};

/// How a run closes that a retry or cron run may follow.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "made once and consumed at once")]
pub enum Closing {
    Completed { result: Option<Payloads> },
    Failed { failure: Failure },
    TimedOut,
}

/// What follows a run that closes now: the next run, and the retry state for the closing event
/// (unspecified for a completed run).
pub fn retry_or_cron(run: &Run, closing: Closing, cx: &Cx<'_>) -> (RetryState, Option<NewRun>) {
    let start = run.start();
    let (result, failure) = match closing {
        Closing::Completed { result } => {
            let next = cron_backoff(run, cx.now)
                .map(|backoff| follow(run, Initiator::CronSchedule, backoff, result, None, cx));
            return (RetryState::Unspecified, next);
        }
        // A failed run leaves no result to its retry, though it does to the next cron run.
        Closing::Failed { failure } => (None, failure),
        Closing::TimedOut => {
            if Time(run.core.execution_expiration)
                .get()
                .is_some_and(|at| at <= cx.now)
            {
                return (RetryState::Timeout, None);
            }
            (start.last_completion_result.clone(), timeout_failure())
        }
    };
    let state = match retry_backoff(run, &failure, cx.now) {
        Backoff::Retry(backoff) => {
            let next = follow(run, Initiator::Retry, backoff, result, Some(failure), cx);
            return (RetryState::InProgress, Some(next));
        }
        Backoff::Stop(state) => state,
    };
    let next = cron_backoff(run, cx.now).map(|backoff| {
        let result = start.last_completion_result.clone();
        follow(
            run,
            Initiator::CronSchedule,
            backoff,
            result,
            Some(failure),
            cx,
        )
    });
    (state, next)
}

fn retry_backoff(run: &Run, failure: &Failure, now: Time) -> Backoff {
    let start = run.start();
    match &start.retry_policy {
        None => Backoff::Stop(RetryState::RetryPolicyNotSet),
        Some(policy) => {
            let expiration = Time(run.core.execution_expiration).get();
            retry::next_backoff(now, start.attempt, policy, expiration, Some(failure), true)
        }
    }
}

fn cron_backoff(run: &Run, now: Time) -> Option<Duration> {
    cron::next_backoff(
        &run.start().cron_schedule,
        Time(run.core.execution_time),
        now,
    )
}

fn timeout_failure() -> Failure {
    Failure {
        message: "workflow timeout".into(),
        source: "Server".into(),
        failure_info: Some(FailureInfo::TimeoutFailureInfo(TimeoutFailureInfo {
            timeout_type: TimeoutType::StartToClose as i32,
            last_heartbeat_details: None,
        })),
        ..Default::default()
    }
}

/// The run that retries or repeats `run`.
fn follow(
    run: &Run,
    initiator: Initiator,
    backoff: Duration,
    last_completion_result: Option<Payloads>,
    continued_failure: Option<Failure>,
    cx: &Cx<'_>,
) -> NewRun {
    let from = run.start();
    let retried = initiator == Initiator::Retry;
    let started = WorkflowExecutionStartedEventAttributes {
        input: from.input.clone(),
        header: from.header.clone(),
        memo: from.memo.clone(),
        search_attributes: from.search_attributes.clone(),
        task_queue: from.task_queue.clone(),
        workflow_type: from.workflow_type.clone(),
        workflow_run_timeout: from.workflow_run_timeout,
        workflow_task_timeout: from.workflow_task_timeout,
        retry_policy: from.retry_policy.clone(),
        cron_schedule: from.cron_schedule.clone(),
        priority: from.priority.clone(),
        attempt: if retried { from.attempt.max(1) + 1 } else { 1 },
        completion_callbacks: if retried { callbacks(run) } else { Vec::new() },
        last_completion_result,
        continued_failure,
        ..carried(run, initiator, backoff, cx)
    };
    new_run(run, started, cx)
}

/// What every following run takes over from the one before: chain, parent, time left.
fn carried(
    run: &Run,
    initiator: Initiator,
    backoff: Duration,
    cx: &Cx<'_>,
) -> WorkflowExecutionStartedEventAttributes {
    let from = run.start();
    let is_child = from
        .parent_workflow_execution
        .as_ref()
        .is_some_and(|p| !p.workflow_id.is_empty());
    WorkflowExecutionStartedEventAttributes {
        initiator: initiator as i32,
        first_workflow_task_backoff: proto_span(min_backoff(run, backoff, cx)),
        continued_execution_run_id: run.id.run_id.to_string(),
        first_execution_run_id: from.first_execution_run_id.clone(),
        workflow_execution_timeout: from.workflow_execution_timeout,
        workflow_execution_expiration_time: Time(run.core.execution_expiration).proto_opt(),
        prev_auto_reset_points: run.visible.reset_points.clone(),
        parent_workflow_namespace: from.parent_workflow_namespace.clone(),
        parent_workflow_namespace_id: from.parent_workflow_namespace_id.clone(),
        parent_workflow_execution: from.parent_workflow_execution.clone(),
        parent_initiated_event_id: from.parent_initiated_event_id,
        parent_initiated_event_version: from.parent_initiated_event_version,
        // A run without a parent is its own root, and so is each that follows it.
        root_workflow_execution: from.root_workflow_execution.clone().filter(|_| is_child),
        versioning_override: from.versioning_override.clone().filter(is_pinned),
        ..Default::default()
    }
}

fn is_pinned(versioning: &VersioningOverride) -> bool {
    matches!(versioning.r#override, Some(Override::Pinned(_)))
}

/// All completion callbacks of a run, those attached after its start included.
fn callbacks(run: &Run) -> Vec<Callback> {
    run.start()
        .completion_callbacks
        .iter()
        .chain(&run.visible.attached_callbacks)
        .cloned()
        .collect()
}

/// A chain starts at most one run in the minimal interval, so that a workflow which ends at once
/// does not spin. Measured from when the closing run was to execute, which is in the future while
/// it backs off.
fn min_backoff(run: &Run, backoff: Duration, cx: &Cx<'_>) -> Duration {
    let lifetime = cx.now.0.saturating_sub(run.core.execution_time);
    let least = nanos(cx.limits.continue_as_new_min_interval);
    if lifetime.saturating_add(nanos(backoff)) < least {
        return Duration::from_nanos(least.saturating_sub(lifetime) as u64);
    }
    backoff
}

fn new_run(run: &Run, started: WorkflowExecutionStartedEventAttributes, cx: &Cx<'_>) -> NewRun {
    NewRun {
        id: RunId {
            no: cx.ids.run_no(),
            namespace_id: run.id.namespace_id,
            workflow_id: run.id.workflow_id.clone(),
            run_id: cx.run_id().into(),
        },
        started,
        metadata: None,
        links: run.started.links.clone(),
        create_request_id: cx.uuid(),
        awaits_parent: false,
    }
}

/// Writes the continued-as-new event and creates the run that it names. The caller closes the
/// run.
pub fn continue_as_new(
    tx: &mut Tx<'_>,
    attributes: ContinueAsNewWorkflowExecutionCommandAttributes,
    command: &CommandContext,
) -> Result<Transition, Refused> {
    let a = checked(tx, attributes)?;
    let run = &tx.run;
    let initiator = a.initiator();
    let same_queue = a
        .task_queue
        .as_ref()
        .is_some_and(|q| q.name == run.task_queue());
    let mut started = WorkflowExecutionStartedEventAttributes {
        workflow_type: a.workflow_type.clone(),
        task_queue: a.task_queue.clone(),
        input: a.input.clone(),
        header: a.header.clone(),
        memo: run_options::memo(a.memo.clone()),
        search_attributes: run_options::search_attributes(a.search_attributes.clone()),
        workflow_run_timeout: a.workflow_run_timeout,
        workflow_task_timeout: a.workflow_task_timeout,
        retry_policy: a.retry_policy.clone(),
        cron_schedule: a.cron_schedule.clone(),
        priority: run.priority(),
        attempt: if initiator == Initiator::Retry {
            run.start().attempt.max(1) + 1
        } else {
            1
        },
        completion_callbacks: callbacks(run),
        last_completion_result: a.last_completion_result.clone(),
        continued_failure: a.failure.clone(),
        ..carried(run, initiator, span(&a.backoff_start_interval), tx.cx)
    };
    if !same_queue {
        started.versioning_override = None;
    }
    let new = new_run(run, started, tx.cx);
    tx.push_event(command.event(continued_event(
        a,
        new.id.run_id.to_string(),
        command.completed_id,
    )));
    // A new run touches no run but itself: there is one transition.
    Ok(start::create(new, tx.cx).into_transitions().remove(0))
}

fn continued_event(
    a: ContinueAsNewWorkflowExecutionCommandAttributes,
    new_execution_run_id: String,
    completed_id: i64,
) -> WorkflowExecutionContinuedAsNewEventAttributes {
    WorkflowExecutionContinuedAsNewEventAttributes {
        new_execution_run_id,
        workflow_task_completed_event_id: completed_id,
        workflow_type: a.workflow_type,
        task_queue: a.task_queue,
        input: a.input,
        header: a.header,
        workflow_run_timeout: a.workflow_run_timeout,
        workflow_task_timeout: a.workflow_task_timeout,
        backoff_start_interval: a.backoff_start_interval,
        initiator: a.initiator,
        failure: a.failure,
        last_completion_result: a.last_completion_result,
        memo: run_options::memo(a.memo),
        search_attributes: run_options::search_attributes(a.search_attributes),
        inherit_build_id: a.inherit_build_id,
        initial_versioning_behavior: a.initial_versioning_behavior,
    }
}

/// The command with what it leaves out filled in from the run.
fn checked(
    tx: &Tx<'_>,
    mut a: ContinueAsNewWorkflowExecutionCommandAttributes,
) -> Result<ContinueAsNewWorkflowExecutionCommandAttributes, Refused> {
    const BAD: Cause = Cause::BadContinueAsNewAttributes;
    let bad = |text: String| Refused::new(BAD, format!("continue-as-new: {text}"));
    let (run, limits) = (&tx.run, tx.limits());
    let from = run.start();
    if a.workflow_type.as_ref().is_none_or(|t| t.name.is_empty()) {
        a.workflow_type = Some(WorkflowType {
            name: run.workflow_type().to_owned(),
        });
    }
    run_options::check_id(
        "workflow type",
        a.workflow_type.as_ref().map_or("", |t| &t.name),
        limits,
    )
    .map_err(bad)?;
    a.task_queue =
        Some(run_options::task_queue(a.task_queue, run.task_queue(), limits).map_err(bad)?);
    run_options::check_timeouts(&[
        ("run timeout", &a.workflow_run_timeout),
        ("workflow task timeout", &a.workflow_task_timeout),
        ("backoff", &a.backoff_start_interval),
    ])
    .map_err(bad)?;
    let run_timeout = if span(&a.workflow_run_timeout).is_zero() {
        from.workflow_run_timeout
    } else {
        a.workflow_run_timeout
    };
    let task_timeout = if span(&a.workflow_task_timeout).is_zero() {
        from.workflow_task_timeout
    } else {
        a.workflow_task_timeout
    };
    a.workflow_run_timeout =
        run_options::run_timeout(&run_timeout, &from.workflow_execution_timeout);
    a.workflow_task_timeout =
        run_options::task_timeout(&task_timeout, &a.workflow_run_timeout, limits);
    a.retry_policy = run_options::retry_policy(a.retry_policy).map_err(bad)?;
    if a.initiator() == Initiator::Unspecified {
        a.initiator = Initiator::Workflow as i32;
    }
    a.search_attributes = a
        .search_attributes
        .map(|s| upsert::checked(tx, s))
        .transpose()?;
    let size = a.input.as_ref().map_or(0, |i| i.encoded_len());
    if size > limits.blob_size {
        let text = format!(
            "continue-as-new: input has {size} bytes; at most {} are allowed",
            limits.blob_size
        );
        return Err(Refused::terminate(BAD, text));
    }
    if let Some(memo) = &a.memo {
        upsert::check_memo(tx, memo, BAD)?;
    }
    Ok(a)
}

#[cfg(test)]
mod tests {
    use tidemill_proto::api::command::v1::command::Attributes as C;
    use tidemill_proto::api::common::v1::{
        Callback, Memo, Payload, RetryPolicy, WorkflowExecution,
    };
    use tidemill_proto::api::enums::v1::WorkflowExecutionStatus as Status;
    use tidemill_proto::api::failure::v1::ApplicationFailureInfo;
    use tidemill_proto::api::history::v1::history_event::Attributes as A;
    use tidemill_proto::wkt;

    use super::*;
    use crate::Error;
    use crate::fixture::{Bench, failure, payloads, seconds};

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
            let mut bench = Bench::with(started);
            bench.run.core.execution_time = 1_699_999_980_000_000_000;
            bench.run.core.start_time = bench.run.core.execution_time;
            if bench.run.core.execution_expiration != 0 {
                bench.run.core.execution_expiration -= 20_000_000_000;
            }
            bench.now = Time(1_700_000_080_000_000_000);
            let (got, run) = retry_or_cron(&bench.run, closing, &bench.cx());
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
            let next =
                next.map(|(i, b, a, result, failed)| (i, b, a, result.map(payloads), failed));
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
            let mut bench = Bench::new();
            bench.run.core.execution_time = bench.now.0 - lifetime * 1_000_000;
            let got = min_backoff(&bench.run, Duration::from_millis(asked), &bench.cx());
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
        let mut bench = Bench::with(Started {
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
        std::sync::Arc::make_mut(&mut bench.run.visible).memo = memo("m", "2");
        let fail = tidemill_proto::api::command::v1::FailWorkflowExecutionCommandAttributes {
            failure: Some(failure("A")),
        };
        let others = bench
            .task(vec![C::FailWorkflowExecutionCommandAttributes(fail)])
            .unwrap();
        assert_eq!(bench.run.status(), Status::Failed);
        let next = &others[0].run;
        assert!(others[0].created && others.len() == 1);
        let (old, new) = (bench.run.start(), next.start());
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
        assert_eq!(bench.run.core.new_run_id, *next.id.run_id);
        // No workflow task before the backoff is over, and the run timeout counts from there.
        assert!(next.core.workflow_task.is_none());
        assert_eq!(
            Time(next.core.backoff_until).since(bench.now),
            Duration::from_secs(10)
        );
        assert_eq!(
            Time(next.core.run_expiration).since(bench.now),
            Duration::from_secs(70)
        );
        assert!(
            bench.items().is_empty(),
            "the parent hears of the last run only"
        );
    }

    fn continue_as_new(a: ContinueAsNewWorkflowExecutionCommandAttributes) -> Vec<C> {
        vec![C::ContinueAsNewWorkflowExecutionCommandAttributes(a)]
    }

    #[test]
    fn continued_as_new() {
        let mut bench = Bench::with(Started {
            workflow_run_timeout: seconds(60),
            workflow_execution_timeout: seconds(600),
            memo: memo("m", "1"),
            attempt: 3,
            ..Default::default()
        });
        bench.wait(0.25);
        let others = bench
            .task(continue_as_new(
                ContinueAsNewWorkflowExecutionCommandAttributes {
                    input: Some(payloads("next")),
                    workflow_run_timeout: seconds(1000),
                    memo: memo("gone", "null"),
                    ..Default::default()
                },
            ))
            .unwrap();
        assert_eq!(bench.run.status(), Status::ContinuedAsNew);
        let next = &others[0].run;
        let Some(A::WorkflowExecutionContinuedAsNewEventAttributes(event)) = bench
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
        let new = next.start();
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
            bench.run.core.execution_expiration
        );
        assert_eq!(new.original_execution_run_id, *next.id.run_id);
        bench.check_history();
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
            let mut bench = Bench::new();
            let error = bench.task(continue_as_new(attributes)).unwrap_err();
            assert!(
                matches!(&error, Error::InvalidArgument(t) if t.starts_with("BadContinueAsNewAttributes")),
                "row {i}: {error:?}"
            );
            let status = if terminates {
                Status::Terminated
            } else {
                Status::Running
            };
            assert_eq!(bench.run.status(), status, "row {i}");
        }
    }
}
