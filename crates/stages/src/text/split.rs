//! The stage `text.split`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use tidemill_pipeline::data::{FailedItem, Item, Part};
use tidemill_pipeline::stage::{Kind, StageType, Type};
use tokenizers::Tokenizer;

use super::measure::Measure;
use super::splitter::Splitter;
use super::structure::Structure;
use crate::records::{Document, sha256};
use crate::{Context, Error, Stage, params};

const NAME: &str = "text.split";

const SIZE_CHARACTERS: usize = 1_000;
/// What common embedding models read of a text.
const SIZE_TOKENS: usize = 256;

/// Splits documents into chunks.
#[derive(Default)]
pub struct Split {
    /// By path; loading one costs more than splitting a document.
    tokenizers: Mutex<BTreeMap<PathBuf, Loaded>>,
}

/// A tokenizer, and the size and time of the file that it was read from.
struct Loaded {
    stamp: Option<(u64, SystemTime)>,
    measure: Arc<Measure>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct With {
    /// Where texts are cut.
    #[serde(default)]
    method: Method,
    /// Longest chunk, in `unit`s, its overlap included: 1000 characters or 256 tokens by default.
    #[schemars(range(min = 1))]
    size: Option<usize>,
    /// How much of the text before it a chunk begins with, in `unit`s; less than `size`.
    #[serde(default)]
    overlap: usize,
    /// What `size` and `overlap` count: `characters` by default, `tokens` with method `token` or a
    /// tokenizer.
    unit: Option<Unit>,
    /// Counts tokens exactly: a model's folder, its name in the folder of models, or a
    /// tokenizer.json. Without it tokens are estimated.
    tokenizer: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Method {
    /// As suits the document: `markdown` for Markdown and HTML, `code` for source files, else
    /// `recursive`.
    #[default]
    Auto,
    /// At paragraphs, then sentences, then words.
    Recursive,
    /// At headings and blocks; chunks know the headings they stand under.
    Markdown,
    /// As `recursive`, counting tokens.
    Token,
    /// At definitions, then blocks, then lines, of any programming language.
    Code,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Unit {
    Characters,
    Tokens,
}

/// What a chunk of documents is split with.
struct Job {
    method: Method,
    size: usize,
    overlap: usize,
    measure: Arc<Measure>,
    stage: String,
}

impl Split {
    fn job(&self, with: With, cx: &Context) -> Result<Job, Error> {
        let tokens = with.method == Method::Token || with.tokenizer.is_some();
        let unit = match (with.unit, tokens) {
            (Some(Unit::Characters), true) => {
                let why = "characters do not go with method `token` or a tokenizer";
                return Err(params::wrong(NAME, "unit", why));
            }
            (Some(unit), _) => unit,
            (None, true) => Unit::Tokens,
            (None, false) => Unit::Characters,
        };
        let size = with.size.unwrap_or(match unit {
            Unit::Characters => SIZE_CHARACTERS,
            Unit::Tokens => SIZE_TOKENS,
        });
        if size == 0 {
            return Err(params::wrong(NAME, "size", "0 leaves no room for any text"));
        }
        if with.overlap >= size {
            let why = format!("{} is not less than size, {size}", with.overlap);
            return Err(params::wrong(NAME, "overlap", why));
        }
        let measure = match (&with.tokenizer, unit) {
            (Some(name), _) => self.tokenizer(name, &cx.data)?,
            (None, Unit::Tokens) => Arc::new(Measure::Estimate),
            (None, Unit::Characters) => Arc::new(Measure::Characters),
        };
        Ok(Job {
            method: with.method,
            size,
            overlap: with.overlap,
            measure,
            stage: cx.stage.clone(),
        })
    }

    fn tokenizer(&self, name: &str, data: &Path) -> Result<Arc<Measure>, Error> {
        let path = find_tokenizer(name, data)?;
        let stamp = path
            .metadata()
            .and_then(|file| Ok((file.len(), file.modified()?)));
        let stamp = stamp.ok();
        // A panic while it was held left the map as it was.
        let mut known = self
            .tokenizers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = known.get(&path)
            && loaded.stamp == stamp
        {
            return Ok(loaded.measure.clone());
        }
        let wrong = |e| params::wrong(NAME, "tokenizer", format!("{}: {e}", path.display()));
        let mut tokenizer = Tokenizer::from_file(&path).map_err(wrong)?;
        // Files of models come with the lengths the model wants: they would cut what is counted.
        tokenizer.with_truncation(None).map_err(wrong)?;
        tokenizer.with_padding(None);
        let measure = Arc::new(Measure::Tokenizer(Box::new(tokenizer)));
        let loaded = Loaded {
            stamp,
            measure: measure.clone(),
        };
        known.insert(path, loaded);
        Ok(measure)
    }
}

/// The file of the tokenizer `name`.
fn find_tokenizer(name: &str, data: &Path) -> Result<PathBuf, Error> {
    let models = data.join("models");
    let places = [
        models.join(name).join("tokenizer.json"),
        Path::new(name).join("tokenizer.json"),
        PathBuf::from(name),
    ];
    places
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| {
            let why = format!(
                "there is no tokenizer.json at {name} or in {}",
                models.display()
            );
            params::wrong(NAME, "tokenizer", why)
        })
}

#[async_trait]
impl Stage for Split {
    fn describe(&self) -> StageType {
        StageType {
            name: NAME.to_owned(),
            summary: "Splits documents into chunks for embedding; an edit changes only the chunks around it."
                .to_owned(),
            kind: Kind::Items,
            input: Type::record("document"),
            output: Type::record("chunk"),
            resource: "cpu".to_owned(),
            with: params::schema::<With>(),
            pure: true,
            batched: None,
        }
    }

    async fn items(&self, chunk: Part, with: Value, cx: &Context) -> Result<Part, Error> {
        let job = self.job(params::parse(NAME, with)?, cx)?;
        tokio::task::spawn_blocking(move || job.run(chunk.items))
            .await
            .map_err(|e| Error::failed(format!("{NAME}: splitting broke down: {e}")))
    }

    /// The tokenizer that counts.
    async fn revision(&self, with: &Value, cx: &Context) -> Result<Option<String>, Error> {
        let with: With = params::parse(NAME, with.clone())?;
        let Some(name) = &with.tokenizer else {
            return Ok(None);
        };
        let path = find_tokenizer(name, &cx.data)?;
        let bytes = tokio::fs::read(&path)
            .await
            .map_err(|e| params::wrong(NAME, "tokenizer", format!("{}: {e}", path.display())))?;
        Ok(Some(format!("sha256:{}", sha256(&bytes))))
    }
}

impl Job {
    fn run(&self, items: Vec<Item>) -> Part {
        let splitter = Splitter {
            measure: &self.measure,
            size: self.size,
            overlap: self.overlap,
        };
        let mut part = Part::default();
        for item in items {
            let source = item.source_id().to_owned();
            let made = serde_json::from_value::<Document>(item.value)
                .map_err(|e| format!("{NAME} takes documents: {e}"))
                .and_then(|document| {
                    let structure = self.structure(&document);
                    splitter
                        .split(&item.id, &document, structure)
                        .into_iter()
                        .map(|(id, chunk)| {
                            Ok(Item {
                                id,
                                source: source.clone(),
                                value: serde_json::to_value(chunk).map_err(|e| e.to_string())?,
                            })
                        })
                        .collect::<Result<Vec<Item>, String>>()
                });
            match made {
                Ok(chunks) => part.items.extend(chunks),
                Err(error) => part.failed.push(FailedItem {
                    id: item.id,
                    source: item.source,
                    stage: self.stage.clone(),
                    error,
                }),
            }
        }
        part
    }

    fn structure(&self, document: &Document) -> Structure {
        match self.method {
            Method::Recursive | Method::Token => Structure::Plain,
            Method::Markdown => Structure::Markdown,
            Method::Code => Structure::Code,
            Method::Auto => match document.media_type.as_str() {
                "text/markdown" | "text/html" => Structure::Markdown,
                "text/plain" if is_source(&document.uri) => Structure::Code,
                _ => Structure::Plain,
            },
        }
    }
}

/// Whether a name is that of source code.
fn is_source(uri: &str) -> bool {
    const EXTENSIONS: [&str; 36] = [
        "bash", "c", "cc", "clj", "cpp", "cs", "css", "dart", "ex", "exs", "go", "h", "hpp", "hs",
        "java", "jl", "js", "json", "jsx", "kt", "lua", "ml", "php", "pl", "py", "r", "rb", "rs",
        "scala", "sh", "sql", "swift", "toml", "ts", "tsx", "yaml",
    ];
    uri.rsplit_once('.')
        .is_some_and(|(_, extension)| EXTENSIONS.binary_search(&extension).is_ok())
}
