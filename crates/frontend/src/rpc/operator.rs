//! The operator's service: search attributes, deletion of namespaces, clusters
//! (engine contract 10.5, 11, C).

use tidemill_engine::Error;
use tidemill_proto::api::operatorservice::v1::*;
use tidemill_server::Server;
use tidemill_server::namespaces::Namespace;
use tidemill_server::search_attributes::to_proto;

use crate::handler::Handler;
use crate::rpc::search_attributes::system;
use crate::rpc::system::{CLUSTER, INITIAL_FAILOVER_VERSION};
use tidemill_server::Call;

pub(crate) async fn add_search_attributes(
    handler: &Handler,
    request: AddSearchAttributesRequest,
    _: Call,
) -> Result<AddSearchAttributesResponse, Error> {
    let namespaces = handler.server.namespaces();
    handler.namespace(&request.namespace)?;
    namespaces
        .add_search_attributes(&request.namespace, &request.search_attributes)
        .await?;
    Ok(AddSearchAttributesResponse {})
}

pub(crate) async fn remove_search_attributes(
    handler: &Handler,
    request: RemoveSearchAttributesRequest,
    _: Call,
) -> Result<RemoveSearchAttributesResponse, Error> {
    let namespaces = handler.server.namespaces();
    handler.namespace(&request.namespace)?;
    namespaces
        .remove_search_attributes(&request.namespace, &request.search_attributes)
        .await?;
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

/// The name is free at once; the runs are deleted in the background.
pub(crate) async fn delete_namespace(
    handler: &Handler,
    request: DeleteNamespaceRequest,
    _: Call,
) -> Result<DeleteNamespaceResponse, Error> {
    let namespaces = handler.server.namespaces();
    let name = match (
        request.namespace.is_empty(),
        request.namespace_id.is_empty(),
    ) {
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
    tokio::spawn(erase(handler.server.clone(), deleted.clone()));
    Ok(DeleteNamespaceResponse {
        deleted_namespace: deleted.name.clone(),
    })
}

/// Deletes the runs of a namespace that is marked as deleted, then its record. What a stop of the
/// server leaves of it is done when it is started again.
pub(crate) async fn erase(server: Server, namespace: Namespace) {
    let erased = match server.delete_runs_of(&namespace).await {
        Ok(()) => server.forget_namespace(&namespace.id).await,
        Err(error) => Err(error),
    };
    if let Err(error) = erased {
        tracing::warn!(namespace = namespace.name, %error, "a deleted namespace is left for later");
    }
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
    Ok(ListClustersResponse {
        clusters: vec![cluster],
        ..Default::default()
    })
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
