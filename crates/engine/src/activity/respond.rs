//! What workers report of an activity: heartbeats and how an attempt ended (contract 3.5).

use prost::Message;
use tidemill_proto::api::common::v1::{Payloads, WorkerVersionStamp};
use tidemill_proto::api::failure::v1::Failure;
use tidemill_proto::api::failure::v1::failure::FailureInfo;
use tidemill_proto::api::history::v1::{
    ActivityTaskCanceledEventAttributes, ActivityTaskCompletedEventAttributes,
    ActivityTaskFailedEventAttributes,
};

use super::attempt::{self, Next};
use super::{ActivityRef, find, is_started, stale};
use crate::Error;
use crate::limits::Limits;
use crate::model::Activity;
use crate::retry;
use crate::run::Run;
use crate::transition::Outcome;
use crate::tx::{Cx, Tx};

#[derive(Clone, Debug)]
pub struct Complete {
    pub activity: ActivityRef,
    pub result: Option<Payloads>,
    pub identity: String,
    pub worker_version: Option<WorkerVersionStamp>,
}

#[derive(Clone, Debug)]
pub struct Fail {
    pub activity: ActivityRef,
    pub failure: Option<Failure>,
    pub last_heartbeat_details: Option<Payloads>,
    pub identity: String,
    pub worker_version: Option<WorkerVersionStamp>,
    /// `temporal.api.enums.v1.ActivityTaskFailedCause`, recorded as it is.
    pub cause: i32,
}

#[derive(Clone, Debug)]
pub struct Cancel {
    pub activity: ActivityRef,
    pub details: Option<Payloads>,
    pub identity: String,
    pub worker_version: Option<WorkerVersionStamp>,
}

