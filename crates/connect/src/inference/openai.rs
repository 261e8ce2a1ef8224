//! A client of OpenAI's HTTP API as far as other servers (vLLM, Ollama, llama.cpp, gateways) speak
//! it too.

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::api_error::{from_response, from_transport};
use super::{Answer, Chat, ChatRequest, Endpoint, Error, ErrorKind, Finish, Usage};

/// A server at an [`Endpoint`].
#[derive(Clone, Debug)]
pub struct OpenAi {
    endpoint: Endpoint,
    http: reqwest::Client,
}

/// What an embeddings call gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Vectors {
    /// In the order of the texts, as many as those, all of one length.
    pub vectors: Vec<Vec<f32>>,
    pub usage: Usage,
}

impl OpenAi {
    /// Checks the address; nothing is sent.
    pub fn new(endpoint: Endpoint) -> Result<Self, Error> {
        endpoint.operation("models")?;
        Ok(Self {
            endpoint,
            http: crate::http::client(),
        })
    }

    /// Embeds `texts` in one request.
    pub async fn embeddings(
        &self,
        model: &str,
        texts: &[&str],
        dimensions: Option<usize>,
    ) -> Result<Vectors, Error> {
        let mut body = json!({ "model": model, "input": texts });
        if let Some(dimensions) = dimensions {
            body["dimensions"] = dimensions.into();
        }
        let response: EmbeddingsResponse = self.post("embeddings", model, &body, None).await?;
        let mut data = response.data;
        data.sort_by_key(|entry| entry.index);
        if data.len() != texts.len() {
            return Err(self.unexpected(format!(
                "{} vectors for {} texts",
                data.len(),
                texts.len()
            )));
        }
        let mut vectors = Vec::with_capacity(data.len());
        for entry in data {
            vectors.push(
                entry
                    .embedding
                    .into_vector()
                    .map_err(|cause| self.unexpected(cause))?,
            );
        }
        let usage = response.usage.unwrap_or_default().into();
        Ok(Vectors { vectors, usage })
    }

    async fn post<T: DeserializeOwned>(
        &self,
        operation: &str,
        model: &str,
        body: &Value,
        idempotency_key: Option<&str>,
    ) -> Result<T, Error> {
        let mut request = self
            .http
            .post(self.endpoint.operation(operation)?)
            .timeout(self.endpoint.timeout)
            .json(body);
        if let Some(key) = self.endpoint.api_key()? {
            request = request.bearer_auth(key);
        }
        if let Some(key) = idempotency_key.and_then(|key| HeaderValue::from_str(key).ok()) {
            request = request.header("Idempotency-Key", key);
        }
        let transport = |error| from_transport(&self.endpoint, error);
        let response = request.send().await.map_err(transport)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await.map_err(transport)?;
        if !status.is_success() {
            return Err(from_response(
                &self.endpoint,
                model,
                status,
                &headers,
                &bytes,
            ));
        }
        serde_json::from_slice(&bytes).map_err(|error| self.unexpected(error.to_string()))
    }

    fn unexpected(&self, cause: String) -> Error {
        Error::new(
            ErrorKind::Failed,
            format!(
                "{} answered something that is not OpenAI's API: {cause}; check the url, which \
                 ends in its version like /v1",
                self.endpoint
            ),
        )
    }

    fn body(&self, request: &ChatRequest, dialect: Dialect) -> Value {
        let mut body = json!({ "model": request.model, "messages": request.messages });
        if let Some(temperature) = request.temperature {
            body["temperature"] = temperature.into();
        }
        if let Some(max) = request.max_tokens {
            let name = if dialect.completion_tokens {
                "max_completion_tokens"
            } else {
                "max_tokens"
            };
            body[name] = max.into();
        }
        if let (Some(schema), true) = (&request.schema, dialect.response_format) {
            body["response_format"] = json!({
                "type": "json_schema",
                // Strict mode refuses schemas outside a subset, and answers are checked anyway.
                "json_schema": { "name": "answer", "schema": schema, "strict": false },
            });
        }
        body
    }
}

