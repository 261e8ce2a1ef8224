//! Matching: brings durable tasks and waiting workers together.
//!
//! Task queues live in memory over the task rows of the store. Transitions of runs write and
//! delete the rows; this module decides who gets a task and when, and never writes. The contract
//! with its caller:
//!
//! - [`add`](Matching::add) is called after the commit that wrote a row is durable, and
//!   [`remove`](Matching::remove) after the commit that deleted one, whoever deleted it; for one
//!   task in this order.
//! - [`poll`](Matching::poll) brings a [`Handout`]. The caller lets the run start the task, and
//!   ends the handout with `finish` once that is durable or the run refused the task. A handout
//!   that is dropped goes back to the front of its queue.
//! - [`reserve`](Matching::reserve) may be asked before a row is written: a task that starts for a poll
//!   that waits needs none of the above.
//!
//! A task is handed to one worker at a time. In rare races (a caller gone in the middle of a
//! durable start) a task is offered once more after it started; the run refuses it.
//!
//! Order: strict priority 1 to 5, arrival within one (contract 8.1, 8.2); among pollers, who waits
//! longest. Fairness would be another order of the keys in [`backlog`]. Not here: what a task
//! means, when it times out, and how workers are told apart by version.
//!
//! Locks: one for each shard of the map of queues, one for each queue; a shard's lock may be held
//! when a queue's is taken, never the other way round, and no two of a kind together. None is
//! held across an await or a call into the store.

mod backlog;
mod beyond;
#[cfg(test)]
mod chaos;
mod describe;
mod idle;
mod leaving;
mod offer;
mod page;
mod poll;
mod pollers;
mod query;
mod queue;
mod rate;
mod reserve;
mod stats;
mod sticky;
#[cfg(test)]
mod testing;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tidemill_store::{NamespaceId, Nanos, QueueName, Store, StoredTask, TaskKey};

pub use describe::{QueueInfo, QueueSummary};
pub use offer::{Offer, QueryTask, SpeculativeTask};
pub(crate) use poll::Polled;
pub use poll::{Handout, PollOptions};
pub use pollers::{PollerInfo, WorkerInfo};
pub use query::{QueryError, QueryId, QueryRequest};
pub use rate::{EffectiveRate, RateSource};
pub(crate) use reserve::Reservation;
pub use stats::Stats;

use offer::Transient;
use queue::{Env, Queue, State};

use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Mutex, blocking_on};

#[derive(Clone, Debug)]
pub struct Config {
    /// Tasks of one queue that are kept in memory; the rest waits in the store.
    pub memory_tasks_max: usize,
    /// Concurrent long polls of one namespace.
    pub polls_per_namespace_max: usize,
    /// A sticky queue that nobody polled for this long is unavailable.
    pub sticky_window: Duration,
    /// A query to a queue that nobody polled for this long is refused before its deadline.
    pub query_poller_window: Duration,
    /// A queue that nobody polled for this long has no pollers.
    pub absent_after: Duration,
    /// How long pollers are listed after they were last seen.
    pub poller_retention: Duration,
    /// When an unused, empty queue is forgotten.
    pub idle_after: Duration,
    pub sticky_idle_after: Duration,
    /// One shard is looked through for idle queues each time this has passed.
    pub sweep_interval: Duration,
    pub shards: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            memory_tasks_max: 5_000,
            polls_per_namespace_max: 1_200,
            sticky_window: Duration::from_secs(10),
            query_poller_window: Duration::from_secs(20),
            absent_after: Duration::from_secs(20),
            poller_retention: Duration::from_secs(300),
            idle_after: Duration::from_secs(300),
            sticky_idle_after: Duration::from_secs(60),
            sweep_interval: Duration::from_secs(4),
            shards: 64,
        }
    }
}

