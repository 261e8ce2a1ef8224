//! The protocol over gRPC.

use std::error::Error as _;
use std::sync::OnceLock;
use std::time::Duration;

use prost::Message;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, ClientTlsConfig};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::message::{
    Empty, Infer, Inferred, ModelIs, Named, Ready, RetryInfo, ServerIs, StatusDetails,
};
use super::{ModelMetadata, Outputs, ServerMetadata};
use crate::inference::{Endpoint, Error, ErrorKind, TensorRequest, classify};

/// Bytes of a message at most, either way: a batch of images is some tens of megabytes.
const MESSAGE_MAX: usize = 512 * 1024 * 1024;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longer waits are not believed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

pub(super) struct Client {
    pub(super) endpoint: Endpoint,
    channel: OnceLock<Channel>,
}

impl Client {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            channel: OnceLock::new(),
        }
    }

    pub(super) async fn ready(&self) -> Result<bool, Error> {
        let path = "/inference.GRPCInferenceService/ServerReady";
        let answer: Ready = self.call(path, Empty {}, "", None).await?;
        Ok(answer.ready)
    }

    pub(super) async fn server(&self) -> Result<ServerMetadata, Error> {
        let path = "/inference.GRPCInferenceService/ServerMetadata";
        let answer: ServerIs = self.call(path, Empty {}, "", None).await?;
        Ok(answer.into())
    }

    pub(super) async fn model_ready(
        &self,
        model: &str,
        version: Option<&str>,
    ) -> Result<bool, Error> {
        let path = "/inference.GRPCInferenceService/ModelReady";
        let answer: Ready = self.call(path, named(model, version), model, None).await?;
        Ok(answer.ready)
    }

    pub(super) async fn model(
        &self,
        model: &str,
        version: Option<&str>,
    ) -> Result<ModelMetadata, Error> {
        let path = "/inference.GRPCInferenceService/ModelMetadata";
        let answer: ModelIs = self.call(path, named(model, version), model, None).await?;
        Ok(answer.into())
    }

    pub(super) async fn infer(&self, request: &TensorRequest) -> Result<Outputs, Error> {
        let path = "/inference.GRPCInferenceService/ModelInfer";
        let message = Infer::of(request)
            .map_err(|cause| Error::misconfigured(format!("{}: {cause}", self.endpoint)))?;
        let key = request.idempotency_key.as_deref();
        let answer: Inferred = self.call(path, message, &request.model, key).await?;
        Outputs::try_from(answer).map_err(|cause| {
            Error::new(
                ErrorKind::Failed,
                format!(
                    "{} answered something that is not the Open Inference Protocol: {cause}",
                    self.endpoint
                ),
            )
        })
    }

    async fn call<Q, A>(
        &self,
        path: &'static str,
        message: Q,
        model: &str,
        idempotency_key: Option<&str>,
    ) -> Result<A, Error>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = Grpc::new(self.channel()?)
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX);
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        let bearer = self.endpoint.api_key()?.map(|key| format!("Bearer {key}"));
        for (name, value) in [
            ("authorization", bearer.as_deref()),
            ("idempotency-key", idempotency_key),
        ] {
            if let Some(value) = value.and_then(|value| MetadataValue::try_from(value).ok()) {
                metadata.insert(name, value);
            }
        }
        request.set_timeout(self.endpoint.timeout);
        let sent = async {
            grpc.ready()
                .await
                .map_err(|error| self.unreachable(&error))?;
            let codec = ProstCodec::<Q, A>::default();
            let path = PathAndQuery::from_static(path);
            let answer = grpc.unary(request, path, codec).await;
            answer.map_err(|status| self.refused(&status, model))
        };
        match tokio::time::timeout(self.endpoint.timeout, sent).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "{} is not reachable: no answer in {} s",
                    self.endpoint,
                    self.endpoint.timeout.as_secs_f64()
                ),
            )),
        }
    }

    /// Connects when the first call is made, and again when the connection is lost.
    fn channel(&self) -> Result<Channel, Error> {
        if let Some(channel) = self.channel.get() {
            return Ok(channel.clone());
        }
        let wrong = |error: tonic::transport::Error| {
            Error::misconfigured(format!("url {:?}: {error}", self.endpoint.to_string()))
        };
        let mut target = tonic::transport::Endpoint::from_shared(self.endpoint.url.clone())
            .map_err(wrong)?
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("tidemill/", env!("CARGO_PKG_VERSION")))
            .map_err(wrong)?;
        if self.endpoint.url.starts_with("https://") {
            let tls = ClientTlsConfig::new().with_native_roots();
            target = target.tls_config(tls).map_err(wrong)?;
        }
        Ok(self.channel.get_or_init(|| target.connect_lazy()).clone())
    }

    fn unreachable(&self, error: &(dyn std::error::Error + 'static)) -> Error {
        let cause = innermost(error);
        if speaks_another_protocol(&cause) {
            return self.not_grpc(&cause);
        }
        Error::new(
            ErrorKind::Unavailable,
            format!("{} is not reachable: {cause}", self.endpoint),
        )
    }

    fn not_grpc(&self, cause: &str) -> Error {
        Error::misconfigured(format!(
            "{} does not speak gRPC ({cause}): is this the server's gRPC port? Its HTTP port is for \
             `protocol: http`",
            self.endpoint
        ))
    }

    /// Classifies an answer that is an error.
    fn refused(&self, status: &Status, model: &str) -> Error {
        if let Some(source) = status.source() {
            return self.unreachable(source);
        }
        // tonic's words for an answer over HTTP/2 that is not gRPC's.
        let words = status.message();
        if words.contains("invalid compression flag")
            || words.contains("grpc-status header missing")
        {
            return self.not_grpc(words);
        }
        let said = match words.is_empty() {
            true => format!("{} answered {:?}", self.endpoint, status.code()),
            false => format!("{} answered {:?}: {words}", self.endpoint, status.code()),
        };
        let (kind, message) = match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => (
                ErrorKind::Auth,
                match &self.endpoint.api_key_env {
                    Some(name) => {
                        format!("{said}; check the API key in the environment variable {name}")
                    }
                    None => format!(
                        "{said}; set api_key_env to the name of the environment variable that \
                         holds the API key"
                    ),
                },
            ),
            Code::NotFound => (
                ErrorKind::Misconfigured,
                format!("{said}; check the model {model:?} and its version"),
            ),
            Code::Unimplemented => (
                ErrorKind::Misconfigured,
                format!(
                    "{said}; check the url, which is that of a server of the Open Inference Protocol"
                ),
            ),
            code => {
                let usual = match code {
                    Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition => {
                        ErrorKind::Invalid
                    }
                    Code::ResourceExhausted => ErrorKind::RateLimited,
                    Code::Unavailable
                    | Code::DeadlineExceeded
                    | Code::Aborted
                    | Code::Cancelled => ErrorKind::Unavailable,
                    _ => ErrorKind::Failed,
                };
                (classify::kind(words).unwrap_or(usual), said)
            }
        };
        Error {
            retry_after: retry_after(status),
            ..Error::new(kind, message)
        }
    }
}

