//! A store that fails, or stands still, when it is told to.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex};
use tidemill_store::visibility::Schema;
use tidemill_store::*;
use tokio::sync::watch;

use crate::rig::in_time;

/// What becomes of the commits of a transaction.
#[derive(Clone, Default)]
enum Mode {
    #[default]
    Sound,
    /// Those fail for which this says so.
    Fails(Arc<dyn Fn(&Commit) -> bool + Send + Sync>),
    /// Transactions wait.
    Held,
}

/// Passes everything on to a store; writes only as it is told.
pub(crate) struct Faulty {
    // Closed before `open` tells that it is.
    inner: Box<dyn Store>,
    mode: Mutex<Mode>,
    changed: Condvar,
    counts: watch::Sender<Counts>,
    /// How much later than it is retention believes it to be.
    pub(crate) later: Mutex<Nanos>,
    /// The next reading of wake-up times panics.
    pub(crate) panics: AtomicBool,
    _open: watch::Sender<()>,
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) applied: u64,
    pub(crate) failed: u64,
    /// Transactions that stand still now.
    pub(crate) held: u64,
}

impl Faulty {
    /// The store, and what ends when it is closed.
    pub(crate) fn new(inner: impl Store) -> (Arc<Self>, watch::Receiver<()>) {
        let (open, is_open) = watch::channel(());
        let store = Self {
            inner: Box::new(inner),
            mode: Mutex::default(),
            changed: Condvar::new(),
            counts: watch::channel(Counts::default()).0,
            later: Mutex::new(0),
            panics: AtomicBool::new(false),
            _open: open,
        };
        (Arc::new(store), is_open)
    }

    fn set(&self, mode: Mode) {
        *self.mode.lock() = mode;
        self.changed.notify_all();
    }

    pub(crate) fn fail(&self) {
        self.fail_where(|_| true);
    }

    pub(crate) fn fail_where(&self, fails: impl Fn(&Commit) -> bool + Send + Sync + 'static) {
        self.set(Mode::Fails(Arc::new(fails)));
    }

    /// Transactions stand still until something else is said.
    pub(crate) fn hold(&self) {
        self.set(Mode::Held);
    }

    pub(crate) fn recover(&self) {
        self.set(Mode::Sound);
    }

    pub(crate) fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

    /// Waits until this is so.
    pub(crate) async fn until(&self, is_so: impl Fn(Counts) -> bool) {
        let mut counts = self.counts.subscribe();
        let so = in_time(counts.wait_for(|counts| is_so(*counts))).await;
        so.expect("the store lives");
    }

    /// Waits until this is so, and looks whenever something was written.
    pub(crate) async fn until_stored(&self, is_so: impl Fn(&dyn Store) -> bool) {
        let mut counts = self.counts.subscribe();
        while !is_so(&*self.inner) {
            let changed = in_time(counts.changed()).await;
            changed.expect("the store lives");
        }
    }
}

impl Store for Faulty {
    fn apply(&self, commits: &[&Commit]) -> Result<(), Error> {
        let mut mode = self.mode.lock();
        if matches!(*mode, Mode::Held) {
            self.counts.send_modify(|counts| counts.held += 1);
            self.changed
                .wait_while(&mut mode, |mode| matches!(mode, Mode::Held));
            self.counts.send_modify(|counts| counts.held -= 1);
        }
        let now = mode.clone();
        drop(mode);
        if let Mode::Fails(fails) = now
            && commits.iter().any(|commit| fails(commit))
        {
            self.counts.send_modify(|counts| counts.failed += 1);
            return Err(Error::Io("database or disk is full".into()));
        }
        self.inner.apply(commits)?;
        self.counts.send_modify(|counts| counts.applied += 1);
        Ok(())
    }

    fn high_water(&self) -> Result<(RunNo, i64), Error> {
        self.inner.high_water()
    }

    fn current_run(
        &self,
        namespace: &NamespaceId,
        workflow_id: &str,
    ) -> Result<Option<RunIdentity>, Error> {
        self.inner.current_run(namespace, workflow_id)
    }

    fn find_run(
        &self,
        namespace: &NamespaceId,
        workflow_id: &str,
        run_id: &RunId,
    ) -> Result<Option<RunIdentity>, Error> {
        self.inner.find_run(namespace, workflow_id, run_id)
    }

    fn load_run(&self, run: RunNo) -> Result<Option<StoredRun>, Error> {
        self.inner.load_run(run)
    }

    fn read_history(
        &self,
        run: RunNo,
        from: i64,
        to: i64,
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<HistoryBatch>, Error> {
        self.inner.read_history(run, from, to, limit, reverse)
    }

    fn due_runs(
        &self,
        after: (Nanos, RunNo),
        until: Nanos,
        limit: usize,
    ) -> Result<Vec<(Nanos, RunIdentity)>, Error> {
        if self.panics.swap(false, Ordering::SeqCst) {
            panic!("as the test asked");
        }
        self.inner.due_runs(after, until, limit)
    }

    fn queues_with_tasks(&self) -> Result<Vec<QueueName>, Error> {
        self.inner.queues_with_tasks()
    }

    fn read_tasks(
        &self,
        queue: &QueueName,
        from: (u8, i64),
        limit: usize,
    ) -> Result<Vec<StoredTask>, Error> {
        self.inner.read_tasks(queue, from, limit)
    }

    fn count_tasks(&self, queue: &QueueName) -> Result<(i64, Option<Nanos>), Error> {
        self.inner.count_tasks(queue)
    }

    fn read_outbox(
        &self,
        after: (RunNo, i64),
        limit: usize,
    ) -> Result<Vec<(RunIdentity, OutboxRow)>, Error> {
        self.inner.read_outbox(after, limit)
    }

    fn expired_runs(&self, now: Nanos, limit: usize) -> Result<Vec<RunIdentity>, Error> {
        self.inner.expired_runs(now + *self.later.lock(), limit)
    }

    fn runs_of_namespace(
        &self,
        namespace: &NamespaceId,
        after: RunNo,
        limit: usize,
    ) -> Result<Vec<RunIdentity>, Error> {
        self.inner.runs_of_namespace(namespace, after, limit)
    }

    fn namespaces(&self) -> Result<Vec<NamespaceWrite>, Error> {
        self.inner.namespaces()
    }

    fn queue_records(&self) -> Result<Vec<QueueRecord>, Error> {
        self.inner.queue_records()
    }

    fn list(
        &self,
        schema: &Schema,
        namespace: &NamespaceId,
        filter: &str,
        page_size: usize,
        page: Option<&[u8]>,
    ) -> Result<ExecutionPage, Error> {
        self.inner.list(schema, namespace, filter, page_size, page)
    }

    fn count(
        &self,
        schema: &Schema,
        namespace: &NamespaceId,
        filter: &str,
    ) -> Result<ExecutionCount, Error> {
        self.inner.count(schema, namespace, filter)
    }

    fn fsyncs(&self) -> u64 {
        self.inner.fsyncs()
    }

    fn open_runs(&self, after: RunNo, limit: usize) -> Result<Vec<RunIdentity>, Error> {
        self.inner.open_runs(after, limit)
    }

    fn examine(&self, complete: bool) -> Result<Examination, Error> {
        self.inner.examine(complete)
    }

    fn backup(&self) -> Result<File, Error> {
        self.inner.backup()
    }
}
