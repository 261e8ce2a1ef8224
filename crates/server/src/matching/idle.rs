//! Forgets queues that nobody uses, so that sticky queues of workers long gone do not pile up.
//! One shard is looked through at a time, now and then.

use std::sync::{Arc, Weak};

use tokio::time::Instant;

use super::{Inner, Matching};
use crate::sync::atomic::Ordering;

impl Matching {
    pub(super) fn start_sweeping(&self) {
        let interval = self.env().config.sweep_interval;
        let inner: Weak<Inner> = Arc::downgrade(&self.inner);
        self.env().runtime.spawn(async move {
            for shard in 0_usize.. {
                tokio::time::sleep(interval).await;
                let Some(inner) = inner.upgrade() else { return };
                if inner.closed.load(Ordering::SeqCst) {
                    return;
                }
                inner.sweep(shard % inner.shards.len());
            }
        });
    }
}

impl Inner {
    fn sweep(&self, shard: usize) {
        let now = Instant::now();
        let mut queues = self.shards[shard].lock();
        queues.retain(|_, queue| {
            let mut s = queue.lock();
            queue.tidy(&mut s, now);
            s.dead = queue.is_idle(&s, now);
            !s.dead
        });
        if queues.capacity() > 64 && queues.len() < queues.capacity() / 4 {
            queues.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::PollOptions;
    use super::super::testing::{Rig, look, queue, seq_of, task};
    use super::*;

    impl Matching {
        fn queues_in_memory(&self) -> usize {
            self.inner
                .shards
                .iter()
                .map(|shard| shard.lock().len())
                .sum()
        }
    }

    async fn pause(seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn sticky_names_do_not_pile_up() {
        let rig = Rig::with(|config| config.sweep_interval = Duration::from_millis(100));
        for n in 0..2_000 {
            let q = queue(&format!("sticky-{n}"));
            let deadline = Instant::now() + Duration::from_millis(100);
            let options = PollOptions {
                sticky: true,
                ..PollOptions::new("a", deadline)
            };
            assert!(rig.matching.offered(&q, options).await.unwrap().is_none());
        }
        // 2,000 names in 200 s, each kept for 60 s and up to one round of the sweep.
        assert!(
            rig.matching.queues_in_memory() < 1_000,
            "{}",
            rig.matching.queues_in_memory()
        );
        pause(600).await;
        assert_eq!(rig.matching.queues_in_memory(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_in_use_stays() {
        let rig = Rig::with(|config| config.sweep_interval = Duration::from_millis(100));
        rig.add("backlog", 3, 1);
        let far = Instant::now() + Duration::from_secs(100_000);
        let q = queue("polled");
        let mut poll = Box::pin(rig.matching.offered(&q, PollOptions::new("a", far)));
        assert!(look(&mut poll).is_none());
        rig.add("held", 3, 2);
        let held = rig.poll("held", 1).await.unwrap();
        rig.matching.set_rate_limit(&queue("limited"), Some(1.0));
        rig.matching.add_to(&queue("normal"), task("origin", 3, 4));
        assert!(rig.poll("unused", 1).await.is_none());
        pause(5_000).await;
        assert_eq!(rig.matching.queues_in_memory(), 6);
        held.finish();
        rig.add("polled", 3, 3);
        assert_eq!(seq_of(&poll.await.unwrap().unwrap()), 3);
        assert_eq!(
            rig.describe("limited").effective_rate.unwrap().per_second,
            1.0
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_forgotten_queue_comes_back() {
        let rig = Rig::with(|config| config.sweep_interval = Duration::from_millis(100));
        for seq in 0..5 {
            rig.add("q", 3, seq);
            let handout = rig.poll("q", 1).await.unwrap();
            assert_eq!(seq_of(&handout), seq);
            rig.start(handout);
            pause(1_000).await;
            assert_eq!(rig.matching.queues_in_memory(), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_whose_stored_tasks_were_all_deleted_is_forgotten() {
        let mut rig = Rig::with(|config| config.sweep_interval = Duration::from_millis(100));
        for seq in 0..5 {
            rig.add("sticky", 3, seq);
        }
        rig.restart();
        rig.matching.load().await.unwrap();
        pause(1_000).await;
        assert_eq!(rig.matching.queues_in_memory(), 1);
        for seq in 0..5 {
            rig.delete(&task("sticky", 3, seq).task.key);
        }
        pause(1_000).await;
        assert_eq!(rig.matching.queues_in_memory(), 0);
    }
}
