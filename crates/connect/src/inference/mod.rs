//! Inference: chats, completions, embeddings and typed tensors, in this process or behind an address.
//! Whatever the connector, a call is one sequence of [events](Event).

mod api;
mod api_error;
mod classify;
mod endpoint;
mod event;
mod fake;
mod in_process;
pub mod oip;
mod openai;
mod request;
pub mod tensor;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use endpoint::Endpoint;
pub use event::{Delta, Event, Events, Response, collect, collect_with};
pub use fake::Fake;
pub use in_process::InProcess;
pub use openai::OpenAi;
pub use request::{
    ChatRequest, CompletionRequest, EmbeddingRequest, Message, Request, Role, TensorRequest,
    content_key,
};

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
    /// The server refused this request, and would again: its content is wrong.
    Invalid,
    /// The same, because the model's window does not hold it.
    TooLong,
    /// Too many items at once, or too many bytes: less of it may well be taken.
    BatchTooLarge,
    /// The device had no memory left for it: less of it may be taken, or the same later.
    OutOfMemory,
    /// The address or the model is wrong: no request of this kind can succeed.
    Misconfigured,
    /// The same, because the key is missing, wrong or not allowed to.
    Auth,
    RateLimited,
    /// Not reachable, too slow, or failing at the moment.
    Unavailable,
    /// It answered something that is not of this protocol.
    Failed,
    Cancelled,
}

impl ErrorKind {
    /// Whether the request's content is the cause, so that a part of it may be taken.
    pub fn is_of_content(self) -> bool {
        matches!(
            self,
            ErrorKind::Invalid
                | ErrorKind::TooLong
                | ErrorKind::BatchTooLarge
                | ErrorKind::OutOfMemory
        )
    }

    /// Whether the same request may succeed later.
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            ErrorKind::OutOfMemory
                | ErrorKind::RateLimited
                | ErrorKind::Unavailable
                | ErrorKind::Failed
        )
    }
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

/// Something that computes. What it cannot do it answers with `Failed`, of kind `Misconfigured`.
pub trait Connector: Send + Sync {
    /// Begins a call; nothing happens before the events are waited for.
    fn start(&self, request: Request) -> Events;
}

impl dyn Connector + '_ {
    /// The whole answer to a conversation.
    pub async fn chat(&self, request: &ChatRequest) -> Result<Answer, Error> {
        collect(self.start(Request::Chat(request.clone())))
            .await
            .map(Answer::from)
    }
}

/// Connects to a server that speaks OpenAI's API at `endpoint`, or to the fake one where its address
/// is [`FAKE_URL`].
pub fn openai(endpoint: Endpoint) -> Result<Box<dyn Connector>, Error> {
    if endpoint.url == FAKE_URL {
        return Ok(Box::new(Fake));
    }
    Ok(Box::new(OpenAi::new(endpoint)?))
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

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        Self {
            text: response.text,
            model: response.model,
            usage: response.usage,
            finish: response.finish.unwrap_or(Finish::Stop),
        }
    }
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
