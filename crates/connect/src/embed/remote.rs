//! Models behind an address: a server of OpenAI's embeddings API, or of the Open Inference Protocol.

use std::sync::OnceLock;

use async_trait::async_trait;

use super::{Call, EMPTY, Embedded, Embedder, Error, ErrorKind, OpenAiModel, V2Model};
use crate::inference::oip::{Names, Oip};
use crate::inference::{Connector, EmbeddingRequest, Endpoint, OpenAi, Request, content_key};
use crate::limiter;

/// Texts of one request: what every server takes by default.
const BATCH: usize = 32;

/// A model of a server.
pub struct Remote {
    model: String,
    revision: String,
    dimensions: Option<usize>,
    /// As the first answer had it.
    seen: OnceLock<usize>,
    /// Tells the requests of one server from those of another.
    address: String,
    server: Box<dyn Connector>,
}

impl Remote {
    /// Checks the address; nothing is sent.
    pub fn openai(spec: &OpenAiModel) -> Result<Self, Error> {
        let mut endpoint = Endpoint::new(&spec.url);
        endpoint.api_key_env = spec.api_key_env.clone();
        if spec.dimensions == Some(0) {
            return Err(Error::misconfigured("openai.dimensions must be at least 1"));
        }
        Ok(Self {
            model: spec.model.clone(),
            revision: spec.model.clone(),
            dimensions: spec.dimensions,
            seen: OnceLock::new(),
            address: spec.url.clone(),
            server: Box::new(OpenAi::new(endpoint)?),
        })
    }

    /// Checks the address; nothing is sent.
    pub fn v2(spec: &V2Model) -> Result<Self, Error> {
        let mut endpoint = Endpoint::new(&spec.url);
        endpoint.api_key_env = spec.api_key_env.clone();
        let names = Names {
            version: spec.version.clone(),
            input: spec.input.clone(),
            output: spec.output.clone(),
        };
        let revision = match &spec.version {
            Some(version) => format!("{}@{version}", spec.model),
            None => spec.model.clone(),
        };
        Ok(Self {
            model: spec.model.clone(),
            revision,
            dimensions: None,
            seen: OnceLock::new(),
            address: spec.url.clone(),
            server: Box::new(Oip::with_names(endpoint, spec.protocol, names)?),
        })
    }

    /// Embeds texts of one request. When the server refuses them as they are, halves of them are
    /// tried, down to the texts that it refuses alone: one bad text does not fail its neighbours.
    async fn request(
        &self,
        texts: &[String],
        wanted: &[usize],
        results: &mut [Embedded],
        call: &Call,
    ) -> Result<(), Error> {
        let mut open = vec![wanted];
        while let Some(some) = open.pop() {
            let input = some.iter().map(|index| texts[*index].clone()).collect();
            let asked = tokio::select! {
                asked = self.ask(input, call) => asked,
                () = call.cancelled.cancelled() => return Err(Error::cancelled()),
            };
            match asked {
                Ok(vectors) => {
                    for (index, vector) in some.iter().zip(vectors) {
                        self.check_dimension(vector.len())?;
                        results[*index] = Ok(vector);
                    }
                }
                Err(error) if !error.kind.is_of_content() => return Err(error),
                Err(error) if is_of_size(&error) && (!call.halve || some.len() == 1) => {
                    return Err(error);
                }
                Err(error) if some.len() == 1 => results[some[0]] = Err(error.message),
                Err(_) => {
                    let (first, second) = some.split_at(some.len() / 2);
                    open.extend([second, first]);
                }
            }
        }
        Ok(())
    }

    async fn ask(&self, texts: Vec<String>, call: &Call) -> Result<Vec<Vec<f32>>, Error> {
        let dimensions = self.dimensions.unwrap_or_default().to_string();
        let of = [&self.address, &self.model, &dimensions].map(|part| part.as_bytes());
        let all = of.into_iter().chain(texts.iter().map(String::as_bytes));
        let asked = texts.len();
        let request = EmbeddingRequest {
            idempotency_key: Some(content_key(all)),
            model: self.model.clone(),
            dimensions: self.dimensions,
            texts,
        };
        let request = Request::Embed(request);
        let limiter = call.limiter.as_deref();
        let response = limiter::call(self.server.as_ref(), request, limiter, |_| ()).await?;
        let vectors = response.tensors.first().and_then(|one| one.vectors());
        let vectors = vectors.filter(|vectors| vectors.len() == asked);
        vectors.ok_or_else(|| {
            Error::new(
                ErrorKind::Failed,
                format!("model {} gave no vector for each text", self.model),
            )
        })
    }

    fn check_dimension(&self, dimension: usize) -> Result<(), Error> {
        let expected = self
            .dimensions
            .unwrap_or_else(|| *self.seen.get_or_init(|| dimension));
        if expected == dimension {
            return Ok(());
        }
        Err(Error::misconfigured(format!(
            "model {} gave a vector of {dimension} numbers where {expected} were expected; leave \
             `dimensions` out for a model that cannot shorten its vectors",
            self.model
        )))
    }
}

#[async_trait]
impl Embedder for Remote {
    fn name(&self) -> &str {
        &self.model
    }

    fn revision(&self) -> &str {
        &self.revision
    }

    fn dimension(&self) -> Option<usize> {
        self.dimensions.or_else(|| self.seen.get().copied())
    }

    fn max_tokens(&self) -> Option<usize> {
        None
    }

    async fn embed(&self, texts: Vec<String>, call: &Call) -> Result<Vec<Embedded>, Error> {
        let mut results = vec![Err(EMPTY.to_owned()); texts.len()];
        let wanted: Vec<usize> = (0..texts.len())
            .filter(|index| !texts[*index].trim().is_empty())
            .collect();
        let mut done = texts.len() - wanted.len();
        for some in wanted.chunks(call.batch.unwrap_or(BATCH).max(1)) {
            if call.cancelled.is_cancelled() {
                return Err(Error::cancelled());
            }
            self.request(&texts, some, &mut results, call).await?;
            done += some.len();
            (call.progress)(done, texts.len());
        }
        Ok(results)
    }
}

/// Whether fewer texts at once may be taken. Of one alone it is the server's trouble, not the text's.
fn is_of_size(error: &Error) -> bool {
    matches!(
        error.kind,
        ErrorKind::BatchTooLarge | ErrorKind::OutOfMemory
    )
}
