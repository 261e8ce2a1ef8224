//! `embeddings`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;

use super::{ApiUsage, OpenAi};
use crate::inference::event::{Delta, Emit};
use crate::inference::tensor::Tensor;
use crate::inference::{EmbeddingRequest, Error, Finish};

impl OpenAi {
    /// Embeds the texts in one request.
    pub(super) async fn embed(&self, request: &EmbeddingRequest, emit: &Emit) -> Result<(), Error> {
        let mut body = json!({ "model": request.model, "input": request.texts });
        if let Some(dimensions) = request.dimensions {
            body["dimensions"] = dimensions.into();
        }
        let url = self.api.endpoint.operation("embeddings")?;
        let key = request.idempotency_key.as_deref();
        let response: Embeddings = self.api.post(url, &request.model, &body, key).await?;
        let mut data = response.data;
        data.sort_by_key(|entry| entry.index);
        if data.len() != request.texts.len() {
            return Err(self.api.unexpected(format!(
                "{} vectors for {} texts",
                data.len(),
                request.texts.len()
            )));
        }
        let vectors: Result<Vec<_>, _> = data
            .into_iter()
            .map(|entry| entry.embedding.into_vector())
            .collect();
        let vectors = vectors.map_err(|cause| self.api.unexpected(cause))?;
        if vectors.windows(2).any(|two| two[0].len() != two[1].len()) {
            return Err(self.api.unexpected("vectors of different lengths"));
        }
        let model = response.model.unwrap_or_else(|| request.model.clone());
        let usage = response.usage.unwrap_or_default().into();
        let tensor = Tensor::of_vectors("embedding", &vectors);
        emit.whole(model, vec![Delta::Tensor(tensor)], usage, Finish::Stop)
            .await;
        Ok(())
    }
}

#[derive(Deserialize)]
struct Embeddings {
    model: Option<String>,
    data: Vec<Entry>,
    usage: Option<ApiUsage>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    index: u64,
    embedding: Embedding,
}

/// Some servers send base64 of little-endian floats.
#[derive(Deserialize)]
#[serde(untagged)]
enum Embedding {
    Numbers(Vec<f32>),
    Base64(String),
}

impl Embedding {
    fn into_vector(self) -> Result<Vec<f32>, String> {
        let vector = match self {
            Embedding::Numbers(numbers) => numbers,
            Embedding::Base64(text) => {
                let bytes = STANDARD
                    .decode(text)
                    .map_err(|error| format!("a vector in base64: {error}"))?;
                let (floats, rest) = bytes.as_chunks::<4>();
                if !rest.is_empty() {
                    return Err(format!("a vector of {} bytes", bytes.len()));
                }
                floats
                    .iter()
                    .map(|four| f32::from_le_bytes(*four))
                    .collect()
            }
        };
        if vector.is_empty() {
            return Err("an empty vector".to_owned());
        }
        if vector.iter().any(|number| !number.is_finite()) {
            return Err("a vector with a number that is not finite".to_owned());
        }
        Ok(vector)
    }
}
