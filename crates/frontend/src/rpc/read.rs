//! Reading one run: its state and its history (engine contract 7).

use tidemill_engine::Error;
use tidemill_proto::api::enums::v1::HistoryEventFilterType;
use tidemill_proto::api::workflowservice::v1::{
    DescribeWorkflowExecutionRequest, DescribeWorkflowExecutionResponse,
    GetWorkflowExecutionHistoryRequest, GetWorkflowExecutionHistoryReverseRequest,
    GetWorkflowExecutionHistoryReverseResponse,
};
use tidemill_proto::with_history::GetWorkflowExecutionHistoryResponse;

use crate::handler::Handler;
use tidemill_server::Call;

/// Batches of history in one answer.
const PAGE_MAX: i32 = 256;

pub(crate) async fn describe_workflow_execution(
    handler: &Handler,
    request: DescribeWorkflowExecutionRequest,
    call: Call,
) -> Result<DescribeWorkflowExecutionResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    handler.limits.execution(&request.execution)?;
    handler
        .server
        .describe_workflow_execution(&namespace, request, call)
        .await
}

pub(crate) async fn get_workflow_execution_history(
    handler: &Handler,
    mut request: GetWorkflowExecutionHistoryRequest,
    call: Call,
) -> Result<GetWorkflowExecutionHistoryResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    handler.limits.execution(&request.execution)?;
    request.maximum_page_size = page_size(request.maximum_page_size);
    if request.history_event_filter_type() == HistoryEventFilterType::Unspecified {
        request.set_history_event_filter_type(HistoryEventFilterType::AllEvent);
    }
    handler
        .server
        .get_workflow_execution_history(&namespace, request, call)
        .await
}

pub(crate) async fn get_workflow_execution_history_reverse(
    handler: &Handler,
    mut request: GetWorkflowExecutionHistoryReverseRequest,
    call: Call,
) -> Result<GetWorkflowExecutionHistoryReverseResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    handler.limits.execution(&request.execution)?;
    request.maximum_page_size = page_size(request.maximum_page_size);
    handler
        .server
        .get_workflow_execution_history_reverse(&namespace, request, call)
        .await
}

fn page_size(asked: i32) -> i32 {
    if asked <= 0 {
        PAGE_MAX
    } else {
        asked.min(PAGE_MAX)
    }
}
