//! Lists and counts of runs (engine contract 10.3).

use tidemill_engine::Error;
use tidemill_proto::api::enums::v1::WorkflowExecutionStatus;
use tidemill_proto::api::filter::v1::StartTimeFilter;
use tidemill_proto::api::workflowservice::v1::list_closed_workflow_executions_request::Filters;
use tidemill_proto::api::workflowservice::v1::*;

use crate::handler::Handler;
use tidemill_server::Call;

/// Runs in one page.
const PAGE_MAX: i32 = 1000;

fn page_size(asked: i32) -> i32 {
    if asked <= 0 {
        PAGE_MAX
    } else {
        asked.min(PAGE_MAX)
    }
}

pub(crate) async fn list_workflow_executions(
    handler: &Handler,
    mut request: ListWorkflowExecutionsRequest,
    call: Call,
) -> Result<ListWorkflowExecutionsResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    request.page_size = page_size(request.page_size);
    handler
        .server
        .list_workflow_executions(&namespace, request, call)
        .await
}

pub(crate) async fn scan_workflow_executions(
    handler: &Handler,
    mut request: ScanWorkflowExecutionsRequest,
    call: Call,
) -> Result<ScanWorkflowExecutionsResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    request.page_size = page_size(request.page_size);
    handler
        .server
        .scan_workflow_executions(&namespace, request, call)
        .await
}

pub(crate) async fn count_workflow_executions(
    handler: &Handler,
    request: CountWorkflowExecutionsRequest,
    call: Call,
) -> Result<CountWorkflowExecutionsResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    handler
        .server
        .count_workflow_executions(&namespace, request, call)
        .await
}

pub(crate) async fn list_open_workflow_executions(
    handler: &Handler,
    mut request: ListOpenWorkflowExecutionsRequest,
    call: Call,
) -> Result<ListOpenWorkflowExecutionsResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    request.maximum_page_size = page_size(request.maximum_page_size);
    time_range(&request.start_time_filter)?;
    handler
        .server
        .list_open_workflow_executions(&namespace, request, call)
        .await
}

pub(crate) async fn list_closed_workflow_executions(
    handler: &Handler,
    mut request: ListClosedWorkflowExecutionsRequest,
    call: Call,
) -> Result<ListClosedWorkflowExecutionsResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    request.maximum_page_size = page_size(request.maximum_page_size);
    time_range(&request.start_time_filter)?;
    if let Some(Filters::StatusFilter(filter)) = &request.filters
        && matches!(
            filter.status(),
            WorkflowExecutionStatus::Unspecified | WorkflowExecutionStatus::Running
        )
    {
        return Err(Error::invalid(
            "StatusFilter must be specified and must be not Running.",
        ));
    }
    handler
        .server
        .list_closed_workflow_executions(&namespace, request, call)
        .await
}

fn time_range(filter: &Option<StartTimeFilter>) -> Result<(), Error> {
    if let Some(StartTimeFilter {
        earliest_time: Some(from),
        latest_time: Some(to),
    }) = filter
        && (from.seconds, from.nanos) > (to.seconds, to.nanos)
    {
        return Err(Error::invalid(
            "EarliestTime in StartTimeFilter should not be larger than LatestTime.",
        ));
    }
    Ok(())
}
