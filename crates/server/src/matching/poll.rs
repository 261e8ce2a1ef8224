//! Long polls and what they bring.
//!
//! A poll may be dropped at any moment, because its client may go at any moment. Until the task is
//! with the caller it belongs to [`Waiting`], afterwards to [`Handout`]; both give it back when
//! they are dropped.

use std::any::Any;
use std::sync::Arc;

use tidemill_engine::Error;
use tidemill_store::QueueName;
use tokio::time::Instant;

use super::pollers::{PollerInfo, WorkerInfo};
use super::queue::{Arrival, Begun, Delivery, Queue};
use super::reserve::Fulfilled;
use super::{Matching, Offer};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::oneshot;

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

/// What a poll brings.
#[expect(
    clippy::large_enum_variant,
    reason = "lives for a moment on the stack, once for each poll"
)]
pub(crate) enum Polled {
    /// A task, or a query, that the caller may start.
    Offer(Handout),
    /// A task that has started for this poll, and that is durable.
    Started {
        /// As it was given to [`Reservation::fulfil`](super::Reservation::fulfil).
        task: Box<dyn Any + Send>,
        /// See [`Handout::scaling`].
        scaling: Option<i32>,
    },
}

/// A poll that waits; ends it when dropped.
struct Waiting {
    queue: Arc<Queue>,
    id: u64,
    identity: Arc<str>,
    receive: oneshot::Receiver<Arrival>,
}

impl Waiting {
    /// What comes until the deadline; `None` when nothing does.
    async fn arrival(&mut self, deadline: Instant) -> Option<Arrival> {
        match crate::sync::timeout_at(deadline, &mut self.receive).await {
            Ok(arrived) => arrived.ok(),
            Err(_) if self.queue.withdraw(&mut self.queue.lock(), self.id) => None,
            // A task is starting for this poll, and would start for nobody.
            Err(_) => (&mut self.receive).await.ok(),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.receive.close();
        let undelivered = match self.receive.try_recv() {
            Ok(Arrival::Offer(delivery)) => Some(delivery),
            Ok(Arrival::Started(_) | Arrival::Again) | Err(_) => None,
        };
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
    /// Safe to drop at any moment: nothing is lost, but for a task that has started for this poll already
    /// and is brought back by its timeout.
    pub(crate) async fn poll(
        &self,
        queue: &QueueName,
        options: PollOptions,
    ) -> Result<Option<Polled>, Error> {
        let _slot = self.slot(queue)?;
        loop {
            match self.wait(queue, &options).await {
                None => return Ok(None),
                Some((queue, Arrival::Offer(delivery))) => {
                    return Ok(Some(Polled::Offer(Handout {
                        matching: self.clone(),
                        queue,
                        delivery: Some(delivery),
                    })));
                }
                Some((_, Arrival::Started(Fulfilled { task, scaling }))) => {
                    return Ok(Some(Polled::Started { task, scaling }));
                }
                Some((_, Arrival::Again)) => {}
            }
        }
    }

    async fn wait(
        &self,
        queue: &QueueName,
        options: &PollOptions,
    ) -> Option<(Arc<Queue>, Arrival)> {
        if options.deadline <= Instant::now() {
            return None;
        }
        let identity = options.identity.clone();
        let poller = PollerInfo {
            identity: identity.clone(),
            last_access: (self.env().wall)(),
            max_tasks_per_second: options.max_tasks_per_second,
            worker: options.worker.clone(),
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
            let begun = queue.begin_poll(s, poller, options.sticky);
            if let Begun::Delivery(_) = begun {
                queue.end_poll(s, None, &identity, None);
            }
            (Arc::clone(queue), begun)
        });
        let arrival = match begun {
            Begun::Closed => return None,
            Begun::Delivery(delivery) => Arrival::Offer(delivery),
            Begun::Wait(id, receive) => {
                let mut waiting = Waiting {
                    queue: Arc::clone(&queue),
                    id,
                    identity,
                    receive,
                };
                waiting.arrival(options.deadline).await?
            }
        };
        Some((queue, arrival))
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
    use std::time::Duration;

    use super::super::testing::{Rig, look, namespace, queue, seq_of, task};
    use super::*;

    fn after(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_poll_gets_the_task_and_the_longest_waiting_first() {
        let rig = Rig::new();
        let q = queue("q");
        let mut first = std::pin::pin!(rig.matching.offered(&q, PollOptions::new("a", after(60))));
        let mut second = std::pin::pin!(rig.matching.offered(&q, PollOptions::new("b", after(60))));
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
        let mut gone = Box::pin(rig.matching.offered(&q, PollOptions::new("a", after(60))));
        assert!(look(&mut gone).is_none());
        drop(gone);
        assert!(!rig.add("q", 3, 1));
        // Dropped after the match and before it looked: the task goes back to the front.
        rig.poll("q", 1).await.unwrap().finish();
        let mut gone = Box::pin(rig.matching.offered(&q, PollOptions::new("a", after(60))));
        assert!(look(&mut gone).is_none());
        assert!(rig.add("q", 3, 2));
        assert!(!rig.add("q", 3, 3));
        drop(gone);
        assert_eq!(seq_of(&rig.poll("q", 1).await.unwrap()), 2);
        // Dropped when another one waits: that one is woken.
        rig.poll("q", 1).await.unwrap().finish();
        rig.poll("q", 1).await.unwrap().finish();
        let mut gone = Box::pin(rig.matching.offered(&q, PollOptions::new("a", after(60))));
        let mut other = Box::pin(rig.matching.offered(&q, PollOptions::new("b", after(60))));
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
                let mut poll = Box::pin(rig.matching.offered(&q, PollOptions::new("a", after(60))));
                assert!(look(&mut poll).is_none());
                poll
            })
            .collect();
        let refused = rig
            .matching
            .offered(&q, PollOptions::new("a", after(60)))
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
                .offered(&elsewhere, PollOptions::new("a", after(1)))
                .await
                .is_ok()
        );
        drop(polls);
        assert!(
            rig.matching
                .offered(&q, PollOptions::new("a", after(1)))
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
}
