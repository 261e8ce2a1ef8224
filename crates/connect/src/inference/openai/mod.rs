//! A client of OpenAI's HTTP API as far as other servers (vLLM, Ollama, llama.cpp, gateways) speak
//! it too.

mod embeddings;
mod generate;
mod sse;

use serde::Deserialize;

use super::api::Api;
use super::event::{Events, events};
use super::{Connector, Endpoint, Error, Request, Usage};
use generate::Ask;

/// A server at an [`Endpoint`].
#[derive(Clone, Debug)]
pub struct OpenAi {
    api: Api,
}

impl OpenAi {
    /// Checks the address; nothing is sent.
    pub fn new(endpoint: Endpoint) -> Result<Self, Error> {
        endpoint.operation("models")?;
        let hint = "check the url, which ends in its version like /v1";
        Ok(Self {
            api: Api::new(endpoint, "OpenAI's API", hint),
        })
    }
}

impl Connector for OpenAi {
    fn start(&self, request: Request) -> Events {
        let server = self.clone();
        events(move |emit| async move {
            match request {
                Request::Chat(request) => server.generate(Ask::chat(&request), &emit).await,
                Request::Complete(request) => {
                    server.generate(Ask::completion(&request), &emit).await
                }
                Request::Embed(request) => server.embed(&request, &emit).await,
                Request::Infer(_) => Err(Error::misconfigured(format!(
                    "{}: OpenAI's API has no tensors; name a server of the Open Inference Protocol",
                    server.api.endpoint
                ))),
            }
        })
    }
}

#[derive(Clone, Copy, Default, Deserialize)]
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
