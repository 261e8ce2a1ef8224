//! Group commit: the only door for writes.
//!
//! ```text
//! submit --queue--> writer thread: one transaction for all that waits --finished--> callbacks
//! ```
//!
//! A caller who is alone writes its commit itself ([`Committer::submit_here`]): to wake a thread, and to be
//! woken by it, takes longer than most of what it does.
//!
//! While one transaction is forced to disk, the next one gathers in the queue: the busier the store,
//! the more commits share a flush, and an idle store commits at once. A disk that flushes faster than
//! commits gather would make many flushes of few commits, which cost more than they gain: see [`pace`].
//!
//! Callers build on commits that are not durable yet. So when one fails, everything that its lane
//! submitted after it, under the same generation, fails too: it was computed from a state that never
//! came to be. The lane's owner reloads what is stored and goes on under a larger generation.

mod lanes;
mod stats;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::lanes::FailedLanes;
pub use self::stats::{CommitStats, Histogram};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::thread::{self, JoinHandle, ThreadId};
use crate::sync::{Condvar, Mutex, MutexGuard, mpsc};
use crate::{Commit, Error, Store};

/// A submission's place in the order: larger than that of all before it.
pub type Ticket = u64;

/// What became of a commit. It may be shared with commits that failed because of this one.
pub type Outcome = Result<(), Arc<Error>>;

/// The lane of commits that rest on nothing but what is durable: when one fails, no other does.
pub const NO_LANE: usize = usize::MAX;

/// Called once, when the commit is durable or will never be.
pub type OnDone = Box<dyn FnOnce(Outcome) + Send>;

/// How much goes into one transaction. Enough that a flush is cheap per commit, little enough that
/// the first commit of a batch does not wait long for the last.
const BATCH_COMMITS_MAX: usize = 512;
const BATCH_BYTES_MAX: usize = 4 << 20;

/// With more commits than this in one transaction, callers come in such numbers that the next one is
/// worth waiting for, so long after this one began.
const BUSY_COMMITS: usize = 6;
const PACE: Duration = Duration::from_millis(1);

/// A caller counts as alone when so many commits in a row came with nothing else under way. Of two callers, each
/// would keep the other one waiting, and a thread of the runtime's besides.
const ALONE: u32 = if cfg!(any(test, shuttle)) { 1 } else { 32 };

/// A store that takes longer for a commit is waited for by the thread that is there for that.
const QUICK: Duration = if cfg!(any(test, shuttle)) {
    Duration::MAX
} else {
    Duration::from_millis(1)
};

/// Writes commits in the order of their submission, many in one transaction.
///
/// Dropping it writes what was submitted, runs the callbacks and joins the threads.
pub struct Committer {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// What is to be written next, of one without threads.
    stepped: Option<Mutex<VecDeque<Submission>>>,
}

struct Shared {
    store: Arc<dyn Store>,
    queue: Mutex<Queue>,
    submitted: Condvar,
    driver: Option<Driver>,
    durable: AtomicU64,
    /// The last ticket whose callback has run.
    told: AtomicU64,
    /// Held by whoever writes.
    writer: Mutex<Writer>,
    /// Who writes a commit of its own.
    here: Mutex<Option<ThreadId>>,
    stats: stats::Counters,
}

/// Who drives a committer without threads.
struct Driver {
    wake: Box<dyn Fn() + Send + Sync>,
    /// Whether a caller who is alone writes its commit itself this time.
    here: Box<dyn Fn() -> bool + Send + Sync>,
}

struct Queue {
    waiting: VecDeque<Submission>,
    last: Ticket,
    /// How many submissions in a row came with nothing else under way.
    alone: u32,
    /// The writer sleeps and has to be woken.
    asleep: bool,
    closed: bool,
}

struct Submission {
    ticket: Ticket,
    lane: usize,
    generation: u64,
    commit: Commit,
    on_done: OnDone,
}

/// What is known from one batch to the next.
#[derive(Default)]
struct Writer {
    failed: FailedLanes,
    last: Option<Last>,
}

/// The last transaction.
#[derive(Clone, Copy)]
struct Last {
    begun: Instant,
    took: Duration,
    commits: usize,
}

/// A batch whose outcome is known and was not told yet; `outcomes` is empty when all went well.
pub struct Finished {
    shared: Arc<Shared>,
    batch: Vec<Submission>,
    outcomes: Vec<Outcome>,
}

