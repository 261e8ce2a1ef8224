//! Rates over the last 30 seconds and the figures of `DescribeTaskQueue` (contract 8.4).

use std::time::Duration;

use tokio::time::Instant;

/// The span over which rates are averaged.
pub(super) const WINDOW: Duration = Duration::from_secs(30);

const BUCKETS: usize = 6;
const BUCKET: Duration = Duration::from_secs(5);

/// What a queue, or one priority of it, looks like. Tasks that found a poller at once never
/// count as backlog.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Tasks that wait, in memory and in the store.
    pub backlog_count: i64,
    /// Age of the oldest task at the head of a priority; zero without a backlog.
    pub backlog_age: Duration,
    /// Tasks per second over 30 s, those matched at once included.
    pub add_rate: f64,
    pub dispatch_rate: f64,
    /// A dispatch was held back by the rate limit in the last 30 s.
    pub rate_limiting_active: bool,
}

/// Counts events in buckets of five seconds.
#[derive(Debug)]
struct Meter {
    buckets: [u32; BUCKETS],
    /// Number of the newest bucket since `Rates::origin`.
    newest: u64,
}

impl Meter {
    const NEW: Meter = Meter {
        buckets: [0; BUCKETS],
        newest: 0,
    };

    fn advance(&mut self, bucket: u64) {
        let steps = bucket.saturating_sub(self.newest).min(BUCKETS as u64);
        for step in 1..=steps {
            // The buckets between the old newest and the new one are those that expired.
            self.buckets[((bucket - steps + step) % BUCKETS as u64) as usize] = 0;
        }
        self.newest = self.newest.max(bucket);
    }

    fn current(&mut self, bucket: u64) -> &mut u32 {
        self.advance(bucket);
        &mut self.buckets[(self.newest % BUCKETS as u64) as usize]
    }

    fn total(&mut self, bucket: u64) -> u64 {
        self.advance(bucket);
        self.buckets.iter().map(|n| u64::from(*n)).sum()
    }
}

#[derive(Debug)]
struct Priority {
    priority: u8,
    added: Meter,
    dispatched: Meter,
}

/// Add and dispatch rates by priority.
#[derive(Debug)]
pub(super) struct Rates {
    origin: Instant,
    /// Few: one entry for each priority that was used.
    priorities: Vec<Priority>,
}

impl Rates {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            origin: now,
            priorities: Vec::new(),
        }
    }

    fn bucket(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.origin).as_secs() / BUCKET.as_secs()
    }

    fn of(&mut self, priority: u8) -> &mut Priority {
        let found = self.priorities.iter().position(|p| p.priority == priority);
        let at = found.unwrap_or_else(|| {
            self.priorities.push(Priority {
                priority,
                added: Meter::NEW,
                dispatched: Meter::NEW,
            });
            self.priorities.len() - 1
        });
        &mut self.priorities[at]
    }

    pub(super) fn added(&mut self, priority: u8, now: Instant) {
        let bucket = self.bucket(now);
        let count = self.of(priority).added.current(bucket);
        *count = count.saturating_add(1);
    }

    pub(super) fn dispatched(&mut self, priority: u8, now: Instant) {
        let bucket = self.bucket(now);
        let count = self.of(priority).dispatched.current(bucket);
        *count = count.saturating_add(1);
    }

    /// Takes back a dispatch that did not reach a worker.
    pub(super) fn undispatched(&mut self, priority: u8, now: Instant) {
        let bucket = self.bucket(now);
        let count = self.of(priority).dispatched.current(bucket);
        *count = count.saturating_sub(1);
    }

    /// The span that the buckets cover, in seconds: at most the window, at least one second.
    fn covered(&self, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.origin).as_secs_f64();
        let partial = since % BUCKET.as_secs_f64();
        let full = (BUCKETS - 1) as f64 * BUCKET.as_secs_f64();
        since.min(full + partial).max(1.0)
    }

    /// (add rate, dispatch rate) of one priority, or of all, in tasks per second.
    pub(super) fn per_second(&mut self, priority: Option<u8>, now: Instant) -> (f64, f64) {
        let bucket = self.bucket(now);
        let covered = self.covered(now);
        let mut totals = (0, 0);
        for p in &mut self.priorities {
            if priority.is_none_or(|wanted| wanted == p.priority) {
                totals.0 += p.added.total(bucket);
                totals.1 += p.dispatched.total(bucket);
            }
        }
        (totals.0 as f64 / covered, totals.1 as f64 / covered)
    }

    /// The priorities that were used.
    pub(super) fn priorities(&self) -> impl Iterator<Item = u8> {
        self.priorities.iter().map(|p| p.priority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_load_is_measured_within_a_tenth() {
        let start = Instant::now();
        let mut rates = Rates::new(start);
        // 20 adds and 10 dispatches a second, looked at all along the way.
        for tick in 0..1200_u64 {
            let now = start + Duration::from_millis(tick * 50);
            rates.added(3, now);
            if tick % 2 == 0 {
                rates.dispatched(3, now);
            }
            if tick > 100 {
                let (add, dispatch) = rates.per_second(None, now);
                assert!((add - 20.0).abs() < 2.0, "{add} at {tick}");
                assert!((dispatch - 10.0).abs() < 1.0, "{dispatch} at {tick}");
            }
        }
    }

    #[test]
    fn rates_fall_to_zero_after_the_window() {
        let start = Instant::now();
        let mut rates = Rates::new(start);
        for _ in 0..60 {
            rates.added(1, start);
        }
        let after = |s| start + Duration::from_secs(s);
        assert_eq!(rates.per_second(None, after(0)).0, 60.0);
        assert_eq!(rates.per_second(None, after(20)).0, 3.0);
        assert!(rates.per_second(None, after(29)).0 > 2.0);
        assert_eq!(rates.per_second(None, after(30)).0, 0.0);
        assert_eq!(rates.per_second(None, after(3000)).0, 0.0);
    }

    #[test]
    fn priorities_are_apart_and_add_up() {
        let now = Instant::now();
        let mut rates = Rates::new(now);
        rates.added(1, now);
        rates.added(5, now);
        rates.added(5, now);
        rates.dispatched(5, now);
        assert_eq!(rates.per_second(Some(1), now), (1.0, 0.0));
        assert_eq!(rates.per_second(Some(5), now), (2.0, 1.0));
        assert_eq!(rates.per_second(Some(2), now), (0.0, 0.0));
        assert_eq!(rates.per_second(None, now), (3.0, 1.0));
        rates.undispatched(5, now);
        rates.undispatched(5, now);
        assert_eq!(rates.per_second(None, now), (3.0, 0.0));
        assert_eq!(rates.priorities().collect::<Vec<_>>(), [1, 5]);
    }
}
