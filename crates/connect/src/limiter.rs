//! What a provider allows, as far as those who send requests see it.

use std::time::Duration;

use async_trait::async_trait;

use crate::inference::tensor::Tensor;
use crate::inference::{Connector, Error, ErrorKind, Request, Response, collect_with};

/// Bytes of text that are about a token. A limit learns what a model really takes.
const TOKEN_BYTES: usize = 4;
/// Tokens of an answer to a request that does not bound them.
const ANSWER_TOKENS: u64 = 256;
/// How often a request is sent again whose failure the limit waits out.
const TRIES_MAX: u32 = 20;

/// A limit that is shared with others, wherever they run.
#[async_trait]
pub trait Limiter: Send + Sync {
    /// Waits until a request of about so many tokens may be sent, which is then to be done at once.
    /// Gives its number.
    ///
    /// # Errors
    /// There is no such limit, or no request of this size can ever be sent under it.
    async fn permit(&self, tokens: u64) -> Result<u64, Error>;

    /// Tells how a request ended. One that is given up and not told of counts as sent. Whether the
    /// limit waits for what made it fail to pass, so that it is to be sent again under a new permit.
    async fn ended(&self, permit: u64, outcome: Outcome) -> bool;
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered, if only to say what is wrong with it. The tokens that it took, if that is known.
    Answered(Option<u64>),
    /// Refused because there were too many, for as long as the server said.
    RateLimited(Option<Duration>),
    /// Not reachable, too slow, or failing at the moment.
    Unavailable,
}

/// Runs a call under a limit, if there is one; `each` sees every piece of text as it comes. A failure
/// that the limit waits out is met here, unless a part of the answer was seen already.
pub async fn call(
    server: &dyn Connector,
    request: Request,
    limiter: Option<&dyn Limiter>,
    mut each: impl FnMut(&str) + Send,
) -> Result<Response, Error> {
    let Some(limiter) = limiter else {
        return collect_with(server.start(request), each).await;
    };
    let tokens = estimate(&request);
    let mut tries = 0;
    loop {
        let permit = limiter.permit(tokens).await?;
        let mut seen = false;
        let asked = collect_with(server.start(request.clone()), |text| {
            seen = true;
            each(text);
        });
        let asked = asked.await;
        let again = limiter.ended(permit, outcome(&asked)).await;
        tries += 1;
        match asked {
            Err(_) if again && !seen && tries < TRIES_MAX => {}
            asked => return asked,
        }
    }
}

fn outcome(asked: &Result<Response, Error>) -> Outcome {
    match asked {
        Ok(response) => {
            let usage = response.usage;
            let tokens = usage.input_tokens.saturating_add(usage.output_tokens);
            Outcome::Answered((tokens > 0).then_some(tokens))
        }
        Err(error) => match error.kind {
            ErrorKind::RateLimited => Outcome::RateLimited(error.retry_after),
            ErrorKind::Unavailable => Outcome::Unavailable,
            _ => Outcome::Answered(None),
        },
    }
}

/// Tokens that a request probably takes, the answer's included.
fn estimate(request: &Request) -> u64 {
    let text = |text: &str| text.len().div_ceil(TOKEN_BYTES) as u64;
    let answer = |max: Option<u32>| max.map_or(ANSWER_TOKENS, u64::from);
    match request {
        Request::Chat(chat) => {
            let said = chat.messages.iter().map(|message| text(&message.content));
            said.sum::<u64>() + answer(chat.max_tokens)
        }
        Request::Complete(complete) => text(&complete.prompt) + answer(complete.max_tokens),
        Request::Embed(embed) => embed.texts.iter().map(|one| text(one)).sum(),
        // A row is about what a server counts; most count nothing.
        Request::Infer(infer) => infer.inputs.first().map_or(1, rows),
    }
}

fn rows(tensor: &Tensor) -> u64 {
    let rows = tensor.shape().first().copied().unwrap_or(1);
    u64::try_from(rows).unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::{StreamExt, stream};

    use super::*;
    use crate::inference::{ChatRequest, Delta, Event, Events, Finish, Message, Role, Usage};

    /// Answers in turn what it was made with.
    struct Scripted(Mutex<Vec<Vec<Event>>>);

    impl Connector for Scripted {
        fn start(&self, _: Request) -> Events {
            stream::iter(self.0.lock().expect("script").remove(0)).boxed()
        }
    }

    /// Permits everything and remembers what it was told.
    struct Told {
        asked: Mutex<Vec<u64>>,
        outcomes: Mutex<Vec<Outcome>>,
        waits: bool,
    }

    #[async_trait]
    impl Limiter for Told {
        async fn permit(&self, tokens: u64) -> Result<u64, Error> {
            self.asked.lock().expect("asked").push(tokens);
            Ok(0)
        }

        async fn ended(&self, _: u64, outcome: Outcome) -> bool {
            self.outcomes.lock().expect("outcomes").push(outcome);
            self.waits
        }
    }

    fn told(waits: bool) -> Told {
        Told {
            asked: Mutex::default(),
            outcomes: Mutex::default(),
            waits,
        }
    }

    fn chat() -> Request {
        Request::Chat(ChatRequest {
            messages: vec![Message::new(Role::User, "x".repeat(41))],
            max_tokens: Some(100),
            ..ChatRequest::default()
        })
    }

    fn failed(kind: ErrorKind) -> Vec<Event> {
        vec![Event::Failed(Error::new(kind, "no"))]
    }

    fn answered() -> Vec<Event> {
        let usage = Usage {
            input_tokens: 7,
            output_tokens: 2,
        };
        vec![
            Event::Delta(Delta::Text("yes".to_owned())),
            Event::Usage(usage),
            Event::Finished(Finish::Stop),
        ]
    }

    async fn run(script: Vec<Vec<Event>>, told: &Told) -> Result<Response, Error> {
        let server = Scripted(Mutex::new(script));
        call(&server, chat(), Some(told), |_| ()).await
    }

    #[tokio::test]
    async fn what_the_limit_waits_out_is_sent_again() {
        let limit = told(true);
        let slow = Error {
            retry_after: Some(Duration::from_secs(3)),
            ..Error::new(ErrorKind::RateLimited, "slow down")
        };
        let script = vec![
            vec![Event::Failed(slow)],
            failed(ErrorKind::Unavailable),
            answered(),
        ];
        let response = run(script, &limit).await.expect("an answer");
        assert_eq!(response.text, "yes");
        assert_eq!(*limit.asked.lock().expect("asked"), [111, 111, 111]);
        assert_eq!(
            *limit.outcomes.lock().expect("outcomes"),
            [
                Outcome::RateLimited(Some(Duration::from_secs(3))),
                Outcome::Unavailable,
                Outcome::Answered(Some(9)),
            ]
        );
    }

    #[tokio::test]
    async fn other_failures_are_the_callers() {
        let limit = told(false);
        let error = run(vec![failed(ErrorKind::Unavailable)], &limit).await;
        assert_eq!(error.expect_err("failed").kind, ErrorKind::Unavailable);
        // A part of the answer was seen: the caller has to know.
        let mut cut = vec![Event::Delta(Delta::Text("a".to_owned()))];
        cut.extend(failed(ErrorKind::Unavailable));
        let error = run(vec![cut], &told(true)).await;
        assert_eq!(error.expect_err("failed").kind, ErrorKind::Unavailable);
        // Nor does it wait for ever.
        let limit = told(true);
        let script = vec![failed(ErrorKind::Unavailable); TRIES_MAX as usize];
        run(script, &limit).await.expect_err("given up");
        assert_eq!(limit.asked.lock().expect("asked").len(), 20);
    }
}
