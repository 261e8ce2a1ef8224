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
            (
                run.start().attributes().last_completion_result,
                timeout_failure(),
            )
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
        let result = run.start().attributes().last_completion_result;
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
    let start = run.start().attributes();
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
    let from = run.start().attributes();
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
    let from = run.start().attributes();
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
    let mut all = run.start().attributes().completion_callbacks;
    all.extend_from_slice(&run.visible.attached_callbacks);
    all
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
        links: run.start().event().links,
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
mod tests;
