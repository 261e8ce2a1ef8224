//! What people see of queues: `DescribeTaskQueue`, metrics, and which queues wait in vain.

use std::time::Duration;

use tidemill_store::{Nanos, QueueName};
use tokio::time::Instant;

use super::Matching;
use super::backlog::PRIORITIES;
use super::pollers::PollerInfo;
use super::queue::{Queue, State};
use super::rate::EffectiveRate;
use super::stats::{Stats, WINDOW};

/// A queue as `DescribeTaskQueue` shows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueInfo {
    /// Seen in the last five minutes, by identity.
    pub pollers: Vec<PollerInfo>,
    pub stats: Stats,
    /// By priority, for those with tasks or traffic; 3 is always there.
    pub stats_by_priority: Vec<(u8, Stats)>,
    pub effective_rate: Option<EffectiveRate>,
    /// What the last worker to set one asked for.
    pub worker_rate: Option<f64>,
}

/// One queue in a list of all.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueSummary {
    pub queue: QueueName,
    pub sticky: bool,
    pub backlog_count: i64,
    /// Age of the oldest task at the head.
    pub backlog_age: Duration,
    /// Polls that wait right now.
    pub polls: usize,
    /// Somebody polls, or did so in the last 20 s.
    pub has_pollers: bool,
    /// When somebody polled last since the start of the server, by the wall clock.
    pub last_poll: Option<Nanos>,
}

/// The priority of tasks that name none.
const DEFAULT_PRIORITY: u8 = 3;

impl Matching {
    /// Describes a queue; one that nobody ever used is all zero.
    pub fn describe(&self, queue: &QueueName) -> QueueInfo {
        let Some(queue) = self.find(queue) else {
            return QueueInfo {
                stats_by_priority: vec![(DEFAULT_PRIORITY, Stats::default())],
                ..QueueInfo::default()
            };
        };
        let now = Instant::now();
        let mut s = queue.lock();
        let used = |s: &State, p: u8| {
            p == DEFAULT_PRIORITY
                || s.backlog.count_of(p) > 0
                || s.rates.priorities().any(|q| q == p)
        };
        let priorities: Vec<u8> = (1..=PRIORITIES as u8).filter(|p| used(&s, *p)).collect();
        QueueInfo {
            pollers: s.pollers.list(now, self.env().config.poller_retention),
            stats: queue.stats(&mut s, None, now),
            stats_by_priority: priorities
                .into_iter()
                .map(|p| (p, queue.stats(&mut s, Some(p), now)))
                .collect(),
            effective_rate: s.limiter.effective(),
            worker_rate: s.limiter.worker_rate(),
        }
    }

    /// All queues in memory, those with stored tasks among them, in the order of their names.
    /// Looks at every queue: for people and metrics, not for the way of a task.
    pub fn queues(&self) -> Vec<QueueSummary> {
        let now = Instant::now();
        let summaries = self.loaded().map(|queue| self.summary(&queue, now));
        let mut summaries: Vec<_> = summaries.collect();
        summaries.sort_by(|a, b| a.queue.cmp(&b.queue));
        summaries
    }

    /// Queues with a backlog that nobody polls.
    pub fn queues_without_pollers(&self) -> Vec<QueueSummary> {
        let mut queues = self.queues();
        queues.retain(|queue| queue.backlog_count > 0 && !queue.has_pollers);
        queues
    }

    fn summary(&self, queue: &Queue, now: Instant) -> QueueSummary {
        let s = queue.lock();
        QueueSummary {
            queue: queue.name.clone(),
            sticky: s.sticky,
            backlog_count: s.backlog.count(),
            backlog_age: queue.backlog_age(&s),
            polls: s.pollers.polls(),
            has_pollers: s.pollers.present(now, self.env().config.absent_after),
            last_poll: s.pollers.last_access(),
        }
    }
}

