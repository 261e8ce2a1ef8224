//! Asking one model after another until one gives an answer that can be used.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tidemill_connect::inference::{
    self, Answer, ChatRequest, Endpoint, Error as CallError, ErrorKind as CallErrorKind, Finish,
    Message, Request, Role, Usage,
};
use tidemill_connect::limiter;
use tidemill_connect::stream::Writer;

use super::answer::Shape;
use crate::records::sha256;
use crate::{Context, Error, ErrorKind};

/// While an answer is waited for, a line of progress this often: a sign of life.
const WAITING_EVERY: Duration = Duration::from_secs(10);

/// A model at an address.
pub(super) struct Candidate {
    pub(super) model: String,
    pub(super) endpoint: Endpoint,
}

/// What is asked of each candidate.
pub(super) struct Question {
    pub(super) stage: &'static str,
    pub(super) messages: Vec<Message>,
    pub(super) temperature: Option<f64>,
    pub(super) max_tokens: Option<u32>,
    pub(super) shape: Option<Shape>,
    /// How often a model may mend an answer that does not have the shape.
    pub(super) repair: u32,
    /// Whether the answer is asked for in pieces, and those are put where they can be watched.
    pub(super) stream: bool,
}

/// The stage's output.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    json: Option<Value>,
    /// The model that answered, as its server names it.
    model: String,
    /// Of all attempts.
    usage: Usage,
    /// Requests that were made, failed ones included.
    attempts: u32,
}

/// Why a candidate is given up.
struct GivenUp {
    model: String,
    kind: ErrorKind,
    retry_after: Option<Duration>,
    reason: String,
}

/// One question on its way through the candidates.
pub(super) struct Asking<'a> {
    question: &'a Question,
    cx: &'a Context,
    usage: Usage,
    attempts: u32,
    watched: Option<Writer>,
}

impl<'a> Asking<'a> {
    pub(super) fn new(question: &'a Question, cx: &'a Context) -> Self {
        Self {
            question,
            cx,
            usage: Usage::default(),
            attempts: 0,
            watched: question.stream.then(|| cx.streams.write(&cx.stream())),
        }
    }

    /// The first usable answer. An error of all candidates is one that may pass, if any of them is.
    pub(super) async fn ask(mut self, candidates: &[Candidate]) -> Result<Outcome, Error> {
        let outcome = self.ask_in_turn(candidates).await;
        if let Some(watched) = self.watched.take() {
            match &outcome {
                Ok(_) => watched.finish(),
                Err(error) => watched.fail(&error.message),
            }
        }
        outcome
    }

    async fn ask_in_turn(&mut self, candidates: &[Candidate]) -> Result<Outcome, Error> {
        let mut given_up = Vec::new();
        for candidate in candidates {
            match self.ask_one(candidate).await {
                Ok(outcome) => return Ok(outcome),
                Err(gone) if gone.kind == ErrorKind::Cancelled => return Err(Error::cancelled()),
                Err(gone) => {
                    tracing::warn!(
                        stage = self.cx.stage,
                        model = gone.model,
                        reason = gone.reason,
                        "model given up"
                    );
                    given_up.push(gone);
                }
            }
        }
        Err(self.none_answered(given_up))
    }

