//! Temporal's two services: which function serves which RPC. What is not listed is UNIMPLEMENTED.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use tidemill_proto::api::operatorservice::v1 as operator_api;

use crate::handler::Handler;
use crate::rpc::*;
use crate::transport::unary::{self, Body};
use crate::{call, error};

/// The messages, and those that the server has in bytes in part.
mod api {
    pub(super) use tidemill_proto::api::workflowservice::v1::*;
    pub(super) use tidemill_proto::with_history::{
        GetWorkflowExecutionHistoryResponse, PollWorkflowTaskQueueResponse,
    };
}

/// A call on its way to its answer.
pub(crate) type Inflight = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;
/// Serves one RPC.
pub(crate) type Rpc = fn(Arc<Handler>, Request<Incoming>) -> Inflight;

macro_rules! serve {
    (
        $list:ident of $api:ident:
        $($family:ident::$rpc:ident($request:ident) -> $response:ident;)*
    ) => {
        /// The service's RPCs, each by the name of its request.
        pub(crate) const $list: &[(&str, Rpc)] = &[$(
            (stringify!($request), |handler, request| Box::pin(async move {
                let (head, body) = request.into_parts();
                let call = call::from_headers(&head.headers);
                let limit = handler.limits.message_bytes;
                let read = unary::read::<$api::$request>(&head.headers, body, limit).await;
                drop(head);
                let request = match read {
                    Ok(request) => request,
                    Err(status) => return unary::refuse(status),
                };
                let answer = $family::$rpc(&handler, request, call).await;
                let answer: Result<$api::$response, _> = answer;
                unary::answer(answer.map_err(|error| error::status(&error)))
            })),
        )*];
    };
}