#[async_trait]
impl Chat for OpenAi {
    async fn chat(&self, request: &ChatRequest) -> Result<Answer, Error> {
        let mut dialect = Dialect {
            response_format: true,
            completion_tokens: false,
        };
        let response: ChatResponse = loop {
            let body = self.body(request, dialect);
            let key = request.idempotency_key.as_deref();
            let error = match self
                .post("chat/completions", &request.model, &body, key)
                .await
            {
                Ok(response) => break response,
                Err(error) => error,
            };
            dialect = dialect.after(request, &error).ok_or(error)?;
        };
        let choice = response
            .choices
            .into_iter()
            .next()
            .ok_or_else(|| self.unexpected("no choices".to_owned()))?;
        Ok(Answer {
            text: choice.message.content.unwrap_or_default(),
            model: response.model.unwrap_or_else(|| request.model.clone()),
            usage: response.usage.unwrap_or_default().into(),
            finish: match choice.finish_reason.as_deref() {
                Some("length") => Finish::Length,
                Some("content_filter") => Finish::Filtered,
                _ => Finish::Stop,
            },
        })
    }
}

/// In which servers differ.
#[derive(Clone, Copy)]
struct Dialect {
    /// Knows `response_format`.
    response_format: bool,
    /// Takes `max_completion_tokens` in place of `max_tokens`.
    completion_tokens: bool,
}

impl Dialect {
    /// How to say the same to a server that answered `error`; `None` when that is not the cause.
    fn after(self, request: &ChatRequest, error: &Error) -> Option<Self> {
        if error.kind != ErrorKind::Invalid {
            return None;
        }
        let speaks_of = |field: &str| {
            error
                .param
                .as_deref()
                .is_some_and(|param| param.starts_with(field))
                || error.message.contains(field)
        };
        if self.response_format && request.schema.is_some() && speaks_of("response_format") {
            return Some(Self {
                response_format: false,
                ..self
            });
        }
        if !self.completion_tokens
            && request.max_tokens.is_some()
            && error.message.contains("max_completion_tokens")
        {
            return Some(Self {
                completion_tokens: true,
                ..self
            });
        }
        None
    }
}

#[derive(Deserialize)]
struct ChatResponse {
    model: Option<String>,
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<ApiUsage>,
}

#[derive(Deserialize)]
struct Choice {
    message: ChoiceMessage,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct ChoiceMessage {
    content: Option<String>,
}

#[derive(Default, Deserialize)]
struct ApiUsage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
}

impl From<ApiUsage> for Usage {
    fn from(usage: ApiUsage) -> Self {
        Self {
            input_tokens: usage.prompt_tokens,
            output_tokens: usage.completion_tokens,
        }
    }
}

#[derive(Deserialize)]
struct EmbeddingsResponse {
    data: Vec<EmbeddingEntry>,
    usage: Option<ApiUsage>,
}

#[derive(Deserialize)]
struct EmbeddingEntry {
    #[serde(default)]
    index: u64,
    embedding: Embedding,
}

/// Some servers send base64 of little-endian floats.
#[derive(Deserialize)]
#[serde(untagged)]
enum Embedding {
    Numbers(Vec<f32>),
    Base64(String),
}

impl Embedding {
    fn into_vector(self) -> Result<Vec<f32>, String> {
        let vector = match self {
            Embedding::Numbers(numbers) => numbers,
            Embedding::Base64(text) => {
                let bytes = STANDARD
                    .decode(text)
                    .map_err(|error| format!("a vector in base64: {error}"))?;
                let (floats, rest) = bytes.as_chunks::<4>();
                if !rest.is_empty() {
                    return Err(format!("a vector of {} bytes", bytes.len()));
                }
                floats
                    .iter()
                    .map(|four| f32::from_le_bytes(*four))
                    .collect()
            }
        };
        if vector.is_empty() {
            return Err("an empty vector".to_owned());
        }
        if vector.iter().any(|number| !number.is_finite()) {
            return Err("a vector with a number that is not finite".to_owned());
        }
        Ok(vector)
    }
}
