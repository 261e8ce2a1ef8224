//! Workers that take their leave: their polls end empty, at once and from then on.
//!
//! A worker that dropped its polls instead could lose what was on its way to it, which would only come
//! back with a timeout. So it asks for their end and waits for it (`worker_poll_complete_on_shutdown`).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Matching;
use crate::sync::{Mutex, Notify};

/// How long a worker that left is remembered: a poll that it had sent before may be on its way.
const REMEMBERED: Duration = Duration::from_secs(120);
const REMEMBERED_MAX: usize = 10_000;

/// The instance keys of workers that left of late. They are unique to an instance, so that one which
/// starts anew is another.
#[derive(Default)]
pub(super) struct Leaving {
    known: Mutex<Known>,
    changed: Notify,
}

#[derive(Default)]
struct Known {
    since: HashMap<Arc<str>, Instant>,
    order: VecDeque<Arc<str>>,
    /// Calls of instances that had not left when they began, and are not answered yet.
    calls: HashMap<Arc<str>, usize>,
}

/// A worker's call for tasks, until it is answered.
#[must_use = "dropped, the call counts as answered"]
pub(crate) struct PollCall {
    matching: Matching,
    instance: Arc<str>,
}

impl Drop for PollCall {
    fn drop(&mut self) {
        let leaving = &self.matching.inner.leaving;
        let left = {
            let mut known = leaving.known.lock();
            let Some(calls) = known.calls.get_mut(&self.instance) else {
                return;
            };
            *calls -= 1;
            if *calls > 0 {
                return;
            }
            known.calls.remove(&self.instance);
            known.since.contains_key(&self.instance)
        };
        if left {
            leaving.changed.notify_waiters();
        }
    }
}

impl Leaving {
    fn insert(&self, instance: &str, now: Instant) {
        {
            let mut known = self.known.lock();
            let instance: Arc<str> = instance.into();
            if known.since.insert(instance.clone(), now).is_none() {
                known.order.push_back(instance);
            }
            while let Some(first) = known.order.front() {
                let old = known.since[first] + REMEMBERED <= now;
                if !old && known.order.len() <= REMEMBERED_MAX {
                    break;
                }
                let first = first.clone();
                known.order.pop_front();
                known.since.remove(&first);
            }
        }
        self.changed.notify_waiters();
    }

    pub(super) fn contains(&self, instance: &str) -> bool {
        !instance.is_empty() && self.known.lock().since.contains_key(instance)
    }
}

impl Leaving {
    /// Waits until something is so that a change of what is known may bring about.
    async fn until(&self, is_so: impl Fn() -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if is_so() {
                return;
            }
            changed.await;
        }
    }
}

impl Matching {
    /// A worker begins to shut down: its polls end empty, and so do those that arrive from now on, of
    /// any queue. It need not name its queues, of which it may not know all: the name of a sticky
    /// queue is the secret of an SDK's core.
    pub fn end_polls_of(&self, instance: &str) {
        if instance.is_empty() {
            return;
        }
        // First: a poll that begins sees it, or is seen below.
        self.inner.leaving.insert(instance, Instant::now());
        for queue in self.loaded() {
            queue.end_polls_of(&mut queue.lock(), instance);
        }
    }

    /// To be held over the whole call of a poll. `None` for a worker that has left, whose polls end
    /// empty, and for one that does not say who it is.
    pub(crate) fn poll_call(&self, instance: &str) -> Option<PollCall> {
        if instance.is_empty() {
            return None;
        }
        let instance: Arc<str> = instance.into();
        let mut known = self.inner.leaving.known.lock();
        if known.since.contains_key(&instance) {
            return None;
        }
        *known.calls.entry(instance.clone()).or_default() += 1;
        Some(PollCall {
            matching: self.clone(),
            instance,
        })
    }

    /// Returns when all polls that a worker had sent before it left are answered: those that were
    /// matched with their tasks, the others empty.
    pub(crate) async fn polls_answered(&self, instance: &str) {
        let leaving = &self.inner.leaving;
        let answered = || !leaving.known.lock().calls.contains_key(instance);
        leaving.until(answered).await;
    }

