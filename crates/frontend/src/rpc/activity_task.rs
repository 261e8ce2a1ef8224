//! Activity tasks: poll, heartbeat, and their three ends, by token or by id
//! (engine contract 3).

use tidemill_engine::Error;
use tidemill_proto::api::failure::v1::Failure;
use tidemill_proto::api::failure::v1::failure::FailureInfo;
use tidemill_proto::api::workflowservice::v1::*;

use crate::handler::Handler;
use crate::oversize;
use crate::validate::{self, Limits};
use tidemill_server::Call;

pub(crate) async fn poll_activity_task_queue(
    handler: &Handler,
    mut request: PollActivityTaskQueueRequest,
    call: Call,
) -> Result<PollActivityTaskQueueResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    validate::long_poll(call.deadline)?;
    handler.limits.length(&request.identity, "Identity")?;
    handler.limits.task_queue(&mut request.task_queue)?;
    handler
        .server
        .poll_activity_task_queue(&namespace, request, call)
        .await
}

pub(crate) async fn respond_activity_task_completed(
    handler: &Handler,
    request: RespondActivityTaskCompletedRequest,
    call: Call,
) -> Result<RespondActivityTaskCompletedResponse, Error> {
    let namespace = handler.namespace_of_token(&request.namespace, &request.task_token)?;
    handler.limits.length(&request.identity, "Identity")?;
    if !handler.limits.fits(&request.result) {
        let failed = failed_by_token(oversize::RESULT, request.task_token, request.identity);
        handler
            .server
            .respond_activity_task_failed(&namespace, failed, call)
            .await?;
        return Ok(Default::default());
    }
    handler
        .server
        .respond_activity_task_completed(&namespace, request, call)
        .await
}

pub(crate) async fn respond_activity_task_completed_by_id(
    handler: &Handler,
    request: RespondActivityTaskCompletedByIdRequest,
    call: Call,
) -> Result<RespondActivityTaskCompletedByIdResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    by_id(
        &handler.limits,
        &request.workflow_id,
        &request.run_id,
        &request.activity_id,
    )?;
    handler.limits.length(&request.identity, "Identity")?;
    if !handler.limits.fits(&request.result) {
        let failed = RespondActivityTaskFailedByIdRequest {
            failure: Some(oversize::failure(oversize::RESULT)),
            namespace: request.namespace,
            workflow_id: request.workflow_id,
            run_id: request.run_id,
            activity_id: request.activity_id,
            identity: request.identity,
            ..Default::default()
        };
        handler
            .server
            .respond_activity_task_failed_by_id(&namespace, failed, call)
            .await?;
        return Ok(Default::default());
    }
    handler
        .server
        .respond_activity_task_completed_by_id(&namespace, request, call)
        .await
}

pub(crate) async fn respond_activity_task_failed(
    handler: &Handler,
    mut request: RespondActivityTaskFailedRequest,
    call: Call,
) -> Result<RespondActivityTaskFailedResponse, Error> {
    let namespace = handler.namespace_of_token(&request.namespace, &request.task_token)?;
    handler.limits.length(&request.identity, "Identity")?;
    application_failure(&request.failure)?;
    let mut failures = Vec::new();
    if !handler.limits.fits(&request.last_heartbeat_details) {
        request.last_heartbeat_details = None;
        failures.push(oversize::failure(oversize::HEARTBEAT));
    }
    failures.extend(cut_failure(&handler.limits, &mut request.failure));
    let mut response = handler
        .server
        .respond_activity_task_failed(&namespace, request, call)
        .await?;
    response.failures.extend(failures);
    Ok(response)
}

pub(crate) async fn respond_activity_task_failed_by_id(
    handler: &Handler,
    mut request: RespondActivityTaskFailedByIdRequest,
    call: Call,
) -> Result<RespondActivityTaskFailedByIdResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    by_id(
        &handler.limits,
        &request.workflow_id,
        &request.run_id,
        &request.activity_id,
    )?;
    handler.limits.length(&request.identity, "Identity")?;
    application_failure(&request.failure)?;
    let mut failures = Vec::new();
    if !handler.limits.fits(&request.last_heartbeat_details) {
        request.last_heartbeat_details = None;
        failures.push(oversize::failure(oversize::HEARTBEAT));
    }
    failures.extend(cut_failure(&handler.limits, &mut request.failure));
    let mut response = handler
        .server
        .respond_activity_task_failed_by_id(&namespace, request, call)
        .await?;
    response.failures.extend(failures);
    Ok(response)
}

pub(crate) async fn respond_activity_task_canceled(
    handler: &Handler,
    request: RespondActivityTaskCanceledRequest,
    call: Call,
) -> Result<RespondActivityTaskCanceledResponse, Error> {
    let namespace = handler.namespace_of_token(&request.namespace, &request.task_token)?;
    handler.limits.length(&request.identity, "Identity")?;
    if !handler.limits.fits(&request.details) {
        let failed = failed_by_token(
            oversize::CANCEL_DETAILS,
            request.task_token,
            request.identity,
        );
        handler
            .server
            .respond_activity_task_failed(&namespace, failed, call)
            .await?;
        return Ok(Default::default());
    }
    handler
        .server
        .respond_activity_task_canceled(&namespace, request, call)
        .await
}

