//! The stage `infer`.

mod rows;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use tidemill_connect::inference::oip::{ModelMetadata, Oip, Protocol};
use tidemill_connect::inference::tensor::{Datatype, Tensor};
use tidemill_connect::inference::{
    Connector, Endpoint, Error as CallError, ErrorKind as CallErrorKind, FAKE_URL, Fake, Request,
    TensorRequest, content_key,
};
use tidemill_connect::limiter::{self, Limiter};
use tidemill_device::batch;
use tidemill_pipeline::data::{FailedItem, Part};
use tidemill_pipeline::stage::{self, Kind, StageType, Type};
use tokio_util::sync::CancellationToken;

use super::{failed_batch, wrong_item};
use crate::batched::{Batched, Place, Plan, limits};
use crate::records::sha256;
use crate::{Context, Error, ErrorKind, Stage, params};
use rows::{Row, joined};

const NAME: &str = "infer";

/// Requests of one key that a server works on at a time: it has queues and devices of its own.
const LANES: usize = 4;

/// Runs a model of a server that speaks the Open Inference Protocol over items, which become rows of
/// one request.
#[derive(Debug, Default)]
pub struct Infer {
    /// Connections, and what is known of models.
    servers: Mutex<BTreeMap<Address, Oip>>,
}

type Address = (String, Protocol, Option<String>, Option<NonZeroU32>);

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct With {
    /// The server and its model: `{v2: {url, model}}`.
    server: Server,
    /// What the model's inputs take of an item, by their names: a field, a pointer such as
    /// `/metadata/score`, `.` for the item itself, or `{from, datatype, shape}`.
    inputs: BTreeMap<String, Input>,
    /// The fields that the model's outputs become, by the outputs' names; without it every output
    /// becomes a field of its own name.
    #[serde(default)]
    outputs: BTreeMap<String, String>,
    /// Parameters of the request: truth values, whole numbers and texts.
    #[serde(default)]
    parameters: Map<String, Value>,
    /// Whether items can be rows of one request; as the model's metadata says unless given: all its
    /// tensors begin with a dimension of any length.
    rows: Option<bool>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Server {
    /// The Open Inference Protocol, version 2: Triton, KServe, MLServer.
    V2(V2),
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct V2 {
    /// The address of the server, such as `http://127.0.0.1:8000`. `fake:` needs no server: it gives
    /// back its inputs; for examples and tests.
    url: String,
    /// The model as the server names it.
    model: String,
    /// `http` unless given; gRPC mostly has a port of its own.
    #[serde(default)]
    protocol: Protocol,
    /// The server's choice unless given.
    version: Option<String>,
    /// The environment variable of the worker that holds the API key.
    api_key_env: Option<String>,
    /// Seconds that one request may take; 300 unless given.
    #[schemars(range(min = 1))]
    timeout_seconds: Option<NonZeroU32>,
}

/// Where an input comes from.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected a field's name or {from, datatype, shape}"
)]
enum Input {
    From(String),
    Typed(Typed),
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Typed {
    /// A field, a pointer such as `/metadata/score`, or `.` for the item itself.
    from: String,
    /// As the model's metadata says unless given.
    datatype: Option<Datatype>,
    /// Of one item's tensor, without the dimension of the items; as the value and the model's
    /// metadata say unless given.
    shape: Option<Vec<usize>>,
}

impl Input {
    fn from(&self) -> &str {
        match self {
            Input::From(from) => from,
            Input::Typed(typed) => &typed.from,
        }
    }
}

#[async_trait]
impl Stage for Infer {
    fn describe(&self) -> StageType {
        StageType {
            with: params::schema::<With>(),
            batched: Some(stage::Batched { model: None }),
            input: Type::Any,
            // What a model gives for the same input is known to nobody here: it may draw numbers.
            ..StageType::new(
                NAME,
                Kind::Items,
                "Runs a model of an inference server (Triton, KServe, MLServer) over items.",
            )
        }
    }

    fn batched(&self) -> Option<&dyn Batched> {
        Some(self)
    }

