//! Inference behind an address: chat completions and embeddings of OpenAI-compatible servers, and a
//! fake one that needs no network.

mod api_error;
mod endpoint;
mod fake;
mod openai;

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use endpoint::Endpoint;
pub use fake::Fake;
pub use openai::{OpenAi, Vectors};

/// The address of the [`Fake`] server.
pub const FAKE_URL: &str = "fake:";

/// Why a call did not give an answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub kind: ErrorKind,
    /// Names the address, the cause and, where there is one, the mend.
    pub message: String,
    /// When to try again at the earliest, if the server said so.
    pub retry_after: Option<Duration>,
    /// The request's field that the server refused, if it said so.
    pub param: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The server refused this request, and would again: its content is wrong or too long.
    Invalid,
    /// The address, the model or the key is wrong: no request of this kind can succeed.
    Misconfigured,
    RateLimited,
    /// Not reachable, too slow, or failing at the moment.
    Unavailable,
    /// It answered something that is not of this protocol.
    Failed,
    Cancelled,
}

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            retry_after: None,
            param: None,
        }
    }

    pub(crate) fn misconfigured(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Misconfigured, message)
    }

    pub(crate) fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "cancelled")
    }
}

/// Something that answers a conversation.
#[async_trait]
pub trait Chat: Send + Sync {
    async fn chat(&self, request: &ChatRequest) -> Result<Answer, Error>;
}

/// Connects to `endpoint`, or to the fake server where its address is [`FAKE_URL`].
pub fn chat(endpoint: Endpoint) -> Result<Box<dyn Chat>, Error> {
    if endpoint.url == FAKE_URL {
        return Ok(Box::new(Fake));
    }
    Ok(Box::new(OpenAi::new(endpoint)?))
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

#[derive(Clone, Debug, PartialEq)]
pub struct ChatRequest {
    pub model: String,
    pub messages: Vec<Message>,
    pub temperature: Option<f64>,
    /// Tokens of the answer at most.
    pub max_tokens: Option<u32>,
    /// JSON Schema of the answer. Servers that do not support one ignore it: check the answer.
    pub schema: Option<Value>,
    /// Sent as `Idempotency-Key`, so that a server that knows it bills a repeated request once.
    pub idempotency_key: Option<String>,
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub text: String,
    /// The model as the server names it.
    pub model: String,
    pub usage: Usage,
    pub finish: Finish,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model was done.
    Stop,
    /// `max_tokens` or the model's window was reached.
    Length,
    /// A filter of the server held it back.
    Filtered,
}

/// What a call used, in tokens, as the server counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub input_tokens: u64,
    pub output_tokens: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.input_tokens = self.input_tokens.saturating_add(other.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(other.output_tokens);
    }
}
