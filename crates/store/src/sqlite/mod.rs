//! The store in one SQLite file, or in memory.
//!
//! One connection writes; others read beside it (write-ahead log). A store in memory has a single
//! connection, which reads and writes take turns with.

mod backup;
mod checkpoint;
mod examine;
mod execution;
mod fault;
mod open;
pub(crate) mod read;
mod read_only;
mod readers;
mod reseal;
mod schema;
mod staging;
mod write;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use tidemill_checksums::Flusher;

pub use self::backup::restore;
pub use self::read_only::ReadOnly;
pub use self::reseal::reseal;

use self::checkpoint::{Checkpointer, Fsyncs};
use self::readers::Readers;
use crate::sync::Mutex;
use crate::{
    Commit, Error, Examination, ExecutionCount, ExecutionPage, HistoryBatch, NamespaceId,
    NamespaceWrite, Nanos, OutboxRow, QueueName, QueueRecord, RunId, RunIdentity, RunNo, Store,
    StoredRun, StoredTask, visibility,
};

/// How much a power failure may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Nothing that was committed: each transaction is forced to disk.
    #[default]
    Full,
    /// The last moments before it, never the file's consistency. Not for production: what was
    /// acknowledged may be gone. A crash of the process alone loses nothing.
    Relaxed,
}

/// How to open a data file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub durability: Durability,
}

/// A store in one SQLite file, or in memory.
// Fields are dropped in this order: readers first, so that the writer's connection is the last one
// and leaves the data file without a log; the lock when nothing is open any more.
pub struct SqliteStore {
    readers: Option<Readers>,
    writer: Mutex<Writer>,
    fsyncs: Option<Fsyncs>,
    file: Option<OpenFile>,
    /// One backup at a time: they share a place.
    backups: Mutex<()>,
    /// The file of a [`ReadOnly`].
    looked_at: Option<PathBuf>,
}

struct OpenFile {
    path: PathBuf,
    /// See `open::Opened::data`.
    _data: Arc<Flusher>,
    _lock: File,
}

pub(crate) struct Writer {
    checkpointer: Option<Checkpointer>,
    conn: Connection,
    known: write::Known,
}

impl SqliteStore {
    /// Opens the data file, creates it if need be, and brings an older format to this one. The file
    /// is locked against other processes until the store is dropped.
    ///
    /// A file that is not ours or that a newer version wrote is refused and stays as it is. So is one
    /// that has a log beside it, which [`LoggedStore`](crate::logged::LoggedStore) opens.
    pub fn open(path: &Path, options: Options) -> Result<Self, Error> {
        let store = Self::open_with(path, options, options.durability == Durability::Full)?;
        let logged = store.writer.lock().log()?.1.is_some();
        if logged {
            return Err(Error::Unusable {
                path: path.display().to_string(),
                reason: "its server was not stopped cleanly, and part of it is in the log beside it: start and stop the server first".into(),
            });
        }
        Ok(store)
    }

    /// `flushed` says whether each transaction will flush SQLite's log.
    fn open_with(path: &Path, options: Options, flushed: bool) -> Result<Self, Error> {
        let open::Opened {
            mut writer,
            path,
            data,
            lock,
        } = open::open(path, &options)?;
        let data = Arc::new(data);
        let checkpointer = Checkpointer::start(&path, data.clone(), &mut writer, flushed)?;
        write::forget_empty_queues(&writer)?;
        Ok(SqliteStore {
            readers: Some(Readers::new(path.clone())),
            fsyncs: Some(checkpointer.fsyncs()),
            writer: Mutex::new(Writer {
                checkpointer: Some(checkpointer),
                conn: writer,
                known: write::Known::default(),
            }),
            file: Some(OpenFile {
                path,
                _data: data,
                _lock: lock,
            }),
            backups: Mutex::default(),
            looked_at: None,
        })
    }

