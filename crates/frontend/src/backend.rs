use std::sync::Arc;

use tidemill_engine::Error;
use tidemill_proto::api::workflowservice::v1 as api;
use tidemill_server::metrics::Metrics;
use tidemill_server::namespaces::{Namespace, Namespaces};
use tokio::time::Instant;

#[derive(Clone, Debug, Default)]
pub struct Call {
    pub deadline: Option<Instant>,
    pub client_name: String,
}

#[derive(Clone, Debug)]
pub struct TaskToken {
    namespace_id: [u8; 16],
}

impl TaskToken {
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let namespace_id = bytes.get(..16).and_then(|id| id.try_into().ok());
        let namespace_id = namespace_id.ok_or_else(|| Error::invalid("Invalid TaskToken."))?;
        Ok(Self { namespace_id })
    }

    pub fn namespace_id(&self) -> [u8; 16] {
        self.namespace_id
    }
}

#[derive(Clone)]
pub struct Server {
    namespaces: Arc<Namespaces>,
    metrics: Arc<Metrics>,
    limits: tidemill_engine::Limits,
}

impl Server {
    pub fn new(namespaces: Arc<Namespaces>, metrics: Arc<Metrics>) -> Self {
        Self { namespaces, metrics, limits: Default::default() }
    }

    pub fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    pub fn limits(&self) -> &tidemill_engine::Limits {
        &self.limits
    }

    pub async fn delete_runs_of(&self, _namespace: &Namespace) -> Result<(), Error> {
        Ok(())
    }

    pub async fn shutdown(&self) {}
}

macro_rules! methods {
    ($($name:ident($request:ident) -> $response:ident;)*) => {
        impl Server {
            $(pub async fn $name(
                &self,
                _namespace: &Namespace,
                _request: api::$request,
                _call: Call,
            ) -> Result<api::$response, Error> {
                Err(Error::Unimplemented(stringify!($name).to_owned()))
            })*
        }
    };
}

methods! {
    start_workflow_execution(StartWorkflowExecutionRequest) -> StartWorkflowExecutionResponse;
    signal_with_start_workflow_execution(SignalWithStartWorkflowExecutionRequest) -> SignalWithStartWorkflowExecutionResponse;
    execute_multi_operation(ExecuteMultiOperationRequest) -> ExecuteMultiOperationResponse;
    signal_workflow_execution(SignalWorkflowExecutionRequest) -> SignalWorkflowExecutionResponse;
    request_cancel_workflow_execution(RequestCancelWorkflowExecutionRequest) -> RequestCancelWorkflowExecutionResponse;
    terminate_workflow_execution(TerminateWorkflowExecutionRequest) -> TerminateWorkflowExecutionResponse;
    delete_workflow_execution(DeleteWorkflowExecutionRequest) -> DeleteWorkflowExecutionResponse;
    reset_workflow_execution(ResetWorkflowExecutionRequest) -> ResetWorkflowExecutionResponse;
    update_workflow_execution_options(UpdateWorkflowExecutionOptionsRequest) -> UpdateWorkflowExecutionOptionsResponse;
    describe_workflow_execution(DescribeWorkflowExecutionRequest) -> DescribeWorkflowExecutionResponse;
    get_workflow_execution_history(GetWorkflowExecutionHistoryRequest) -> GetWorkflowExecutionHistoryResponse;
    get_workflow_execution_history_reverse(GetWorkflowExecutionHistoryReverseRequest) -> GetWorkflowExecutionHistoryReverseResponse;
    query_workflow(QueryWorkflowRequest) -> QueryWorkflowResponse;
    update_workflow_execution(UpdateWorkflowExecutionRequest) -> UpdateWorkflowExecutionResponse;
    poll_workflow_execution_update(PollWorkflowExecutionUpdateRequest) -> PollWorkflowExecutionUpdateResponse;
    poll_workflow_task_queue(PollWorkflowTaskQueueRequest) -> PollWorkflowTaskQueueResponse;
    respond_workflow_task_completed(RespondWorkflowTaskCompletedRequest) -> RespondWorkflowTaskCompletedResponse;
    respond_workflow_task_failed(RespondWorkflowTaskFailedRequest) -> RespondWorkflowTaskFailedResponse;
    respond_query_task_completed(RespondQueryTaskCompletedRequest) -> RespondQueryTaskCompletedResponse;
    reset_sticky_task_queue(ResetStickyTaskQueueRequest) -> ResetStickyTaskQueueResponse;
    poll_activity_task_queue(PollActivityTaskQueueRequest) -> PollActivityTaskQueueResponse;
    respond_activity_task_completed(RespondActivityTaskCompletedRequest) -> RespondActivityTaskCompletedResponse;
    respond_activity_task_completed_by_id(RespondActivityTaskCompletedByIdRequest) -> RespondActivityTaskCompletedByIdResponse;
    respond_activity_task_failed(RespondActivityTaskFailedRequest) -> RespondActivityTaskFailedResponse;
    respond_activity_task_failed_by_id(RespondActivityTaskFailedByIdRequest) -> RespondActivityTaskFailedByIdResponse;
    respond_activity_task_canceled(RespondActivityTaskCanceledRequest) -> RespondActivityTaskCanceledResponse;
    respond_activity_task_canceled_by_id(RespondActivityTaskCanceledByIdRequest) -> RespondActivityTaskCanceledByIdResponse;
    record_activity_task_heartbeat(RecordActivityTaskHeartbeatRequest) -> RecordActivityTaskHeartbeatResponse;
    record_activity_task_heartbeat_by_id(RecordActivityTaskHeartbeatByIdRequest) -> RecordActivityTaskHeartbeatByIdResponse;
    pause_activity(PauseActivityRequest) -> PauseActivityResponse;
    unpause_activity(UnpauseActivityRequest) -> UnpauseActivityResponse;
    reset_activity(ResetActivityRequest) -> ResetActivityResponse;
    update_activity_options(UpdateActivityOptionsRequest) -> UpdateActivityOptionsResponse;
    list_workflow_executions(ListWorkflowExecutionsRequest) -> ListWorkflowExecutionsResponse;
    scan_workflow_executions(ScanWorkflowExecutionsRequest) -> ScanWorkflowExecutionsResponse;
    count_workflow_executions(CountWorkflowExecutionsRequest) -> CountWorkflowExecutionsResponse;
    list_open_workflow_executions(ListOpenWorkflowExecutionsRequest) -> ListOpenWorkflowExecutionsResponse;
    list_closed_workflow_executions(ListClosedWorkflowExecutionsRequest) -> ListClosedWorkflowExecutionsResponse;
    describe_task_queue(DescribeTaskQueueRequest) -> DescribeTaskQueueResponse;
    list_task_queue_partitions(ListTaskQueuePartitionsRequest) -> ListTaskQueuePartitionsResponse;
    update_task_queue_config(UpdateTaskQueueConfigRequest) -> UpdateTaskQueueConfigResponse;
    record_worker_heartbeat(RecordWorkerHeartbeatRequest) -> RecordWorkerHeartbeatResponse;
    list_workers(ListWorkersRequest) -> ListWorkersResponse;
    describe_worker(DescribeWorkerRequest) -> DescribeWorkerResponse;
    shutdown_worker(ShutdownWorkerRequest) -> ShutdownWorkerResponse;
}