impl Shared {
    fn new(store: Arc<dyn Store>, driver: Option<Driver>) -> Arc<Self> {
        Arc::new(Shared {
            store,
            queue: Mutex::new(Queue {
                waiting: VecDeque::with_capacity(BATCH_COMMITS_MAX),
                last: 0,
                alone: 0,
                asleep: false,
                closed: false,
            }),
            submitted: Condvar::new(),
            driver,
            durable: AtomicU64::new(0),
            told: AtomicU64::new(0),
            writer: Mutex::default(),
            here: Mutex::default(),
            stats: stats::Counters::default(),
        })
    }
}

impl Committer {
    /// Starts the threads: one writes, the other tells.
    ///
    /// # Panics
    /// When the system refuses a thread.
    pub fn start(store: Arc<dyn Store>) -> Self {
        let (finished, to_call) = mpsc::channel::<Finished>();
        let teller = spawn("tidemill-committed", move || {
            // Frees what was committed, too, while the next transaction is written.
            for finished in to_call {
                finished.call_back();
            }
        });
        // The other thread ends only after this one.
        let committer = Self::start_telling(store, move |batch| {
            let _ = finished.send(batch);
        });
        committer.threads.lock().push(teller);
        committer
    }

    /// Starts the thread that writes. It hands each batch whose outcome is known to `tell`, in
    /// order, which must not block; [`Finished::call_back`] is to be called on them, in order.
    ///
    /// # Panics
    /// When the system refuses a thread.
    pub fn start_telling(
        store: Arc<dyn Store>,
        tell: impl FnMut(Finished) + Send + 'static,
    ) -> Self {
        let shared = Shared::new(store, None);
        let writing = shared.clone();
        let writer = spawn("tidemill-commit", move || write(&writing, tell));
        Committer {
            shared,
            threads: Mutex::new(vec![writer]),
            stepped: None,
        }
    }

    /// One without threads, for a simulation: whoever is woken by `wake` calls [`step`](Self::step) until there
    /// is nothing to do. `here` says each time whether a caller who is alone writes its commit itself.
    #[doc(hidden)]
    pub fn stepped(
        store: Arc<dyn Store>,
        wake: impl Fn() + Send + Sync + 'static,
        here: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        let driver = Driver {
            wake: Box::new(wake),
            here: Box::new(here),
        };
        Committer {
            shared: Shared::new(store, Some(driver)),
            threads: Mutex::default(),
            stepped: Some(Mutex::default()),
        }
    }

    /// Writes one batch, if anything waits. Nobody is told before [`Finished::call_back`].
    #[doc(hidden)]
    pub fn step(&self) -> Option<Finished> {
        let backlog = &mut *self.stepped.as_ref()?.lock();
        backlog.append(&mut self.shared.queue.lock().waiting);
        let writer = &mut *self.shared.writer.lock();
        (!backlog.is_empty()).then(|| writer.write_batch(&self.shared, next_batch(backlog)))
    }

    /// Puts a commit in the order and returns at once. `on_done` runs where batches are told of,
    /// after those of all earlier submissions; it must not block.
    ///
    /// `lane` says who built the commit (a shard), `generation` on which reload of its state. After
    /// a failure, the lane's submissions fail with the same error until the generation is larger.
    /// [`NO_LANE`] has no such memory.
    ///
    /// Whoever comes this way counts as one who is not alone: see [`submit_here`](Self::submit_here).
    ///
    /// After [`close`](Self::close) the commit fails at once, on the caller's thread.
    pub fn submit(&self, lane: usize, generation: u64, commit: Commit, on_done: OnDone) -> Ticket {
        self.put(lane, generation, commit, on_done, false)
    }

    /// As [`submit`](Self::submit), but if nobody else is at it, and the store was quick the last time, the
    /// caller's thread writes the commit and runs `on_done` before this returns. For callers who would
    /// wait for nothing else meanwhile, and hold nothing that `on_done` needs.
    pub fn submit_here(
        &self,
        lane: usize,
        generation: u64,
        commit: Commit,
        on_done: OnDone,
    ) -> Ticket {
        self.put(lane, generation, commit, on_done, true)
    }

