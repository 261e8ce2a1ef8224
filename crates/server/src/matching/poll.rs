//! Long polls and what they bring.
//!
//! A poll may be dropped at any moment, because its client may go at any moment. Until the task is
//! with the caller it belongs to [`Waiting`], afterwards to [`Handout`]; both give it back when
//! they are dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidemill_engine::Error;
use tidemill_store::QueueName;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::pollers::{PollerInfo, WorkerInfo};
use super::queue::{Begun, Delivery, Queue};
use super::{Matching, Offer};

/// One poll request.
#[derive(Clone, Debug)]
pub struct PollOptions {
    pub identity: Arc<str>,
    /// When to answer empty. The caller keeps room before its client's own deadline.
    pub deadline: Instant,
    /// The queue is a worker's sticky queue.
    pub sticky: bool,
    /// `task_queue_metadata.max_tasks_per_second` of an activity poll; `None` leaves the rate of
    /// the queue as it is.
    pub max_tasks_per_second: Option<f64>,
    pub worker: Arc<WorkerInfo>,
}

impl PollOptions {
    /// A poll of a normal queue that sets no rate.
    pub fn new(identity: impl Into<Arc<str>>, deadline: Instant) -> Self {
        Self {
            identity: identity.into(),
            deadline,
            sticky: false,
            max_tasks_per_second: None,
            worker: Arc::default(),
        }
    }
}

/// An offer in the hands of a caller, who must end it with [`finish`](Handout::finish). Dropped
/// without that (the caller failed or its client has gone), the offer goes back to the front of
/// its queue, unless its row was deleted meanwhile.
#[must_use = "a dropped handout goes back to its queue"]
pub struct Handout {
    matching: Matching,
    queue: Arc<Queue>,
    delivery: Option<Delivery>,
}

impl Handout {
    fn delivery(&self) -> &Delivery {
        // Only `finish` and `drop` take it, and both end the handout.
        self.delivery
            .as_ref()
            .expect("a handout holds its delivery until it ends")
    }

    pub fn offer(&self) -> &Offer {
        &self.delivery().offer
    }

    /// The queue that was polled. A task's own row may name a sticky queue instead.
    pub fn queue(&self) -> &QueueName {
        &self.queue.name
    }

    /// The task waited for a poller, not the poller for the task.
    pub fn from_backlog(&self) -> bool {
        self.delivery().from_backlog
    }

    /// Tasks that were waiting in the queue behind this one.
    pub fn backlog_count(&self) -> i64 {
        self.delivery().backlog_count
    }

    /// `poller_scaling_decision.poll_request_delta_suggestion`, if there is something to suggest.
    pub fn scaling(&self) -> Option<i32> {
        self.delivery().scaling
    }

    /// The offer needs nothing more: its start is durable, or the run refused it as stale.
    pub fn finish(mut self) {
        let Some(delivery) = self.delivery.take() else {
            return;
        };
        self.queue
            .finish(&mut self.queue.lock(), &delivery.offer, delivery.handout);
        if let Offer::Task(task) = &delivery.offer
            && task.task.key.queue != self.queue.name
        {
            self.matching.no_longer_forwarded(&task.task.key);
        }
    }

    /// Puts the offer back to the front of its queue: its start failed and may be tried again.
    pub fn requeue(self) {
        drop(self);
    }
}

impl Drop for Handout {
    fn drop(&mut self) {
        if let Some(delivery) = self.delivery.take() {
            self.queue
                .put_back(&mut self.queue.lock(), delivery.offer, delivery.handout);
        }
    }
}

impl std::fmt::Debug for Handout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handout")
            .field("delivery", &self.delivery)
            .finish_non_exhaustive()
    }
}

/// A poll that waits; ends it when dropped.
struct Waiting {
    queue: Arc<Queue>,
    id: u64,
    identity: Arc<str>,
    receive: oneshot::Receiver<Delivery>,
}

impl Waiting {
    /// Takes what was delivered until now and lets nothing more be delivered.
    fn close(&mut self) -> Option<Delivery> {
        self.receive.close();
        self.receive.try_recv().ok()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let undelivered = self.close();
        let mut s = self.queue.lock();
        self.queue
            .end_poll(&mut s, Some(self.id), &self.identity, undelivered);
    }
}

