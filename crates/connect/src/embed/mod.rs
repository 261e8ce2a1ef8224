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

use crate::limiter::Limiter;

pub use crate::inference::{Error, ErrorKind};
pub use fake::Fake;
pub use local::{BATCH, BATCH_TOKENS, Local};
pub use remote::Remote;
pub use spec::{OpenAiModel, Spec, V2Model};

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

    /// Tokens of the texts together; 0 where nobody counts them.
    async fn count_tokens(&self, texts: &[String]) -> u64 {
        let _ = texts;
        0
    }

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
    /// Whether a server's batch that turns out to be too large is tried again in halves, or is an
    /// error for a caller who does that.
    pub halve: bool,
    /// Looked at between batches.
    pub cancelled: CancellationToken,
    /// Called after each batch with the texts done and those of the whole call.
    pub progress: Arc<dyn Fn(usize, usize) + Send + Sync>,
    /// What a server allows, where there is one.
    pub limiter: Option<Arc<dyn Limiter>>,
}

impl Default for Call {
    fn default() -> Self {
        Self {
            batch: None,
            halve: true,
            cancelled: CancellationToken::new(),
            progress: Arc::new(|_, _| {}),
            limiter: None,
        }
    }
}

/// Finds the model that `spec` names. Local models are looked for in `<data>/models/<name>`, then
/// at the path; each is loaded once for the process, whoever asks for it, and kept.
pub async fn open(spec: &Spec, data: &Path) -> Result<Arc<dyn Embedder>, Error> {
    match light(spec)? {
        Light::Opened(model) => Ok(model),
        Light::Local(name) => Ok(local::open(name, data).await?),
    }
}

/// The same, except that a local model is loaded for the caller alone: its memory is free again when
/// the caller drops it.
pub async fn open_owned(spec: &Spec, data: &Path) -> Result<Arc<dyn Embedder>, Error> {
    match light(spec)? {
        Light::Opened(model) => Ok(model),
        Light::Local(name) => Ok(local::open_owned(name, data).await?),
    }
}

/// Bytes of the weights of a local model, as its file has them; `None` for a model that takes no
/// memory here.
pub fn weights(spec: &Spec, data: &Path) -> Result<Option<u64>, Error> {
    match light(spec)? {
        Light::Opened(_) => Ok(None),
        Light::Local(name) => Ok(Some(folder::weights(&folder::find(name, data)?)?)),
    }
}

enum Light<'a> {
    /// There is nothing to load.
    Opened(Arc<dyn Embedder>),
    Local(&'a str),
}

fn light(spec: &Spec) -> Result<Light<'_>, Error> {
    match spec {
        Spec::OpenAi(model) => Ok(Light::Opened(Arc::new(Remote::openai(model)?))),
        Spec::V2(model) => Ok(Light::Opened(Arc::new(Remote::v2(model)?))),
        Spec::Name(name) => Ok(match Fake::named(name)? {
            Some(fake) => Light::Opened(Arc::new(fake)),
            None => Light::Local(name),
        }),
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
    match light(spec)? {
        Light::Opened(model) => Ok(Identity {
            name: model.name().to_owned(),
            revision: model.revision().to_owned(),
        }),
        Light::Local(name) => local::identify(name, data).await,
    }
}

/// Embeds one text, such as a query.
pub async fn embed_one(
    embedder: &dyn Embedder,
    text: &str,
    limiter: Option<Arc<dyn Limiter>>,
) -> Result<Vec<f32>, Error> {
    let call = Call {
        limiter,
        ..Call::default()
    };
    let mut results = embedder.embed(vec![text.to_owned()], &call).await?;
    match results.pop() {
        Some(Ok(vector)) => Ok(vector),
        Some(Err(reason)) => Err(Error::new(ErrorKind::Invalid, reason)),
        None => Err(Error::new(
            ErrorKind::Failed,
            format!("model {} gave no vector", embedder.name()),
        )),
    }
}