pub(crate) async fn respond_activity_task_canceled_by_id(
    handler: &Handler,
    request: RespondActivityTaskCanceledByIdRequest,
    call: Call,
) -> Result<RespondActivityTaskCanceledByIdResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    by_id(
        &handler.limits,
        &request.workflow_id,
        &request.run_id,
        &request.activity_id,
    )?;
    handler.limits.length(&request.identity, "Identity")?;
    if !handler.limits.fits(&request.details) {
        let failed = RespondActivityTaskFailedByIdRequest {
            failure: Some(oversize::failure(oversize::CANCEL_DETAILS)),
            namespace: request.namespace,
            workflow_id: request.workflow_id,
            run_id: request.run_id,
            activity_id: request.activity_id,
            identity: request.identity,
            ..Default::default()
        };
        handler
            .server
            .respond_activity_task_failed_by_id(&namespace, failed, call)
            .await?;
        return Ok(Default::default());
    }
    handler
        .server
        .respond_activity_task_canceled_by_id(&namespace, request, call)
        .await
}

pub(crate) async fn record_activity_task_heartbeat(
    handler: &Handler,
    request: RecordActivityTaskHeartbeatRequest,
    call: Call,
) -> Result<RecordActivityTaskHeartbeatResponse, Error> {
    let namespace = handler.namespace_of_token(&request.namespace, &request.task_token)?;
    handler.limits.length(&request.identity, "Identity")?;
    if !handler.limits.fits(&request.details) {
        let failed = failed_by_token(oversize::HEARTBEAT, request.task_token, request.identity);
        handler
            .server
            .respond_activity_task_failed(&namespace, failed, call)
            .await?;
        return Ok(RecordActivityTaskHeartbeatResponse {
            cancel_requested: true,
            ..Default::default()
        });
    }
    handler
        .server
        .record_activity_task_heartbeat(&namespace, request, call)
        .await
}

pub(crate) async fn record_activity_task_heartbeat_by_id(
    handler: &Handler,
    request: RecordActivityTaskHeartbeatByIdRequest,
    call: Call,
) -> Result<RecordActivityTaskHeartbeatByIdResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    by_id(
        &handler.limits,
        &request.workflow_id,
        &request.run_id,
        &request.activity_id,
    )?;
    handler.limits.length(&request.identity, "Identity")?;
    if !handler.limits.fits(&request.details) {
        let failed = RespondActivityTaskFailedByIdRequest {
            failure: Some(oversize::failure(oversize::HEARTBEAT)),
            namespace: request.namespace,
            workflow_id: request.workflow_id,
            run_id: request.run_id,
            activity_id: request.activity_id,
            identity: request.identity,
            ..Default::default()
        };
        handler
            .server
            .respond_activity_task_failed_by_id(&namespace, failed, call)
            .await?;
        return Ok(RecordActivityTaskHeartbeatByIdResponse {
            cancel_requested: true,
            ..Default::default()
        });
    }
    handler
        .server
        .record_activity_task_heartbeat_by_id(&namespace, request, call)
        .await
}

/// The failure that stands for a report which is too large.
fn failed_by_token(
    why: &str,
    task_token: Vec<u8>,
    identity: String,
) -> RespondActivityTaskFailedRequest {
    let failure = Some(oversize::failure(why));
    RespondActivityTaskFailedRequest {
        task_token,
        failure,
        identity,
        ..Default::default()
    }
}

fn by_id(limits: &Limits, workflow: &str, run: &str, activity: &str) -> Result<(), Error> {
    limits.required(workflow, "WorkflowId")?;
    limits.required(activity, "ActivityId")?;
    validate::run_id(run)
}

/// Workers report application failures only: other kinds are the server's to make.
fn application_failure(failure: &Option<Failure>) -> Result<(), Error> {
    match failure.as_ref().map(|failure| &failure.failure_info) {
        None | Some(Some(FailureInfo::ApplicationFailureInfo(_))) => Ok(()),
        Some(_) => Err(Error::invalid("Failure must have ApplicationFailureInfo.")),
    }
}

/// Cuts a failure that is too large; the worker is told what was kept.
fn cut_failure(limits: &Limits, failure: &mut Option<Failure>) -> Option<Failure> {
    let original = failure
        .as_ref()
        .filter(|failure| limits.is_oversize(*failure))?;
    let kept = oversize::replaced(original, limits.blob_bytes_kept);
    *failure = Some(kept.clone());
    Some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::test_limits as limits;
    use tidemill_proto::api::failure::v1::{ApplicationFailureInfo, TimeoutFailureInfo};

    #[test]
    fn only_application_failures_are_reported() {
        let with = |failure_info| {
            Some(Failure {
                failure_info,
                ..Default::default()
            })
        };
        let application = FailureInfo::ApplicationFailureInfo(ApplicationFailureInfo::default());
        let timeout = FailureInfo::TimeoutFailureInfo(TimeoutFailureInfo::default());
        assert!(application_failure(&None).is_ok());
        assert!(application_failure(&with(Some(application))).is_ok());
        assert!(application_failure(&with(Some(timeout))).is_err());
        assert!(application_failure(&with(None)).is_err());
    }

    #[test]
    fn large_failures_are_cut_and_returned() {
        let limits = Limits {
            blob_bytes: 100,
            blob_bytes_kept: 50,
            ..limits()
        };
        let mut failure = Some(Failure {
            message: "m".repeat(50),
            ..Default::default()
        });
        assert!(cut_failure(&limits, &mut failure).is_none());
        failure.as_mut().unwrap().stack_trace = "s".repeat(100);
        let kept = cut_failure(&limits, &mut failure).unwrap();
        assert_eq!(failure, Some(kept.clone()));
        assert_eq!(kept.message, oversize::FAILURE);
    }
}