/// What matching reads of the store. All calls block.
pub trait TaskSource: Send + Sync + 'static {
    /// Queues that hold tasks.
    fn queues_with_tasks(&self) -> Result<Vec<QueueName>, tidemill_store::Error>;
    /// Tasks of a queue from (priority, seq) on, inclusive, in order, at most `limit`.
    fn read_tasks(
        &self,
        queue: &QueueName,
        from: (u8, i64),
        limit: usize,
    ) -> Result<Vec<StoredTask>, tidemill_store::Error>;
    /// The number of tasks of a queue and the creation time of the oldest.
    fn count_tasks(&self, queue: &QueueName)
    -> Result<(i64, Option<Nanos>), tidemill_store::Error>;
}

impl<S: Store + ?Sized> TaskSource for Arc<S> {
    fn queues_with_tasks(&self) -> Result<Vec<QueueName>, tidemill_store::Error> {
        Store::queues_with_tasks(&**self)
    }

    fn read_tasks(
        &self,
        queue: &QueueName,
        from: (u8, i64),
        limit: usize,
    ) -> Result<Vec<StoredTask>, tidemill_store::Error> {
        Store::read_tasks(&**self, queue, from, limit)
    }

    fn count_tasks(
        &self,
        queue: &QueueName,
    ) -> Result<(i64, Option<Nanos>), tidemill_store::Error> {
        Store::count_tasks(&**self, queue)
    }
}

/// The matching service. Clones share it.
#[derive(Clone)]
pub struct Matching {
    inner: Arc<Inner>,
}

type Shard = Mutex<HashMap<QueueName, Arc<Queue>>>;

struct Inner {
    env: Arc<Env>,
    shards: Vec<Shard>,
    hasher: RandomState,
    /// Polls in progress by namespace. Entries stay: namespaces are few.
    polls: RwLock<HashMap<NamespaceId, Arc<AtomicUsize>>>,
    queries: query::Queries,
    leaving: leaving::Leaving,
    closed: AtomicBool,
}

impl Matching {
    /// Must be called within a tokio runtime, which then carries timers and page reads. `wall`
    /// gives the time that task rows are stamped with.
    pub fn new(
        config: Config,
        source: impl TaskSource,
        wall: impl Fn() -> Nanos + Send + Sync + 'static,
    ) -> Self {
        let shards = config.shards.max(1);
        let env = Env {
            config,
            source: Box::new(source),
            wall: Box::new(wall),
            runtime: tokio::runtime::Handle::current(),
        };
        let inner = Inner {
            env: Arc::new(env),
            shards: (0..shards).map(|_| Shard::default()).collect(),
            hasher: RandomState::new(),
            polls: RwLock::default(),
            queries: query::Queries::new(shards),
            leaving: leaving::Leaving::default(),
            closed: AtomicBool::new(false),
        };
        let matching = Self {
            inner: Arc::new(inner),
        };
        matching.start_sweeping();
        matching
    }

    /// Registers the queues that have tasks in the store; to be called once, before anything else.
    /// Tasks are read on a queue's first poll. They are counted in the background, so that the
    /// start does not wait for it. Returns their names.
    pub async fn load(&self) -> Result<Vec<QueueName>, tidemill_store::Error> {
        let matching = self.clone();
        let names = blocking_on(&self.env().runtime, move || {
            let names = matching.env().source.queues_with_tasks()?;
            for name in &names {
                let queue = Queue::new(name.clone(), Arc::clone(matching.env()), true);
                let mut shard = matching.shard(name).lock();
                shard.entry(name.clone()).or_insert_with(|| Arc::new(queue));
            }
            Ok::<_, tidemill_store::Error>(names)
        });
        let names = match names.await {
            Ok(names) => names?,
            Err(error) => return Err(tidemill_store::Error::Io(error.to_string())),
        };
        let loaded = names.clone();
        let matching = self.clone();
        blocking_on(&self.env().runtime, move || {
            for name in names {
                if matching.inner.closed.load(Ordering::SeqCst) {
                    return;
                }
                if let Some(queue) = matching.find(&name) {
                    queue.count();
                }
            }
        });
        Ok(loaded)
    }