    async fn items(&self, chunk: Part, with: Value, cx: &Context) -> Result<Part, Error> {
        let plan = self.plan(&with, cx).await?;
        let with: With = params::parse(NAME, with)?;
        let mut out = Part::default();
        let mut open: Vec<_> = chunk
            .items
            .chunks(plan.limits.items.max(1))
            .map(<[_]>::to_vec)
            .rev()
            .collect();
        while let Some(items) = open.pop() {
            let values = items.iter().map(|item| item.value.clone()).collect();
            let results = match self
                .batch(values, &with, &cx.cancelled, cx.limit.as_deref())
                .await
            {
                Ok(results) => results,
                Err(error) if is_of_batch(&error) && items.len() > 1 => {
                    let (first, second) = items.split_at(items.len() / 2);
                    open.extend([second.to_vec(), first.to_vec()]);
                    continue;
                }
                Err(error) => return Err(of_task(error)),
            };
            for (mut item, result) in items.into_iter().zip(results) {
                match result {
                    Ok(value) => {
                        item.value = value;
                        out.items.push(item);
                    }
                    Err(error) => out.failed.push(FailedItem {
                        id: item.id,
                        source: item.source,
                        stage: cx.stage.clone(),
                        error: error.message,
                    }),
                }
            }
        }
        Ok(out)
    }
}

#[async_trait]
impl Batched for Infer {
    async fn plan(&self, with: &Value, _cx: &Context) -> Result<Plan, Error> {
        let spec: With = params::parse(NAME, with.clone())?;
        let Server::V2(v2) = &spec.server;
        if spec.inputs.is_empty() {
            return Err(params::wrong(NAME, "inputs", "the model is given nothing"));
        }
        let metadata = self.metadata(v2).await.map_err(|error| {
            let error = Error::from(error);
            Error {
                message: format!("{NAME}: with.server.v2: {}", error.message),
                ..error
            }
        })?;
        check_names(&spec, &metadata)?;
        // By its hash: an address may have credentials in it, and keys are shown.
        let hash = sha256(with.to_string().as_bytes());
        let version = v2.version.as_deref().unwrap_or_default();
        let is_batched = spec.rows.unwrap_or_else(|| metadata.is_batched());
        Ok(Plan {
            key: format!("{NAME} {}@{version} {}", v2.model, &hash[..12]),
            model: None,
            device: false,
            limits: batch::Limits {
                items: if is_batched { limits().items } else { 1 },
                lanes: LANES,
                ..limits()
            },
            memory: (0, 0),
        })
    }

    async fn run(
        &self,
        items: Vec<Value>,
        with: &Value,
        on: &Place,
    ) -> Result<Vec<Result<Value, batch::Error>>, batch::Error> {
        match params::parse::<With>(NAME, with.clone()) {
            Ok(with) => {
                self.batch(items, &with, &on.cancelled, on.limit.as_deref())
                    .await
            }
            Err(error) => Ok(vec![Err(wrong_item(error.message)); items.len()]),
        }
    }
}

impl Infer {
    async fn metadata(&self, v2: &V2) -> Result<ModelMetadata, CallError> {
        if v2.url == FAKE_URL {
            return Ok(ModelMetadata::default());
        }
        let version = v2.version.as_deref();
        let known = self.server(v2)?.model(&v2.model, version).await?;
        Ok(known.as_ref().clone())
    }

    fn server(&self, v2: &V2) -> Result<Oip, CallError> {
        let address = (
            v2.url.clone(),
            v2.protocol,
            v2.api_key_env.clone(),
            v2.timeout_seconds,
        );
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = servers.get(&address) {
            return Ok(server.clone());
        }
        let mut endpoint = Endpoint::new(&v2.url);
        endpoint.api_key_env = v2.api_key_env.clone();
        if let Some(seconds) = v2.timeout_seconds {
            endpoint.timeout = Duration::from_secs(seconds.get().into());
        }
        let server = Oip::new(endpoint, v2.protocol)?;
        servers.insert(address, server.clone());
        Ok(server)
    }

    /// One request for the items of each shape, and each item's part of the answer.
    async fn batch(
        &self,
        items: Vec<Value>,
        with: &With,
        cancelled: &CancellationToken,
        limit: Option<&dyn Limiter>,
    ) -> Result<Vec<Result<Value, batch::Error>>, batch::Error> {
        let Server::V2(v2) = &with.server;
        let metadata = match self.metadata(v2).await {
            Ok(metadata) => metadata,
            Err(error) => return failed_batch(error, items.len()),
        };
        let is_batched = with.rows.unwrap_or_else(|| metadata.is_batched());
        let mut results: Vec<Option<Result<Value, batch::Error>>> = vec![None; items.len()];
        let mut groups: Vec<(Row, Vec<usize>)> = Vec::new();
        for (index, item) in items.iter().enumerate() {
            match Row::of(item, with, &metadata, is_batched) {
                Err(reason) => results[index] = Some(Err(wrong_item(format!("{NAME}: {reason}")))),
                Ok(row) => {
                    let same = |(group, _): &&mut (Row, _)| is_batched && group.is_like(&row);
                    match groups.iter_mut().find(same) {
                        Some((group, members)) => {
                            group.join(row);
                            members.push(index);
                        }
                        None => groups.push((row, vec![index])),
                    }
                }
            }
        }
        for (row, members) in groups {
            let request = request(v2, with, row)?;
            let call = self.call(v2, request, limit);
            let answer = tokio::select! {
                answer = call => answer,
                () = cancelled.cancelled() => Err(CallError::new(
                    CallErrorKind::Cancelled,
                    "cancelled",
                )),
            };
            match answer {
                Err(error) => {
                    let failed = failed_batch(error, members.len())?;
                    for (index, failure) in members.into_iter().zip(failed) {
                        results[index] = Some(failure);
                    }
                }
                Ok(outputs) => {
                    let rows = joined(outputs, with, is_batched.then_some(members.len()));
                    for (place, index) in members.into_iter().enumerate() {
                        let fields = match &rows {
                            Ok(rows) => Ok(rows[place].clone()),
                            Err(reason) => Err(wrong_item(format!("{NAME}: {reason}"))),
                        };
                        results[index] = Some(fields.map(|more| merged(&items[index], more)));
                    }
                }
            }
        }
        let missing = || Err(wrong_item(format!("{NAME}: no result")));
        let results = results.into_iter();
        Ok(results
            .map(|result| result.unwrap_or_else(missing))
            .collect())
    }

