//! A folder with a model in the layout of sentence-transformers.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::Error;
use super::bert::{Config, Pooling};

pub(super) const WEIGHTS: &str = "model.safetensors";
pub(super) const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "config.json";
/// May be missing.
const LENGTHS: &str = "sentence_bert_config.json";
/// May be missing.
const POOLING: &str = "1_Pooling/config.json";

/// Tokens at which a text is cut when the folder does not say.
const DEFAULT_MAX_TOKENS: usize = 256;

/// Sizes and times of the files that have a part in a vector: others mean other files.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Stamp(Vec<Option<(u64, Option<SystemTime>)>>);

impl Stamp {
    pub(super) fn of(path: &Path) -> Self {
        let files = [CONFIG, TOKENIZER, WEIGHTS, LENGTHS, POOLING];
        let stamp = |file: &&str| {
            let metadata = path.join(file).metadata().ok()?;
            Some((metadata.len(), metadata.modified().ok()))
        };
        Self(files.iter().map(stamp).collect())
    }
}

/// The files that have a part in a vector.
struct Files {
    config: Vec<u8>,
    tokenizer: Vec<u8>,
    weights: Vec<u8>,
    lengths: Option<Vec<u8>>,
    pooling: Option<Vec<u8>>,
    /// `sha256:` over the names and hashes of all of them.
    revision: String,
}

impl Files {
    fn read(path: &Path) -> Result<Self, Error> {
        let mut revision = Sha256::new();
        let mut file = |name: &str| -> Result<Vec<u8>, Error> {
            let bytes = fs::read(path.join(name)).map_err(|error| {
                Error::misconfigured(format!("{}: {error}", path.join(name).display()))
            })?;
            revision.update(name.as_bytes());
            revision.update([0]);
            revision.update(Sha256::digest(&bytes));
            Ok(bytes)
        };
        let (config, tokenizer, weights) = (file(CONFIG)?, file(TOKENIZER)?, file(WEIGHTS)?);
        let mut optional = |name: &str| path.join(name).exists().then(|| file(name)).transpose();
        let (lengths, pooling) = (optional(LENGTHS)?, optional(POOLING)?);
        Ok(Self {
            config,
            tokenizer,
            weights,
            lengths,
            pooling,
            revision: format!("sha256:{:x}", revision.finalize()),
        })
    }
}

/// The revision of the model in a folder. Reads the whole folder, and blocks for as long.
pub(super) fn revision(path: &Path) -> Result<String, Error> {
    Ok(Files::read(path)?.revision)
}

/// Bytes of its weights.
pub(super) fn weights(path: &Path) -> Result<u64, Error> {
    let file = path.join(WEIGHTS).metadata();
    let file = file.map_err(|error| refuse(path, WEIGHTS, error.to_string()))?;
    Ok(file.len())
}

/// What a model is called.
pub(super) fn name(path: &Path) -> String {
    path.file_name().map_or_else(
        || path.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// What a folder holds, checked, with the weights in memory.
pub(super) struct Folder {
    pub(super) config: Config,
    pub(super) pooling: Pooling,
    pub(super) max_tokens: usize,
    pub(super) weights: Vec<u8>,
    pub(super) tokenizer: Vec<u8>,
    pub(super) revision: String,
}

/// Where a model may be, the first place first.
pub(super) fn places(name: &str, data: &Path) -> Vec<PathBuf> {
    let path = Path::new(name);
    let named = path.is_relative() && !path.starts_with(".") && !path.starts_with("..");
    let mut places = Vec::new();
    if named {
        places.push(data.join("models").join(path));
    }
    places.push(path.to_owned());
    places
}

/// The folder of the model `name`.
pub(super) fn find(name: &str, data: &Path) -> Result<PathBuf, Error> {
    if name.is_empty() {
        return Err(Error::misconfigured("model: the name is empty"));
    }
    let places = places(name, data);
    match places.iter().find(|place| place.is_dir()) {
        Some(place) => Ok(place.clone()),
        None => {
            let looked: Vec<_> = places.iter().map(|p| p.display().to_string()).collect();
            Err(Error::misconfigured(format!(
                "model {name:?} is not here: looked for a folder at {}; put one there that holds \
                 {WEIGHTS}, {TOKENIZER} and {CONFIG}",
                looked.join(" and at ")
            )))
        }
    }
}

impl Folder {
    /// Reads the whole folder. Blocks for as long as that takes.
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let files = Files::read(path)?;
        let config: Config = json(path, CONFIG, &files.config)?;
        config
            .check()
            .map_err(|reason| refuse(path, CONFIG, reason))?;
        let mut max_tokens = DEFAULT_MAX_TOKENS;
        if let Some(lengths) = &files.lengths {
            let lengths: Lengths = json(path, LENGTHS, lengths)?;
            max_tokens = lengths.max_seq_length.unwrap_or(max_tokens);
        }
        let mut pooling = Pooling::Mean;
        if let Some(modes) = &files.pooling {
            let modes: PoolingModes = json(path, POOLING, modes)?;
            pooling = modes
                .pooling()
                .map_err(|reason| refuse(path, POOLING, reason))?;
        }
        Ok(Self {
            max_tokens: max_tokens.min(config.max_position_embeddings),
            config,
            pooling,
            weights: files.weights,
            tokenizer: files.tokenizer,
            revision: files.revision,
        })
    }
}

fn json<T: DeserializeOwned>(path: &Path, name: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| refuse(path, name, error.to_string()))
}

fn refuse(path: &Path, name: &str, reason: String) -> Error {
    Error::misconfigured(format!("{}: {reason}", path.join(name).display()))
}

#[derive(Deserialize)]
struct Lengths {
    max_seq_length: Option<usize>,
}

#[derive(Deserialize)]
struct PoolingModes {
    #[serde(default)]
    pooling_mode_cls_token: bool,
    #[serde(default)]
    pooling_mode_mean_tokens: bool,
}

impl PoolingModes {
    fn pooling(&self) -> Result<Pooling, String> {
        match (self.pooling_mode_mean_tokens, self.pooling_mode_cls_token) {
            (true, false) => Ok(Pooling::Mean),
            (false, true) => Ok(Pooling::Cls),
            _ => Err(
                "only pooling by mean or by the first token is supported; serve this model \
                 with an inference server and name it as {openai: {url, model}}"
                    .to_owned(),
            ),
        }
    }
}