    /// A task's row became durable: offers it to whoever waits longest on its queue, or keeps it.
    /// True when a poller got it at once.
    pub fn add(&self, task: StoredTask) -> bool {
        let name = task.task.key.queue.clone();
        self.with_queue(&name, |queue, s| queue.add(s, task))
    }

    /// Offers a speculative workflow task, which has no row, until its deadline.
    pub fn add_transient(&self, queue: &QueueName, task: SpeculativeTask) {
        self.with_queue(queue, |queue, s| {
            queue.add_transient(s, Transient::Speculative(task));
        });
    }

    /// A task's row was deleted, and that is durable. To be called for every deleted row, also
    /// when the task was handed out (it then tells that the row has gone).
    pub fn remove(&self, key: &TaskKey) {
        let Some(queue) = self.find(&key.queue) else {
            return;
        };
        let at = (key.priority, key.seq);
        let holder = queue.remove(&mut queue.lock(), at);
        if let Some(holder) = holder.and_then(|name| self.find(&name)) {
            holder.lock().backlog.remove_foreign(at);
        }
    }

    /// Offers a task again whose handout was finished although it did not start. Prefer dropping
    /// the handout, which costs nothing.
    pub fn requeue(&self, task: StoredTask) {
        let name = task.task.key.queue.clone();
        self.with_queue(&name, |queue, s| queue.add_again(s, task));
    }

    /// Sets or removes the operator's limit of dispatched tasks per second; 0 pauses the queue.
    pub fn set_rate_limit(&self, queue: &QueueName, per_second: Option<f64>) {
        self.with_queue(queue, |queue, s| queue.set_api_rate(s, per_second));
    }

    /// Ends all polls and queries at once, and all that come later.
    pub fn shutdown(&self) {
        self.inner.closed.store(true, Ordering::SeqCst);
        for queue in self.loaded() {
            queue.close(&mut queue.lock());
        }
        self.inner.queries.stop();
    }

    /// All queues in memory, a shard at a time: none is locked while its queues are gone through.
    fn loaded(&self) -> impl Iterator<Item = Arc<Queue>> {
        let shards = self.inner.shards.iter();
        shards.flat_map(|shard| shard.lock().values().cloned().collect::<Vec<_>>())
    }

    fn env(&self) -> &Arc<Env> {
        &self.inner.env
    }

    fn queries(&self) -> &query::Queries {
        &self.inner.queries
    }

    fn polls_of(&self, namespace: &NamespaceId) -> Arc<AtomicUsize> {
        if let Some(polls) = self.inner.polls.read().get(namespace) {
            return Arc::clone(polls);
        }
        Arc::clone(self.inner.polls.write().entry(*namespace).or_default())
    }

    fn shard(&self, name: &QueueName) -> &Shard {
        let shards = &self.inner.shards;
        &shards[self.inner.hasher.hash_one(name) as usize % shards.len()]
    }

    /// The queue if it is in memory.
    fn find(&self, name: &QueueName) -> Option<Arc<Queue>> {
        self.shard(name).lock().get(name).cloned()
    }

    fn find_or_create(&self, name: &QueueName) -> Arc<Queue> {
        let mut shard = self.shard(name).lock();
        if let Some(queue) = shard.get(name) {
            return Arc::clone(queue);
        }
        let queue = Arc::new(Queue::new(name.clone(), Arc::clone(self.env()), false));
        // Read under the shard's lock: either this sees the stop, or the stop sees the queue.
        queue.lock().closed = self.inner.closed.load(Ordering::SeqCst);
        shard.insert(name.clone(), Arc::clone(&queue));
        queue
    }