    async fn ask_one(&mut self, candidate: &Candidate) -> Result<Outcome, GivenUp> {
        let give_up = |error: CallError| {
            let error = Error::from(error);
            GivenUp {
                model: candidate.model.clone(),
                kind: error.kind,
                retry_after: error.retry_after,
                reason: error.message,
            }
        };
        let server = inference::openai(candidate.endpoint.clone()).map_err(give_up)?;
        let mut request = ChatRequest {
            model: candidate.model.clone(),
            messages: self.question.messages.clone(),
            temperature: self.question.temperature,
            max_tokens: self.question.max_tokens,
            schema: self
                .question
                .shape
                .as_ref()
                .map(|shape| shape.schema.clone()),
            stream: self.question.stream,
            idempotency_key: None,
        };
        let mut reason = String::new();
        for _ in 0..=self.question.repair {
            request.idempotency_key = Some(self.key(candidate, &request));
            self.attempts += 1;
            if let Some(watched) = self.watched.as_ref().filter(|_| self.attempts > 1) {
                watched.restart();
            }
            let watch = |text: &str| {
                if let Some(watched) = &self.watched {
                    watched.append(text);
                }
            };
            let answer = self
                .wait(
                    &candidate.model,
                    limiter::call(
                        server.as_ref(),
                        Request::Chat(request.clone()),
                        self.cx.limit.as_deref(),
                        watch,
                    ),
                )
                .await
                .map(Answer::from)
                .map_err(give_up)?;
            self.usage += answer.usage;
            let problem = match (answer.finish, &self.question.shape) {
                (Finish::Filtered, _) => {
                    // The same question would be held back again.
                    reason = "the server's filter held the answer back".to_owned();
                    break;
                }
                (_, None) => {
                    return Ok(Outcome {
                        text: Some(answer.text),
                        json: None,
                        model: answer.model,
                        usage: self.usage,
                        attempts: self.attempts,
                    });
                }
                (finish, Some(shape)) => match shape.read(&answer.text) {
                    Ok(value) => {
                        return Ok(Outcome {
                            text: None,
                            json: Some(value),
                            model: answer.model,
                            usage: self.usage,
                            attempts: self.attempts,
                        });
                    }
                    Err(problem) if finish == Finish::Length => {
                        format!("{problem} (the answer was cut off: be shorter)")
                    }
                    Err(problem) => problem,
                },
            };
            request
                .messages
                .push(Message::new(Role::Assistant, answer.text));
            request.messages.push(Message::new(
                Role::User,
                format!(
                    "Your answer cannot be used: {problem}. Answer again, with one JSON value \
                     that is valid against the schema and nothing else."
                ),
            ));
            reason = format!("its answer does not have the form of `schema`: {problem}");
        }
        Err(GivenUp {
            model: candidate.model.clone(),
            kind: ErrorKind::Failed,
            retry_after: None,
            reason,
        })
    }

    async fn wait<T>(
        &self,
        model: &str,
        call: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let started = tokio::time::Instant::now();
        let mut ticks = tokio::time::interval(WAITING_EVERY);
        tokio::pin!(call);
        loop {
            tokio::select! {
                biased;
                () = self.cx.cancelled.cancelled() => {
                    return Err(CallError::new(CallErrorKind::Cancelled, "cancelled"));
                }
                result = &mut call => return result,
                _ = ticks.tick() => {
                    let seconds = started.elapsed().as_secs();
                    (self.cx.progress)(format!(
                        "waiting for {model}, request {}, {seconds} s",
                        self.attempts
                    ));
                }
            }
        }
    }

    /// The same for the same request of the same stage in the same run, so that a task that is run
    /// again after a crash is not billed again by servers that know the header.
    fn key(&self, candidate: &Candidate, request: &ChatRequest) -> String {
        let parts = (
            &self.cx.run.id,
            &self.cx.stage,
            &candidate.endpoint.url,
            &request.model,
            &request.messages,
            (request.temperature, request.max_tokens, &request.schema),
        );
        // All of it is JSON: strings, numbers and a value.
        let bytes = serde_json::to_vec(&parts).unwrap_or_default();
        format!("tidemill-{}", sha256(&bytes))
    }

    fn none_answered(&self, given_up: Vec<GivenUp>) -> Error {
        let stage = self.question.stage;
        let passing = |kind| {
            matches!(
                kind,
                ErrorKind::RateLimited
                    | ErrorKind::Unavailable
                    | ErrorKind::OutOfMemory
                    | ErrorKind::Failed
            )
        };
        let kind = given_up
            .iter()
            .map(|gone| gone.kind)
            .find(|kind| passing(*kind))
            .unwrap_or(ErrorKind::Invalid);
        let retry_after = given_up.iter().filter_map(|gone| gone.retry_after).min();
        let reasons: Vec<String> = given_up
            .iter()
            .map(|gone| format!("{}: {}", gone.model, gone.reason))
            .collect();
        let message = match reasons.as_slice() {
            [one] => format!("{stage}: {one}"),
            more => format!("{stage}: no model answered; {}", more.join("; ")),
        };
        Error {
            message,
            kind,
            retry_after,
        }
    }
}
