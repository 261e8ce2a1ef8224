//! A client of the Open Inference Protocol, version 2, as Triton, KServe and MLServer speak it: over
//! HTTP with JSON, or over gRPC.

mod grpc;
mod http;
mod message;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::event::{Delta, Events, events};
use super::tensor::{Tensor, TensorMetadata};
use super::{
    CompletionRequest, Connector, EmbeddingRequest, Endpoint, Error, Finish, Request,
    TensorRequest, Usage,
};

/// How long what a server said of a model is taken for true: models are replaced while it runs.
const METADATA_FOR: Duration = Duration::from_secs(60);

/// How the protocol is spoken.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Http,
    Grpc,
}

/// What a server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ServerMetadata {
    pub name: String,
    #[serde(default)]
    pub version: String,
    #[serde(default)]
    pub extensions: Vec<String>,
}

/// What a server says of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ModelMetadata {
    pub name: String,
    #[serde(default)]
    pub versions: Vec<String>,
    #[serde(default)]
    pub platform: String,
    /// Empty where the server was not told of them.
    #[serde(default)]
    pub inputs: Vec<TensorMetadata>,
    #[serde(default)]
    pub outputs: Vec<TensorMetadata>,
}

impl ModelMetadata {
    pub fn input(&self, name: &str) -> Option<&TensorMetadata> {
        self.inputs.iter().find(|one| one.name == name)
    }

    /// Whether items can be rows of one call, as far as the server tells.
    pub fn is_batched(&self) -> bool {
        let mut all = self.inputs.iter().chain(&self.outputs);
        all.all(TensorMetadata::is_batched)
    }
}

/// What a model gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outputs {
    pub model: String,
    pub version: String,
    pub outputs: Vec<Tensor>,
}

/// A server.
#[derive(Clone, Debug)]
pub struct Oip(Arc<Inner>);

struct Inner {
    transport: Transport,
    names: Names,
    /// By name and version.
    known: Mutex<BTreeMap<(String, String), Known>>,
}

/// What a server said of a model, and when.
type Known = (Instant, Arc<ModelMetadata>);

/// Where texts go in and results come out, for requests that do not name tensors. What is left open
/// the model's metadata says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub version: Option<String>,
    pub input: Option<String>,
    pub output: Option<String>,
}

enum Transport {
    Http(http::Client),
    Grpc(grpc::Client),
}

impl Oip {
    /// Checks the address; nothing is sent. The address is that of the server, without `/v2`.
    pub fn new(endpoint: Endpoint, protocol: Protocol) -> Result<Self, Error> {
        Self::with_names(endpoint, protocol, Names::default())
    }

    pub fn with_names(
        mut endpoint: Endpoint,
        protocol: Protocol,
        names: Names,
    ) -> Result<Self, Error> {
        let url = endpoint.url.trim_end_matches('/');
        endpoint.url = url.strip_suffix("/v2").unwrap_or(url).to_owned();
        endpoint.operation("v2")?;
        let transport = match protocol {
            Protocol::Http => Transport::Http(http::Client::new(endpoint)),
            Protocol::Grpc => Transport::Grpc(grpc::Client::new(endpoint)),
        };
        Ok(Self(Arc::new(Inner {
            transport,
            names,
            known: Mutex::default(),
        })))
    }

    /// Whether the server can take requests.
    pub async fn ready(&self) -> Result<bool, Error> {
        match &self.0.transport {
            Transport::Http(http) => http.ready().await,
            Transport::Grpc(grpc) => grpc.ready().await,
        }
    }

    pub async fn server(&self) -> Result<ServerMetadata, Error> {
        match &self.0.transport {
            Transport::Http(http) => http.server().await,
            Transport::Grpc(grpc) => grpc.server().await,
        }
    }

    /// Whether a model can take requests; without a version, the one that the server would choose.
    pub async fn model_ready(&self, model: &str, version: Option<&str>) -> Result<bool, Error> {
        match &self.0.transport {
            Transport::Http(http) => http.model_ready(model, version).await,
            Transport::Grpc(grpc) => grpc.model_ready(model, version).await,
        }
    }

