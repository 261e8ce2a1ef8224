//! Temporal's API: its messages, and clients of its services; and
//! [`maintenance`], our own service for operators.
//!
//! Messages come from the `temporalio-protos` crate under the name [`api`]; the services are
//! generated from the descriptor set that it exports. This crate holds no behaviour.

pub mod client;
pub mod with_history;

pub use temporalio_protos::google;
pub use temporalio_protos::temporal::api;

/// The well-known protobuf types as the messages of [`api`] use them.
pub use prost_wkt_types as wkt;

/// The file descriptors of the services and of all messages they can carry, encoded as a
/// `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The path and the name of every RPC of the services.
pub const METHODS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/methods.rs"));

/// The service that workers and clients use.
#[expect(clippy::doc_lazy_continuation, reason = "generated")]
pub mod workflow_service {
    tonic::include_proto!("temporal.api.workflowservice.v1");
    pub use workflow_service_client::WorkflowServiceClient;
    pub const SERVICE_NAME: &str = "temporal.api.workflowservice.v1.WorkflowService";
}

/// The service that operators use: search attributes, namespaces, clusters, Nexus endpoints.
pub mod operator_service {
    pub const SERVICE_NAME: &str = "temporal.api.operatorservice.v1.OperatorService";
}

/// What operators need beside Temporal's protocol: queues of all namespaces, examination, backup.
pub mod maintenance {
    tonic::include_proto!("tidemill.operator.v1");
    pub use maintenance_service_client::MaintenanceServiceClient;
    pub use maintenance_service_server::{
        MaintenanceService, MaintenanceServiceServer, SERVICE_NAME,
    };
}
