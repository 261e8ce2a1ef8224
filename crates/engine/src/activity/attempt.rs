//! The end of an attempt: another one, or the event that closes the activity.

use std::time::Duration;

use tidemill_proto::api::common::v1::RetryPolicy;
use tidemill_proto::api::enums::v1::{RetryState, TimeoutType};
use tidemill_proto::api::failure::v1::Failure;
use tidemill_proto::api::failure::v1::failure::FailureInfo;
use tidemill_proto::api::history::v1::history_event::Attributes;
use tidemill_proto::api::history::v1::{ActivityTaskStartedEventAttributes, HistoryEvent};

use super::{attempt, expiration, is_started, offer, pause_info, withdraw};
use crate::model::Activity;
use crate::retry::{self, Backoff};
use crate::time::Time;
use crate::tx::Tx;

/// What follows an attempt that did not succeed.
pub(super) enum Next {
    /// The activity is still pending: it backs off, waits for a worker, or is parked.
    Retried,
    /// No more attempts: the caller closes the activity.
    Final(Box<Activity>, RetryState),
}

/// Ends the current attempt with a failure: records the next attempt, or says why there is none
/// (contract 3.4, in its order).
pub(super) fn end(tx: &mut Tx<'_>, mut activity: Activity, failure: Option<&Failure>) -> Next {
    let pause = activity.pause.is_some();
    let backoff = match decide(tx.now(), &activity, failure) {
        Backoff::Retry(backoff) => backoff,
        Backoff::Stop(state) => return Next::Final(Box::new(activity), state),
    };
    activity.attempt += 1;
    activity.started_time = 0;
    activity.request_id = String::new();
    activity.last_failure = failure.cloned().map(retry::recorded);
    if activity.reset_heartbeat {
        clear_heartbeat(&mut activity);
    }
    activity.reset_requested = false;
    activity.reset_heartbeat = false;
    if pause {
        withdraw(tx, &mut activity);
    } else {
        activity.scheduled_time = tx.now().plus(backoff).0;
        offer(tx, &mut activity);
    }
    tx.put_activity(activity);
    Next::Retried
}

fn decide(now: Time, activity: &Activity, failure: Option<&Failure>) -> Backoff {
    let Some(policy) = &activity.retry_policy else {
        return Backoff::Stop(RetryState::RetryPolicyNotSet);
    };
    if activity.cancel_requested {
        return Backoff::Stop(RetryState::CancelRequested);
    }
    // These are the engine's own bounds, not failures of an attempt.
    if let Some(FailureInfo::TimeoutFailureInfo(t)) = failure.and_then(|f| f.failure_info.as_ref())
        && matches!(
            t.timeout_type(),
            TimeoutType::ScheduleToStart | TimeoutType::ScheduleToClose
        )
    {
        return Backoff::Stop(RetryState::Timeout);
    }
    // A paused activity is parked even when this was its last attempt: whoever paused it decides.
    if activity.pause.is_some() && retry::is_retryable(failure, &policy.non_retryable_error_types) {
        return Backoff::Retry(Duration::ZERO);
    }
    retry::next_backoff(
        now,
        attempt(activity),
        policy,
        expiration(activity),
        failure,
        false,
    )
}

/// When an attempt that waits should begin by its policy: its backoff counts from the end of the
/// attempt before.
pub(super) fn scheduled_time(activity: &Activity, policy: &RetryPolicy) -> Time {
    match (
        attempt(activity),
        Time(activity.last_attempt_complete_time).get(),
    ) {
        (n @ 2.., Some(ended)) => ended.plus(retry::interval(policy, n - 1).unwrap_or_default()),
        _ => Time(activity.scheduled_time),
    }
}

pub(super) fn clear_heartbeat(activity: &mut Activity) {
    activity.heartbeat_details = None;
    activity.last_heartbeat_time = 0;
}

/// Closes an activity with the event that `event` makes from its scheduled and started event ids,
/// and asks for a workflow task. The deferred started event comes first if there was a start.
pub(super) fn close(
    tx: &mut Tx<'_>,
    activity: Activity,
    event: impl FnOnce(i64, i64) -> Attributes,
) {
    let scheduled_id = activity.scheduled_id;
    tx.remove_activity(scheduled_id);
    if activity.pause.is_some() {
        pause_info::refresh(tx);
    }
    let started_id = if is_started(&activity) {
        push_started(tx, activity)
    } else {
        0
    };
    tx.push(event(scheduled_id, started_id));
    tx.want_workflow_task();
}

#[expect(
    deprecated,
    reason = "workers without deployments are told apart by their stamp"
)]
fn push_started(tx: &mut Tx<'_>, activity: Activity) -> i64 {
    let attributes = ActivityTaskStartedEventAttributes {
        scheduled_event_id: activity.scheduled_id,
        attempt: attempt(&activity),
        identity: activity.identity,
        request_id: activity.request_id,
        last_failure: activity.last_failure,
        worker_version: activity.worker_version,
        build_id_redirect_counter: 0,
    };
    tx.push_event(HistoryEvent {
        event_time: Some(Time(activity.started_time).proto()),
        attributes: Some(attributes.into()),
        ..Default::default()
    })
}