    /// A store that lives and dies with this value.
    pub fn memory() -> Result<Self, Error> {
        let mut conn = tidemill_checksums::open(":memory:", OpenFlags::default())?;
        open::configure(&conn)?;
        schema::migrate(&mut conn)?;
        conn.set_prepared_statement_cache_capacity(128);
        Ok(Self::single(conn, None))
    }

    /// A store whose reads and writes take turns with one connection.
    fn single(conn: Connection, looked_at: Option<PathBuf>) -> Self {
        SqliteStore {
            readers: None,
            writer: Mutex::new(Writer {
                checkpointer: None,
                conn,
                known: write::Known::default(),
            }),
            fsyncs: None,
            file: None,
            backups: Mutex::default(),
            looked_at,
        }
    }

    /// The data file's absolute path; `None` for a store in memory.
    pub fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|file| &*file.path)
    }

    /// Lets the data file grow to this many pages and no further, as a full disk would; `None` lifts
    /// the limit. For tests.
    #[doc(hidden)]
    pub fn limit_pages(&self, pages: Option<u32>) -> Result<(), Error> {
        let writer = self.writer.lock();
        writer.conn.query_row(
            &format!("PRAGMA max_page_count = {}", pages.unwrap_or(u32::MAX - 1)),
            [],
            |_| Ok(()),
        )?;
        Ok(())
    }

    /// Reads in one read transaction.
    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        match &self.readers {
            Some(readers) => readers.with(|conn| {
                // Ends when it is dropped; there is nothing to commit.
                let _snapshot = conn.unchecked_transaction()?;
                read(conn)
            }),
            None => read(&self.writer.lock().conn),
        }
    }
}

impl Writer {
    fn apply(&mut self, commits: &[&Commit]) -> Result<(), Error> {
        let applied = self.transact(commits);
        if applied.is_err() {
            self.known = write::Known::default();
        } else if let Some(checkpointer) = &mut self.checkpointer {
            checkpointer.committed(&self.conn);
        }
        applied
    }

    fn transact(&mut self, commits: &[&Commit]) -> Result<(), Error> {
        // Rolled back when it is dropped before its commit, a panic included.
        let transaction = Transaction::new_unchecked(&self.conn, TransactionBehavior::Immediate)?;
        write::apply(&transaction, &mut self.known, commits)?;
        transaction.commit()?;
        Ok(())
    }
}

impl Store for SqliteStore {
    fn apply(&self, commits: &[&Commit]) -> Result<(), Error> {
        if commits.iter().all(|commit| commit.is_empty()) {
            return Ok(());
        }
        self.writer.lock().apply(commits)
    }

    fn high_water(&self) -> Result<(RunNo, i64), Error> {
        self.read(read::high_water)
    }

    fn current_run(
        &self,
        namespace: &NamespaceId,
        workflow_id: &str,
    ) -> Result<Option<RunIdentity>, Error> {
        self.read(|conn| read::current_run(conn, namespace, workflow_id))
    }

    fn find_run(
        &self,
        namespace: &NamespaceId,
        workflow_id: &str,
        run_id: &RunId,
    ) -> Result<Option<RunIdentity>, Error> {
        self.read(|conn| read::find_run(conn, namespace, workflow_id, run_id))
    }

    fn load_run(&self, run: RunNo) -> Result<Option<StoredRun>, Error> {
        self.read(|conn| read::load_run(conn, run))
    }