    async fn call(
        &self,
        v2: &V2,
        request: TensorRequest,
        limit: Option<&dyn Limiter>,
    ) -> Result<Vec<Tensor>, CallError> {
        let server: Box<dyn Connector> = match v2.url == FAKE_URL {
            true => Box::new(Fake),
            false => Box::new(self.server(v2)?),
        };
        let request = Request::Infer(request);
        let response = limiter::call(server.as_ref(), request, limit, |_| ()).await?;
        Ok(response.tensors)
    }
}

fn request(v2: &V2, with: &With, row: Row) -> Result<TensorRequest, batch::Error> {
    let inputs = row.tensors().map_err(wrong_item)?;
    let parameters = Value::Object(with.parameters.clone()).to_string();
    let version = v2.version.clone().unwrap_or_default();
    let raw: Vec<_> = inputs
        .iter()
        .flat_map(|one| [one.name.as_bytes().to_vec(), one.to_raw()])
        .collect();
    let of = [&v2.url, &v2.model, &version, &parameters].map(|part| part.as_bytes());
    let key = content_key(of.into_iter().chain(raw.iter().map(Vec::as_slice)));
    Ok(TensorRequest {
        model: v2.model.clone(),
        version: v2.version.clone(),
        inputs,
        outputs: with.outputs.keys().cloned().collect(),
        parameters: with.parameters.clone(),
        idempotency_key: Some(key),
    })
}

/// The item with the outputs as further fields; of one that is no object the outputs alone.
fn merged(item: &Value, outputs: Map<String, Value>) -> Value {
    let mut fields = item.as_object().cloned().unwrap_or_default();
    fields.extend(outputs);
    Value::Object(fields)
}

/// Refuses names that the model does not have, if it says which it has.
fn check_names(with: &With, metadata: &ModelMetadata) -> Result<(), Error> {
    let sides = [
        (
            "inputs",
            with.inputs.keys().collect::<Vec<_>>(),
            &metadata.inputs,
        ),
        ("outputs", with.outputs.keys().collect(), &metadata.outputs),
    ];
    for (side, wanted, there) in sides {
        let names: Vec<&str> = there.iter().map(|one| one.name.as_str()).collect();
        let unknown = wanted.iter().find(|name| !names.contains(&name.as_str()));
        if let Some(name) = unknown.filter(|_| !names.is_empty()) {
            let why = format!(
                "the model {:?} has no such tensor; it has {}",
                metadata.name,
                names.join(", ")
            );
            return Err(params::wrong(NAME, &format!("{side}.{name}"), why));
        }
    }
    Ok(())
}

/// Whether fewer items at once may succeed.
fn is_of_batch(error: &batch::Error) -> bool {
    matches!(error.kind, batch::Kind::Failed | batch::Kind::BatchTooLarge)
}

fn of_task(error: batch::Error) -> Error {
    let kind = match error.kind {
        batch::Kind::Invalid | batch::Kind::BatchTooLarge => ErrorKind::Invalid,
        batch::Kind::Unavailable | batch::Kind::Expired => ErrorKind::Unavailable,
        batch::Kind::RateLimited => ErrorKind::RateLimited,
        batch::Kind::OutOfMemory => ErrorKind::OutOfMemory,
        batch::Kind::ModelTooLarge => ErrorKind::ModelTooLarge,
        batch::Kind::Cancelled => ErrorKind::Cancelled,
        batch::Kind::Failed => ErrorKind::Failed,
    };
    Error {
        kind,
        message: format!("{NAME}: {}", error.message),
        retry_after: error.retry_after,
    }
}
