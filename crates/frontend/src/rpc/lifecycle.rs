//! What is done to a run from outside: signal, cancel, terminate, delete, reset, options
//! (engine contract 5).

use tidemill_engine::Error;
use tidemill_proto::api::workflow::v1::post_reset_operation::Variant;
use tidemill_proto::api::workflowservice::v1::{
    DeleteWorkflowExecutionRequest, DeleteWorkflowExecutionResponse,
    RequestCancelWorkflowExecutionRequest, RequestCancelWorkflowExecutionResponse,
    ResetWorkflowExecutionRequest, ResetWorkflowExecutionResponse, SignalWorkflowExecutionRequest,
    SignalWorkflowExecutionResponse, TerminateWorkflowExecutionRequest,
    TerminateWorkflowExecutionResponse, UpdateWorkflowExecutionOptionsRequest,
    UpdateWorkflowExecutionOptionsResponse,
};

use crate::handler::Handler;
use crate::rpc::start::no_time_skipping;
use crate::validate;
use tidemill_server::Call;

/// What a termination says of itself when its caller does not.
const TERMINATE_REASON: &str = "terminated by user via frontend";
const TERMINATE_IDENTITY: &str = "frontend-service";

pub(crate) async fn signal_workflow_execution(
    handler: &Handler,
    request: SignalWorkflowExecutionRequest,
    call: Call,
) -> Result<SignalWorkflowExecutionResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    let limits = &handler.limits;
    limits.execution(&request.workflow_execution)?;
    limits.required(&request.signal_name, "SignalName")?;
    limits.length(&request.request_id, "RequestId")?;
    limits.length(&request.identity, "Identity")?;
    limits.links(&request.links)?;
    limits.blob(&request.input, "SignalWorkflowExecution")?;
    handler
        .server
        .signal_workflow_execution(&namespace, request, call)
        .await
}

pub(crate) async fn request_cancel_workflow_execution(
    handler: &Handler,
    request: RequestCancelWorkflowExecutionRequest,
    call: Call,
) -> Result<RequestCancelWorkflowExecutionResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    let limits = &handler.limits;
    limits.execution(&request.workflow_execution)?;
    limits.length(&request.request_id, "RequestId")?;
    limits.length(&request.identity, "Identity")?;
    limits.links(&request.links)?;
    handler
        .server
        .request_cancel_workflow_execution(&namespace, request, call)
        .await
}

pub(crate) async fn terminate_workflow_execution(
    handler: &Handler,
    mut request: TerminateWorkflowExecutionRequest,
    call: Call,
) -> Result<TerminateWorkflowExecutionResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    let limits = &handler.limits;
    limits.execution(&request.workflow_execution)?;
    limits.length(&request.identity, "Identity")?;
    limits.links(&request.links)?;
    limits.blob(&request.details, "TerminateWorkflowExecution")?;
    if request.reason.is_empty() {
        TERMINATE_REASON.clone_into(&mut request.reason);
    }
    if request.identity.is_empty() {
        TERMINATE_IDENTITY.clone_into(&mut request.identity);
    }
    handler
        .server
        .terminate_workflow_execution(&namespace, request, call)
        .await
}

pub(crate) async fn delete_workflow_execution(
    handler: &Handler,
    request: DeleteWorkflowExecutionRequest,
    call: Call,
) -> Result<DeleteWorkflowExecutionResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    handler.limits.execution(&request.workflow_execution)?;
    handler
        .server
        .delete_workflow_execution(&namespace, request, call)
        .await
}

pub(crate) async fn reset_workflow_execution(
    handler: &Handler,
    request: ResetWorkflowExecutionRequest,
    call: Call,
) -> Result<ResetWorkflowExecutionResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    handler.limits.required(&request.request_id, "RequestId")?;
    handler.limits.execution(&request.workflow_execution)?;
    handler.limits.length(&request.identity, "Identity")?;
    for operation in &request.post_reset_operations {
        match &operation.variant {
            Some(Variant::UpdateWorkflowOptions(update)) => {
                let options = update.workflow_execution_options.as_ref();
                no_time_skipping(options.is_some_and(|o| o.time_skipping_config.is_some()))?;
            }
            _ => return Err(Error::invalid("unsupported post reset operation")),
        }
    }
    handler
        .server
        .reset_workflow_execution(&namespace, request, call)
        .await
}

pub(crate) async fn update_workflow_execution_options(
    handler: &Handler,
    request: UpdateWorkflowExecutionOptionsRequest,
    call: Call,
) -> Result<UpdateWorkflowExecutionOptionsResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    handler.limits.execution(&request.workflow_execution)?;
    if let Some(options) = &request.workflow_execution_options {
        validate::priority(&options.priority)?;
        no_time_skipping(options.time_skipping_config.is_some())?;
    }
    handler
        .server
        .update_workflow_execution_options(&namespace, request, call)
        .await
}
