//! Namespaces: register, describe, list, update, deprecate (engine contract 11).

use std::collections::BTreeMap;
use std::time::Duration;

use tidemill_engine::Error;
use tidemill_proto::api::enums::v1::{ArchivalState, NamespaceState, ReplicationState};
use tidemill_proto::api::namespace::v1::namespace_info::{Capabilities, Limits as InfoLimits};
use tidemill_proto::api::namespace::v1::{
    BadBinaries, BadBinaryInfo, NamespaceConfig, NamespaceInfo,
};
use tidemill_proto::api::replication::v1::{ClusterReplicationConfig, NamespaceReplicationConfig};
use tidemill_proto::api::workflowservice::v1::{
    DeprecateNamespaceRequest, DeprecateNamespaceResponse, DescribeNamespaceRequest,
    DescribeNamespaceResponse, ListNamespacesRequest, ListNamespacesResponse,
    RegisterNamespaceRequest, RegisterNamespaceResponse, UpdateNamespaceRequest,
    UpdateNamespaceResponse,
};
use tidemill_proto::wkt;
use tidemill_server::namespaces::{BadBinary, Details, Registration, Update};

use crate::handler::Handler;
use crate::rpc::system::CLUSTER;
use crate::validate::Limits;
use tidemill_server::Call;

const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;

pub(crate) async fn register_namespace(
    handler: &Handler,
    request: RegisterNamespaceRequest,
    _: Call,
) -> Result<RegisterNamespaceResponse, Error> {
    if request.is_global_namespace {
        return Err(Error::invalid(
            "Cannot register global namespace when not enabled",
        ));
    }
    let other_cluster = |name: &str| !name.is_empty() && name != CLUSTER;
    if other_cluster(&request.active_cluster_name)
        || request
            .clusters
            .iter()
            .any(|cluster| other_cluster(&cluster.cluster_name))
    {
        return Err(Error::invalid("Invalid local namespace active cluster"));
    }
    let registration = Registration {
        name: request.namespace,
        description: request.description,
        owner_email: request.owner_email,
        data: request.data.into_iter().collect(),
        retention: span(&request.workflow_execution_retention_period),
        ..Default::default()
    };
    handler.server.namespaces().register(registration).await?;
    Ok(RegisterNamespaceResponse {})
}

pub(crate) async fn describe_namespace(
    handler: &Handler,
    request: DescribeNamespaceRequest,
    _: Call,
) -> Result<DescribeNamespaceResponse, Error> {
    let namespaces = handler.server.namespaces();
    let namespace = match (request.namespace.is_empty(), request.id.is_empty()) {
        (false, false) => {
            return Err(Error::invalid(
                "GetNamespace operation failed. Both ID and Name specified in request.",
            ));
        }
        (true, false) => namespaces.by_id_text(&request.id)?,
        _ => namespaces.by_name(&request.namespace)?,
    };
    Ok(description(&handler.limits, &namespace))
}

pub(crate) async fn list_namespaces(
    handler: &Handler,
    request: ListNamespacesRequest,
    _: Call,
) -> Result<ListNamespacesResponse, Error> {
    let size = usize::try_from(request.page_size)
        .ok()
        .filter(|size| *size > 0);
    let size = size.unwrap_or(PAGE_DEFAULT).min(PAGE_MAX);
    let after = match request.next_page_token.as_slice() {
        [] => None,
        token => Some(
            token
                .try_into()
                .map_err(|_| Error::invalid("Invalid NextPageToken."))?,
        ),
    };
    let mut page = handler.server.namespaces().after(after, size + 1);
    let more = page.len() > size;
    page.truncate(size);
    let next = page.last().filter(|_| more).map(|last| last.id.to_vec());
    let deleted_too = request
        .namespace_filter
        .is_some_and(|filter| filter.include_deleted);
    Ok(ListNamespacesResponse {
        namespaces: page
            .iter()
            .filter(|namespace| deleted_too || namespace.state != NamespaceState::Deleted)
            .map(|namespace| description(&handler.limits, namespace))
            .collect(),
        next_page_token: next.unwrap_or_default(),
    })
}

pub(crate) async fn update_namespace(
    handler: &Handler,
    request: UpdateNamespaceRequest,
    _: Call,
) -> Result<UpdateNamespaceResponse, Error> {
    let replicates = request
        .replication_config
        .as_ref()
        .is_some_and(|replication| {
            let others = replication
                .clusters
                .iter()
                .any(|cluster| cluster.cluster_name != CLUSTER);
            let active = replication.active_cluster_name.as_str();
            others || !(active.is_empty() || active == CLUSTER)
        });
    if request.promote_namespace || replicates {
        return Err(Error::invalid(
            "global namespace is not enabled on this cluster",
        ));
    }
    let update = update_of(&request)?;
    let namespace = handler
        .server
        .namespaces()
        .update(&request.namespace, update)
        .await?;
    let description = description(&handler.limits, &namespace);
    Ok(UpdateNamespaceResponse {
        namespace_info: description.namespace_info,
        config: description.config,
        replication_config: description.replication_config,
        ..Default::default()
    })
}

