//! Sync match: a poll that waits takes a task before the task is written.
//!
//! Whoever is about to write a task reserves the poll that waits longest on its queue, starts the
//! task for it in the same transition, and answers the poll when that is durable. Such a task is
//! never in a queue and has no row. What the poll is answered with is the caller's business.

use std::any::Any;
use std::sync::Arc;

use tidemill_store::QueueName;
use tokio::time::Instant;

use super::Matching;
use super::pollers::WorkerInfo;
use super::queue::{Arrival, Queue, State, Waiter};

/// A poll that waits for one task, whatever becomes of it. Dropped without a task (its commit failed),
/// the poll goes on waiting as if nothing had been.
#[must_use = "a dropped reservation lets its poll go"]
pub(crate) struct Reservation {
    queue: Arc<Queue>,
    /// Taken by [`fulfil`](Self::fulfil).
    waiter: Option<Waiter>,
    priority: u8,
}

/// What a poll gets that was reserved.
pub(super) struct Fulfilled {
    /// As it was given to [`Reservation::fulfil`].
    pub(super) task: Box<dyn Any + Send>,
    pub(super) scaling: Option<i32>,
}

impl Reservation {
    fn waiter(&self) -> &Waiter {
        // Only `fulfil` and `drop` take it, and both end the reservation.
        self.waiter
            .as_ref()
            .expect("a reservation holds its poll until it ends")
    }

    pub(crate) fn identity(&self) -> &str {
        &self.waiter().identity
    }

    pub(crate) fn sticky(&self) -> bool {
        self.waiter().sticky
    }

    pub(crate) fn worker(&self) -> &WorkerInfo {
        &self.waiter().worker
    }

    /// Answers the poll: the task has started, and that is durable. A poll that has gone meanwhile is
    /// one whose answer is lost on the way: the task's own timeout brings it back.
    pub(crate) fn fulfil(mut self, task: impl Any + Send) {
        if let Some(waiter) = self.waiter.take() {
            self.queue.fulfil(waiter, self.priority, Box::new(task));
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter.take() {
            self.queue.release(waiter);
        }
    }
}

impl Matching {
    /// Reserves the poll that waits longest on a queue for a task that is about to be written. `None`
    /// when nobody waits, when other tasks are first, or when the rate limit lets none go.
    pub(crate) fn reserve(&self, queue: &QueueName, priority: u8) -> Option<Reservation> {
        let queue = self.find(queue)?;
        let waiter = queue.reserve(&mut queue.lock())?;
        Some(Reservation {
            queue,
            waiter: Some(waiter),
            priority,
        })
    }
}

impl Queue {
    fn reserve(&self, s: &mut State) -> Option<Waiter> {
        let now = Instant::now();
        // Whatever waits here is first.
        if s.closed || !s.backlog.is_drained() || s.transients.first(now).is_some() {
            return None;
        }
        loop {
            let first = s.waiters.first_entry()?;
            if first.get().deliver.is_closed() {
                // This poll has gone.
                first.remove();
            } else if s.limiter.try_take(now) {
                let waiter = first.remove();
                s.outstanding += 1;
                return Some(waiter);
            } else {
                return None;
            }
        }
    }

    fn fulfil(&self, waiter: Waiter, priority: u8, task: Box<dyn Any + Send>) {
        let now = Instant::now();
        let scaling = {
            let mut s = self.lock();
            s.touched = now;
            s.outstanding -= 1;
            s.rates.added(priority, now);
            s.rates.dispatched(priority, now);
            self.scaling(&mut s, now, waiter.since, true)
        };
        let fulfilled = Fulfilled { task, scaling };
        let _ = waiter.deliver.send(Arrival::Started(fulfilled));
    }

