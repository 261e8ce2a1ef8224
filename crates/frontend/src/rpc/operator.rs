//! The operator's service: search attributes, deletion of namespaces, clusters
//! (engine contract 10.5, 11, C).

use tidemill_engine::Error;
use tidemill_proto::api::operatorservice::v1::*;
use tidemill_server::search_attributes::to_proto;

use tidemill_server::Call;
use crate::handler::Handler;
use crate::rpc::search_attributes::system;
use crate::rpc::system::{CLUSTER, INITIAL_FAILOVER_VERSION};

pub(crate) async fn add_search_attributes(
    handler: &Handler,
    request: AddSearchAttributesRequest,
    _: Call,
) -> Result<AddSearchAttributesResponse, Error> {
    let namespaces = handler.server.namespaces();
    handler.namespace(&request.namespace)?;
    namespaces.add_search_attributes(&request.namespace, &request.search_attributes).await?;
    Ok(AddSearchAttributesResponse {})
}

pub(crate) async fn remove_search_attributes(
    handler: &Handler,
    request: RemoveSearchAttributesRequest,
    _: Call,
) -> Result<RemoveSearchAttributesResponse, Error> {
    let namespaces = handler.server.namespaces();
    handler.namespace(&request.namespace)?;
    namespaces.remove_search_attributes(&request.namespace, &request.search_attributes).await?;
    Ok(RemoveSearchAttributesResponse {})
}

pub(crate) async fn list_search_attributes(
    handler: &Handler,
    request: ListSearchAttributesRequest,
    _: Call,
) -> Result<ListSearchAttributesResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    let custom = &namespace.custom_search_attributes;
    Ok(ListSearchAttributesResponse {
        custom_attributes: custom
            .iter()
            .map(|(name, ty)| (name.clone(), to_proto(*ty) as i32))
            .collect(),
        system_attributes: system().collect(),
        ..Default::default()
    })
}

/// The name is free at once. The server deletes the runs of namespaces that are marked so, and
/// their records after them.
pub(crate) async fn delete_namespace(
    handler: &Handler,
    request: DeleteNamespaceRequest,
    _: Call,
) -> Result<DeleteNamespaceResponse, Error> {
    let namespaces = handler.server.namespaces();
    let name = match (request.namespace.is_empty(), request.namespace_id.is_empty()) {
        (true, true) => return Err(Error::invalid("Namespace not set on request.")),
        (false, false) => {
            return Err(Error::invalid(
                "Only one of namespace name or Id should be set on request.",
            ));
        }
        (false, true) => request.namespace,
        (true, false) => namespaces.by_id_text(&request.namespace_id)?.name.clone(),
    };
    let deleted = namespaces.delete(&name).await?;
    Ok(DeleteNamespaceResponse { deleted_namespace: deleted.name.clone() })
}

pub(crate) async fn list_clusters(
    _: &Handler,
    _: ListClustersRequest,
    _: Call,
) -> Result<ListClustersResponse, Error> {
    let cluster = ClusterMetadata {
        cluster_name: CLUSTER.to_owned(),
        cluster_id: CLUSTER.to_owned(),
        initial_failover_version: INITIAL_FAILOVER_VERSION,
        history_shard_count: 1,
        is_connection_enabled: true,
        ..Default::default()
    };
    Ok(ListClustersResponse { clusters: vec![cluster], ..Default::default() })
}

pub(crate) async fn add_or_update_remote_cluster(
    _: &Handler,
    _: AddOrUpdateRemoteClusterRequest,
    _: Call,
) -> Result<AddOrUpdateRemoteClusterResponse, Error> {
    Err(no_replication())
}

pub(crate) async fn remove_remote_cluster(
    _: &Handler,
    _: RemoveRemoteClusterRequest,
    _: Call,
) -> Result<RemoveRemoteClusterResponse, Error> {
    Err(no_replication())
}

fn no_replication() -> Error {
    Error::invalid("Replication between clusters is not supported.")
}