    /// Runs `f` on the queue, which is created if need be.
    fn with_queue<R>(&self, name: &QueueName, f: impl FnOnce(&Arc<Queue>, &mut State) -> R) -> R {
        loop {
            let queue = self.find_or_create(name);
            let mut s = queue.lock();
            if !s.dead {
                return f(&queue, &mut s);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::testing::{Rig, look, queue, run, seq_of, task};
    use super::*;

    fn in_seconds(n: u64) -> Instant {
        Instant::now() + Duration::from_secs(n)
    }

    async fn pause(seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn queues_are_apart_by_namespace_name_and_kind() {
        let rig = Rig::new();
        rig.add("q", 3, 1);
        let q = queue("q");
        let others = [
            QueueName {
                kind: 2,
                ..q.clone()
            },
            QueueName {
                name: "other".into(),
                ..q.clone()
            },
            QueueName {
                namespace: [9; 16],
                ..q.clone()
            },
        ];
        for other in others {
            let poll = rig
                .matching
                .offered(&other, PollOptions::new("a", in_seconds(1)));
            assert!(poll.await.unwrap().is_none());
        }
        assert!(rig.poll("q", 1).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_backlog_larger_than_memory_is_read_in_pages() {
        let rig = Rig::with(|config| config.memory_tasks_max = 10);
        for seq in 0..200 {
            rig.add("q", 1 + (seq % 5) as u8, seq);
        }
        assert_eq!(rig.stats("q").backlog_count, 200);
        let mut previous = (0, -1);
        for left in (0..200).rev() {
            let handout = rig.poll("q", 5).await.unwrap();
            let Offer::Task(task) = handout.offer() else {
                panic!()
            };
            let key = (task.task.key.priority, task.task.key.seq);
            assert!(previous < key, "{previous:?} before {key:?}");
            previous = key;
            rig.start(handout);
            assert_eq!(rig.stats("q").backlog_count, left);
        }
        assert!(rig.poll("q", 5).await.is_none());
        assert!(rig.largest_read() <= 5);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_restart_tasks_are_counted_and_handed_out() {
        let mut rig = Rig::with(|config| config.memory_tasks_max = 10);
        for seq in 0..50 {
            rig.add("q", 3, seq);
        }
        rig.restart();
        assert_eq!(rig.matching.load().await.unwrap().len(), 1);
        pause(1).await;
        assert_eq!(rig.reads(), 0, "nothing is read before somebody polls");
        let stats = rig.stats("q");
        assert_eq!(stats.backlog_count, 50);
        assert!(stats.backlog_age >= Duration::from_secs(1));
        assert!(!rig.add("q", 3, 50));
        for left in (0..=50).rev() {
            let handout = rig.poll("q", 5).await.unwrap();
            assert_eq!(seq_of(&handout), 50 - left);
            rig.start(handout);
            assert_eq!(rig.stats("q").backlog_count, left);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_fails_to_read_is_asked_again() {
        let mut rig = Rig::new();
        rig.add("q", 3, 1);
        rig.restart();
        rig.matching.load().await.unwrap();
        rig.fail_reads(2);
        let begun = Instant::now();
        assert_eq!(seq_of(&rig.poll("q", 60).await.unwrap()), 1);
        assert_eq!(begun.elapsed().as_secs(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_speculative_task_is_offered_until_its_deadline() {
        let rig = Rig::new();
        let q = queue("q");
        let speculative = |n: i64, seconds| SpeculativeTask {
            owner: run(n),
            scheduled_event_id: n,
            stamp: 0,
            priority: 3,
            deadline: in_seconds(seconds),
        };
        rig.add("q", 3, 1);
        rig.add("q", 1, 2);
        rig.matching.add_transient(&q, speculative(5, 5));
        rig.matching.add_transient(&q, speculative(6, 1));
        // Before stored tasks of its priority, after more urgent ones.
        let urgent = rig.poll("q", 1).await.unwrap();
        assert_eq!(seq_of(&urgent), 2);
        rig.start(urgent);
        let handout = rig.poll("q", 1).await.unwrap();
        assert_eq!(handout.offer(), &Offer::Speculative(speculative(5, 5)));
        handout.requeue();
        let handout = rig.poll("q", 1).await.unwrap();
        assert!(
            matches!(handout.offer(), Offer::Speculative(task) if task.scheduled_event_id == 5)
        );
        handout.finish();
        pause(2).await;
        let handout = rig.poll("q", 1).await.unwrap();
        assert_eq!(seq_of(&handout), 1, "the other one has expired");
        handout.finish();
        // A waiting poll gets one at once.
        let mut poll = Box::pin(
            rig.matching
                .offered(&q, PollOptions::new("a", in_seconds(60))),
        );
        assert!(look(&mut poll).is_none());
        rig.matching.add_transient(&q, speculative(7, 5));
        assert!(look(&mut poll).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_limit_makes_tasks_wait() {
        let rig = Rig::new();
        let q = queue("q");
        for seq in 0..40 {
            rig.add("q", 3, seq);
        }
        let begun = Instant::now();
        let limited = |rate| PollOptions {
            max_tasks_per_second: Some(rate),
            ..PollOptions::new("a", in_seconds(60))
        };
        for n in 0..30_u64 {
            let handout = rig
                .matching
                .offered(&q, limited(10.0))
                .await
                .unwrap()
                .unwrap();
            rig.start(handout);
            // Ten at once, then one each 100 ms; tokio's timers are exact to a millisecond.
            let expected = Duration::from_millis(n.saturating_sub(9) * 100);
            let late = begun.elapsed().checked_sub(expected).unwrap();
            assert!(
                late <= Duration::from_millis(2),
                "task {n} late by {late:?}"
            );
        }
        assert!(rig.stats("q").rate_limiting_active);
        assert_eq!(rig.describe("q").effective_rate.unwrap().per_second, 10.0);
        // Paused, then released by the operator while a poll waits.
        let begun = Instant::now();
        let paused = rig.matching.offered(&q, limited(0.0));
        let release = async {
            pause(20).await;
            rig.matching.set_rate_limit(&q, Some(5.0));
        };
        let (handout, ()) = tokio::join!(paused, release);
        assert!(handout.unwrap().is_some());
        assert!(begun.elapsed() >= Duration::from_secs(20));
        assert!(begun.elapsed() < Duration::from_secs(21));
        let rate = rig.describe("q").effective_rate.unwrap();
        assert_eq!((rate.per_second, rate.source), (5.0, RateSource::Api));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_comes_when_the_rate_is_used_up_waits_too() {
        let rig = Rig::new();
        let q = queue("q");
        rig.matching.set_rate_limit(&q, Some(1.0));
        rig.add("q", 3, 1);
        rig.start(rig.poll("q", 1).await.unwrap());
        let begun = Instant::now();
        let (handout, matched) = tokio::join!(rig.poll("q", 10), async { rig.add("q", 3, 2) });
        assert!(!matched);
        let handout = handout.unwrap();
        assert!(handout.from_backlog());
        assert_eq!(begun.elapsed().as_secs(), 1);
        // A handout that comes back gives its token back.
        handout.requeue();
        assert!(rig.poll("q", 10).await.is_some());
        assert_eq!(begun.elapsed().as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn removed_tasks_are_not_handed_out_and_not_counted() {
        let rig = Rig::with(|config| config.memory_tasks_max = 4);
        for seq in 0..10 {
            rig.add("q", 3, seq);
        }
        for seq in [0, 3, 5, 9] {
            rig.delete(&task("q", 3, seq).task.key);
            rig.matching.remove(&task("q", 3, 1000).task.key.clone());
        }
        rig.matching.remove(&task("unknown", 3, 1).task.key);
        let mut seqs = Vec::new();
        while let Some(handout) = rig.poll("q", 1).await {
            seqs.push(seq_of(&handout));
            rig.start(handout);
        }
        assert_eq!(seqs, [1, 2, 4, 6, 7, 8]);
        assert_eq!(rig.stats("q").backlog_count, 0);
    }
}
