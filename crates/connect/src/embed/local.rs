//! Models computed in this process, each loaded once.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use tokenizers::{Tokenizer, TruncationParams};
use tokio::sync::OnceCell;

use super::bert::Bert;
use super::folder::{self, Folder};
use super::{Call, EMPTY, Embedded, Embedder, Error, ErrorKind};

/// Texts computed at once: more win nothing on a CPU and take memory.
const BATCH: usize = 32;

/// Tokens, padding included, computed at once: long texts come in smaller batches, so that what a
/// layer computes stays within some tens of megabytes.
const BATCH_TOKENS: usize = 4096;

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

/// A folder in the state in which it was read.
#[derive(Clone, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
}

#[derive(Clone)]
struct Entry {
    stamp: Stamp,
    cell: Arc<OnceCell<Arc<Local>>>,
}

/// By canonical path. A model stays loaded until the process ends or its file is replaced.
static LOADED: LazyLock<Mutex<BTreeMap<PathBuf, Entry>>> = LazyLock::new(Mutex::default);

/// The model `name`; whoever asks while it is being loaded waits for that one load.
pub(super) async fn open(name: &str, data: &Path) -> Result<Arc<Local>, Error> {
    let path = folder::find(name, data)?;
    let unreadable = |error: std::io::Error| {
        Error::misconfigured(format!("model {name:?} in {}: {error}", path.display()))
    };
    let path = path.canonicalize().map_err(unreadable)?;
    let weights = path.join(folder::WEIGHTS);
    let metadata = weights.metadata().map_err(|error| {
        Error::misconfigured(format!("model {name:?}: {}: {error}", weights.display()))
    })?;
    let stamp = Stamp {
        bytes: metadata.len(),
        modified: metadata.modified().ok(),
    };
    let cell = {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = loaded.entry(path.clone()).or_insert_with(|| Entry {
            stamp: stamp.clone(),
            cell: Arc::default(),
        });
        if entry.stamp != stamp {
            *entry = Entry {
                stamp,
                cell: Arc::default(),
            };
        }
        entry.cell.clone()
    };
    let load = || async {
        let path = path.clone();
        let loaded = tokio::task::spawn_blocking(move || Local::load(&path)).await;
        loaded.map_err(|error| crashed(&error.to_string()))?
    };
    cell.get_or_try_init(load).await.cloned()
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
        let name = path.file_name().map_or_else(
            || path.display().to_string(),
            |name| name.to_string_lossy().into_owned(),
        );
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

    async fn embed(&self, texts: Vec<String>, call: &Call) -> Result<Vec<Embedded>, Error> {
        let model = self.model.clone();
        let mut call = call.clone();
        call.cancelled = call.cancelled.child_token();
        // When this future is dropped, the thread stops at its next batch.
        let _stop = call.cancelled.clone().drop_guard();
        let computed = tokio::task::spawn_blocking(move || model.embed(&texts, &call)).await;
        computed.map_err(|error| crashed(&error.to_string()))?
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