fn named(model: &str, version: Option<&str>) -> Named {
    Named {
        name: model.to_owned(),
        version: version.unwrap_or_default().to_owned(),
    }
}

/// What a status says of when to come again: in its details, or in a header as gateways set it.
fn retry_after(status: &Status) -> Option<Duration> {
    let details = StatusDetails::decode(status.details()).ok()?;
    let told = details.details.iter().find_map(|one| {
        let is_one = one.type_url.ends_with("/google.rpc.RetryInfo");
        let info = is_one.then(|| RetryInfo::decode(one.value.as_slice()).ok())??;
        let span = info.delay?;
        let seconds = u64::try_from(span.seconds).ok()?;
        Some(Duration::new(seconds, u32::try_from(span.nanos).ok()?))
    });
    let header = || {
        let text = status.metadata().get("retry-after")?.to_str().ok()?;
        Some(Duration::from_secs(text.trim().parse().ok()?))
    };
    told.or_else(header).map(|wait| wait.min(RETRY_AFTER_MAX))
}

/// Words of h2 for a peer that answers in something else, such as HTTP/1.1.
fn speaks_another_protocol(cause: &str) -> bool {
    let words = [
        "frame with invalid size",
        "FRAME_SIZE_ERROR",
        "PROTOCOL_ERROR",
        "unspecific protocol error",
    ];
    words.iter().any(|word| cause.contains(word))
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
