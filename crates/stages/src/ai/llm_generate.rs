//! The stage `llm.generate`.

use std::num::NonZeroU32;
use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use tidemill_connect::inference::{Endpoint, Message, Role};
use tidemill_pipeline::stage::{Kind, StageType, Type};

use super::answer::Shape;
use super::attempts::{Asking, Candidate, Question};
use crate::{Context, Error, Stage, params};

const NAME: &str = "llm.generate";

/// Asks a language model behind an address that speaks OpenAI's chat completions API.
#[derive(Clone, Copy, Debug, Default)]
pub struct LlmGenerate;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct With {
    /// What is asked, as one message. Give this or `messages`.
    prompt: Option<String>,
    /// The whole conversation.
    messages: Option<Vec<Message>>,
    /// The model as its server names it.
    model: String,
    /// The server's address up to its version, such as `http://127.0.0.1:8000/v1`. `fake:` needs
    /// no server: it quotes the line of the prompt that is nearest to its last line, or makes the
    /// smallest value of `schema`, always the same; for examples and tests.
    url: String,
    /// The environment variable of the worker that holds the API key.
    api_key_env: Option<String>,
    /// Said to the model before everything else.
    system: Option<String>,
    /// Randomness, from 0.
    #[schemars(range(min = 0.0))]
    temperature: Option<f64>,
    /// Tokens of an answer at most.
    max_tokens: Option<NonZeroU32>,
    /// JSON Schema of the answer. The output then has `json`, checked against it, in place of
    /// `text`.
    schema: Option<Value>,
    /// How often each model may mend an answer that is not valid against `schema`: it is told
    /// what is wrong.
    #[serde(default = "one")]
    #[schemars(range(max = 20))]
    repair: u32,
    /// Models that are asked in turn when the one before fails or cannot mend its answer.
    #[serde(default)]
    fallback: Vec<Fallback>,
    /// Whether the answer is asked for in pieces, which can be watched at the worker while they come:
    /// `GET /v1/streams/{run}/{stage}`. The run's history has the whole answer only, either way.
    #[serde(default)]
    stream: bool,
    /// Seconds that one request may take, and with `stream` each piece of its answer; 300 unless
    /// given.
    #[schemars(range(min = 1))]
    timeout_seconds: Option<NonZeroU32>,
}

/// Another model: at the same address, or elsewhere.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected a model's name or {model, url, api_key_env}"
)]
enum Fallback {
    Model(String),
    Elsewhere(Elsewhere),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Elsewhere {
    /// The model as its server names it.
    model: String,
    /// The server's address; that of the stage unless given.
    url: Option<String>,
    /// The environment variable that holds the API key; at another address there is none unless
    /// given.
    api_key_env: Option<String>,
}

fn one() -> u32 {
    1
}

#[async_trait]
impl Stage for LlmGenerate {
    fn describe(&self) -> StageType {
        StageType {
            name: NAME.to_owned(),
            summary: "Asks a language model; structured answers are checked, mended, and asked of \
                      another model."
                .to_owned(),
            kind: Kind::Call,
            input: Type::Any,
            output: Type::Object,
            resource: "cpu".to_owned(),
            with: params::schema::<With>(),
            // Models answer differently each time.
            pure: false,
            batched: None,
        }
    }

    async fn call(&self, _input: Value, with: Value, cx: &Context) -> Result<Value, Error> {
        let with: With = params::parse(NAME, with)?;
        let candidates = with.candidates();
        let question = with.into_question()?;
        let outcome = Asking::new(&question, cx).ask(&candidates).await?;
        serde_json::to_value(outcome).map_err(|error| Error::failed(format!("{NAME}: {error}")))
    }
}

impl With {
    /// The models in the order in which they are asked.
    fn candidates(&self) -> Vec<Candidate> {
        let endpoint = |url: &str, api_key_env: Option<&String>| {
            let mut endpoint = Endpoint::new(url);
            endpoint.api_key_env = api_key_env.cloned();
            if let Some(seconds) = self.timeout_seconds {
                endpoint.timeout = Duration::from_secs(seconds.get().into());
            }
            endpoint
        };
        let own = endpoint(&self.url, self.api_key_env.as_ref());
        let mut candidates = vec![Candidate {
            model: self.model.clone(),
            endpoint: own.clone(),
        }];
        candidates.extend(self.fallback.iter().map(|fallback| match fallback {
            Fallback::Model(model) => Candidate {
                model: model.clone(),
                endpoint: own.clone(),
            },
            Fallback::Elsewhere(other) => {
                // A key goes to the server it is meant for and to no other.
                let url = other.url.as_ref().filter(|url| **url != self.url);
                let key = other.api_key_env.as_ref();
                Candidate {
                    model: other.model.clone(),
                    endpoint: match url {
                        Some(url) => endpoint(url, key),
                        None => endpoint(&self.url, key.or(self.api_key_env.as_ref())),
                    },
                }
            }
        }));
        candidates
    }

    fn into_question(self) -> Result<Question, Error> {
        let shape = self
            .schema
            .map(|schema| Shape::new(NAME, schema))
            .transpose()?;
        if let Some(temperature) = self.temperature
            && !(0.0..=10.0).contains(&temperature)
        {
            return Err(params::wrong(
                NAME,
                "temperature",
                "from 0 on, mostly up to 2",
            ));
        }
        let mut said = match (self.prompt, self.messages) {
            (Some(prompt), None) => vec![Message::new(Role::User, prompt)],
            (None, Some(messages)) if !messages.is_empty() => messages,
            (Some(_), Some(_)) => {
                return Err(params::wrong(
                    NAME,
                    "messages",
                    "give this or `prompt`, not both",
                ));
            }
            (None, _) => {
                return Err(params::wrong(
                    NAME,
                    "prompt",
                    "nothing is asked: give `prompt` or `messages`",
                ));
            }
        };
        // Many models take one system message only, and only as the first.
        let mut system = Vec::from_iter(self.system);
        if said[0].role == Role::System {
            system.push(said.remove(0).content);
        }
        system.extend(shape.as_ref().map(Shape::instruction));
        let mut messages = Vec::with_capacity(said.len() + 1);
        if !system.is_empty() {
            messages.push(Message::new(Role::System, system.join("\n\n")));
        }
        messages.extend(said);
        Ok(Question {
            stage: NAME,
            messages,
            temperature: self.temperature,
            max_tokens: self.max_tokens.map(NonZeroU32::get),
            shape,
            repair: self.repair,
            stream: self.stream,
        })
    }
}
