//! Vector indexes: documents, their chunks and the chunks' vectors.
//!
//! A document's chunks are replaced together with its own record in one transaction, so a document
//! that an index calls processed has all its chunks there, once.
//!
//! Three stores: a SQLite file, PostgreSQL with pgvector, and Qdrant. Qdrant has no transactions;
//! `qdrant` says what that leaves.

mod filter;
mod pgvector;
mod qdrant;
mod sqlite;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::embed::Spec;
pub use filter::Filter;

/// Why an index could not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The index cannot be reached or written at the moment.
    #[error("the vector index {index} cannot be used now: {cause}")]
    Unavailable { index: String, cause: String },
    /// Vectors that do not fit what the index holds. Nothing was written.
    #[error(
        "the vector index {index} holds vectors of {there} and cannot take those of {given}: use \
         another index, or the model that it was made with"
    )]
    Mismatch {
        index: String,
        there: Box<Model>,
        given: Box<Model>,
    },
    #[error("{0}")]
    Invalid(String),
}

/// What made the vectors of an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    pub model: String,
    pub revision: String,
    pub dimension: usize,
    /// How to open the model again, for queries, where its name does not say that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedder: Option<Spec>,
}

impl Model {
    /// Whether vectors of both can lie in one index. The same model may be reached in several ways.
    pub fn goes_with(&self, other: &Model) -> bool {
        (&self.model, &self.revision, self.dimension)
            == (&other.model, &other.revision, other.dimension)
    }

    /// What opens it.
    pub fn spec(&self) -> Spec {
        let named = || Spec::Name(self.model.clone());
        self.embedder.clone().unwrap_or_else(named)
    }

    /// Whether this way to open it should be kept in place of the one that is.
    fn supersedes(&self, there: &Model) -> bool {
        self.embedder.is_some() && self.embedder != there.embedder
    }
}

impl std::fmt::Display for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            model,
            revision,
            dimension,
            embedder: _,
        } = self;
        write!(
            f,
            "model {model} (revision {revision}, {dimension} dimensions)"
        )
    }
}

/// Refuses what no index can hold before anything is written.
fn check(model: &Model, documents: &[DocumentChunks]) -> Result<(), Error> {
    let mut ids = BTreeSet::new();
    for document in documents {
        if !ids.insert(&document.id) {
            return Err(Error::Invalid(format!(
                "document {} is given twice in one upsert",
                document.id
            )));
        }
        let mut chunks = BTreeSet::new();
        for chunk in &document.chunks {
            let of = format!("chunk {} of document {}", chunk.id, document.id);
            if !chunks.insert(&chunk.id) {
                return Err(Error::Invalid(format!(
                    "{of} is given twice: ids must be unique"
                )));
            }
            if chunk.vector.len() != model.dimension {
                return Err(Error::Invalid(format!(
                    "{of} has {} dimensions, its model {}",
                    chunk.vector.len(),
                    model.dimension
                )));
            }
            if !chunk.vector.iter().all(|x| x.is_finite()) {
                return Err(Error::Invalid(format!(
                    "{of} has a vector that is not finite"
                )));
            }
        }
    }
    Ok(())
}

/// Refuses a vector that nothing is near to.
fn check_query(index: &str, there: &Model, vector: &[f32]) -> Result<(), Error> {
    if there.dimension != vector.len() {
        return Err(Error::Invalid(format!(
            "the vector index {index} holds vectors of {there}; the query has {} dimensions",
            vector.len()
        )));
    }
    if !vector.iter().all(|x| x.is_finite()) || vector.iter().all(|x| *x == 0.0) {
        return Err(Error::Invalid(
            "the query's vector is zero or not finite: nothing is near to it".to_owned(),
        ));
    }
    Ok(())
}

/// A document and all its chunks.
#[derive(Clone, Debug, PartialEq)]
pub struct DocumentChunks {
    pub id: String,
    pub uri: String,
    /// Of the document's bytes: with it the document is found unchanged.
    pub hash: String,
    pub chunks: Vec<ChunkVector>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ChunkVector {
    pub id: String,
    pub index: u64,
    pub text: String,
    pub metadata: Map<String, Value>,
    pub vector: Vec<f32>,
}

/// What an upsert did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Upserted {
    pub documents: u64,
    pub chunks: u64,
    /// Chunks of earlier versions that went.
    pub removed: u64,
}