    fn put(
        &self,
        lane: usize,
        generation: u64,
        commit: Commit,
        on_done: OnDone,
        here: bool,
    ) -> Ticket {
        let mut queue = self.shared.queue.lock();
        queue.last += 1;
        let ticket = queue.last;
        if queue.closed {
            drop(queue);
            on_done(Err(Arc::new(Error::Io("the store is closing".into()))));
            return ticket;
        }
        let submission = Submission {
            ticket,
            lane,
            generation,
            commit,
            on_done,
        };
        if here && self.shared.told.load(Ordering::Acquire) + 1 == ticket {
            queue.alone = queue.alone.saturating_add(1);
        } else {
            queue.alone = 0;
        }
        if here && let Some(writer) = self.shared.writer_alone(&queue) {
            // What is submitted from here on is written after this one: the writer is held.
            drop(queue);
            self.shared.write_here(writer, submission);
            return ticket;
        }
        queue.waiting.push_back(submission);
        let wake = std::mem::take(&mut queue.asleep);
        drop(queue);
        if let Some(driver) = &self.shared.driver {
            (driver.wake)();
        } else if wake {
            self.shared.submitted.notify_one();
        }
        ticket
    }

    /// The last ticket whose outcome is known; all before it are known too. A callback sees at least
    /// its own ticket here.
    pub fn durable(&self) -> Ticket {
        self.shared.durable.load(Ordering::Acquire)
    }

    /// What was done since the start.
    pub fn stats(&self) -> CommitStats {
        let waiting = self.shared.queue.lock().waiting.len() as u64;
        self.shared
            .stats
            .snapshot(waiting, self.shared.store.fsyncs())
    }

    /// Writes what was submitted, and joins the threads: what [`start`](Self::start) began has run
    /// the callbacks then, and others have been told of all batches. Later submissions fail. Calling it
    /// from a callback does not wait for the threads.
    pub fn close(&self) {
        let mut queue = self.shared.queue.lock();
        queue.closed = true;
        drop(queue);
        while let Some(finished) = self.step() {
            finished.call_back();
        }
        self.shared.submitted.notify_one();
        let this = thread::current().id();
        if *self.shared.here.lock() == Some(this) {
            return;
        }
        let mut threads = self.threads.lock();
        if threads.iter().any(|thread| thread.thread().id() == this) {
            return;
        }
        for thread in threads.drain(..) {
            // Panics inside are caught, and were reported when they happened.
            let _ = thread.join();
        }
        // A caller may be at it as well.
        drop(self.shared.writer.lock());
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.close();
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    thread::Builder::new()
        .name(name.into())
        .spawn(body)
        .expect("the system has no thread for the committer")
}

/// The writer thread: until closed, one batch after the other.
fn write(shared: &Arc<Shared>, mut tell: impl FnMut(Finished)) {
    let mut backlog = VecDeque::with_capacity(BATCH_COMMITS_MAX);
    while refill(shared, &mut backlog) {
        let mut writer = shared.writer.lock();
        if let Some(last) = writer.last {
            let wait = pace(last.commits, last.begun, Instant::now());
            if !wait.is_zero() {
                thread::sleep(wait);
                refill(shared, &mut backlog);
            }
        }
        let written = writer.write_batch(shared, next_batch(&mut backlog));
        drop(writer);
        tell(written);
    }
}

impl Shared {
    /// The right to write what `queue` has just numbered, for a caller who has long been alone.
    fn writer_alone(&self, queue: &Queue) -> Option<MutexGuard<'_, Writer>> {
        if let Some(driver) = &self.driver {
            return (queue.alone > 0 && (driver.here)()).then(|| self.writer.lock());
        }
        if queue.alone < ALONE {
            return None;
        }
        let writer = self.writer.try_lock()?;
        (writer.last?.took <= QUICK).then_some(writer)
    }

    fn write_here(self: &Arc<Self>, mut writer: MutexGuard<'_, Writer>, submission: Submission) {
        *self.here.lock() = Some(thread::current().id());
        // Told with the writer held: nobody is told of what comes later before.
        writer.write_batch(self, vec![submission]).call_back();
        *self.here.lock() = None;
    }
}

