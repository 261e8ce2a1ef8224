//! Durable storage of runs: commits in, records out.
//!
//! The store knows SQL and nothing of workflows: states, events and effects are bytes to it.
//! A [`Commit`] is applied whole or not at all, and [`Committer`] is the only door for writes:
//! it drains everything that waits into one transaction, so that one fsync serves many runs.

pub mod committer;
pub mod error;
mod examination;
pub mod log;
pub mod logged;
pub mod record;
pub mod sqlite;
mod sync;
pub mod visibility;

use std::fs::File;

pub use committer::{Committer, Ticket};
pub use error::Error;
pub use examination::{Examination, Size};
pub use record::*;

/// What an implementation of the store offers. All calls block; callers choose the thread.
pub trait Store: Send + Sync + 'static {
    /// Applies the commits in order, in one transaction. On an error nothing is applied.
    fn apply(&self, commits: &[&Commit]) -> Result<(), Error>;

    /// The largest run number and task sequence in use; both are 0 in an empty store.
    fn high_water(&self) -> Result<(RunNo, i64), Error>;

    /// The current run of a workflow id (the one with the largest number).
    fn current_run(
        &self,
        namespace: &NamespaceId,
        workflow_id: &str,
    ) -> Result<Option<RunIdentity>, Error>;
    /// A run by its public id.
    fn find_run(
        &self,
        namespace: &NamespaceId,
        workflow_id: &str,
        run_id: &RunId,
    ) -> Result<Option<RunIdentity>, Error>;
    /// A run's state; `None` when it was deleted.
    fn load_run(&self, run: RunNo) -> Result<Option<StoredRun>, Error>;
    /// History batches whose last event id is at least `from_event_id` and whose first is at
    /// most `to_event_id`, oldest first (newest first when `reverse`), at most `limit` of them.
    fn read_history(
        &self,
        run: RunNo,
        from_event_id: i64,
        to_event_id: i64,
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<HistoryBatch>, Error>;

    /// Runs that want to be woken at or before `until`, earliest first, at most `limit`, with
    /// times greater than `after` (exclusive pair, for paging).
    fn due_runs(
        &self,
        after: (Nanos, RunNo),
        until: Nanos,
        limit: usize,
    ) -> Result<Vec<(Nanos, RunIdentity)>, Error>;
    /// Queues that hold tasks.
    fn queues_with_tasks(&self) -> Result<Vec<QueueName>, Error>;
    /// Tasks of a queue from (priority, seq) on, inclusive, in order.
    fn read_tasks(
        &self,
        queue: &QueueName,
        from: (u8, i64),
        limit: usize,
    ) -> Result<Vec<StoredTask>, Error>;
    /// The number of tasks of a queue in the store and the creation time of the oldest.
    fn count_tasks(&self, queue: &QueueName) -> Result<(i64, Option<Nanos>), Error>;
    /// Effects on other runs that were not acknowledged, by (run, id) after the given pair.
    fn read_outbox(
        &self,
        after: (RunNo, i64),
        limit: usize,
    ) -> Result<Vec<(RunIdentity, OutboxRow)>, Error>;
    /// Closed runs whose retention has passed.
    fn expired_runs(&self, now: Nanos, limit: usize) -> Result<Vec<RunIdentity>, Error>;
    /// Up to `limit` runs of a namespace, open or closed, by number after `after`.
    fn runs_of_namespace(
        &self,
        namespace: &NamespaceId,
        after: RunNo,
        limit: usize,
    ) -> Result<Vec<RunIdentity>, Error>;

    fn namespaces(&self) -> Result<Vec<NamespaceWrite>, Error>;
    /// The records of task queues, in the order of namespaces, names and kinds.
    fn queue_records(&self) -> Result<Vec<QueueRecord>, Error>;

    /// Lists runs by a filter in Temporal's list-filter language (engine contract section 10.2).
    fn list(
        &self,
        schema: &visibility::Schema,
        namespace: &NamespaceId,
        filter: &str,
        page_size: usize,
        page: Option<&[u8]>,
    ) -> Result<ExecutionPage, Error>;
    /// Counts runs by a filter, which may end in `GROUP BY ExecutionStatus`.
    fn count(
        &self,
        schema: &visibility::Schema,
        namespace: &NamespaceId,
        filter: &str,
    ) -> Result<ExecutionCount, Error>;

    /// How many times data was forced to disk since the store was opened.
    fn fsyncs(&self) -> u64;

    /// Open runs by number after `after`, at most `limit`.
    fn open_runs(&self, after: RunNo, limit: usize) -> Result<Vec<RunIdentity>, Error>;
    /// What the data takes and whether it is as it was written. `complete` reads all of it; without it
    /// only what costs little is looked at. Damage is a finding, and no error as long as anything can be
    /// read.
    fn examine(&self, complete: bool) -> Result<Examination, Error>;
    /// A copy of everything that was committed before the call, and perhaps of some that was committed
    /// meanwhile, as a data file of its own. It has no name any more: it is gone when it is closed.
    /// Commits go on. Calls take turns.
    fn backup(&self) -> Result<File, Error>;
}
