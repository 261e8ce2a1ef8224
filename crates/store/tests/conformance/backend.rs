//! The stores under test.

use tempfile::TempDir;
use tidemill_store::Store;
use tidemill_store::logged::{self, LoggedStore};
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

/// What a test of a store with a log does between the commits and the reads.
#[derive(Clone, Copy)]
enum Staged {
    /// Nothing that it does not do by itself for a read.
    Stays,
    /// It is in the tables as soon as possible.
    IsWritten,
}

/// A store with a log.
pub(crate) struct Logged {
    store: Option<LoggedStore>,
    folder: TempDir,
    staged: Staged,
    /// The process is killed instead of stopping.
    killed: bool,
}

impl Logged {
    fn with(staged: Staged, killed: bool) -> Self {
        let mut backend = Logged {
            store: None,
            folder: TempDir::new().unwrap(),
            staged,
            killed,
        };
        backend.open();
        backend
    }

    pub(crate) fn staging() -> Self {
        Self::with(Staged::Stays, false)
    }

    pub(crate) fn writing() -> Self {
        Self::with(Staged::IsWritten, false)
    }

    pub(crate) fn killed() -> Self {
        Self::with(Staged::Stays, true)
    }

    pub(crate) fn killed_while_writing() -> Self {
        Self::with(Staged::IsWritten, true)
    }

    fn open(&mut self) {
        let options = match self.staged {
            Staged::Stays => logged::Options {
                delay: std::time::Duration::from_secs(3600),
                bytes: 1 << 40,
            },
            Staged::IsWritten => logged::Options {
                delay: std::time::Duration::ZERO,
                bytes: 0,
            },
        };
        let path = self.folder.path().join("data.db");
        self.store = Some(LoggedStore::open(&path, options).unwrap());
    }
}

impl Backend for Logged {
    fn store(&self) -> &dyn Store {
        self.store.as_ref().unwrap()
    }

    fn reopen(&mut self) {
        if self.killed {
            // What the process leaves is what the system has of its files now.
            let left = TempDir::new().unwrap();
            for entry in std::fs::read_dir(self.folder.path()).unwrap() {
                let entry = entry.unwrap();
                let name = entry.file_name();
                if !name.to_string_lossy().ends_with("-shm") {
                    std::fs::copy(entry.path(), left.path().join(name)).unwrap();
                }
            }
            self.store = None;
            self.folder = left;
        }
        self.store = None;
        self.open();
    }
}
