//! `chat/completions` and `completions`: text, whole or in pieces.

use futures::StreamExt;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::sse::Parser;
use super::{ApiUsage, OpenAi};
use crate::inference::api::{Answered, Body};
use crate::inference::api_error::from_body;
use crate::inference::event::{Delta, Emit, Event};
use crate::inference::{ChatRequest, CompletionRequest, Error, ErrorKind, Finish, Usage};

/// What both operations are asked.
pub(super) struct Ask<'a> {
    operation: &'static str,
    model: &'a str,
    /// The name of the field that says what is asked, and its value.
    content: (&'static str, Value),
    temperature: Option<f64>,
    max_tokens: Option<u32>,
    schema: Option<&'a Value>,
    stream: bool,
    idempotency_key: Option<&'a str>,
}

impl<'a> Ask<'a> {
    pub(super) fn chat(request: &'a ChatRequest) -> Self {
        Self {
            operation: "chat/completions",
            model: &request.model,
            content: ("messages", json!(request.messages)),
            temperature: request.temperature,
            max_tokens: request.max_tokens,
            schema: request.schema.as_ref(),
            stream: request.stream,
            idempotency_key: request.idempotency_key.as_deref(),
        }
    }

    pub(super) fn completion(request: &'a CompletionRequest) -> Self {
        Self {
            operation: "completions",
            model: &request.model,
            content: ("prompt", json!(request.prompt)),
            temperature: request.temperature,
            max_tokens: request.max_tokens,
            schema: None,
            stream: request.stream,
            idempotency_key: request.idempotency_key.as_deref(),
        }
    }

    fn body(&self, dialect: Dialect) -> Value {
        let mut body = json!({ "model": self.model });
        body[self.content.0] = self.content.1.clone();
        if let Some(temperature) = self.temperature {
            body["temperature"] = temperature.into();
        }
        if let Some(max) = self.max_tokens {
            let name = match dialect.completion_tokens {
                true => "max_completion_tokens",
                false => "max_tokens",
            };
            body[name] = max.into();
        }
        if let (Some(schema), true) = (self.schema, dialect.response_format) {
            body["response_format"] = json!({
                "type": "json_schema",
                // Strict mode refuses schemas outside a subset, and answers are checked anyway.
                "json_schema": { "name": "answer", "schema": schema, "strict": false },
            });
        }
        if self.stream && dialect.stream {
            body["stream"] = true.into();
            if dialect.stream_options {
                body["stream_options"] = json!({ "include_usage": true });
            }
        }
        body
    }
}

/// In which servers differ.
#[derive(Clone, Copy)]
struct Dialect {
    /// Knows `response_format`.
    response_format: bool,
    /// Takes `max_completion_tokens` in place of `max_tokens`.
    completion_tokens: bool,
    /// Knows `stream`.
    stream: bool,
    /// Knows `stream_options`.
    stream_options: bool,
}

impl Dialect {
    /// How to say the same to a server that answered `error`; `None` when that is not the cause.
    fn after(mut self, ask: &Ask, error: &Error) -> Option<Self> {
        if error.kind != ErrorKind::Invalid {
            return None;
        }
        let speaks_of = |field: &str| {
            let param = error.param.as_deref();
            param.is_some_and(|param| param.starts_with(field)) || error.message.contains(field)
        };
        if self.response_format && ask.schema.is_some() && speaks_of("response_format") {
            self.response_format = false;
        } else if !self.completion_tokens
            && ask.max_tokens.is_some()
            && error.message.contains("max_completion_tokens")
        {
            self.completion_tokens = true;
        } else if ask.stream && self.stream_options && speaks_of("stream_options") {
            self.stream_options = false;
        } else if ask.stream && self.stream && speaks_of("stream") {
            self.stream = false;
        } else {
            return None;
        }
        Some(self)
    }
}