    /// There is no task after all. The poll begins again: a place in the line would be worth nothing
    /// to one whose deadline has passed meanwhile.
    fn release(&self, waiter: Waiter) {
        let mut s = self.lock();
        s.touched = Instant::now();
        s.outstanding -= 1;
        s.limiter.refund();
        drop(s);
        let _ = waiter.deliver.send(Arrival::Again);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::{Rig, look, queue, seq_of};
    use super::super::{PollOptions, Polled};
    use super::*;

    fn in_seconds(n: u64) -> Instant {
        Instant::now() + Duration::from_secs(n)
    }

    fn task_of(polled: Option<Polled>) -> &'static str {
        match polled {
            Some(Polled::Started { task, .. }) => *task.downcast().unwrap(),
            Some(Polled::Offer(handout)) => panic!("{handout:?}"),
            None => panic!("an empty answer"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_longest_is_answered_when_the_task_is_durable() {
        let rig = Rig::new();
        let q = queue("q");
        assert!(rig.matching.reserve(&q, 3).is_none(), "nobody waits");
        let first = PollOptions {
            sticky: true,
            ..PollOptions::new("first", in_seconds(60))
        };
        let mut first = Box::pin(rig.matching.poll(&q, first));
        let second = PollOptions::new("second", in_seconds(60));
        let mut second = Box::pin(rig.matching.poll(&q, second));
        assert!(look(&mut first).is_none() && look(&mut second).is_none());
        let one = rig.matching.reserve(&q, 3).unwrap();
        assert_eq!((one.identity(), one.sticky()), ("first", true));
        let two = rig.matching.reserve(&q, 3).unwrap();
        assert_eq!((two.identity(), two.sticky()), ("second", false));
        assert!(rig.matching.reserve(&q, 3).is_none());
        // A task that is written meanwhile waits for the next poll.
        assert!(!rig.add("q", 3, 1));
        two.fulfil("two");
        assert!(look(&mut first).is_none());
        assert_eq!(task_of(second.await.unwrap()), "two");
        one.fulfil("one");
        assert_eq!(task_of(first.await.unwrap()), "one");
        assert_eq!(seq_of(&rig.poll("q", 1).await.unwrap()), 1);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(rig.stats("q").dispatch_rate > 0.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_whose_task_was_not_written_waits_on() {
        let rig = Rig::new();
        let q = queue("q");
        let mut poll = Box::pin(rig.matching.poll(&q, PollOptions::new("a", in_seconds(60))));
        assert!(look(&mut poll).is_none());
        drop(rig.matching.reserve(&q, 3).unwrap());
        assert!(look(&mut poll).is_none());
        rig.matching.reserve(&q, 3).unwrap().fulfil("task");
        assert_eq!(task_of(poll.await.unwrap()), "task");
        // Or gets what has come meanwhile.
        let mut poll = Box::pin(rig.matching.poll(&q, PollOptions::new("a", in_seconds(60))));
        assert!(look(&mut poll).is_none());
        let reserved = rig.matching.reserve(&q, 3).unwrap();
        assert!(!rig.add("q", 3, 1));
        drop(reserved);
        match poll.await.unwrap() {
            Some(Polled::Offer(handout)) => assert_eq!(seq_of(&handout), 1),
            _ => panic!("the task waits"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_does_not_end_a_poll_for_which_a_task_is_starting() {
        let rig = Rig::new();
        let q = queue("q");
        for fails in [false, true] {
            let mut poll = Box::pin(rig.matching.poll(&q, PollOptions::new("a", in_seconds(1))));
            assert!(look(&mut poll).is_none());
            let reserved = rig.matching.reserve(&q, 3).unwrap();
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert!(look(&mut poll).is_none(), "it waits for the commit");
            if fails {
                drop(reserved);
                assert!(poll.await.unwrap().is_none(), "its time is over");
            } else {
                reserved.fulfil("task");
                assert_eq!(task_of(poll.await.unwrap()), "task");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn polls_that_have_gone_are_not_reserved() {
        let rig = Rig::new();
        let q = queue("q");
        let mut gone = Box::pin(rig.matching.poll(&q, PollOptions::new("a", in_seconds(60))));
        let mut stays = Box::pin(rig.matching.poll(&q, PollOptions::new("b", in_seconds(60))));
        assert!(look(&mut gone).is_none() && look(&mut stays).is_none());
        drop(gone);
        let reserved = rig.matching.reserve(&q, 3).unwrap();
        assert_eq!(reserved.identity(), "b");
        // It goes while its task is starting: nobody else is told of the task.
        drop(stays);
        reserved.fulfil("task");
        assert!(rig.poll("q", 1).await.is_none());
        rig.matching.shutdown();
        assert!(rig.matching.reserve(&q, 3).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_and_what_the_rate_allows_come_first() {
        let rig = Rig::new();
        let q = queue("q");
        rig.matching.set_rate_limit(&q, Some(1.0));
        let poll = || rig.matching.poll(&q, PollOptions::new("a", in_seconds(60)));
        let (mut first, mut second) = (Box::pin(poll()), Box::pin(poll()));
        assert!(look(&mut first).is_none() && look(&mut second).is_none());
        let reserved = rig.matching.reserve(&q, 3).unwrap();
        assert!(rig.matching.reserve(&q, 3).is_none(), "one in a second");
        drop(reserved);
        // The token came back.
        rig.matching.reserve(&q, 3).unwrap().fulfil("task");
        // A task that waits for the next is before any that comes later.
        assert!(!rig.add("q", 3, 1));
        rig.matching.set_rate_limit(&q, Some(0.0));
        assert!(rig.matching.reserve(&q, 3).is_none());
        rig.matching.set_rate_limit(&q, None);
        assert_eq!(task_of(second.await.unwrap()), "task");
        match first.await.unwrap() {
            Some(Polled::Offer(handout)) => assert_eq!(seq_of(&handout), 1),
            _ => panic!("the task waits"),
        }
    }
}
