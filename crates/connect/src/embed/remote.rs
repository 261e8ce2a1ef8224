//! Models behind an address that speaks OpenAI's embeddings API.

use std::sync::OnceLock;

use async_trait::async_trait;

use super::{Call, EMPTY, Embedded, Embedder, Error, ErrorKind, OpenAiModel};
use crate::inference::{Endpoint, OpenAi};

/// Texts of one request: what every server takes by default.
const BATCH: usize = 32;

/// A model of a server.
pub struct Remote {
    model: String,
    dimensions: Option<usize>,
    /// As the first answer had it.
    seen: OnceLock<usize>,
    server: OpenAi,
}

impl Remote {
    /// Checks the address; nothing is sent.
    pub fn new(spec: &OpenAiModel) -> Result<Self, Error> {
        let mut endpoint = Endpoint::new(&spec.url);
        endpoint.api_key_env = spec.api_key_env.clone();
        if spec.dimensions == Some(0) {
            return Err(Error::misconfigured("openai.dimensions must be at least 1"));
        }
        Ok(Self {
            model: spec.model.clone(),
            dimensions: spec.dimensions,
            seen: OnceLock::new(),
            server: OpenAi::new(endpoint)?,
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
            let input: Vec<&str> = some.iter().map(|index| texts[*index].as_str()).collect();
            let asked = tokio::select! {
                asked = self.server.embeddings(&self.model, &input, self.dimensions) => asked,
                () = call.cancelled.cancelled() => return Err(Error::cancelled()),
            };
            match asked {
                Ok(answer) => {
                    for (index, vector) in some.iter().zip(answer.vectors) {
                        self.check_dimension(vector.len())?;
                        results[*index] = Ok(vector);
                    }
                }
                Err(error) if error.kind != ErrorKind::Invalid => return Err(error),
                Err(error) if some.len() == 1 => results[some[0]] = Err(error.message),
                Err(_) => {
                    let (first, second) = some.split_at(some.len() / 2);
                    open.extend([second, first]);
                }
            }
        }
        Ok(())
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
        &self.model
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