    fn read_history(
        &self,
        run: RunNo,
        from_event_id: i64,
        to_event_id: i64,
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<HistoryBatch>, Error> {
        self.read(|conn| read::read_history(conn, run, from_event_id, to_event_id, limit, reverse))
    }

    fn due_runs(
        &self,
        after: (Nanos, RunNo),
        until: Nanos,
        limit: usize,
    ) -> Result<Vec<(Nanos, RunIdentity)>, Error> {
        self.read(|conn| read::due_runs(conn, after, until, limit))
    }

    fn queues_with_tasks(&self) -> Result<Vec<QueueName>, Error> {
        self.read(read::queues_with_tasks)
    }

    fn read_tasks(
        &self,
        queue: &QueueName,
        from: (u8, i64),
        limit: usize,
    ) -> Result<Vec<StoredTask>, Error> {
        self.read(|conn| read::read_tasks(conn, queue, from, limit))
    }

    fn count_tasks(&self, queue: &QueueName) -> Result<(i64, Option<Nanos>), Error> {
        self.read(|conn| read::count_tasks(conn, queue))
    }

    fn read_outbox(
        &self,
        after: (RunNo, i64),
        limit: usize,
    ) -> Result<Vec<(RunIdentity, OutboxRow)>, Error> {
        self.read(|conn| read::read_outbox(conn, after, limit))
    }

    fn expired_runs(&self, now: Nanos, limit: usize) -> Result<Vec<RunIdentity>, Error> {
        self.read(|conn| read::expired_runs(conn, now, limit))
    }

    fn runs_of_namespace(
        &self,
        namespace: &NamespaceId,
        after: RunNo,
        limit: usize,
    ) -> Result<Vec<RunIdentity>, Error> {
        self.read(|conn| read::runs_of_namespace(conn, namespace, after, limit))
    }

    fn namespaces(&self) -> Result<Vec<NamespaceWrite>, Error> {
        self.read(read::namespaces)
    }

    fn queue_records(&self) -> Result<Vec<QueueRecord>, Error> {
        self.read(read::queue_records)
    }

    fn list(
        &self,
        schema: &visibility::Schema,
        namespace: &NamespaceId,
        filter: &str,
        page_size: usize,
        page: Option<&[u8]>,
    ) -> Result<ExecutionPage, Error> {
        self.read(|conn| {
            // Number 0 is no namespace: the filter of an unknown one is still checked.
            let number = read::namespace(conn, namespace)?.unwrap_or(0);
            visibility::list(conn, schema, number, filter, page_size, page)
        })
    }

    fn count(
        &self,
        schema: &visibility::Schema,
        namespace: &NamespaceId,
        filter: &str,
    ) -> Result<ExecutionCount, Error> {
        self.read(|conn| {
            let number = read::namespace(conn, namespace)?.unwrap_or(0);
            visibility::count(conn, schema, number, filter)
        })
    }

    /// Derived from what SQLite is known to do: one flush of the log per transaction (none with
    /// [`Durability::Relaxed`]), one of its header each time it begins again, and for a checkpoint
    /// one of the log and one of the data file. What opening and closing the file flushes is not
    /// counted. `examples/commit_cost.rs` under `strace -fc` shows the same numbers.
    fn fsyncs(&self) -> u64 {
        self.fsyncs.as_ref().map_or(0, Fsyncs::get)
    }

    fn open_runs(&self, after: RunNo, limit: usize) -> Result<Vec<RunIdentity>, Error> {
        self.read(|conn| read::open_runs(conn, after, limit))
    }

    fn examine(&self, complete: bool) -> Result<Examination, Error> {
        let path = self.path().or(self.looked_at.as_deref());
        let mut found = self.read(|conn| examine::examine(conn, path, complete))?;
        if let Some(path) = &self.looked_at {
            examine::log(&self.writer.lock(), path, &mut found);
        }
        Ok(found)
    }

    fn backup(&self) -> Result<File, Error> {
        let _turn = self.backups.lock();
        match self.path() {
            Some(path) => {
                let mut target = path.as_os_str().to_owned();
                target.push(".backup");
                // A connection of its own: what it leaves in its cache is of no use to others.
                backup::copy(&open::reader_connection(path)?, Path::new(&target))
            }
            None => {
                let folder = std::env::temp_dir();
                let name = format!("tidemill-{}-{:p}.backup", std::process::id(), self);
                backup::copy(&self.writer.lock().conn, &folder.join(name))
            }
        }
    }
}