impl Writer {
    fn write_batch(&mut self, shared: &Arc<Shared>, batch: Vec<Submission>) -> Finished {
        let begun = Instant::now();
        let outcomes = settle(shared, &mut self.failed, &batch);
        if let Some(last) = batch.last() {
            shared.durable.store(last.ticket, Ordering::Release);
        }
        let written = |submission: &&Submission| !submission.commit.is_empty();
        let commits = batch.iter().filter(written).count();
        if commits > 0 {
            self.last = Some(Last {
                begun,
                took: begun.elapsed(),
                commits,
            });
        }
        Finished {
            shared: shared.clone(),
            batch,
            outcomes,
        }
    }
}

/// How long to wait for more commits when the last transaction, of that many, began at `begun`. Nobody
/// waits who is alone.
fn pace(commits: usize, begun: Instant, now: Instant) -> Duration {
    if commits <= BUSY_COMMITS {
        return Duration::ZERO;
    }
    (begun + PACE).saturating_duration_since(now)
}

/// Waits until there is something to write; false at the end.
fn refill(shared: &Shared, backlog: &mut VecDeque<Submission>) -> bool {
    let mut queue = shared.queue.lock();
    while backlog.is_empty() && queue.waiting.is_empty() {
        if queue.closed {
            return false;
        }
        queue.asleep = true;
        shared.submitted.wait(&mut queue);
        queue.asleep = false;
    }
    if backlog.is_empty() {
        std::mem::swap(backlog, &mut queue.waiting);
    } else if backlog.len() < BATCH_COMMITS_MAX {
        backlog.append(&mut queue.waiting);
    }
    true
}

/// Takes from the front what one transaction should hold, at least one submission.
fn next_batch(backlog: &mut VecDeque<Submission>) -> Vec<Submission> {
    let mut bytes = 0;
    let mut count = 0;
    for submission in backlog.iter().take(BATCH_COMMITS_MAX) {
        bytes += size(&submission.commit);
        if bytes > BATCH_BYTES_MAX && count > 0 {
            break;
        }
        count += 1;
    }
    backlog.drain(..count).collect()
}

/// About how many bytes a commit brings to the log; small rows count as some fixed number.
fn size(commit: &Commit) -> usize {
    const ROW: usize = 64;
    let runs: usize = commit
        .runs
        .iter()
        .map(|run| {
            let history: usize = run
                .history
                .iter()
                .map(|batch| ROW + batch.bytes.len())
                .sum();
            let state: usize = run
                .state
                .iter()
                .map(|row| ROW + row.value.as_ref().map_or(0, |value| value.len()))
                .sum();
            let outbox: usize = run
                .outbox_added
                .iter()
                .map(|row| ROW + row.value.len())
                .sum();
            let execution = run
                .execution
                .as_ref()
                .map_or(0, |execution| 8 * ROW + execution.info.len());
            let tasks =
                ROW * (run.tasks_added.len() + run.tasks_removed.len() + run.outbox_removed.len());
            // A copied history is read from the store; its size is not known here.
            ROW + history + state + outbox + execution + tasks
        })
        .sum();
    // A deleted run's pages are all written once more.
    let records = commit.namespaces.len() + commit.queues.len();
    runs + commit.deletes.len() * 64 * ROW + records * ROW
}

/// Writes a batch and says what became of each submission; empty when all went well.
fn settle(shared: &Shared, failed: &mut FailedLanes, batch: &[Submission]) -> Vec<Outcome> {
    let mut commits = Vec::with_capacity(batch.len());
    let mut lost = 0;
    for submission in batch {
        match failed.error(submission.lane, submission.generation) {
            Some(_) => lost += 1,
            None if submission.commit.is_empty() => {}
            None => commits.push(&submission.commit),
        }
    }
    let batch_error = if commits.is_empty() {
        None
    } else {
        apply(shared, &commits).err()
    };
    if batch_error.is_none() && lost == 0 {
        shared.stats.settled(batch.len(), 0);
        return Vec::new();
    }
    let alone = commits.len() == 1;
    let mut batch_error = batch_error.map(Arc::new);
    let retry = batch_error.is_some();
    let mut outcomes = Vec::with_capacity(batch.len());
    for submission in batch {
        let outcome = match failed.error(submission.lane, submission.generation) {
            Some(error) => Err(error.clone()),
            None if submission.commit.is_empty() || !retry => Ok(()),
            // It was alone in the transaction that failed: this is its own error.
            None if alone => Err(batch_error.take().expect("one commit takes it once")),
            None => apply(shared, &[&submission.commit]).map_err(Arc::new),
        };
        if let Err(error) = &outcome {
            failed.fail(submission.lane, submission.generation, error);
        }
        outcomes.push(outcome);
    }
    shared.stats.settled(
        batch.len(),
        outcomes.iter().filter(|outcome| outcome.is_err()).count(),
    );
    outcomes
}

