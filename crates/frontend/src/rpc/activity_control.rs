//! What operators do to the activities of a run: pause, unpause, reset, new options
//! (engine contract 3.7).

use tidemill_engine::Error;
use tidemill_proto::api::workflowservice::v1::{
    PauseActivityRequest, PauseActivityResponse, ResetActivityRequest, ResetActivityResponse,
    UnpauseActivityRequest, UnpauseActivityResponse, UpdateActivityOptionsRequest,
    UpdateActivityOptionsResponse,
};

use crate::handler::Handler;
use crate::validate;
use tidemill_server::Call;

const NO_SELECTOR: &str = "Either Activity.Id or Activity.Type should be set on request.";

pub(crate) async fn pause_activity(
    handler: &Handler,
    request: PauseActivityRequest,
    call: Call,
) -> Result<PauseActivityResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    handler.limits.execution(&request.execution)?;
    request
        .activity
        .as_ref()
        .ok_or_else(|| Error::invalid(NO_SELECTOR))?;
    handler.limits.length(&request.request_id, "RequestId")?;
    handler
        .server
        .pause_activity(&namespace, request, call)
        .await
}

pub(crate) async fn unpause_activity(
    handler: &Handler,
    request: UnpauseActivityRequest,
    call: Call,
) -> Result<UnpauseActivityResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    handler.limits.execution(&request.execution)?;
    request
        .activity
        .as_ref()
        .ok_or_else(|| Error::invalid(NO_SELECTOR))?;
    validate::span(&request.jitter, "Jitter")?;
    handler
        .server
        .unpause_activity(&namespace, request, call)
        .await
}

pub(crate) async fn reset_activity(
    handler: &Handler,
    request: ResetActivityRequest,
    call: Call,
) -> Result<ResetActivityResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    handler.limits.execution(&request.execution)?;
    request
        .activity
        .as_ref()
        .ok_or_else(|| Error::invalid(NO_SELECTOR))?;
    validate::span(&request.jitter, "Jitter")?;
    handler
        .server
        .reset_activity(&namespace, request, call)
        .await
}

pub(crate) async fn update_activity_options(
    handler: &Handler,
    mut request: UpdateActivityOptionsRequest,
    call: Call,
) -> Result<UpdateActivityOptionsResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    handler.limits.execution(&request.execution)?;
    request
        .activity
        .as_ref()
        .ok_or_else(|| Error::invalid(NO_SELECTOR))?;
    if let Some(options) = &mut request.activity_options {
        validate::retry_policy(&options.retry_policy)?;
        validate::priority(&options.priority)?;
        if options.task_queue.is_some() {
            handler.limits.user_task_queue(&mut options.task_queue)?;
        }
        for (span, what) in [
            (&options.schedule_to_close_timeout, "ScheduleToCloseTimeout"),
            (&options.schedule_to_start_timeout, "ScheduleToStartTimeout"),
            (&options.start_to_close_timeout, "StartToCloseTimeout"),
            (&options.heartbeat_timeout, "HeartbeatTimeout"),
        ] {
            validate::span(span, what)?;
        }
    }
    handler
        .server
        .update_activity_options(&namespace, request, call)
        .await
}