/// A chunk that was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Match {
    /// Cosine similarity, -1 to 1.
    pub score: f64,
    pub id: String,
    pub document: String,
    pub uri: String,
    pub index: u64,
    pub text: String,
    pub metadata: Map<String, Value>,
}

/// What an index holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Info {
    /// Those that are processed.
    pub documents: u64,
    pub chunks: u64,
    /// `None` as long as nothing was written.
    pub model: Option<Model>,
}

/// An index of vectors.
#[async_trait]
pub trait VectorStore: Send + Sync {
    /// Replaces documents: all their chunks and their records, in one transaction. Doing it twice
    /// leaves the same. The first upsert with a chunk fixes the index's model.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when the index was made with another model; nothing is written then.
    async fn upsert(
        &self,
        model: &Model,
        documents: Vec<DocumentChunks>,
    ) -> Result<Upserted, Error>;

    /// The hashes of those of the documents that the index holds with all their chunks.
    async fn processed(&self, ids: &[String]) -> Result<BTreeMap<String, String>, Error>;

    /// Ids of all documents, those not known to be complete as well.
    async fn document_ids(&self) -> Result<BTreeSet<String>, Error>;

    /// Removes documents with their chunks; the number of documents that were there.
    async fn delete_documents(&self, ids: &[String]) -> Result<u64, Error>;

    /// Removes the chunks that meet a filter; their number. Their documents count as not processed
    /// from then on.
    async fn delete(&self, filter: &Filter) -> Result<u64, Error>;

    /// The `k` chunks nearest to a vector, the nearest first.
    async fn search(
        &self,
        vector: Vec<f32>,
        k: usize,
        filter: &Filter,
    ) -> Result<Vec<Match>, Error>;

    /// What made the vectors; `None` as long as nothing was written.
    async fn model(&self) -> Result<Option<Model>, Error>;

    async fn info(&self) -> Result<Info, Error>;
}

/// Opens an index: a name stands for `indexes/<name>.db` in the data folder, an object with `qdrant`
/// or `pgvector` for one elsewhere. Nothing is made and nobody is called before it is used.
///
/// # Errors
/// The description is not one of an index.
pub async fn open(index: &Value, data: &Path) -> Result<Arc<dyn VectorStore>, Error> {
    match index {
        Value::String(name) => {
            let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
            if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
                return Err(Error::Invalid(format!(
                    "`{name}` is no name of an index: use letters, digits, `-`, `_` and `.`"
                )));
            }
            let path = data.join("indexes").join(format!("{name}.db"));
            Ok(sqlite::open(name, &path)?)
        }
        Value::Object(fields) => {
            let one = fields.iter().next().filter(|_| fields.len() == 1);
            match one.map(|(kind, at)| (kind.as_str(), at)) {
                Some(("qdrant", at)) => {
                    Ok(Arc::new(qdrant::Qdrant::open(settings("qdrant", at)?)?))
                }
                Some(("pgvector", at)) => Ok(Arc::new(pgvector::Pgvector::open(settings(
                    "pgvector", at,
                )?)?)),
                _ => Err(Error::Invalid(
                    "index: give a name, {qdrant: {url, collection}} or {pgvector: {url, table}}"
                        .to_owned(),
                )),
            }
        }
        other => Err(Error::Invalid(format!(
            "index: `{other}` is no index: give its name, or an object with `qdrant` or `pgvector`"
        ))),
    }
}

fn settings<T: serde::de::DeserializeOwned>(kind: &str, at: &Value) -> Result<T, Error> {
    serde_json::from_value(at.clone())
        .map_err(|error| Error::Invalid(format!("index: {kind}: {error}")))
}

/// A secret that an environment variable holds, so that no pipeline has to.
fn secret(kind: &str, field: &str, variable: Option<&str>) -> Result<Option<String>, Error> {
    let Some(variable) = variable else {
        return Ok(None);
    };
    match std::env::var(variable) {
        Ok(secret) => Ok(Some(secret)),
        Err(_) => Err(Error::Invalid(format!(
            "index: {kind}: {field} names the environment variable {variable}, which is not set"
        ))),
    }
}