    /// Returns when the worker has begun to shut down.
    pub async fn left(&self, instance: &str) {
        let leaving = &self.inner.leaving;
        leaving.until(|| leaving.contains(instance)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Rig, look, queue, seq_of};
    use super::super::{PollOptions, WorkerInfo};
    use super::*;

    fn poll_of(instance: &str) -> PollOptions {
        let worker = WorkerInfo {
            worker_instance_key: instance.to_owned(),
            ..WorkerInfo::default()
        };
        PollOptions {
            worker: Arc::new(worker),
            ..PollOptions::new("w", Instant::now() + Duration::from_secs(60))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn polls_of_a_worker_that_leaves_end_and_no_task_goes_to_it() {
        let rig = Rig::new();
        let q = queue("q");
        let begun = Instant::now();
        let mut leaves = Box::pin(rig.matching.offered(&q, poll_of("a")));
        let mut stays = Box::pin(rig.matching.offered(&q, poll_of("b")));
        let mut unnamed = Box::pin(rig.matching.offered(&q, poll_of("")));
        let mut left = Box::pin(rig.matching.left("a"));
        assert!(look(&mut leaves).is_none() && look(&mut stays).is_none());
        assert!(look(&mut unnamed).is_none() && look(&mut left).is_none());
        rig.matching.end_polls_of("");
        assert!(look(&mut unnamed).is_none());
        rig.matching.end_polls_of("a");
        assert!(leaves.await.unwrap().is_none());
        left.await;
        // One that was on its way, with a task that waits.
        rig.matching.end_polls_of("c");
        assert!(rig.add("q", 3, 1));
        assert_eq!(seq_of(&stays.await.unwrap().unwrap()), 1);
        for instance in ["a", "c"] {
            assert!(
                rig.matching
                    .offered(&q, poll_of(instance))
                    .await
                    .unwrap()
                    .is_none()
            );
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_was_matched_is_still_delivered() {
        let rig = Rig::new();
        let q = queue("q");
        let mut poll = Box::pin(rig.matching.offered(&q, poll_of("a")));
        assert!(look(&mut poll).is_none());
        assert!(rig.add("q", 3, 1));
        rig.matching.end_polls_of("a");
        assert_eq!(seq_of(&poll.await.unwrap().unwrap()), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn polls_of_before_are_answered_when_their_calls_have_ended() {
        let rig = Rig::new();
        let (first, second) = (rig.matching.poll_call("a"), rig.matching.poll_call("a"));
        let other = rig.matching.poll_call("b");
        assert!(rig.matching.poll_call("").is_none());
        rig.matching.end_polls_of("a");
        assert!(rig.matching.poll_call("a").is_none(), "too late to matter");
        let mut answered = Box::pin(rig.matching.polls_answered("a"));
        drop(first);
        assert!(look(&mut answered).is_none());
        drop(second);
        assert!(look(&mut answered).is_some());
        rig.matching.polls_answered("c").await;
        drop(other);
        assert!(rig.matching.inner.leaving.known.lock().calls.is_empty());
    }

    #[test]
    fn workers_that_left_are_forgotten() {
        let leaving = Leaving::default();
        let start = Instant::now();
        leaving.insert("a", start);
        leaving.insert("a", start + REMEMBERED / 2);
        leaving.insert("b", start + REMEMBERED);
        assert!(leaving.contains("a") && leaving.contains("b"));
        assert!(!leaving.contains("") && !leaving.contains("c"));
        leaving.insert("c", start + REMEMBERED * 2);
        assert!(!leaving.contains("a") && !leaving.contains("b"));
        for n in 0..2 * REMEMBERED_MAX {
            leaving.insert(&n.to_string(), start + REMEMBERED * 2);
        }
        assert_eq!(leaving.known.lock().since.len(), REMEMBERED_MAX);
        assert_eq!(leaving.known.lock().order.len(), REMEMBERED_MAX);
    }
}
