//! What can be asked.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::tensor::Tensor;

/// One call.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    Chat(ChatRequest),
    Complete(CompletionRequest),
    /// Answered by one tensor: a row for each text.
    Embed(EmbeddingRequest),
    Infer(TensorRequest),
}

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    User,
    Assistant,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Message {
    pub role: Role,
    pub content: String,
}

impl Message {
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
        }
    }
}

/// Asks for the next message of a conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChatRequest {
    pub model: String,
    pub messages: Vec<Message>,
    pub temperature: Option<f64>,
    /// Tokens of the answer at most.
    pub max_tokens: Option<u32>,
    /// JSON Schema of the answer. Servers that do not support one ignore it: check the answer.
    pub schema: Option<Value>,
    /// Asks the server for pieces as they come.
    pub stream: bool,
    /// Sent as `Idempotency-Key`, so that a server that knows it bills a repeated request once.
    pub idempotency_key: Option<String>,
}

/// Asks how a text goes on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CompletionRequest {
    pub model: String,
    pub prompt: String,
    pub temperature: Option<f64>,
    /// Tokens of the answer at most.
    pub max_tokens: Option<u32>,
    /// Asks the server for pieces as they come.
    pub stream: bool,
    /// See [`ChatRequest::idempotency_key`].
    pub idempotency_key: Option<String>,
}

/// Asks for the vectors of texts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EmbeddingRequest {
    pub model: String,
    pub texts: Vec<String>,
    /// Numbers of a vector, for models that can shorten theirs.
    pub dimensions: Option<usize>,
    /// See [`ChatRequest::idempotency_key`].
    pub idempotency_key: Option<String>,
}

/// Asks a model for its outputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TensorRequest {
    pub model: String,
    /// The server's choice when absent.
    pub version: Option<String>,
    pub inputs: Vec<Tensor>,
    /// Names of the outputs that are wanted; all when empty.
    pub outputs: Vec<String>,
    /// Truth values, whole numbers and texts that the model or its server knows.
    pub parameters: Map<String, Value>,
    /// See [`ChatRequest::idempotency_key`]; the request's `id` too.
    pub idempotency_key: Option<String>,
}

/// An idempotency key for what gives the same result whoever asks: made from all that the request
/// says.
pub fn content_key<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        // Lengths keep "ab", "c" apart from "a", "bc".
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    format!("tidemill-{:x}", hash.finalize())
}
