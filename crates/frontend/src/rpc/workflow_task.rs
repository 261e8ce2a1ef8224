//! Workflow tasks: poll, complete, fail, and answers to queries (engine contract 1, 6).

use tidemill_engine::Error;
use tidemill_proto::api::enums::v1::QueryResultType;
use tidemill_proto::api::workflowservice::v1::{
    PollWorkflowTaskQueueRequest, ResetStickyTaskQueueRequest, ResetStickyTaskQueueResponse,
    RespondQueryTaskCompletedRequest, RespondQueryTaskCompletedResponse,
    RespondWorkflowTaskCompletedRequest, RespondWorkflowTaskCompletedResponse,
    RespondWorkflowTaskFailedRequest, RespondWorkflowTaskFailedResponse,
};
use tidemill_proto::with_history::PollWorkflowTaskQueueResponse;

use crate::handler::Handler;
use crate::validate;
use tidemill_server::Call;

#[expect(
    deprecated,
    reason = "bad binaries are known by the checksum that older SDKs send"
)]
pub(crate) async fn poll_workflow_task_queue(
    handler: &Handler,
    mut request: PollWorkflowTaskQueueRequest,
    call: Call,
) -> Result<PollWorkflowTaskQueueResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    validate::long_poll(call.deadline)?;
    handler.limits.length(&request.identity, "Identity")?;
    handler.limits.task_queue(&mut request.task_queue)?;
    let checksum = &request.binary_checksum;
    if namespace.bad_binaries.contains_key(checksum) {
        let text = format!("Binary {checksum} already marked as bad deployment.");
        return Err(Error::InvalidArgument(text));
    }
    handler
        .server
        .poll_workflow_task_queue(&namespace, request, call)
        .await
}

pub(crate) async fn respond_workflow_task_completed(
    handler: &Handler,
    request: RespondWorkflowTaskCompletedRequest,
    call: Call,
) -> Result<RespondWorkflowTaskCompletedResponse, Error> {
    let namespace = handler.namespace_of_token(&request.namespace, &request.task_token)?;
    handler.limits.length(&request.identity, "Identity")?;
    if request.intermediate_page || request.page_number != 0 {
        let text = "Pagination of workflow task completions is not enabled.";
        return Err(Error::FailedPrecondition(text.to_owned()));
    }
    handler
        .server
        .respond_workflow_task_completed(&namespace, request, call)
        .await
}

pub(crate) async fn respond_workflow_task_failed(
    handler: &Handler,
    request: RespondWorkflowTaskFailedRequest,
    call: Call,
) -> Result<RespondWorkflowTaskFailedResponse, Error> {
    let namespace = handler.namespace_of_token(&request.namespace, &request.task_token)?;
    handler.limits.length(&request.identity, "Identity")?;
    handler
        .server
        .respond_workflow_task_failed(&namespace, request, call)
        .await
}

pub(crate) async fn respond_query_task_completed(
    handler: &Handler,
    mut request: RespondQueryTaskCompletedRequest,
    call: Call,
) -> Result<RespondQueryTaskCompletedResponse, Error> {
    let namespace = handler.namespace_of_token(&request.namespace, &request.task_token)?;
    if let Err(error) = handler
        .limits
        .blob(&request.query_result, "RespondQueryTaskCompleted")
    {
        request = RespondQueryTaskCompletedRequest {
            task_token: request.task_token,
            completed_type: QueryResultType::Failed as i32,
            error_message: error.to_string(),
            ..Default::default()
        };
    }
    handler
        .server
        .respond_query_task_completed(&namespace, request, call)
        .await
}

pub(crate) async fn reset_sticky_task_queue(
    handler: &Handler,
    request: ResetStickyTaskQueueRequest,
    call: Call,
) -> Result<ResetStickyTaskQueueResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    handler.limits.execution(&request.execution)?;
    handler
        .server
        .reset_sticky_task_queue(&namespace, request, call)
        .await
}