impl OpenAi {
    pub(super) async fn generate(&self, ask: Ask<'_>, emit: &Emit) -> Result<(), Error> {
        let mut dialect = Dialect {
            response_format: true,
            completion_tokens: false,
            stream: true,
            stream_options: true,
        };
        let answered = loop {
            let error = match self.ask(&ask, &ask.body(dialect)).await {
                Ok(answered) => break answered,
                Err(error) => error,
            };
            dialect = dialect.after(&ask, &error).ok_or(error)?;
        };
        match answered {
            Answered::Whole(body) => self.whole(&ask, &body, emit).await,
            Answered::Streamed(pieces) => self.pieces(&ask, pieces, emit).await,
        }
    }

    async fn ask(&self, ask: &Ask<'_>, body: &Value) -> Result<Answered, Error> {
        let url = self.api.endpoint.operation(ask.operation)?;
        let request = self
            .api
            .request(Method::POST, url, ask.idempotency_key)?
            .json(body);
        match body.get("stream") {
            Some(_) => self.api.streamed(request, ask.model).await,
            None => Ok(Answered::Whole(self.api.whole(request, ask.model).await?)),
        }
    }

    async fn whole(&self, ask: &Ask<'_>, body: &Body, emit: &Emit) -> Result<(), Error> {
        let answer: Chunk = self.api.read(&body.bytes)?;
        if answer.error.is_some() {
            return Err(from_body(&self.api, &body.bytes));
        }
        let choice = answer.choices.into_iter().next();
        let choice = choice.ok_or_else(|| self.api.unexpected("no choices"))?;
        let finish = finish(choice.finish_reason.as_deref());
        let deltas = choice.text().map(Delta::Text).into_iter().collect();
        let model = answer.model.unwrap_or_else(|| ask.model.to_owned());
        let usage = answer.usage.unwrap_or_default().into();
        emit.whole(model, deltas, usage, finish).await;
        Ok(())
    }

    async fn pieces(
        &self,
        ask: &Ask<'_>,
        mut pieces: impl futures::Stream<Item = Result<bytes::Bytes, Error>> + Unpin,
        emit: &Emit,
    ) -> Result<(), Error> {
        let mut parser = Parser::default();
        let mut started = false;
        let mut usage = Usage::default();
        let mut ended = None;
        'read: while let Some(piece) = pieces.next().await {
            let events = parser.push(&piece?);
            for event in events.map_err(|cause| self.api.unexpected(cause))? {
                if event == b"[DONE]" {
                    // Some servers do not say why they ended.
                    ended = ended.or(Some(Finish::Stop));
                    break 'read;
                }
                let chunk: Chunk = self.api.read(&event)?;
                if chunk.error.is_some() {
                    return Err(from_body(&self.api, &event));
                }
                if !std::mem::replace(&mut started, true) {
                    let model = chunk.model.unwrap_or_else(|| ask.model.to_owned());
                    emit.emit(Event::Started { model }).await;
                }
                // The last of several is the whole's: some servers count as they go.
                usage = chunk.usage.map_or(usage, Usage::from);
                let Some(choice) = chunk.choices.into_iter().next() else {
                    continue;
                };
                if let Some(reason) = choice.finish_reason.as_deref() {
                    ended = Some(finish(Some(reason)));
                }
                if let Some(text) = choice.text() {
                    emit.emit(Event::Delta(Delta::Text(text))).await;
                }
            }
        }
        let Some(finish) = ended else {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "{} broke off in the middle of its answer",
                    self.api.endpoint
                ),
            ));
        };
        if !started {
            let model = ask.model.to_owned();
            emit.emit(Event::Started { model }).await;
        }
        emit.end(usage, finish).await;
        Ok(())
    }
}

fn finish(reason: Option<&str>) -> Finish {
    match reason {
        Some("length") => Finish::Length,
        Some("content_filter") => Finish::Filtered,
        _ => Finish::Stop,
    }
}

/// A whole answer, or a piece of one.
#[derive(Deserialize)]
struct Chunk {
    model: Option<String>,
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<ApiUsage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    /// Of a whole chat.
    message: Option<Content>,
    /// Of a piece of a chat.
    delta: Option<Content>,
    /// Of a completion.
    text: Option<String>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Content {
    content: Option<String>,
}

impl Choice {
    fn text(self) -> Option<String> {
        let content = self.message.or(self.delta).and_then(|one| one.content);
        content.or(self.text).filter(|text| !text.is_empty())
    }
}
