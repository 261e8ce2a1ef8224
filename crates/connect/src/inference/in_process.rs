//! A model of this process as a connector.

use std::sync::Arc;

use super::event::{Delta, Events, events};
use super::tensor::Tensor;
use super::{Connector, EmbeddingRequest, Error, ErrorKind, Finish, Request, Usage};
use crate::embed::{Call, Embedder};

/// An embedding model.
pub struct InProcess(pub Arc<dyn Embedder>);

impl Connector for InProcess {
    fn start(&self, request: Request) -> Events {
        let model = self.0.clone();
        events(move |emit| async move {
            let Request::Embed(request) = request else {
                return Err(Error::misconfigured(format!(
                    "{} is an embedding model: it has nothing but vectors",
                    model.name()
                )));
            };
            let (vectors, usage) = embed(model.as_ref(), request).await?;
            let name = model.name().to_owned();
            emit.whole(name, vec![vectors], usage, Finish::Stop).await;
            Ok(())
        })
    }
}

pub(super) async fn embed(
    model: &dyn Embedder,
    request: EmbeddingRequest,
) -> Result<(Delta, Usage), Error> {
    let usage = Usage {
        input_tokens: model.count_tokens(&request.texts).await,
        output_tokens: 0,
    };
    let results = model.embed(request.texts, &Call::default()).await?;
    let mut vectors = Vec::with_capacity(results.len());
    for (index, result) in results.into_iter().enumerate() {
        vectors.push(result.map_err(|reason| {
            Error::new(ErrorKind::Invalid, format!("text {}: {reason}", index + 1))
        })?);
    }
    let tensor = Tensor::of_vectors("embedding", &vectors);
    Ok((Delta::Tensor(tensor), usage))
}
