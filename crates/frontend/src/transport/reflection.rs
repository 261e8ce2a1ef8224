//! Server reflection, for tools such as grpcurl. The index over all descriptors is made when
//! somebody asks for it, not at the start.

use std::convert::Infallible;
use std::sync::OnceLock;

use http::{Request, Response};
use hyper::body::Incoming;
use tonic::body::Body;
use tonic_reflection::server::Builder;
use tower::util::BoxCloneSyncService;

type Service = BoxCloneSyncService<Request<Incoming>, Response<Body>, Infallible>;

/// The reflection service in its current and its earlier version.
#[derive(Default)]
pub(super) struct Reflection {
    v1: OnceLock<Option<Service>>,
    v1alpha: OnceLock<Option<Service>>,
}

impl Reflection {
    /// The service of this name, if it is one of reflection.
    pub(super) fn find(&self, service: &str) -> Option<Service> {
        match service {
            "grpc.reflection.v1.ServerReflection" => self
                .v1
                .get_or_init(|| builder().build_v1().ok().map(BoxCloneSyncService::new))
                .clone(),
            "grpc.reflection.v1alpha.ServerReflection" => self
                .v1alpha
                .get_or_init(|| builder().build_v1alpha().ok().map(BoxCloneSyncService::new))
                .clone(),
            _ => None,
        }
    }
}

fn builder() -> Builder<'static> {
    Builder::configure()
        .register_encoded_file_descriptor_set(tidemill_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