impl Queue {
    /// The figures of one priority, or of all.
    fn stats(&self, s: &mut State, priority: Option<u8>, now: Instant) -> Stats {
        let (add_rate, dispatch_rate) = s.rates.per_second(priority, now);
        let backlog_count = match priority {
            Some(priority) => s.backlog.count_of(priority),
            None => s.backlog.count(),
        };
        let backlog_age = match backlog_count {
            0 => Duration::ZERO,
            _ => self.age(s.backlog.oldest(priority)),
        };
        Stats {
            backlog_count,
            backlog_age,
            add_rate,
            dispatch_rate,
            rate_limiting_active: s.limiter.blocked_within(now, WINDOW),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::testing::{Rig, queue};
    use super::super::{PollOptions, WorkerInfo};
    use super::*;

    async fn pause(milliseconds: u64) {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_synthetic_load_is_reported_within_a_tenth() {
        let rig = Rig::new();
        // 20 tasks a second in, 10 out, for a minute.
        for n in 0..1_200 {
            rig.add("q", 3, n);
            if n % 2 == 0 {
                rig.start(rig.poll("q", 1).await.unwrap());
            }
            pause(50).await;
        }
        let stats = rig.stats("q");
        assert_eq!(stats.backlog_count, 600);
        assert!((stats.add_rate - 20.0).abs() < 2.0, "{stats:?}");
        assert!((stats.dispatch_rate - 10.0).abs() < 1.0, "{stats:?}");
        let age = stats.backlog_age.as_secs_f64();
        assert!((age - 30.0).abs() < 3.0, "{stats:?}");
        assert!(!stats.rate_limiting_active);
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_matched_at_once_are_no_backlog() {
        let rig = Rig::new();
        let watch = async {
            pause(10).await;
            assert!(rig.add("q", 3, 1));
            let stats = rig.stats("q");
            assert_eq!(
                (stats.backlog_count, stats.add_rate, stats.dispatch_rate),
                (0, 1.0, 1.0)
            );
        };
        let (handout, ()) = tokio::join!(rig.poll("q", 10), watch);
        rig.start(handout.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn priorities_are_reported_apart() {
        let rig = Rig::with(|config| config.memory_tasks_max = 4);
        for n in 0..10 {
            rig.add("q", if n < 6 { 5 } else { 1 }, n);
        }
        let info = rig.describe("q");
        let counts: Vec<_> = info
            .stats_by_priority
            .iter()
            .map(|(p, stats)| (*p, stats.backlog_count))
            .collect();
        assert_eq!(counts, [(1, 4), (3, 0), (5, 6)]);
        assert_eq!(info.stats.backlog_count, 10);
        let unknown = rig.describe("nowhere");
        assert_eq!(unknown.stats, Stats::default());
        assert_eq!(unknown.stats_by_priority.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn pollers_are_listed_with_what_they_said() {
        let rig = Rig::new();
        let worker = Arc::new(WorkerInfo {
            worker_instance_key: "k".into(),
            ..WorkerInfo::default()
        });
        let options = PollOptions {
            max_tasks_per_second: Some(7.0),
            worker: worker.clone(),
            ..PollOptions::new("w1", Instant::now() + Duration::from_secs(1))
        };
        let before = rig.wall();
        assert!(
            rig.matching
                .offered(&queue("q"), options)
                .await
                .unwrap()
                .is_none()
        );
        let info = rig.describe("q");
        assert_eq!(info.pollers.len(), 1);
        let poller = &info.pollers[0];
        assert_eq!(
            (&*poller.identity, poller.max_tasks_per_second),
            ("w1", Some(7.0))
        );
        assert_eq!(poller.worker, worker);
        assert!(poller.last_access - before >= 1_000_000_000);
        assert_eq!(info.worker_rate, Some(7.0));
        pause(299_000).await;
        assert_eq!(rig.describe("q").pollers.len(), 1);
        pause(2_000).await;
        assert!(rig.describe("q").pollers.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn queues_that_wait_in_vain_are_named() {
        let mut rig = Rig::new();
        rig.add("stuck", 3, 1);
        rig.add("served", 3, 2);
        rig.restart();
        rig.matching.load().await.unwrap();
        let names = |rig: &Rig| {
            let queues = rig.matching.queues_without_pollers();
            queues
                .iter()
                .map(|q| q.queue.name.to_string())
                .collect::<Vec<_>>()
        };
        pause(1).await;
        assert_eq!(names(&rig), ["served", "stuck"]);
        rig.poll("served", 1).await.unwrap().requeue();
        assert_eq!(names(&rig), ["stuck"]);
        pause(19_000).await;
        assert_eq!(names(&rig), ["stuck"]);
        pause(1_000).await;
        assert_eq!(names(&rig), ["served", "stuck"]);
        let summary = &rig.matching.queues_without_pollers()[0];
        assert_eq!(summary.backlog_count, 1);
        assert!(summary.backlog_age >= Duration::from_secs(20));
        assert!(summary.last_poll.is_some());
    }
}
