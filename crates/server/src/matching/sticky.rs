//! Sticky queues: the queue of one worker process, which holds the cached state of its workflows.
//! Whether the worker is there, and what becomes of its tasks when it is not (contract 1.3).

use tidemill_store::{QueueName, StoredTask, TaskKey};
use tokio::time::Instant;

use super::offer::Transient;
use super::{Matching, QueryError};

impl Matching {
    /// True when a worker polls the sticky queue, or did so within the last ten seconds.
    pub fn sticky_available(&self, queue: &QueueName) -> bool {
        let window = self.env().config.sticky_window;
        self.find(queue)
            .is_some_and(|queue| queue.lock().pollers.present(Instant::now(), window))
    }

    /// A worker shut down: its sticky queue is unavailable until somebody polls it again. Its
    /// polls end empty, its queries fail with [`QueryError::Unloaded`], and the tasks that waited
    /// are returned, to be given to the normal queue with [`add_to`](Self::add_to).
    /// Speculative tasks are forgotten; their runs' timers deal with that.
    pub fn unload(&self, queue: &QueueName) -> Vec<StoredTask> {
        let Some(queue) = self.find(queue) else {
            return Vec::new();
        };
        let (tasks, transients) = {
            let mut s = queue.lock();
            s.pollers.absent();
            queue.end_polls(&mut s);
            (s.backlog.drain(), s.transients.drain())
        };
        for transient in transients {
            if let Transient::Query(task) = transient {
                self.inner
                    .queries
                    .answer(task.id, Err(QueryError::Unloaded));
            }
        }
        tasks
    }

    /// As [`add`](Self::add), on another queue than the row names: a sticky task whose worker has
    /// gone, sent to the normal queue.
    pub fn add_to(&self, queue: &QueueName, task: StoredTask) -> bool {
        let key = &task.task.key;
        if key.queue == *queue {
            return self.add(task);
        }
        self.with_queue(&key.queue, |_, s| {
            s.forwarded.insert((key.priority, key.seq), queue.clone());
        });
        self.with_queue(queue, |queue, s| queue.add(s, task))
    }

    /// A task that was sent on needs nothing more.
    pub(super) fn no_longer_forwarded(&self, key: &TaskKey) {
        if let Some(queue) = self.find(&key.queue) {
            queue.lock().forwarded.remove(&(key.priority, key.seq));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::PollOptions;
    use super::super::testing::{Rig, look, queue, seq_of, task};
    use super::*;

    fn in_seconds(n: u64) -> Instant {
        Instant::now() + Duration::from_secs(n)
    }

    async fn pause(seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_sticky_queue_is_available_for_ten_seconds_after_a_poll() {
        let rig = Rig::new();
        let q = queue("sticky");
        assert!(!rig.matching.sticky_available(&q));
        let options = PollOptions {
            sticky: true,
            ..PollOptions::new("a", in_seconds(60))
        };
        let mut poll = Box::pin(rig.matching.offered(&q, options));
        assert!(look(&mut poll).is_none());
        pause(30).await;
        assert!(rig.matching.sticky_available(&q));
        drop(poll);
        pause(9).await;
        assert!(rig.matching.sticky_available(&q));
        pause(1).await;
        assert!(!rig.matching.sticky_available(&q));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unloaded_sticky_queue_gives_its_tasks_to_the_normal_queue() {
        let rig = Rig::new();
        let (sticky, normal) = (queue("sticky"), queue("normal"));
        let mut poll = Box::pin(
            rig.matching
                .offered(&sticky, PollOptions::new("a", in_seconds(60))),
        );
        assert!(look(&mut poll).is_none());
        rig.add("sticky", 3, 1);
        assert_eq!(seq_of(&poll.await.unwrap().unwrap()), 1); // goes back
        for seq in 2..=4 {
            rig.add("sticky", 3, seq);
        }
        assert!(rig.matching.sticky_available(&sticky));
        let tasks = rig.matching.unload(&sticky);
        assert_eq!(tasks.len(), 4);
        assert!(!rig.matching.sticky_available(&sticky));
        assert_eq!(rig.stats("sticky").backlog_count, 0);
        for task in tasks {
            rig.matching.add_to(&normal, task);
        }
        // The sticky timeout of one of them deletes its row, which names the sticky queue.
        rig.delete(&task("sticky", 3, 2).task.key);
        assert_eq!(rig.stats("normal").backlog_count, 3);
        for seq in [1, 3, 4] {
            let handout = rig.poll("normal", 1).await.unwrap();
            assert_eq!(seq_of(&handout), seq);
            assert_eq!(handout.queue(), &normal);
            rig.start(handout);
        }
        assert!(rig.poll("normal", 1).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_unload_ends_the_polls_of_the_queue() {
        let rig = Rig::new();
        let begun = Instant::now();
        let unload = async { rig.matching.unload(&queue("sticky")) };
        let (answer, _) = tokio::join!(rig.poll("sticky", 60), unload);
        assert!(answer.is_none());
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert!(!rig.matching.sticky_available(&queue("sticky")));
        assert!(rig.poll("sticky", 1).await.is_none());
        assert!(rig.matching.sticky_available(&queue("sticky")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_handout_of_a_sent_on_task_can_come_back() {
        let rig = Rig::new();
        rig.write("sticky", 3, 1);
        assert!(!rig.matching.add_to(&queue("normal"), task("sticky", 3, 1)));
        rig.poll("normal", 1).await.unwrap().requeue();
        assert!(rig.poll("sticky", 1).await.is_none());
        let handout = rig.poll("normal", 1).await.unwrap();
        // The row goes while a worker holds the task.
        rig.delete(&task("sticky", 3, 1).task.key);
        handout.requeue();
        assert!(rig.poll("normal", 1).await.is_none());
        assert_eq!(rig.stats("normal").backlog_count, 0);
    }
}
