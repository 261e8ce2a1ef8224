//! The inventory of workers (engine contract 8.6).

use tidemill_engine::Error;
use tidemill_proto::api::workflowservice::v1::{
    CountWorkersRequest, CountWorkersResponse, DescribeWorkerRequest, DescribeWorkerResponse,
    ListWorkersRequest, ListWorkersResponse, RecordWorkerHeartbeatRequest,
    RecordWorkerHeartbeatResponse, ShutdownWorkerRequest, ShutdownWorkerResponse,
};

use crate::handler::Handler;
use tidemill_server::Call;

pub(crate) async fn record_worker_heartbeat(
    handler: &Handler,
    request: RecordWorkerHeartbeatRequest,
    call: Call,
) -> Result<RecordWorkerHeartbeatResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    handler.limits.length(&request.identity, "Identity")?;
    for heartbeat in &request.worker_heartbeat {
        handler
            .limits
            .required(&heartbeat.worker_instance_key, "WorkerInstanceKey")?;
    }
    handler
        .server
        .record_worker_heartbeat(&namespace, request, call)
        .await
}

pub(crate) async fn list_workers(
    handler: &Handler,
    request: ListWorkersRequest,
    call: Call,
) -> Result<ListWorkersResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    handler.server.list_workers(&namespace, request, call).await
}

pub(crate) async fn count_workers(
    handler: &Handler,
    request: CountWorkersRequest,
    call: Call,
) -> Result<CountWorkersResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    handler
        .server
        .count_workers(&namespace, request, call)
        .await
}

pub(crate) async fn describe_worker(
    handler: &Handler,
    request: DescribeWorkerRequest,
    call: Call,
) -> Result<DescribeWorkerResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    handler
        .limits
        .required(&request.worker_instance_key, "WorkerInstanceKey")?;
    handler
        .server
        .describe_worker(&namespace, request, call)
        .await
}

pub(crate) async fn shutdown_worker(
    handler: &Handler,
    request: ShutdownWorkerRequest,
    call: Call,
) -> Result<ShutdownWorkerResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    handler.limits.length(&request.identity, "Identity")?;
    handler
        .limits
        .length(&request.sticky_task_queue, "StickyTaskQueue")?;
    handler
        .server
        .shutdown_worker(&namespace, request, call)
        .await
}
