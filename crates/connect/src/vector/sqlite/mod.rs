//! The embedded index: one SQLite file, exact search by sqlite-vec. Several processes may use it.

mod read;
mod schema;
#[cfg(test)]
mod tests;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use super::{DocumentChunks, Error, Filter, Info, Match, Model, Upserted, VectorStore};

/// Indexes that a process keeps open: opening costs more than most uses, and closing flushes.
const OPEN_MAX: usize = 8;

/// Those used last, the latest first.
static OPEN: Mutex<Vec<Arc<Inner>>> = Mutex::new(Vec::new());

/// One connection writes and one reads beside it, each when it is its turn.
struct Inner {
    name: String,
    path: PathBuf,
    writer: Mutex<Option<Open>>,
    reader: Mutex<Option<Open>>,
}

struct Open {
    conn: Connection,
    file: Option<FileId>,
}

/// What tells a file from one that took its name.
type FileId = (u64, u64);

struct Sqlite {
    inner: Arc<Inner>,
}

/// Opens an index; its file is made by the first upsert.
pub(super) fn open(name: &str, path: &Path) -> Result<Arc<dyn VectorStore>, Error> {
    let path = std::path::absolute(path)
        .map_err(|e| Error::Invalid(format!("the vector index {name}: {}: {e}", path.display())))?;
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let inner = match open.iter().position(|known| known.path == path) {
        Some(at) => open.remove(at),
        None => Arc::new(Inner {
            name: name.to_owned(),
            path,
            writer: Mutex::new(None),
            reader: Mutex::new(None),
        }),
    };
    open.insert(0, inner.clone());
    open.truncate(OPEN_MAX);
    Ok(Arc::new(Sqlite { inner }))
}

impl Inner {
    /// Calls `work` with an open connection, or with none if there is no index and none is made.
    fn with<T>(
        &self,
        slot: &Mutex<Option<Open>>,
        create: bool,
        work: impl FnOnce(Option<&mut Connection>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        // The file may have been removed, to build the index anew: what is written to the old
        // one would be lost without a word.
        let there = file_id(&self.path);
        if slot.as_ref().is_some_and(|open| open.file != there) {
            *slot = None;
        }
        if slot.is_none() && (create || there.is_some()) {
            *slot = schema::connect(&self.name, &self.path, create)?.map(|conn| Open {
                conn,
                file: file_id(&self.path),
            });
        }
        work(slot.as_mut().map(|open| &mut open.conn))
    }

    fn read<T: Default>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.with(&self.reader, false, |conn| {
            let Some(conn) = conn else {
                return Ok(T::default());
            };
            // All statements see the same state.
            let tx = conn
                .transaction_with_behavior(TransactionBehavior::Deferred)
                .map_err(|e| failed(&self.name, e))?;
            work(&tx)
        })
    }

    /// Runs `work` in a transaction, which is committed if all went well.
    fn write<T: Default>(
        &self,
        create: bool,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.with(&self.writer, create, |conn| {
            let Some(conn) = conn else {
                return Ok(T::default());
            };
            let failed = |e| failed(&self.name, e);
            let tx = conn
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(failed)?;
            let done = work(&tx)?;
            tx.commit().map_err(failed)?;
            Ok(done)
        })
    }
}

#[cfg(unix)]
fn file_id(path: &Path) -> Option<FileId> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn file_id(path: &Path) -> Option<FileId> {
    // An open file cannot be removed there.
    path.exists().then_some((0, 0))
}

fn unavailable(index: &str, cause: impl std::fmt::Display) -> Error {
    Error::Unavailable {
        index: index.to_owned(),
        cause: cause.to_string(),
    }
}

fn failed(index: &str, error: rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Error::Invalid(format!(
            "the file of the vector index {index} is damaged or none of SQLite ({error}): remove \
             it and build the index again"
        )),
        _ => unavailable(index, error),
    }
}

impl Sqlite {
    /// Runs `work` on a thread that may block.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let inner = self.inner.clone();
        tokio::task::spawn_blocking(move || work(&inner))
            .await
            .map_err(|e| unavailable(&self.inner.name, e))?
    }

    async fn read<T: Default + Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>, &str) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.run(move |inner| inner.read(|tx| work(tx, &inner.name)))
            .await
    }

    async fn write<T: Default + Send + 'static>(
        &self,
        create: bool,
        work: impl FnOnce(&Transaction<'_>, &str) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.run(move |inner| inner.write(create, |tx| work(tx, &inner.name)))
            .await
    }
}

#[async_trait]
impl VectorStore for Sqlite {
    async fn upsert(
        &self,
        model: &Model,
        documents: Vec<DocumentChunks>,
    ) -> Result<Upserted, Error> {
        super::check(model, &documents)?;
        let model = model.clone();
        self.write(true, move |tx, name| {
            write::upsert(tx, name, &model, &documents)
        })
        .await
    }

    async fn processed(&self, ids: &[String]) -> Result<BTreeMap<String, String>, Error> {
        let ids = ids.to_vec();
        self.read(|tx, name| read::processed(tx, ids).map_err(|e| failed(name, e)))
            .await
    }

    async fn document_ids(&self) -> Result<BTreeSet<String>, Error> {
        self.read(|tx, name| read::document_ids(tx).map_err(|e| failed(name, e)))
            .await
    }

    async fn delete_documents(&self, ids: &[String]) -> Result<u64, Error> {
        let ids = ids.to_vec();
        self.write(false, move |tx, name| {
            write::delete_documents(tx, &ids).map_err(|e| failed(name, e))
        })
        .await
    }

    async fn delete(&self, filter: &Filter) -> Result<u64, Error> {
        let filter = filter.clone();
        self.write(false, move |tx, name| {
            write::delete(tx, &filter).map_err(|e| failed(name, e))
        })
        .await
    }

    async fn search(
        &self,
        vector: Vec<f32>,
        k: usize,
        filter: &Filter,
    ) -> Result<Vec<Match>, Error> {
        let filter = filter.clone();
        self.read(move |tx, name| {
            let Some(there) = read::model(tx).map_err(|e| failed(name, e))? else {
                return Ok(Vec::new());
            };
            super::check_query(name, &there, &vector)?;
            read::search(tx, &bytes(&vector), k, &filter).map_err(|e| failed(name, e))
        })
        .await
    }

    async fn model(&self) -> Result<Option<Model>, Error> {
        self.read(|tx, name| read::model(tx).map_err(|e| failed(name, e)))
            .await
    }

    async fn info(&self) -> Result<Info, Error> {
        self.read(|tx, name| read::info(tx).map_err(|e| failed(name, e)))
            .await
    }
}

/// A vector as sqlite-vec takes it.
fn bytes(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|x| x.to_le_bytes()).collect()
}