    /// What the server says of a model; asked again after a minute.
    pub async fn model(
        &self,
        model: &str,
        version: Option<&str>,
    ) -> Result<Arc<ModelMetadata>, Error> {
        let key = (model.to_owned(), version.unwrap_or_default().to_owned());
        let known = || self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, metadata)) = known().get(&key)
            && since.elapsed() < METADATA_FOR
        {
            return Ok(metadata.clone());
        }
        let metadata = Arc::new(match &self.0.transport {
            Transport::Http(http) => http.model(model, version).await?,
            Transport::Grpc(grpc) => grpc.model(model, version).await?,
        });
        known().insert(key, (Instant::now(), metadata.clone()));
        Ok(metadata)
    }

    /// One call of a model.
    pub async fn infer(&self, request: &TensorRequest) -> Result<Outputs, Error> {
        match &self.0.transport {
            Transport::Http(http) => http.infer(request).await,
            Transport::Grpc(grpc) => grpc.infer(request).await,
        }
    }

    async fn answer(&self, request: Request) -> Result<(String, Vec<Delta>), Error> {
        match request {
            Request::Infer(request) => {
                let found = self.infer(&request).await?;
                let deltas = found.outputs.into_iter().map(Delta::Tensor).collect();
                Ok((found.model, deltas))
            }
            Request::Embed(request) => self.embed(request).await,
            Request::Complete(request) => self.complete(request).await,
            Request::Chat(_) => Err(Error::misconfigured(format!(
                "{self}: the Open Inference Protocol has no conversations, only texts and tensors"
            ))),
        }
    }

    /// Texts in, a vector for each out: a tensor of floating point numbers.
    async fn embed(&self, request: EmbeddingRequest) -> Result<(String, Vec<Delta>), Error> {
        let texts = request.texts.len();
        let request = TensorRequest {
            idempotency_key: request.idempotency_key,
            ..self.of_texts(&request.model, &request.texts).await?
        };
        let found = self.infer(&request).await?;
        let unfit = |cause: String| {
            Error::misconfigured(format!("{self}: model {:?} {cause}", request.model))
        };
        let wanted = request.outputs.first();
        let mut outputs = found.outputs.into_iter();
        let output = outputs
            .find(|one| match wanted {
                Some(name) => one.name == *name,
                None => one.vectors().is_some() && one.shape().len() > 1,
            })
            .ok_or_else(|| unfit("gave no vectors".to_owned()))?;
        let vectors = output.vectors().filter(|_| output.rows() == texts);
        let Some(vectors) = vectors else {
            return Err(unfit(format!(
                "gave {} of the shape {:?} for {texts} texts, not a vector for each",
                output.datatype(),
                output.shape()
            )));
        };
        if vectors.iter().flatten().any(|number| !number.is_finite()) {
            return Err(unfit("gave a number that is not finite".to_owned()));
        }
        let tensor = Tensor::of_vectors("embedding", &vectors);
        Ok((found.model, vec![Delta::Tensor(tensor)]))
    }

    /// A text in, a text out: one element of `BYTES` each.
    async fn complete(&self, request: CompletionRequest) -> Result<(String, Vec<Delta>), Error> {
        let mut asked = TensorRequest {
            idempotency_key: request.idempotency_key,
            ..self.of_texts(&request.model, &[request.prompt]).await?
        };
        // As the language model backends of Triton and the runtimes of KServe name them.
        if let Some(max) = request.max_tokens {
            asked.parameters.insert("max_tokens".to_owned(), max.into());
        }
        if let Some(temperature) = request.temperature {
            let value = temperature.into();
            asked.parameters.insert("temperature".to_owned(), value);
        }
        let found = self.infer(&asked).await?;
        let text = found.outputs.iter().find_map(|one| one.bytes()?.first());
        let text = text.ok_or_else(|| {
            Error::misconfigured(format!("{self}: model {:?} gave no text", request.model))
        })?;
        let text = String::from_utf8_lossy(text).into_owned();
        Ok((found.model, vec![Delta::Text(text)]))
    }

    /// A request with texts as rows of the model's text input.
    async fn of_texts(&self, model: &str, texts: &[String]) -> Result<TensorRequest, Error> {
        let names = &self.0.names;
        let metadata = self.model(model, names.version.as_deref()).await?;
        let mut inputs = metadata.inputs.iter();
        let input = inputs.find(|one| match &names.input {
            Some(name) => one.name == *name,
            None => one.datatype == "BYTES" || one.datatype == "TYPE_STRING",
        });
        let (name, rank) = match (input, &names.input) {
            (Some(input), _) => (input.name.clone(), input.shape.len()),
            (None, Some(name)) => (name.clone(), 1),
            (None, None) => {
                return Err(Error::misconfigured(format!(
                    "{self}: model {model:?} does not say which input takes texts; give its name \
                     as `input`"
                )));
            }
        };
        Ok(TensorRequest {
            model: model.to_owned(),
            version: names.version.clone(),
            inputs: vec![Tensor::of_texts(name, texts, rank)],
            outputs: names.output.iter().cloned().collect(),
            ..TensorRequest::default()
        })
    }
}

impl Connector for Oip {
    fn start(&self, request: Request) -> Events {
        let server = self.clone();
        events(move |emit| async move {
            let (model, deltas) = server.answer(request).await?;
            // The protocol does not count tokens.
            let usage = Usage::default();
            emit.whole(model, deltas, usage, Finish::Stop).await;
            Ok(())
        })
    }
}

impl fmt::Display for Oip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.transport {
            Transport::Http(http) => http.api.endpoint.fmt(f),
            Transport::Grpc(grpc) => grpc.endpoint.fmt(f),
        }
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (protocol, endpoint) = match &self.transport {
            Transport::Http(http) => ("http", &http.api.endpoint),
            Transport::Grpc(grpc) => ("grpc", &grpc.endpoint),
        };
        write!(f, "{endpoint} over {protocol}")
    }
}