#[derive(Clone, Debug)]
pub struct Heartbeat {
    pub activity: ActivityRef,
    pub details: Option<Payloads>,
    pub identity: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeartbeatReply {
    pub cancel_requested: bool,
    pub paused: bool,
    pub reset: bool,
}

/// An attempt has succeeded. By id, this also completes an activity that no worker has.
pub fn complete(run: &Run, request: Complete, cx: &Cx<'_>) -> Result<Outcome<()>, Error> {
    check_identity(&request.identity, cx.limits)?;
    if is_oversize(&request.result, cx.limits) {
        let failure = retry::server_failure("Complete result exceeds size limit.", true);
        return refuse(run, request.activity, failure, request.identity, cx);
    }
    let activity = find(run, &request.activity)?;
    let mut activity = activity.clone();
    if !is_started(&activity) {
        if let ActivityRef::ByToken { .. } = request.activity {
            return Err(stale());
        }
        // Every completed event needs a started one.
        activity.started_time = cx.now.0;
        activity.identity = request.identity.clone();
        activity.request_id = String::new();
    }
    let mut tx = Tx::new(run, cx);
    seen_version(&mut activity, request.worker_version);
    attempt::close(&mut tx, activity, |scheduled_event_id, started_event_id| {
        ActivityTaskCompletedEventAttributes {
            result: request.result,
            scheduled_event_id,
            started_event_id,
            identity: request.identity,
            ..Default::default()
        }
        .into()
    });
    Ok(tx.finish(()))
}

/// An attempt has failed: the activity is retried, or fails. The answer holds failures of the
/// report itself: parts of it that were too large.
pub fn fail(run: &Run, mut request: Fail, cx: &Cx<'_>) -> Result<Outcome<Vec<Failure>>, Error> {
    if let (ActivityRef::ByToken { .. }, Some(failure)) = (&request.activity, &request.failure)
        && !matches!(
            failure.failure_info,
            Some(FailureInfo::ApplicationFailureInfo(_))
        )
    {
        return Err(Error::invalid(
            "an activity's failure must have application failure info",
        ));
    }
    let mut problems = Vec::new();
    if is_oversize(&request.last_heartbeat_details, cx.limits) {
        problems.push(retry::server_failure(
            "Heartbeat details exceed size limit.",
            true,
        ));
        request.last_heartbeat_details = None;
    }
    let failure = request.failure.as_ref();
    if let Some(short) = failure.and_then(|f| retry::over_limit(f, cx.limits)) {
        problems.push(short.clone());
        request.failure = Some(short);
    }
    end(run, request, cx, problems)
}

/// An attempt has given up because its cancellation was requested.
pub fn cancel(run: &Run, request: Cancel, cx: &Cx<'_>) -> Result<Outcome<()>, Error> {
    check_identity(&request.identity, cx.limits)?;
    if is_oversize(&request.details, cx.limits) {
        let failure = retry::server_failure("Cancel details exceed size limit.", true);
        return refuse(run, request.activity, failure, request.identity, cx);
    }
    let mut activity = find_started(run, &request.activity)?.clone();
    if !activity.cancel_requested {
        return Err(Error::invalid(
            "cancellation of the activity was not requested",
        ));
    }
    let mut tx = Tx::new(run, cx);
    seen_version(&mut activity, request.worker_version);
    let latest_cancel_requested_event_id = activity.cancel_requested_id;
    attempt::close(&mut tx, activity, |scheduled_event_id, started_event_id| {
        ActivityTaskCanceledEventAttributes {
            details: request.details,
            latest_cancel_requested_event_id,
            scheduled_event_id,
            started_event_id,
            identity: request.identity,
            ..Default::default()
        }
        .into()
    });
    Ok(tx.finish(()))
}

/// An attempt is alive. Its details are kept for the attempts that may follow it.
pub fn heartbeat(
    run: &Run,
    request: Heartbeat,
    cx: &Cx<'_>,
) -> Result<Outcome<HeartbeatReply>, Error> {
    check_identity(&request.identity, cx.limits)?;
    if is_oversize(&request.details, cx.limits) {
        let failure = retry::server_failure("Heartbeat details exceed size limit.", true);
        let refused = refuse(run, request.activity, failure, request.identity, cx)?;
        // The attempt is over: its worker should stop.
        return Ok(refused.map(|()| HeartbeatReply {
            cancel_requested: true,
            ..Default::default()
        }));
    }
    let mut activity = find_started(run, &request.activity)?.clone();
    let reply = HeartbeatReply {
        cancel_requested: activity.cancel_requested,
        paused: activity.pause.is_some(),
        reset: activity.reset_requested,
    };
    let mut tx = Tx::new(run, cx);
    progress(&mut tx, &mut activity, request.details, request.identity);
    tx.put_activity(activity);
    Ok(tx.finish(reply))
}

/// Ends an attempt because its worker sent more than is allowed.
fn refuse(
    run: &Run,
    activity: ActivityRef,
    failure: Failure,
    identity: String,
    cx: &Cx<'_>,
) -> Result<Outcome<()>, Error> {
    let request = Fail {
        activity,
        failure: Some(failure),
        last_heartbeat_details: None,
        identity,
        worker_version: None,
        cause: 0,
    };
    end(run, request, cx, ())
}

fn end<T>(run: &Run, request: Fail, cx: &Cx<'_>, reply: T) -> Result<Outcome<T>, Error> {
    check_identity(&request.identity, cx.limits)?;
    let mut activity = find_started(run, &request.activity)?.clone();
    let mut tx = Tx::new(run, cx);
    if request.last_heartbeat_details.is_some() {
        progress(
            &mut tx,
            &mut activity,
            request.last_heartbeat_details,
            request.identity.clone(),
        );
    }
    activity.last_attempt_complete_time = tx.now().0;
    if let Next::Final(mut activity, retry_state) =
        attempt::end(&mut tx, activity, request.failure.as_ref())
    {
        seen_version(&mut activity, request.worker_version);
        attempt::close(
            &mut tx,
            *activity,
            |scheduled_event_id, started_event_id| {
                ActivityTaskFailedEventAttributes {
                    failure: request.failure,
                    scheduled_event_id,
                    started_event_id,
                    identity: request.identity,
                    retry_state: retry_state as i32,
                    cause: request.cause,
                    ..Default::default()
                }
                .into()
            },
        );
    }
    Ok(tx.finish(reply))
}

fn progress(tx: &mut Tx<'_>, activity: &mut Activity, details: Option<Payloads>, identity: String) {
    activity.heartbeat_details = details;
    activity.last_heartbeat_time = tx.now().0;
    // The started event names the worker that took the task, not who reports for it.
    if activity.identity.is_empty() {
        activity.identity = identity;
    }
}

/// The started event shows the version that the end of the attempt was reported with, if any.
fn seen_version(activity: &mut Activity, reported: Option<WorkerVersionStamp>) {
    activity.worker_version = reported.or(activity.worker_version.take());
}

fn find_started<'r>(run: &'r Run, activity: &ActivityRef) -> Result<&'r Activity, Error> {
    let found = find(run, activity)?;
    if is_started(found) {
        Ok(found)
    } else {
        Err(stale())
    }
}

fn is_oversize(payloads: &Option<Payloads>, limits: &Limits) -> bool {
    payloads
        .as_ref()
        .is_some_and(|p| p.encoded_len() > limits.blob_size)
}

fn check_identity(identity: &str, limits: &Limits) -> Result<(), Error> {
    if identity.len() > limits.id_length {
        return Err(Error::invalid(format!(
            "identity is longer than {} bytes",
            limits.id_length
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
