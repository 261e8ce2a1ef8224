//! Reads: they see what was acknowledged, whether it is in the tables or staged.

use std::fs::File;

use rusqlite::Connection;

use super::pending::Pending;
use super::{LoggedStore, Shared};
use crate::sqlite::read;
use crate::{
    Commit, Error, Examination, ExecutionCount, ExecutionPage, HistoryBatch, NamespaceId,
    NamespaceWrite, Nanos, OutboxRow, QueueName, QueueRecord, RunId, RunIdentity, RunNo, Store,
    StoredRun, StoredTask, visibility,
};

impl Shared {
    /// Finds a run in the tables, unless `is_pending` says that they may not know it yet.
    fn find(
        &self,
        is_pending: impl Fn(&Pending) -> bool,
        find: impl Fn(&Connection) -> Result<Option<RunIdentity>, Error>,
    ) -> Result<Option<RunIdentity>, Error> {
        loop {
            let epoch = {
                let pending = self.pending.lock();
                if is_pending(&pending) {
                    drop(pending);
                    return self.read_staged(find);
                }
                pending.epoch()
            };
            let Some(found) = self.sqlite.read(&find)? else {
                return Ok(None);
            };
            // It may be deleted, and the tables not know that yet. If they learned it while they were
            // read, nobody knows any more whether it was before or after.
            let pending = self.pending.lock();
            if pending.deleted(found.run) {
                drop(pending);
                return self.read_staged(find);
            }
            if pending.epoch() == epoch {
                return Ok(Some(found));
            }
        }
    }

    /// Reads of one run.
    fn of_run<T>(
        &self,
        run: RunNo,
        read: impl FnOnce(&Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if self.pending.lock().run(run) {
            self.read_staged(read)
        } else {
            self.sqlite.read(read)
        }
    }

    /// Reads over many runs.
    fn all<T>(&self, read: impl FnOnce(&dyn Store) -> Result<T, Error>) -> Result<T, Error> {
        self.flush()?;
        read(&self.sqlite)
    }
}

impl Store for LoggedStore {
    fn apply(&self, commits: &[&Commit]) -> Result<(), Error> {
        if commits.iter().all(|commit| commit.is_empty()) {
            return Ok(());
        }
        self.shared.apply(commits)
    }

    fn high_water(&self) -> Result<(RunNo, i64), Error> {
        self.shared.all(|store| store.high_water())
    }

    fn current_run(
        &self,
        namespace: &NamespaceId,
        workflow_id: &str,
    ) -> Result<Option<RunIdentity>, Error> {
        self.shared.find(
            |pending| pending.workflow_id(namespace, workflow_id),
            |conn| read::current_run(conn, namespace, workflow_id),
        )
    }

    fn find_run(
        &self,
        namespace: &NamespaceId,
        workflow_id: &str,
        run_id: &RunId,
    ) -> Result<Option<RunIdentity>, Error> {
        self.shared.find(
            |pending| pending.run_id(run_id),
            |conn| read::find_run(conn, namespace, workflow_id, run_id),
        )
    }

    fn load_run(&self, run: RunNo) -> Result<Option<StoredRun>, Error> {
        self.shared.of_run(run, |conn| read::load_run(conn, run))
    }

    fn read_history(
        &self,
        run: RunNo,
        from_event_id: i64,
        to_event_id: i64,
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<HistoryBatch>, Error> {
        self.shared.of_run(run, |conn| {
            read::read_history(conn, run, from_event_id, to_event_id, limit, reverse)
        })
    }

    fn due_runs(
        &self,
        after: (Nanos, RunNo),
        until: Nanos,
        limit: usize,
    ) -> Result<Vec<(Nanos, RunIdentity)>, Error> {
        self.shared.all(|store| store.due_runs(after, until, limit))
    }

    fn queues_with_tasks(&self) -> Result<Vec<QueueName>, Error> {
        self.shared.all(|store| store.queues_with_tasks())
    }

    fn read_tasks(
        &self,
        queue: &QueueName,
        from: (u8, i64),
        limit: usize,
    ) -> Result<Vec<StoredTask>, Error> {
        self.shared
            .all(|store| store.read_tasks(queue, from, limit))
    }

    fn count_tasks(&self, queue: &QueueName) -> Result<(i64, Option<Nanos>), Error> {
        self.shared.all(|store| store.count_tasks(queue))
    }

    fn read_outbox(
        &self,
        after: (RunNo, i64),
        limit: usize,
    ) -> Result<Vec<(RunIdentity, OutboxRow)>, Error> {
        self.shared.all(|store| store.read_outbox(after, limit))
    }

    fn expired_runs(&self, now: Nanos, limit: usize) -> Result<Vec<RunIdentity>, Error> {
        self.shared.all(|store| store.expired_runs(now, limit))
    }

    fn runs_of_namespace(
        &self,
        namespace: &NamespaceId,
        after: RunNo,
        limit: usize,
    ) -> Result<Vec<RunIdentity>, Error> {
        self.shared
            .all(|store| store.runs_of_namespace(namespace, after, limit))
    }

    fn namespaces(&self) -> Result<Vec<NamespaceWrite>, Error> {
        self.shared.all(|store| store.namespaces())
    }

    fn queue_records(&self) -> Result<Vec<QueueRecord>, Error> {
        self.shared.all(|store| store.queue_records())
    }

    fn list(
        &self,
        schema: &visibility::Schema,
        namespace: &NamespaceId,
        filter: &str,
        page_size: usize,
        page: Option<&[u8]>,
    ) -> Result<ExecutionPage, Error> {
        self.shared
            .all(|store| store.list(schema, namespace, filter, page_size, page))
    }

    fn count(
        &self,
        schema: &visibility::Schema,
        namespace: &NamespaceId,
        filter: &str,
    ) -> Result<ExecutionCount, Error> {
        self.shared
            .all(|store| store.count(schema, namespace, filter))
    }

    /// Flushes of the log, and what SQLite flushes when it takes its own log into the data file.
    fn fsyncs(&self) -> u64 {
        self.shared.sqlite.fsyncs() + self.shared.log.syncs() + self.shared.orders.syncs()
    }

    fn open_runs(&self, after: RunNo, limit: usize) -> Result<Vec<RunIdentity>, Error> {
        self.shared.all(|store| store.open_runs(after, limit))
    }

    fn examine(&self, complete: bool) -> Result<Examination, Error> {
        self.shared.all(|store| store.examine(complete))
    }

    /// What was staged at the call is in the tables by then: the copy needs no log.
    fn backup(&self) -> Result<File, Error> {
        self.shared.all(|store| store.backup())
    }
}
