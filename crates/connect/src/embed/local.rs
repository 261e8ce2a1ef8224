//! Models computed in this process, each loaded once.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use async_trait::async_trait;
use tokenizers::{Tokenizer, TruncationParams};
use tokio::sync::OnceCell;

use super::bert::Bert;
use super::folder::{self, Folder, Stamp};
use super::{Call, EMPTY, Embedded, Embedder, Error, ErrorKind, Identity};

/// Texts computed at once: more win nothing on a CPU and take memory.
pub const BATCH: usize = 32;

/// Tokens, padding included, computed at once: long texts come in smaller batches, so that what a
/// layer computes stays within some tens of megabytes.
pub const BATCH_TOKENS: usize = 4096;

/// Texts turned into tokens between two looks at whether the call was cancelled.
const TOKENIZE: usize = 256;

/// A model from a folder.
pub struct Local {
    name: String,
    revision: String,
    dimension: usize,
    max_tokens: usize,
    model: Arc<Computation>,
}

struct Computation {
    tokenizer: Tokenizer,
    bert: Bert,
}

#[derive(Clone)]
struct Entry {
    stamp: Stamp,
    model: Arc<OnceCell<Arc<Local>>>,
    /// Known before the model is loaded if someone asked for no more.
    revision: Arc<OnceCell<String>>,
}

/// By canonical path. A model of [`open`] stays loaded until the process ends or its files are
/// replaced: for queries, which come again and must not wait.
static LOADED: LazyLock<Mutex<BTreeMap<PathBuf, Entry>>> = LazyLock::new(Mutex::default);

/// Where the model `name` is, and what is known of it.
fn entry(name: &str, data: &Path) -> Result<(PathBuf, Entry), Error> {
    let path = folder::find(name, data)?;
    let path = path.canonicalize().map_err(|error| {
        Error::misconfigured(format!("model {name:?} in {}: {error}", path.display()))
    })?;
    let stamp = Stamp::of(&path);
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let new = || Entry {
        stamp: stamp.clone(),
        model: Arc::default(),
        revision: Arc::default(),
    };
    let entry = loaded.entry(path.clone()).or_insert_with(new);
    if entry.stamp != stamp {
        *entry = new();
    }
    let entry = entry.clone();
    Ok((path, entry))
}

/// The model `name`; whoever asks while it is being loaded waits for that one load.
pub(super) async fn open(name: &str, data: &Path) -> Result<Arc<Local>, Error> {
    let (path, entry) = entry(name, data)?;
    let load = || blocking(move || Local::load(&path));
    entry.model.get_or_try_init(load).await.cloned()
}

/// The model `name`, loaded anew for the caller alone.
pub(super) async fn open_owned(name: &str, data: &Path) -> Result<Arc<Local>, Error> {
    let path = folder::find(name, data)?;
    let path = path.canonicalize().map_err(|error| {
        Error::misconfigured(format!("model {name:?} in {}: {error}", path.display()))
    })?;
    blocking(move || Local::load(&path)).await
}

/// Name and revision of the model `name`, which is not loaded for that.
pub(super) async fn identify(name: &str, data: &Path) -> Result<Identity, Error> {
    let (path, entry) = entry(name, data)?;
    let name = folder::name(&path);
    let revision = match entry.model.get() {
        Some(loaded) => loaded.revision.clone(),
        None => {
            let read = || blocking(move || folder::revision(&path));
            entry.revision.get_or_try_init(read).await?.clone()
        }
    };
    Ok(Identity { name, revision })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| crashed(&error.to_string()))?
}

impl Local {
    fn load(path: &Path) -> Result<Arc<Self>, Error> {
        let started = std::time::Instant::now();
        let refuse =
            |cause: String| Error::misconfigured(format!("model in {}: {cause}", path.display()));
        let folder = Folder::read(path)?;
        let bert = Bert::new(&folder.config, folder.pooling, &folder.weights)
            .map_err(|error| refuse(format!("{}: {error}", folder::WEIGHTS)))?;
        let mut tokenizer = Tokenizer::from_bytes(&folder.tokenizer)
            .map_err(|error| refuse(format!("{}: {error}", folder::TOKENIZER)))?;
        // The tokenizer's own settings pad every text to one length; here each batch has its own.
        tokenizer.with_padding(None);
        let truncation = TruncationParams {
            max_length: folder.max_tokens.max(8),
            ..Default::default()
        };
        tokenizer
            .with_truncation(Some(truncation))
            .map_err(|error| refuse(format!("{}: {error}", folder::TOKENIZER)))?;
        let name = folder::name(path);
        tracing::info!(
            model = name,
            path = %path.display(),
            elapsed = ?started.elapsed(),
            "embedding model loaded"
        );
        Ok(Arc::new(Self {
            name,
            revision: folder.revision,
            dimension: folder.config.hidden_size,
            max_tokens: folder.max_tokens,
            model: Arc::new(Computation { tokenizer, bert }),
        }))
    }
}

