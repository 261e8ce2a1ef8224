//! The protocol over HTTP: JSON, and the extension that puts bytes behind it.

use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, Url};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{ModelMetadata, Outputs, ServerMetadata};
use crate::inference::api::{Api, Body};
use crate::inference::tensor::{Datatype, Tensor};
use crate::inference::{Endpoint, Error, TensorRequest};

/// Bytes of a message's JSON; raw elements follow.
const JSON_LENGTH: &str = "Inference-Header-Content-Length";

pub(super) struct Client {
    pub(super) api: Api,
}

impl Client {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        let hint = "check the url, which is the server's without /v2 at its end";
        Self {
            api: Api::new(endpoint, "the Open Inference Protocol", hint),
        }
    }

    pub(super) async fn ready(&self) -> Result<bool, Error> {
        self.says_ready(self.url(&["health", "ready"])?, "").await
    }

    pub(super) async fn server(&self) -> Result<ServerMetadata, Error> {
        self.get(self.url(&[])?, "").await
    }

    pub(super) async fn model_ready(
        &self,
        model: &str,
        version: Option<&str>,
    ) -> Result<bool, Error> {
        let url = self.model_url(model, version, &["ready"])?;
        self.says_ready(url, model).await
    }

    pub(super) async fn model(
        &self,
        model: &str,
        version: Option<&str>,
    ) -> Result<ModelMetadata, Error> {
        self.get(self.model_url(model, version, &[])?, model).await
    }

    pub(super) async fn infer(&self, request: &TensorRequest) -> Result<Outputs, Error> {
        let url = self.model_url(&request.model, request.version.as_deref(), &["infer"])?;
        let key = request.idempotency_key.as_deref();
        let post = self.api.request(Method::POST, url, key)?;
        let (head, raw) = body(request);
        let post = if raw.is_empty() {
            post.json(&head)
        } else {
            // A JSON value is always written.
            let mut bytes = serde_json::to_vec(&head).unwrap_or_default();
            let length = bytes.len();
            bytes.extend(raw);
            post.header(CONTENT_TYPE, "application/octet-stream")
                .header(JSON_LENGTH, length)
                .body(bytes)
        };
        let body = self.api.whole(post, &request.model).await?;
        self.outputs(&body)
    }

    fn outputs(&self, body: &Body) -> Result<Outputs, Error> {
        let length = match body.headers.get(JSON_LENGTH) {
            None => body.bytes.len(),
            Some(length) => {
                let length = length.to_str().ok().and_then(|text| text.parse().ok());
                let length = length.filter(|length| *length <= body.bytes.len());
                length.ok_or_else(|| self.api.unexpected(format!("a wrong {JSON_LENGTH}")))?
            }
        };
        let (head, mut raw) = body.bytes.split_at(length);
        let head: Answer = self.api.read(head)?;
        let mut outputs = Vec::with_capacity(head.outputs.len());
        for output in head.outputs {
            let name = output.name.clone();
            let tensor = output.read(&mut raw);
            outputs.push(
                tensor.map_err(|cause| self.api.unexpected(format!("output {name:?}: {cause}")))?,
            );
        }
        Ok(Outputs {
            model: head.model_name.unwrap_or_default(),
            version: head.model_version.unwrap_or_default(),
            outputs,
        })
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, url: Url, model: &str) -> Result<T, Error> {
        let request = self.api.request(Method::GET, url, None)?;
        let body = self.api.whole(request, model).await?;
        self.api.read(&body.bytes)
    }

    async fn says_ready(&self, url: Url, model: &str) -> Result<bool, Error> {
        let request = self.api.request(Method::GET, url, None)?;
        self.api.says_yes(request, model).await
    }

    fn url(&self, path: &[&str]) -> Result<Url, Error> {
        let mut url = self.api.endpoint.operation("v2")?;
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(path);
        }
        Ok(url)
    }

    fn model_url(&self, model: &str, version: Option<&str>, rest: &[&str]) -> Result<Url, Error> {
        let mut path = vec!["models", model];
        if let Some(version) = version {
            path.extend(["versions", version]);
        }
        path.extend(rest);
        self.url(&path)
    }
}

/// The JSON of a request, and the bytes of the inputs that JSON cannot hold.
fn body(request: &TensorRequest) -> (Value, Vec<u8>) {
    let mut all = Vec::new();
    let input = |tensor: &Tensor| {
        if !needs_bytes(tensor) {
            return Value::from(tensor);
        }
        let raw = tensor.to_raw();
        let input = json!({
            "name": tensor.name,
            "datatype": tensor.datatype(),
            "shape": tensor.shape(),
            "parameters": { "binary_data_size": raw.len() },
        });
        all.extend(raw);
        input
    };
    let inputs: Vec<Value> = request.inputs.iter().map(input).collect();
    let mut parameters = request.parameters.clone();
    if !all.is_empty() {
        // A model that takes such numbers mostly gives such, too.
        parameters.insert("binary_data_output".to_owned(), true.into());
    }
    let mut head = json!({ "inputs": inputs });
    if let Some(key) = &request.idempotency_key {
        head["id"] = key.as_str().into();
    }
    if !parameters.is_empty() {
        head["parameters"] = parameters.into();
    }
    if !request.outputs.is_empty() {
        let name = |name: &String| json!({ "name": name });
        head["outputs"] = request.outputs.iter().map(name).collect();
    }
    (head, all)
}

/// JSON has no form for numbers of two bytes, nor for bytes that are no text.
fn needs_bytes(tensor: &Tensor) -> bool {
    matches!(tensor.datatype(), Datatype::Fp16 | Datatype::Bf16)
        || tensor
            .bytes()
            .is_some_and(|all| all.iter().any(|one| std::str::from_utf8(one).is_err()))
}

#[derive(Deserialize)]
struct Answer {
    model_name: Option<String>,
    model_version: Option<String>,
    outputs: Vec<Output>,
}

#[derive(Deserialize)]
struct Output {
    name: String,
    datatype: String,
    shape: Vec<usize>,
    data: Option<Value>,
    #[serde(default)]
    parameters: Option<Map<String, Value>>,
}

impl Output {
    /// `raw` is what follows the JSON; the output takes its part of it.
    fn read(self, raw: &mut &[u8]) -> Result<Tensor, String> {
        let datatype: Datatype = self.datatype.parse()?;
        if let Some(data) = &self.data {
            return Tensor::from_json(self.name, datatype, Some(&self.shape), data);
        }
        let size = self.parameters.as_ref();
        let size = size.and_then(|all| all.get("binary_data_size")?.as_u64());
        let size = size.ok_or("it has no data")? as usize;
        let Some((own, rest)) = raw.split_at_checked(size) else {
            return Err(format!("{} of its {size} bytes are there", raw.len()));
        };
        *raw = rest;
        Tensor::from_raw(self.name, datatype, &self.shape, own)
    }
}
