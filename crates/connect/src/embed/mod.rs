//! Embedding models: texts in, vectors out, with the model's name and revision, so that vectors of
//! different models never meet in one index.

mod bert;
mod fake;
mod folder;
mod local;
mod remote;
mod spec;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

pub use crate::inference::{Error, ErrorKind};
pub use fake::Fake;
pub use local::Local;
pub use remote::Remote;
pub use spec::{OpenAiModel, Spec};

/// A model that turns texts into vectors.
#[async_trait]
pub trait Embedder: Send + Sync {
    /// As it is written into vectors and indexes.
    fn name(&self) -> &str;

    /// What exactly computed a vector: `sha256:` of a local model's files, the model's name for one
    /// behind an address, which tells no more.
    fn revision(&self) -> &str;

    /// Numbers of a vector; `None` as long as it is not known, before a remote model's first answer.
    fn dimension(&self) -> Option<usize>;

    /// Longer texts are cut here; `None` when it is not known.
    fn max_tokens(&self) -> Option<usize>;

    /// One result for each text, in their order. A text that the model refuses has its reason in
    /// place of a vector; an error means that none of them can be embedded now.
    async fn embed(&self, texts: Vec<String>, call: &Call) -> Result<Vec<Embedded>, Error>;
}

/// A vector, or why this text has none.
pub type Embedded = Result<Vec<f32>, String>;

/// Why an empty text has no vector.
const EMPTY: &str = "the text is empty";

/// Circumstances of a call.
#[derive(Clone)]
pub struct Call {
    /// Texts computed at once, or sent in one request; the model's own choice when absent.
    pub batch: Option<usize>,
    /// Looked at between batches.
    pub cancelled: CancellationToken,
    /// Called after each batch with the texts done and those of the whole call.
    pub progress: Arc<dyn Fn(usize, usize) + Send + Sync>,
}

impl Default for Call {
    fn default() -> Self {
        Self {
            batch: None,
            cancelled: CancellationToken::new(),
            progress: Arc::new(|_, _| {}),
        }
    }
}

/// Finds the model that `spec` names. Local models are looked for in `<data>/models/<name>`, then
/// at the path; each is loaded once for the process, whoever asks for it.
pub async fn open(spec: &Spec, data: &Path) -> Result<Arc<dyn Embedder>, Error> {
    match spec {
        Spec::OpenAi(model) => Ok(Arc::new(Remote::new(model)?)),
        Spec::Name(name) => match Fake::named(name)? {
            Some(fake) => Ok(Arc::new(fake)),
            None => Ok(local::open(name, data).await?),
        },
    }
}

/// What tells the vectors of one model from those of another: [`Embedder::name`] and
/// [`Embedder::revision`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub name: String,
    pub revision: String,
}

/// What the model that `spec` names is, without loading it.
pub async fn identify(spec: &Spec, data: &Path) -> Result<Identity, Error> {
    let of = |embedder: &dyn Embedder| Identity {
        name: embedder.name().to_owned(),
        revision: embedder.revision().to_owned(),
    };
    match spec {
        Spec::OpenAi(model) => Ok(of(&Remote::new(model)?)),
        Spec::Name(name) => match Fake::named(name)? {
            Some(fake) => Ok(of(&fake)),
            None => local::identify(name, data).await,
        },
    }
}

/// Embeds one text, such as a query.
pub async fn embed_one(embedder: &dyn Embedder, text: &str) -> Result<Vec<f32>, Error> {
    let mut results = embedder
        .embed(vec![text.to_owned()], &Call::default())
        .await?;
    match results.pop() {
        Some(Ok(vector)) => Ok(vector),
        Some(Err(reason)) => Err(Error::new(ErrorKind::Invalid, reason)),
        None => Err(Error::new(
            ErrorKind::Failed,
            format!("model {} gave no vector", embedder.name()),
        )),
    }
}
