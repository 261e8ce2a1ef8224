//! Updates of running workflows (engine contract 6.2).

use tidemill_engine::Error;
use tidemill_proto::api::enums::v1::UpdateWorkflowExecutionLifecycleStage as Stage;
use tidemill_proto::api::workflowservice::v1::{
    PollWorkflowExecutionUpdateRequest, PollWorkflowExecutionUpdateResponse,
    UpdateWorkflowExecutionRequest, UpdateWorkflowExecutionResponse,
};

use crate::handler::Handler;
use crate::validate::Limits;
use tidemill_server::Call;

pub(crate) async fn update_workflow_execution(
    handler: &Handler,
    mut request: UpdateWorkflowExecutionRequest,
    call: Call,
) -> Result<UpdateWorkflowExecutionResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    check_update(&handler.limits, &mut request)?;
    handler
        .server
        .update_workflow_execution(&namespace, request, call)
        .await
}

pub(crate) async fn poll_workflow_execution_update(
    handler: &Handler,
    request: PollWorkflowExecutionUpdateRequest,
    call: Call,
) -> Result<PollWorkflowExecutionUpdateResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    let Some(update_ref) = &request.update_ref else {
        return Err(Error::invalid("UpdateRef is not set on request."));
    };
    handler.limits.execution(&update_ref.workflow_execution)?;
    handler.limits.required(&update_ref.update_id, "UpdateId")?;
    handler
        .server
        .poll_workflow_execution_update(&namespace, request, call)
        .await
}

/// Checks an update and fills in its id and what the caller waits for.
pub(crate) fn check_update(
    limits: &Limits,
    request: &mut UpdateWorkflowExecutionRequest,
) -> Result<(), Error> {
    limits.execution(&request.workflow_execution)?;
    let update = request.request.get_or_insert_default();
    let Some(meta) = &mut update.meta else {
        return Err(Error::invalid("Update meta is not set on request."));
    };
    limits.length(&meta.update_id, "UpdateId")?;
    limits.length(&meta.identity, "Identity")?;
    if meta.update_id.is_empty() {
        meta.update_id = uuid::Uuid::new_v4().to_string();
    }
    let Some(input) = &update.input else {
        return Err(Error::invalid("Update input is not set on request."));
    };
    limits.required(&input.name, "Update name")?;
    limits.blob(&input.args, "UpdateWorkflowExecution")?;
    limits.callbacks(&update.completion_callbacks)?;
    if !update.completion_callbacks.is_empty() {
        return Err(Error::invalid(
            "Completion callbacks of updates are not supported.",
        ));
    }
    limits.links(&update.links)?;
    let policy = request.wait_policy.get_or_insert_default();
    match policy.lifecycle_stage() {
        Stage::Unspecified => policy.set_lifecycle_stage(Stage::Completed),
        Stage::Admitted => {
            return Err(Error::PermissionDenied(
                "UpdateWorkflowExecution issued asynchronously and waiting on update admitted is \
                 not supported."
                    .to_owned(),
            ));
        }
        Stage::Accepted | Stage::Completed => {}
    }
    Ok(())
}