#[rustfmt::skip]
serve! {
    WORKFLOW_SERVICE of api:

    system::get_system_info(GetSystemInfoRequest) -> GetSystemInfoResponse;
    system::get_cluster_info(GetClusterInfoRequest) -> GetClusterInfoResponse;

    namespace::register_namespace(RegisterNamespaceRequest) -> RegisterNamespaceResponse;
    namespace::describe_namespace(DescribeNamespaceRequest) -> DescribeNamespaceResponse;
    namespace::list_namespaces(ListNamespacesRequest) -> ListNamespacesResponse;
    namespace::update_namespace(UpdateNamespaceRequest) -> UpdateNamespaceResponse;
    namespace::deprecate_namespace(DeprecateNamespaceRequest) -> DeprecateNamespaceResponse;

    search_attributes::get_search_attributes(GetSearchAttributesRequest) -> GetSearchAttributesResponse;

    start::start_workflow_execution(StartWorkflowExecutionRequest) -> StartWorkflowExecutionResponse;
    start::signal_with_start_workflow_execution(SignalWithStartWorkflowExecutionRequest) -> SignalWithStartWorkflowExecutionResponse;
    start::execute_multi_operation(ExecuteMultiOperationRequest) -> ExecuteMultiOperationResponse;

    lifecycle::signal_workflow_execution(SignalWorkflowExecutionRequest) -> SignalWorkflowExecutionResponse;
    lifecycle::request_cancel_workflow_execution(RequestCancelWorkflowExecutionRequest) -> RequestCancelWorkflowExecutionResponse;
    lifecycle::terminate_workflow_execution(TerminateWorkflowExecutionRequest) -> TerminateWorkflowExecutionResponse;
    lifecycle::delete_workflow_execution(DeleteWorkflowExecutionRequest) -> DeleteWorkflowExecutionResponse;
    lifecycle::reset_workflow_execution(ResetWorkflowExecutionRequest) -> ResetWorkflowExecutionResponse;
    lifecycle::update_workflow_execution_options(UpdateWorkflowExecutionOptionsRequest) -> UpdateWorkflowExecutionOptionsResponse;

    read::describe_workflow_execution(DescribeWorkflowExecutionRequest) -> DescribeWorkflowExecutionResponse;
    read::get_workflow_execution_history(GetWorkflowExecutionHistoryRequest) -> GetWorkflowExecutionHistoryResponse;
    read::get_workflow_execution_history_reverse(GetWorkflowExecutionHistoryReverseRequest) -> GetWorkflowExecutionHistoryReverseResponse;

    query::query_workflow(QueryWorkflowRequest) -> QueryWorkflowResponse;

    update::update_workflow_execution(UpdateWorkflowExecutionRequest) -> UpdateWorkflowExecutionResponse;
    update::poll_workflow_execution_update(PollWorkflowExecutionUpdateRequest) -> PollWorkflowExecutionUpdateResponse;

    workflow_task::poll_workflow_task_queue(PollWorkflowTaskQueueRequest) -> PollWorkflowTaskQueueResponse;
    workflow_task::respond_workflow_task_completed(RespondWorkflowTaskCompletedRequest) -> RespondWorkflowTaskCompletedResponse;
    workflow_task::respond_workflow_task_failed(RespondWorkflowTaskFailedRequest) -> RespondWorkflowTaskFailedResponse;
    workflow_task::respond_query_task_completed(RespondQueryTaskCompletedRequest) -> RespondQueryTaskCompletedResponse;
    workflow_task::reset_sticky_task_queue(ResetStickyTaskQueueRequest) -> ResetStickyTaskQueueResponse;

    activity_task::poll_activity_task_queue(PollActivityTaskQueueRequest) -> PollActivityTaskQueueResponse;
    activity_task::respond_activity_task_completed(RespondActivityTaskCompletedRequest) -> RespondActivityTaskCompletedResponse;
    activity_task::respond_activity_task_completed_by_id(RespondActivityTaskCompletedByIdRequest) -> RespondActivityTaskCompletedByIdResponse;
    activity_task::respond_activity_task_failed(RespondActivityTaskFailedRequest) -> RespondActivityTaskFailedResponse;
    activity_task::respond_activity_task_failed_by_id(RespondActivityTaskFailedByIdRequest) -> RespondActivityTaskFailedByIdResponse;
    activity_task::respond_activity_task_canceled(RespondActivityTaskCanceledRequest) -> RespondActivityTaskCanceledResponse;
    activity_task::respond_activity_task_canceled_by_id(RespondActivityTaskCanceledByIdRequest) -> RespondActivityTaskCanceledByIdResponse;
    activity_task::record_activity_task_heartbeat(RecordActivityTaskHeartbeatRequest) -> RecordActivityTaskHeartbeatResponse;
    activity_task::record_activity_task_heartbeat_by_id(RecordActivityTaskHeartbeatByIdRequest) -> RecordActivityTaskHeartbeatByIdResponse;

    activity_control::pause_activity(PauseActivityRequest) -> PauseActivityResponse;
    activity_control::unpause_activity(UnpauseActivityRequest) -> UnpauseActivityResponse;
    activity_control::reset_activity(ResetActivityRequest) -> ResetActivityResponse;
    activity_control::update_activity_options(UpdateActivityOptionsRequest) -> UpdateActivityOptionsResponse;

    visibility::list_workflow_executions(ListWorkflowExecutionsRequest) -> ListWorkflowExecutionsResponse;
    visibility::scan_workflow_executions(ScanWorkflowExecutionsRequest) -> ScanWorkflowExecutionsResponse;
    visibility::count_workflow_executions(CountWorkflowExecutionsRequest) -> CountWorkflowExecutionsResponse;
    visibility::list_open_workflow_executions(ListOpenWorkflowExecutionsRequest) -> ListOpenWorkflowExecutionsResponse;
    visibility::list_closed_workflow_executions(ListClosedWorkflowExecutionsRequest) -> ListClosedWorkflowExecutionsResponse;

    task_queue::describe_task_queue(DescribeTaskQueueRequest) -> DescribeTaskQueueResponse;
    task_queue::list_task_queue_partitions(ListTaskQueuePartitionsRequest) -> ListTaskQueuePartitionsResponse;
    task_queue::update_task_queue_config(UpdateTaskQueueConfigRequest) -> UpdateTaskQueueConfigResponse;

    worker::record_worker_heartbeat(RecordWorkerHeartbeatRequest) -> RecordWorkerHeartbeatResponse;
    worker::list_workers(ListWorkersRequest) -> ListWorkersResponse;
    worker::count_workers(CountWorkersRequest) -> CountWorkersResponse;
    worker::describe_worker(DescribeWorkerRequest) -> DescribeWorkerResponse;
    worker::shutdown_worker(ShutdownWorkerRequest) -> ShutdownWorkerResponse;

    nexus_task::poll_nexus_task_queue(PollNexusTaskQueueRequest) -> PollNexusTaskQueueResponse;

    refused::update_worker_build_id_compatibility(UpdateWorkerBuildIdCompatibilityRequest) -> UpdateWorkerBuildIdCompatibilityResponse;
    refused::get_worker_build_id_compatibility(GetWorkerBuildIdCompatibilityRequest) -> GetWorkerBuildIdCompatibilityResponse;
    refused::update_worker_versioning_rules(UpdateWorkerVersioningRulesRequest) -> UpdateWorkerVersioningRulesResponse;
    refused::get_worker_versioning_rules(GetWorkerVersioningRulesRequest) -> GetWorkerVersioningRulesResponse;
    refused::get_worker_task_reachability(GetWorkerTaskReachabilityRequest) -> GetWorkerTaskReachabilityResponse;
    refused::list_archived_workflow_executions(ListArchivedWorkflowExecutionsRequest) -> ListArchivedWorkflowExecutionsResponse;
}

#[rustfmt::skip]
serve! {
    OPERATOR_SERVICE of operator_api:

    operator::add_search_attributes(AddSearchAttributesRequest) -> AddSearchAttributesResponse;
    operator::remove_search_attributes(RemoveSearchAttributesRequest) -> RemoveSearchAttributesResponse;
    operator::list_search_attributes(ListSearchAttributesRequest) -> ListSearchAttributesResponse;
    operator::delete_namespace(DeleteNamespaceRequest) -> DeleteNamespaceResponse;
    operator::list_clusters(ListClustersRequest) -> ListClustersResponse;
    operator::add_or_update_remote_cluster(AddOrUpdateRemoteClusterRequest) -> AddOrUpdateRemoteClusterResponse;
    operator::remove_remote_cluster(RemoveRemoteClusterRequest) -> RemoveRemoteClusterResponse;
}
