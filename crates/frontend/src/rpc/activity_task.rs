//! Activity tasks: poll, heartbeat, and their three ends, by token or by id
//! (engine contract 3). Reports that are too large are the engine's to turn into failures.

use tidemill_engine::Error;
use tidemill_proto::api::failure::v1::Failure;
use tidemill_proto::api::failure::v1::failure::FailureInfo;
use tidemill_proto::api::workflowservice::v1::*;

use crate::handler::Handler;
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
    handler
        .server
        .respond_activity_task_completed_by_id(&namespace, request, call)
        .await
}

pub(crate) async fn respond_activity_task_failed(
    handler: &Handler,
    request: RespondActivityTaskFailedRequest,
    call: Call,
) -> Result<RespondActivityTaskFailedResponse, Error> {
    let namespace = handler.namespace_of_token(&request.namespace, &request.task_token)?;
    handler.limits.length(&request.identity, "Identity")?;
    application_failure(&request.failure)?;
    handler
        .server
        .respond_activity_task_failed(&namespace, request, call)
        .await
}

pub(crate) async fn respond_activity_task_failed_by_id(
    handler: &Handler,
    request: RespondActivityTaskFailedByIdRequest,
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
    handler
        .server
        .respond_activity_task_failed_by_id(&namespace, request, call)
        .await
}

pub(crate) async fn respond_activity_task_canceled(
    handler: &Handler,
    request: RespondActivityTaskCanceledRequest,
    call: Call,
) -> Result<RespondActivityTaskCanceledResponse, Error> {
    let namespace = handler.namespace_of_token(&request.namespace, &request.task_token)?;
    handler.limits.length(&request.identity, "Identity")?;
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
    handler
        .server
        .record_activity_task_heartbeat_by_id(&namespace, request, call)
        .await
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

#[cfg(test)]
mod tests {
    use super::*;
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
}