/// Counts a poll against its namespace's limit while it lives.
struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Matching {
    /// Waits for an offer of the queue. `None` when the deadline passed, the queue was unloaded, the
    /// worker takes its leave or the service stops. Fails when the namespace has too many polls.
    ///
    /// Safe to drop at any moment: nothing is lost.
    pub async fn poll(
        &self,
        queue: &QueueName,
        options: PollOptions,
    ) -> Result<Option<Handout>, Error> {
        let _slot = self.slot(queue)?;
        if options.deadline <= Instant::now() {
            return Ok(None);
        }
        let identity = options.identity;
        let poller = PollerInfo {
            identity: identity.clone(),
            last_access: (self.env().wall)(),
            max_tasks_per_second: options.max_tasks_per_second,
            worker: options.worker,
        };
        let (queue, begun) = self.with_queue(queue, |queue, s| {
            s.sticky |= options.sticky;
            if self
                .inner
                .leaving
                .contains(&poller.worker.worker_instance_key)
            {
                return (Arc::clone(queue), Begun::Closed);
            }
            let begun = queue.begin_poll(s, poller);
            if let Begun::Delivery(_) = begun {
                queue.end_poll(s, None, &identity, None);
            }
            (Arc::clone(queue), begun)
        });
        let delivery = match begun {
            Begun::Closed => None,
            Begun::Delivery(delivery) => Some(delivery),
            Begun::Wait(id, receive) => {
                let mut waiting = Waiting {
                    queue: Arc::clone(&queue),
                    id,
                    identity,
                    receive,
                };
                match tokio::time::timeout_at(options.deadline, &mut waiting.receive).await {
                    Ok(delivered) => delivered.ok(),
                    Err(_) => waiting.close(),
                }
            }
        };
        let matching = self.clone();
        Ok(delivery.map(|delivery| Handout {
            matching,
            queue,
            delivery: Some(delivery),
        }))
    }

    fn slot(&self, queue: &QueueName) -> Result<Slot, Error> {
        let polls = self.polls_of(&queue.namespace);
        let slot = Slot(Arc::clone(&polls));
        if polls.fetch_add(1, Ordering::Relaxed) >= self.env().config.polls_per_namespace_max {
            drop(slot);
            return Err(Error::concurrent_limit(
                "namespace concurrent poller limit exceeded",
            ));
        }
        Ok(slot)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use parking_lot::Mutex;

    use super::super::testing::{Random, Rig, look, namespace, queue, seq_of, task};
    use super::*;

    fn after(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_poll_gets_the_task_and_the_longest_waiting_first() {
        let rig = Rig::new();
        let q = queue("q");
        let mut first = std::pin::pin!(rig.matching.poll(&q, PollOptions::new("a", after(60))));
        let mut second = std::pin::pin!(rig.matching.poll(&q, PollOptions::new("b", after(60))));
        assert!(look(&mut first).is_none());
        assert!(look(&mut second).is_none());
        assert!(rig.add("q", 3, 1));
        assert!(look(&mut second).is_none());
        let handout = first.await.unwrap().unwrap();
        assert_eq!(seq_of(&handout), 1);
        assert!(!handout.from_backlog());
        handout.finish();
        assert!(rig.add("q", 3, 2));
        assert_eq!(seq_of(&second.await.unwrap().unwrap()), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_backlog_goes_by_priority_and_then_by_arrival() {
        let rig = Rig::new();
        for (priority, seq) in [(3, 1), (5, 2), (1, 3), (3, 4), (2, 5)] {
            assert!(!rig.add("q", priority, seq));
        }
        let mut order = Vec::new();
        while let Some(handout) = rig.poll("q", 1).await {
            assert!(handout.from_backlog());
            assert_eq!(handout.backlog_count(), 4 - order.len() as i64);
            order.push(seq_of(&handout));
            rig.start(handout);
        }
        assert_eq!(order, [3, 5, 1, 4, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_poll_is_answered_empty_at_its_deadline() {
        let rig = Rig::new();
        let begun = Instant::now();
        assert!(rig.poll("q", 60).await.is_none());
        assert_eq!(begun.elapsed(), Duration::from_secs(60));
        rig.add("q", 3, 1);
        assert!(
            rig.poll("q", 0).await.is_none(),
            "too late to be given anything"
        );
        assert!(rig.poll("q", 1).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_poll_leaves_no_trace_and_loses_no_task() {
        let rig = Rig::new();
        let q = queue("q");
        // Dropped while it waits: the task goes to the next in line.
        let mut gone = Box::pin(rig.matching.poll(&q, PollOptions::new("a", after(60))));
        assert!(look(&mut gone).is_none());
        drop(gone);
        assert!(!rig.add("q", 3, 1));
        // Dropped after the match and before it looked: the task goes back to the front.
        rig.poll("q", 1).await.unwrap().finish();
        let mut gone = Box::pin(rig.matching.poll(&q, PollOptions::new("a", after(60))));
        assert!(look(&mut gone).is_none());
        assert!(rig.add("q", 3, 2));
        assert!(!rig.add("q", 3, 3));
        drop(gone);
        assert_eq!(seq_of(&rig.poll("q", 1).await.unwrap()), 2);
        // Dropped when another one waits: that one is woken.
        rig.poll("q", 1).await.unwrap().finish();
        rig.poll("q", 1).await.unwrap().finish();
        let mut gone = Box::pin(rig.matching.poll(&q, PollOptions::new("a", after(60))));
        let mut other = Box::pin(rig.matching.poll(&q, PollOptions::new("b", after(60))));
        assert!(look(&mut gone).is_none());
        assert!(look(&mut other).is_none());
        assert!(rig.add("q", 3, 4));
        drop(gone);
        assert_eq!(seq_of(&other.await.unwrap().unwrap()), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_handout_goes_back_to_the_front_unless_its_row_has_gone() {
        let rig = Rig::new();
        for seq in 1..=3 {
            rig.add("q", 3, seq);
        }
        let first = rig.poll("q", 1).await.unwrap();
        let second = rig.poll("q", 1).await.unwrap();
        second.requeue();
        first.requeue();
        let first = rig.poll("q", 1).await.unwrap();
        assert_eq!(seq_of(&first), 1);
        // The start was durable, but the caller has gone before it could finish.
        rig.matching.remove(&task("q", 3, 1).task.key);
        drop(first);
        assert_eq!(seq_of(&rig.poll("q", 1).await.unwrap()), 2);
        assert_eq!(rig.stats("q").backlog_count, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_a_worker_holds_is_not_handed_out_again() {
        let rig = Rig::new();
        rig.add("q", 3, 1);
        let held = rig.poll("q", 1).await.unwrap();
        assert!(!rig.add("q", 3, 1));
        rig.matching.requeue(task("q", 3, 1));
        assert!(rig.poll("q", 1).await.is_none());
        rig.start(held);
        assert!(rig.poll("q", 1).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_has_a_limit_of_polls() {
        let rig = Rig::with(|config| config.polls_per_namespace_max = 2);
        let q = queue("q");
        let polls: Vec<_> = (0..2)
            .map(|_| {
                let mut poll = Box::pin(rig.matching.poll(&q, PollOptions::new("a", after(60))));
                assert!(look(&mut poll).is_none());
                poll
            })
            .collect();
        let refused = rig
            .matching
            .poll(&q, PollOptions::new("a", after(60)))
            .await;
        assert!(
            matches!(refused, Err(Error::ResourceExhausted { .. })),
            "{refused:?}"
        );
        let elsewhere = QueueName {
            namespace: namespace(2),
            ..q.clone()
        };
        assert!(
            rig.matching
                .poll(&elsewhere, PollOptions::new("a", after(1)))
                .await
                .is_ok()
        );
        drop(polls);
        assert!(
            rig.matching
                .poll(&q, PollOptions::new("a", after(1)))
                .await
                .is_ok()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_ends_polls_and_new_ones_at_once() {
        let rig = Rig::new();
        let begun = Instant::now();
        let waiting = rig.poll("q", 60);
        let ((), answer) = tokio::join!(async { rig.matching.shutdown() }, waiting);
        assert!(answer.is_none());
        rig.add("q", 3, 1);
        assert!(rig.poll("q", 60).await.is_none());
        assert!(rig.poll("new", 60).await.is_none());
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_pollers_are_told_to_poll_less_and_a_backlog_asks_for_more() {
        let rig = Rig::new();
        let waiting = rig.poll("q", 60);
        let add = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            rig.add("q", 3, 1)
        };
        let (handout, matched) = tokio::join!(waiting, add);
        assert!(matched);
        let handout = handout.unwrap();
        assert_eq!(handout.scaling(), Some(-1));
        rig.start(handout);
        for seq in 2..=50 {
            rig.add("q", 3, seq);
        }
        rig.start(rig.poll("q", 1).await.unwrap());
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut suggestions = 0;
        for _ in 0..40 {
            let handout = rig.poll("q", 1).await.unwrap();
            assert!(matches!(handout.scaling(), None | Some(1)));
            suggestions += usize::from(handout.scaling().is_some());
            rig.start(handout);
        }
        assert!((5..=15).contains(&suggestions), "{suggestions}");
    }

    /// Threads add, poll, drop polls half-way, drop handouts and start tasks. Each task starts
    /// exactly once and none is lost, also when most of them are only in the store.
    #[test]
    fn chaos_starts_each_task_exactly_once() {
        for seed in 0..6_u64 {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(4)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(chaos(seed));
        }
    }

    async fn chaos(seed: u64) {
        const TASKS: i64 = 1500;
        const QUEUES: [&str; 3] = ["q0", "q1", "q2"];
        let memory = [4, 50, 5000][seed as usize % 3];
        let rig = Arc::new(Rig::with(|config| config.memory_tasks_max = memory));
        let started = Arc::new(Mutex::new(BTreeMap::<i64, usize>::new()));
        let put_back = Arc::new(AtomicUsize::new(0));
        let mut jobs = Vec::new();
        for part in 0..3_i64 {
            let rig = Arc::clone(&rig);
            let mut random = Random::new(seed * 100 + part as u64);
            jobs.push(tokio::spawn(async move {
                for seq in (0..TASKS).filter(|seq| seq % 3 == part) {
                    rig.add(QUEUES[part as usize], 1 + random.below(5) as u8, seq);
                    if random.below(10) == 0 {
                        tokio::task::yield_now().await;
                    }
                }
            }));
        }
        for worker in 0..12_u64 {
            let rig = Arc::clone(&rig);
            let started = Arc::clone(&started);
            let put_back = Arc::clone(&put_back);
            let mut random = Random::new(seed * 1000 + worker);
            jobs.push(tokio::spawn(async move {
                let name = QUEUES[(worker % 3) as usize];
                let q = queue(name);
                while started.lock().len() < TASKS as usize {
                    let options = PollOptions::new("w", Instant::now() + Duration::from_millis(20));
                    let mut poll = Box::pin(rig.matching.poll(&q, options));
                    let handout = if random.below(3) == 0 {
                        // Gives up after a few looks, perhaps just when a task was delivered.
                        let mut looked = None;
                        for _ in 0..random.below(4) {
                            looked = look(&mut poll);
                            if looked.is_some() {
                                break;
                            }
                            tokio::task::yield_now().await;
                        }
                        looked
                    } else {
                        Some(poll.await)
                    };
                    let Some(Ok(Some(handout))) = handout else {
                        continue;
                    };
                    match random.below(8) {
                        0 => {
                            handout.requeue();
                            continue;
                        }
                        1 => {
                            // Another worker may have it and start it before it is put back.
                            let Offer::Task(task) = handout.offer().clone() else {
                                panic!()
                            };
                            handout.finish();
                            put_back.fetch_add(1, Ordering::Relaxed);
                            tokio::task::yield_now().await;
                            rig.matching.requeue(task);
                            continue;
                        }
                        _ => {}
                    }
                    tokio::task::yield_now().await;
                    let seq = seq_of(&handout);
                    if rig.start(handout) {
                        *started.lock().entry(seq).or_default() += 1;
                    }
                }
            }));
        }
        for job in jobs {
            job.await.unwrap();
        }
        let started = std::mem::take(&mut *started.lock());
        assert_eq!(started.len(), TASKS as usize, "seed {seed}");
        assert!(started.values().all(|n| *n == 1), "seed {seed}");
        for name in QUEUES {
            // Polls let the queue read up to the end of the store, whatever that takes.
            while rig.stats(name).backlog_count > 0 {
                let soon = Instant::now() + Duration::from_millis(1);
                let options = PollOptions::new("w", soon);
                if let Some(again) = rig.matching.poll(&queue(name), options).await.unwrap() {
                    assert!(!rig.start(again), "seed {seed}");
                }
            }
        }
        assert!(
            rig.duplicates() <= put_back.load(Ordering::Relaxed),
            "seed {seed}"
        );
    }
}