/// One transaction. A panic of the store is that transaction's error: it must not end the thread
/// that everybody waits for.
fn apply(shared: &Shared, commits: &[&Commit]) -> Result<(), Error> {
    let started = Instant::now();
    let applied =
        catch_unwind(AssertUnwindSafe(|| shared.store.apply(commits))).unwrap_or_else(|_| {
            Err(Error::Io(
                "the store panicked; see its message above".into(),
            ))
        });
    shared
        .stats
        .applied(commits.len(), started.elapsed(), applied.is_ok());
    applied
}

impl Finished {
    /// Runs the callbacks.
    pub fn call_back(self) {
        let mut outcomes = self.outcomes.into_iter();
        let last = self.batch.last().map(|submission| submission.ticket);
        for submission in self.batch {
            let outcome = outcomes.next().unwrap_or(Ok(()));
            // A caller's panic is reported by the panic hook and must not keep others waiting.
            let _ = catch_unwind(AssertUnwindSafe(|| (submission.on_done)(outcome)));
        }
        if let Some(last) = last {
            self.shared.told.store(last, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::SqliteStore;
    use crate::{RunNo, RunWrite, StateRow};

    fn row(id: i64) -> Commit {
        let run = RunWrite {
            state: vec![StateRow {
                kind: 0,
                id,
                value: Some("x".into()),
            }],
            ..RunWrite::new(RunNo(1))
        };
        Commit {
            runs: vec![run],
            ..Commit::default()
        }
    }

    /// Submits until a commit was written by this thread, and calls `then` in its callback.
    fn written_here(committer: &Arc<Committer>, then: impl Fn() + Clone + Send + 'static) {
        let this = thread::current().id();
        for id in 0.. {
            let (done, told) = mpsc::channel();
            let then = then.clone();
            let on_done: OnDone = Box::new(move |outcome| {
                outcome.unwrap();
                let here = thread::current().id() == this;
                if here {
                    then();
                }
                done.send(here).unwrap();
            });
            committer.submit_here(0, 0, row(id), on_done);
            if told.recv().unwrap() {
                return;
            }
        }
    }

    fn committer() -> Arc<Committer> {
        Arc::new(Committer::start(Arc::new(SqliteStore::memory().unwrap())))
    }

    #[test]
    fn who_is_alone_writes_and_others_come_after() {
        let committer = committer();
        let (done, told) = mpsc::channel();
        let (there, second) = (committer.clone(), done.clone());
        written_here(&committer, move || {
            let second = second.clone();
            // The writer is held: the thread writes this one, and tells of it later.
            let on_done = Box::new(move |_| second.send("second").unwrap());
            there.submit_here(0, 0, row(-1), on_done);
            thread::sleep(Duration::from_millis(5));
            done.send("first").unwrap();
        });
        assert_eq!(told.recv().unwrap(), "first");
        assert_eq!(told.recv().unwrap(), "second");
    }

    #[test]
    fn a_callback_may_close_what_its_own_thread_writes() {
        let committer = committer();
        let there = committer.clone();
        written_here(&committer, move || there.close());
        let late = Arc::new(AtomicU64::new(0));
        let said = late.clone();
        let on_done = Box::new(move |outcome: Outcome| {
            said.store(u64::from(outcome.is_err()), Ordering::Relaxed);
        });
        committer.submit_here(0, 0, row(-1), on_done);
        assert_eq!(late.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn only_a_busy_store_is_paced() {
        let begun = Instant::now();
        let micros = Duration::from_micros;
        for (commits, passed, wait) in [
            (0, 0, 0),
            (1, 0, 0),
            (6, 100, 0),
            (7, 0, 1_000),
            (7, 200, 800),
            (64, 1_000, 0),
            (64, 5_000, 0),
        ] {
            assert_eq!(
                pace(commits, begun, begun + micros(passed)),
                micros(wait),
                "{commits} commits, {passed} us ago"
            );
        }
    }
}
