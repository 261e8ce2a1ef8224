//! What the server says of itself (engine contract 11.1). A capability is announced when it
//! works and not before.

use std::collections::HashMap;

use tidemill_engine::Error;
use tidemill_proto::api::version::v1::{ReleaseInfo, VersionInfo};
use tidemill_proto::api::workflowservice::v1::get_system_info_response::Capabilities;
use tidemill_proto::api::workflowservice::v1::{
    GetClusterInfoRequest, GetClusterInfoResponse, GetSystemInfoRequest, GetSystemInfoResponse,
};

use crate::handler::Handler;
use tidemill_server::Call;

/// The version of Temporal's server whose behaviour this one has: clients compare it.
pub const TEMPORAL_VERSION: &str = "1.32.0";
/// The name of the only cluster.
pub(crate) const CLUSTER: &str = "active";
pub(crate) const INITIAL_FAILOVER_VERSION: i64 = 1;
const FAILOVER_VERSION_INCREMENT: i64 = 10;
const STORE: &str = "sqlite";

pub(crate) async fn get_system_info(
    _: &Handler,
    _: GetSystemInfoRequest,
    _: Call,
) -> Result<GetSystemInfoResponse, Error> {
    Ok(GetSystemInfoResponse {
        server_version: TEMPORAL_VERSION.to_owned(),
        capabilities: Some(Capabilities {
            signal_and_query_header: true,
            internal_error_differentiation: true,
            activity_failure_include_heartbeat: true,
            encoded_failure_attributes: true,
            build_id_based_versioning: true,
            upsert_memo: true,
            eager_workflow_start: true,
            sdk_metadata: true,
            count_group_by_execution_status: true,
            supports_schedules: false,
            nexus: false,
            server_scaled_deployments: false,
            server_scaled_provider_cloud_run: false,
        }),
    })
}

pub(crate) async fn get_cluster_info(
    _: &Handler,
    _: GetClusterInfoRequest,
    _: Call,
) -> Result<GetClusterInfoResponse, Error> {
    let supported = [
        ("temporal-cli", "<2.0.0"),
        ("temporal-go", "<2.0.0"),
        ("temporal-java", "<2.0.0"),
        ("temporal-php", "<3.0.0"),
        ("temporal-python", "<2.0.0"),
        ("temporal-server", "<2.0.0"),
        ("temporal-typescript", "<2.0.0"),
        ("temporal-ui", "<3.0.0"),
    ];
    let supported_clients: HashMap<String, String> = supported
        .map(|(client, range)| (client.to_owned(), range.to_owned()))
        .into();
    let release = ReleaseInfo {
        version: TEMPORAL_VERSION.to_owned(),
        ..Default::default()
    };
    Ok(GetClusterInfoResponse {
        supported_clients,
        server_version: TEMPORAL_VERSION.to_owned(),
        cluster_id: CLUSTER.to_owned(),
        version_info: Some(VersionInfo {
            current: Some(release),
            ..Default::default()
        }),
        cluster_name: CLUSTER.to_owned(),
        history_shard_count: 1,
        persistence_store: STORE.to_owned(),
        visibility_store: STORE.to_owned(),
        initial_failover_version: INITIAL_FAILOVER_VERSION,
        failover_version_increment: FAILOVER_VERSION_INCREMENT,
    })
}