pub(crate) async fn deprecate_namespace(
    handler: &Handler,
    request: DeprecateNamespaceRequest,
    _: Call,
) -> Result<DeprecateNamespaceResponse, Error> {
    let update = Update {
        state: Some(NamespaceState::Deprecated),
        ..Default::default()
    };
    handler
        .server
        .namespaces()
        .update(&request.namespace, update)
        .await?;
    Ok(DeprecateNamespaceResponse {})
}

fn update_of(request: &UpdateNamespaceRequest) -> Result<Update, Error> {
    let mut update = Update {
        delete_bad_binary: request.delete_bad_binary.clone(),
        ..Default::default()
    };
    if let Some(info) = &request.update_info {
        update.description = info.description.clone();
        update.owner_email = info.owner_email.clone();
        update.data = info.data.clone().into_iter().collect();
        update.state = Some(info.state()).filter(|s| *s != NamespaceState::Unspecified);
    }
    if let Some(config) = &request.config {
        if !config.custom_search_attribute_aliases.is_empty() {
            return Err(Error::invalid(
                "Search attributes are added and removed by the operator service.",
            ));
        }
        update.retention = config
            .workflow_execution_retention_ttl
            .as_ref()
            .map(|ttl| span(&Some(*ttl)));
        update.bad_binaries = config.bad_binaries.iter().flat_map(bad_binaries).collect();
    }
    Ok(update)
}

fn bad_binaries(binaries: &BadBinaries) -> BTreeMap<String, BadBinary> {
    let created = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
        });
    let entry = |info: &BadBinaryInfo| BadBinary {
        reason: info.reason.clone(),
        operator: info.operator.clone(),
        created,
    };
    binaries
        .binaries
        .iter()
        .map(|(checksum, info)| (checksum.clone(), entry(info)))
        .collect()
}

/// A namespace as clients see it.
fn description(limits: &Limits, namespace: &Details) -> DescribeNamespaceResponse {
    let binaries = namespace.bad_binaries.iter().map(|(checksum, binary)| {
        let info = BadBinaryInfo {
            reason: binary.reason.clone(),
            operator: binary.operator.clone(),
            create_time: Some(wkt::Timestamp {
                seconds: binary.created.div_euclid(1_000_000_000),
                nanos: binary.created.rem_euclid(1_000_000_000) as i32,
            }),
        };
        (checksum.clone(), info)
    });
    let names = namespace.custom_search_attributes.keys();
    DescribeNamespaceResponse {
        namespace_info: Some(NamespaceInfo {
            name: namespace.name.clone(),
            state: namespace.state as i32,
            description: namespace.description.clone(),
            owner_email: namespace.owner_email.clone(),
            data: namespace.data.clone().into_iter().collect(),
            id: namespace.id_string(),
            capabilities: Some(Capabilities {
                eager_workflow_start: true,
                sync_update: true,
                async_update: true,
                worker_heartbeats: true,
                worker_poll_complete_on_shutdown: true,
                reported_problems_search_attribute: true,
                poller_autoscaling: true,
                ..Default::default()
            }),
            limits: Some(InfoLimits {
                blob_size_limit_error: limits.blob_bytes as i64,
                memo_size_limit_error: limits.memo_bytes as i64,
                workflow_task_completion_size_limit_error: 0,
            }),
            supports_schedules: false,
        }),
        config: Some(NamespaceConfig {
            workflow_execution_retention_ttl: Some(wkt::Duration {
                seconds: namespace.retention.as_secs() as i64,
                nanos: namespace.retention.subsec_nanos() as i32,
            }),
            bad_binaries: Some(BadBinaries {
                binaries: binaries.collect(),
            }),
            history_archival_state: ArchivalState::Disabled as i32,
            visibility_archival_state: ArchivalState::Disabled as i32,
            custom_search_attribute_aliases: names.map(|n| (n.clone(), n.clone())).collect(),
            ..Default::default()
        }),
        replication_config: Some(NamespaceReplicationConfig {
            active_cluster_name: CLUSTER.to_owned(),
            clusters: vec![ClusterReplicationConfig {
                cluster_name: CLUSTER.to_owned(),
                ..Default::default()
            }],
            state: ReplicationState::Normal as i32,
        }),
        ..Default::default()
    }
}

/// A protocol span; unset and negative ones are zero.
fn span(span: &Option<wkt::Duration>) -> Duration {
    span.as_ref().map_or(Duration::ZERO, |span| {
        match (u64::try_from(span.seconds), u32::try_from(span.nanos)) {
            (Ok(seconds), Ok(nanos)) => Duration::new(seconds, nanos.min(999_999_999)),
            _ => Duration::ZERO,
        }
    })
}