#[async_trait]
impl Embedder for Local {
    fn name(&self) -> &str {
        &self.name
    }

    fn revision(&self) -> &str {
        &self.revision
    }

    fn dimension(&self) -> Option<usize> {
        Some(self.dimension)
    }

    fn max_tokens(&self) -> Option<usize> {
        Some(self.max_tokens)
    }

    async fn count_tokens(&self, texts: &[String]) -> u64 {
        let (model, texts) = (self.model.clone(), texts.to_vec());
        let counted = blocking(move || {
            let mut results = vec![Err(EMPTY.to_owned()); texts.len()];
            let tokens = model.tokenize(&texts, &mut results, &Call::default())?;
            Ok(tokens.iter().map(|(_, tokens)| tokens.len() as u64).sum())
        });
        counted.await.unwrap_or_default()
    }

    async fn embed(&self, texts: Vec<String>, call: &Call) -> Result<Vec<Embedded>, Error> {
        let model = self.model.clone();
        let mut call = call.clone();
        call.cancelled = call.cancelled.child_token();
        // When this future is dropped, the thread stops at its next batch.
        let _stop = call.cancelled.clone().drop_guard();
        blocking(move || model.embed(&texts, &call)).await
    }
}

impl Computation {
    fn embed(&self, texts: &[String], call: &Call) -> Result<Vec<Embedded>, Error> {
        let mut results = vec![Err(EMPTY.to_owned()); texts.len()];
        let mut tokens = self.tokenize(texts, &mut results, call)?;
        // Texts of about one length together, so that little of a batch is padding.
        tokens.sort_by_key(|(index, tokens)| (tokens.len(), *index));
        let mut done = texts.len() - tokens.len();
        let mut rest = tokens.as_slice();
        while !rest.is_empty() {
            if call.cancelled.is_cancelled() {
                return Err(Error::cancelled());
            }
            let (batch, later) = rest.split_at(batch_size(rest, call.batch.unwrap_or(BATCH)));
            rest = later;
            let input: Vec<&[u32]> = batch.iter().map(|(_, tokens)| tokens.as_slice()).collect();
            let vectors = self
                .bert
                .embed(&input)
                .map_err(|error| Error::new(ErrorKind::Failed, format!("embedding: {error}")))?;
            for ((index, _), vector) in batch.iter().zip(vectors) {
                results[*index] = Ok(vector);
            }
            done += batch.len();
            (call.progress)(done, texts.len());
        }
        Ok(results)
    }

    /// The tokens of the texts that have any, with their places.
    fn tokenize(
        &self,
        texts: &[String],
        results: &mut [Embedded],
        call: &Call,
    ) -> Result<Vec<(usize, Vec<u32>)>, Error> {
        let mut tokens = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            if index % TOKENIZE == 0 && call.cancelled.is_cancelled() {
                return Err(Error::cancelled());
            }
            if text.trim().is_empty() {
                continue;
            }
            // A tokenizer comes from a file; a text that makes it panic costs that text only.
            let encoded = catch_unwind(AssertUnwindSafe(|| {
                self.tokenizer.encode_fast(text.as_str(), true)
            }));
            match encoded {
                Ok(Ok(encoding)) if !encoding.is_empty() => {
                    tokens.push((index, encoding.get_ids().to_vec()));
                }
                Ok(Ok(_)) => results[index] = Err("the tokenizer made no tokens of it".to_owned()),
                Ok(Err(error)) => results[index] = Err(format!("tokenizer: {error}")),
                Err(_) => results[index] = Err("the tokenizer panicked on it".to_owned()),
            }
        }
        Ok(tokens)
    }
}

/// How many of the texts, which come shortest first, make the next batch.
fn batch_size(texts: &[(usize, Vec<u32>)], max: usize) -> usize {
    let fits = texts
        .iter()
        .take(max.max(1))
        .enumerate()
        .take_while(|(before, (_, tokens))| (before + 1) * tokens.len() <= BATCH_TOKENS)
        .count();
    fits.max(1)
}

fn crashed(error: &str) -> Error {
    Error::new(ErrorKind::Failed, format!("embedding stopped: {error}"))
}
