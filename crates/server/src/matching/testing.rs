//! What the tests of this module share: a store in memory, a clock that follows tokio's, and short
//! names for tasks and queues.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tidemill_store::{
    Error, NamespaceId, Nanos, QueueName, RunIdentity, RunNo, StoredTask, TaskKey, TaskRow,
};
use tokio::time::Instant;

use super::{Config, Handout, Matching, Offer, PollOptions, Polled, QueueInfo, Stats, TaskSource};
use crate::sync::Mutex;

pub(super) fn namespace(n: u8) -> NamespaceId {
    [n; 16]
}

pub(super) fn queue(name: &str) -> QueueName {
    QueueName {
        namespace: namespace(1),
        name: name.into(),
        kind: 1,
    }
}

pub(super) fn run(n: i64) -> RunIdentity {
    RunIdentity {
        run: RunNo(n),
        namespace: namespace(1),
        workflow_id: format!("w{n}").into(),
        run_id: [0; 16],
    }
}

/// A task whose creation time is its sequence.
pub(super) fn task(name: &str, priority: u8, seq: i64) -> StoredTask {
    let key = TaskKey {
        queue: queue(name),
        priority,
        seq,
    };
    let task = TaskRow {
        key,
        run: RunNo(seq),
        scheduled_event_id: 2,
        stamp: 0,
        created: seq,
    };
    StoredTask {
        task,
        owner: run(seq),
    }
}

pub(super) fn seq_of(handout: &Handout) -> i64 {
    match handout.offer() {
        Offer::Task(task) => task.task.key.seq,
        other => panic!("{other:?}"),
    }
}

impl Matching {
    /// A poll where nothing is started before it is offered.
    pub(super) async fn offered(
        &self,
        queue: &QueueName,
        options: PollOptions,
    ) -> Result<Option<Handout>, tidemill_engine::Error> {
        Ok(match self.poll(queue, options).await? {
            Some(Polled::Offer(handout)) => Some(handout),
            Some(Polled::Started { .. }) => panic!("nobody has reserved this poll"),
            None => None,
        })
    }
}

/// Looks at a future once.
pub(super) fn look<F: Future>(
    future: &mut Pin<impl std::ops::DerefMut<Target = F>>,
) -> Option<F::Output> {
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// A small generator of pseudo-random numbers (splitmix64).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

#[derive(Default)]
struct Rows {
    tasks: BTreeMap<TaskKey, StoredTask>,
    reads: usize,
    largest_read: usize,
    failures: usize,
    /// Tasks whose `add` has returned.
    announced: BTreeSet<TaskKey>,
    /// Starts of tasks whose row had gone.
    duplicates: usize,
}

#[derive(Clone, Default)]
struct FakeStore(Arc<Mutex<Rows>>);

impl TaskSource for FakeStore {
    fn queues_with_tasks(&self) -> Result<Vec<QueueName>, Error> {
        let mut names: Vec<_> = self
            .0
            .lock()
            .tasks
            .keys()
            .map(|key| key.queue.clone())
            .collect();
        names.dedup();
        Ok(names)
    }

    fn read_tasks(
        &self,
        queue: &QueueName,
        from: (u8, i64),
        limit: usize,
    ) -> Result<Vec<StoredTask>, Error> {
        let mut rows = self.0.lock();
        rows.reads += 1;
        rows.largest_read = rows.largest_read.max(limit);
        if rows.failures > 0 {
            rows.failures -= 1;
            return Err(Error::Io("made to fail".into()));
        }
        let from = TaskKey {
            queue: queue.clone(),
            priority: from.0,
            seq: from.1,
        };
        let of_queue = rows
            .tasks
            .range(from..)
            .take_while(|(key, _)| key.queue == *queue);
        Ok(of_queue.take(limit).map(|(_, task)| task.clone()).collect())
    }

    fn count_tasks(&self, queue: &QueueName) -> Result<(i64, Option<Nanos>), Error> {
        let rows = self.0.lock();
        let of_queue = || {
            rows.tasks
                .values()
                .filter(|task| task.task.key.queue == *queue)
        };
        Ok((
            of_queue().count() as i64,
            of_queue().map(|task| task.task.created).min(),
        ))
    }
}

/// A matching service over a store in memory.
pub(super) struct Rig {
    pub(super) matching: Matching,
    store: FakeStore,
    config: Config,
    start: Instant,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(super) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        change(&mut config);
        let store = FakeStore::default();
        let start = Instant::now();
        let matching = Self::open(&config, &store, start);
        Self {
            matching,
            store,
            config,
            start,
        }
    }

    fn open(config: &Config, store: &FakeStore, start: Instant) -> Matching {
        Matching::new(config.clone(), store.clone(), move || wall(start))
    }

    /// Forgets all that was in memory.
    pub(super) fn restart(&mut self) {
        self.matching.shutdown();
        self.matching = Self::open(&self.config, &self.store, self.start);
    }

    pub(super) fn wall(&self) -> Nanos {
        wall(self.start)
    }

    /// Writes a row.
    pub(super) fn write(&self, name: &str, priority: u8, seq: i64) -> StoredTask {
        let mut task = task(name, priority, seq);
        task.task.created = self.wall();
        self.store
            .0
            .lock()
            .tasks
            .insert(task.task.key.clone(), task.clone());
        task
    }

    /// Writes a row and announces it.
    pub(super) fn add(&self, name: &str, priority: u8, seq: i64) -> bool {
        let task = self.write(name, priority, seq);
        let key = task.task.key.clone();
        let matched = self.matching.add(task);
        self.store.0.lock().announced.insert(key);
        matched
    }

    /// Deletes a row and announces it.
    pub(super) fn delete(&self, key: &TaskKey) {
        self.store.0.lock().tasks.remove(key);
        self.matching.remove(key);
    }

    /// Does what the start of a task does: the row goes, then the handout ends. False when the task
    /// had started before.
    pub(super) fn start(&self, handout: Handout) -> bool {
        let Offer::Task(task) = handout.offer() else {
            panic!("{handout:?}")
        };
        let key = task.task.key.clone();
        let started = {
            let mut rows = self.store.0.lock();
            let started = rows.tasks.remove(&key).is_some();
            rows.duplicates += usize::from(!started);
            started
        };
        if started {
            // A run's commits are announced in their order.
            while !self.store.0.lock().announced.contains(&key) {
                std::thread::yield_now();
            }
            self.matching.remove(&key);
        }
        handout.finish();
        started
    }

    pub(super) async fn poll(&self, name: &str, seconds: u64) -> Option<Handout> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        self.matching
            .offered(&queue(name), PollOptions::new("worker", deadline))
            .await
            .unwrap()
    }

    pub(super) fn describe(&self, name: &str) -> QueueInfo {
        self.matching.describe(&queue(name))
    }

    pub(super) fn stats(&self, name: &str) -> Stats {
        self.describe(name).stats
    }

    pub(super) fn reads(&self) -> usize {
        self.store.0.lock().reads
    }

    pub(super) fn largest_read(&self) -> usize {
        self.store.0.lock().largest_read
    }

    pub(super) fn duplicates(&self) -> usize {
        self.store.0.lock().duplicates
    }

    pub(super) fn fail_reads(&self, times: usize) {
        self.store.0.lock().failures = times;
    }
}

/// A clock that moves with tokio's, paused or not.
fn wall(start: Instant) -> Nanos {
    const EPOCH: Nanos = 1_700_000_000_000_000_000;
    EPOCH + Instant::now().saturating_duration_since(start).as_nanos() as Nanos
}
