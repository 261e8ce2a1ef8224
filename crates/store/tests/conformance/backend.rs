//! The stores under test.

use tempfile::TempDir;
use tidemill_store::Store;
use tidemill_store::sqlite::{Durability, Options, SqliteStore};

pub(crate) trait Backend {
    fn store(&self) -> &dyn Store;
    /// Closes the store and opens it again; what cannot be reopened stays as it is.
    fn reopen(&mut self);
}

pub(crate) struct SqliteFile {
    store: Option<SqliteStore>,
    folder: TempDir,
}

impl SqliteFile {
    pub(crate) fn new() -> Self {
        let mut backend = SqliteFile {
            store: None,
            folder: TempDir::new().unwrap(),
        };
        backend.reopen();
        backend
    }
}

impl Backend for SqliteFile {
    fn store(&self) -> &dyn Store {
        self.store.as_ref().unwrap()
    }

    fn reopen(&mut self) {
        self.store = None;
        let options = Options {
            durability: Durability::Relaxed,
        };
        let path = self.folder.path().join("data.db");
        self.store = Some(SqliteStore::open(&path, options).unwrap());
    }
}

pub(crate) struct SqliteMemory(SqliteStore);

impl SqliteMemory {
    pub(crate) fn new() -> Self {
        SqliteMemory(SqliteStore::memory().unwrap())
    }
}

impl Backend for SqliteMemory {
    fn store(&self) -> &dyn Store {
        &self.0
    }

    fn reopen(&mut self) {}
}
