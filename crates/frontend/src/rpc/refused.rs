//! RPCs that Temporal's server answers with a refusal as it is configured by default
//! (engine contract 8.8, C). All others that are not served are UNIMPLEMENTED.

use tidemill_engine::Error;
use tidemill_proto::api::workflowservice::v1::*;

use crate::handler::Handler;
use tidemill_server::Call;

fn version_sets() -> Error {
    Error::PermissionDenied(
        "Worker versioning v0.1 (Version Set-based, deprecated) is disabled on this namespace."
            .to_owned(),
    )
}

fn version_rules() -> Error {
    Error::PermissionDenied(
        "Worker versioning v0.2 (Rules-based, deprecated) is disabled on this namespace."
            .to_owned(),
    )
}

pub(crate) async fn update_worker_build_id_compatibility(
    _: &Handler,
    _: UpdateWorkerBuildIdCompatibilityRequest,
    _: Call,
) -> Result<UpdateWorkerBuildIdCompatibilityResponse, Error> {
    Err(version_sets())
}

pub(crate) async fn get_worker_build_id_compatibility(
    _: &Handler,
    _: GetWorkerBuildIdCompatibilityRequest,
    _: Call,
) -> Result<GetWorkerBuildIdCompatibilityResponse, Error> {
    Err(version_sets())
}

pub(crate) async fn update_worker_versioning_rules(
    _: &Handler,
    _: UpdateWorkerVersioningRulesRequest,
    _: Call,
) -> Result<UpdateWorkerVersioningRulesResponse, Error> {
    Err(version_rules())
}

pub(crate) async fn get_worker_versioning_rules(
    _: &Handler,
    _: GetWorkerVersioningRulesRequest,
    _: Call,
) -> Result<GetWorkerVersioningRulesResponse, Error> {
    Err(version_rules())
}

pub(crate) async fn get_worker_task_reachability(
    _: &Handler,
    _: GetWorkerTaskReachabilityRequest,
    _: Call,
) -> Result<GetWorkerTaskReachabilityResponse, Error> {
    Err(version_sets())
}

pub(crate) async fn list_archived_workflow_executions(
    handler: &Handler,
    request: ListArchivedWorkflowExecutionsRequest,
    _: Call,
) -> Result<ListArchivedWorkflowExecutionsResponse, Error> {
    handler.namespace(&request.namespace)?;
    Err(Error::invalid(
        "Cluster is not configured for reading archived visibility records.",
    ))
}
