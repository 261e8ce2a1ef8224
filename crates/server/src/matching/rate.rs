//! Dispatch limits: a token bucket whose rate is what workers ask for
//! (`task_queue_metadata.max_tasks_per_second`, the last writer wins) unless an operator set one
//! (`UpdateTaskQueueConfig`), which takes precedence (contract 8.3).
//!
//! The bucket only answers "now?" and "when?"; waiting is the queue's business.

use std::time::Duration;

use tokio::time::Instant;

/// The longest time that is waited in one step; it keeps tiny rates from overflowing an instant.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// Absorbs rounding: a token that misses this much counts as whole.
const EPSILON: f64 = 1e-6;

/// Who set the rate that is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateSource {
    /// `max_tasks_per_second` of a poll.
    Worker,
    /// `UpdateTaskQueueConfig`.
    Api,
}

/// The rate in force, in tasks per second; 0 pauses the queue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EffectiveRate {
    pub per_second: f64,
    pub source: RateSource,
}

/// A token bucket. It holds one second's worth of tokens, at least one, and starts full.
#[derive(Debug)]
pub(super) struct Limiter {
    worker: Option<f64>,
    api: Option<f64>,
    tokens: f64,
    filled: Instant,
    blocked: Option<Instant>,
}

impl Limiter {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            worker: None,
            api: None,
            tokens: 1.0,
            filled: now,
            blocked: None,
        }
    }

    pub(super) fn effective(&self) -> Option<EffectiveRate> {
        let source = if self.api.is_some() {
            RateSource::Api
        } else {
            RateSource::Worker
        };
        let per_second = self.api.or(self.worker)?;
        Some(EffectiveRate { per_second, source })
    }

    pub(super) fn worker_rate(&self) -> Option<f64> {
        self.worker
    }

    pub(super) fn api_rate(&self) -> Option<f64> {
        self.api
    }

    /// True when the rate in force changed.
    pub(super) fn set_worker(&mut self, rate: f64, now: Instant) -> bool {
        let Some(rate) = sanitize(rate) else {
            return false;
        };
        self.change(now, |l| l.worker = rate)
    }

    /// `None` removes the operator's limit. True when the rate in force changed.
    pub(super) fn set_api(&mut self, rate: Option<f64>, now: Instant) -> bool {
        let rate = rate.and_then(sanitize).flatten();
        self.change(now, |l| l.api = rate)
    }

    fn change(&mut self, now: Instant, set: impl FnOnce(&mut Self)) -> bool {
        self.fill(now);
        let before = self.rate();
        set(self);
        let after = self.rate();
        if before == after {
            return false;
        }
        match (before, after) {
            (None, Some(rate)) => self.tokens = burst(rate),
            (_, Some(rate)) => self.tokens = self.tokens.min(burst(rate)),
            (_, None) => {}
        }
        true
    }

    fn rate(&self) -> Option<f64> {
        self.api.or(self.worker)
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled);
        self.filled = self.filled.max(now);
        if let Some(rate) = self.rate() {
            self.tokens = (self.tokens + rate * passed.as_secs_f64()).min(burst(rate));
        }
    }

    /// Takes a token if there is one.
    pub(super) fn try_take(&mut self, now: Instant) -> bool {
        let Some(rate) = self.rate() else { return true };
        self.fill(now);
        if rate > 0.0 && self.tokens >= 1.0 - EPSILON {
            self.tokens -= 1.0;
            true
        } else {
            self.blocked = Some(now);
            false
        }
    }

    /// Gives back a token whose task was not delivered.
    pub(super) fn refund(&mut self) {
        if let Some(rate) = self.rate() {
            self.tokens = (self.tokens + 1.0).min(burst(rate));
        }
    }

    /// When the next token is due; `None` when no limit is set or the queue is paused.
    pub(super) fn ready_at(&mut self, now: Instant) -> Option<Instant> {
        let rate = self.rate().filter(|rate| *rate > 0.0)?;
        self.fill(now);
        let seconds = ((1.0 - self.tokens) / rate).clamp(0.0, WAIT_MAX.as_secs_f64());
        Some(now + Duration::from_secs_f64(seconds))
    }

    /// True when a task was held back in the last `window`.
    pub(super) fn blocked_within(&self, now: Instant, window: Duration) -> bool {
        self.blocked
            .is_some_and(|at| now.saturating_duration_since(at) < window)
    }
}

fn burst(rate: f64) -> f64 {
    rate.ceil().max(1.0)
}

/// `None` for what is not a rate, `Some(None)` for no limit. Below zero is zero.
fn sanitize(rate: f64) -> Option<Option<f64>> {
    if rate.is_nan() {
        None
    } else if rate.is_infinite() && rate > 0.0 {
        Some(None)
    } else {
        Some(Some(rate.max(0.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(limiter: &mut Limiter, now: Instant) -> usize {
        (0..1000).take_while(|_| limiter.try_take(now)).count()
    }

    #[test]
    fn without_a_rate_nothing_is_held_back() {
        let now = Instant::now();
        let mut limiter = Limiter::new(now);
        assert_eq!(taken(&mut limiter, now), 1000);
        assert_eq!(limiter.effective(), None);
        assert_eq!(limiter.ready_at(now), None);
    }

    #[test]
    fn a_bucket_holds_one_second_and_refills() {
        // (rate, at once, after 1 s more, after 100 s more)
        for (rate, first, second, third) in [
            (10.0, 10, 10, 10),
            (1.0, 1, 1, 1),
            (0.5, 1, 0, 1),
            (2.5, 3, 2, 3),
            (0.0, 0, 0, 0),
        ] {
            let start = Instant::now();
            let mut limiter = Limiter::new(start);
            limiter.set_worker(rate, start);
            assert_eq!(taken(&mut limiter, start), first, "rate {rate}");
            let later = start + Duration::from_secs(1);
            assert_eq!(taken(&mut limiter, later), second, "rate {rate}");
            let later = start + Duration::from_secs(101);
            assert_eq!(taken(&mut limiter, later), third, "rate {rate}");
        }
    }

    #[test]
    fn ready_at_says_when_a_token_is_there() {
        let now = Instant::now();
        let mut limiter = Limiter::new(now);
        limiter.set_worker(4.0, now);
        assert_eq!(taken(&mut limiter, now), 4);
        let at = limiter.ready_at(now).unwrap();
        assert_eq!(at, now + Duration::from_millis(250));
        assert!(!limiter.try_take(at - Duration::from_millis(1)));
        assert!(limiter.try_take(at));
        assert!(limiter.blocked_within(at, Duration::from_secs(30)));
        assert!(!limiter.blocked_within(at + Duration::from_secs(31), Duration::from_secs(30)));
    }

    #[test]
    fn the_operators_limit_wins() {
        let now = Instant::now();
        let mut limiter = Limiter::new(now);
        assert!(limiter.set_worker(5.0, now));
        assert!(limiter.set_api(Some(2.0), now));
        assert!(!limiter.set_worker(100.0, now));
        let effective = limiter.effective().unwrap();
        assert_eq!(
            (effective.per_second, effective.source),
            (2.0, RateSource::Api)
        );
        assert_eq!(taken(&mut limiter, now), 2);
        assert!(limiter.set_api(None, now));
        let effective = limiter.effective().unwrap();
        assert_eq!(
            (effective.per_second, effective.source),
            (100.0, RateSource::Worker)
        );
    }

    #[test]
    fn odd_rates_do_no_harm() {
        let now = Instant::now();
        let mut limiter = Limiter::new(now);
        assert!(!limiter.set_worker(f64::NAN, now));
        assert!(!limiter.set_worker(f64::INFINITY, now));
        limiter.set_worker(-3.0, now);
        assert_eq!(limiter.effective().unwrap().per_second, 0.0);
        assert_eq!(limiter.ready_at(now), None);
        limiter.set_worker(1e-300, now);
        assert!(limiter.ready_at(now).unwrap() <= now + WAIT_MAX);
        limiter.set_worker(1e300, now);
        assert!(limiter.try_take(now + Duration::from_secs(1)));
    }

    #[test]
    fn a_refund_never_overfills() {
        let now = Instant::now();
        let mut limiter = Limiter::new(now);
        limiter.set_worker(1.0, now);
        limiter.refund();
        assert_eq!(taken(&mut limiter, now), 1);
        limiter.refund();
        assert_eq!(taken(&mut limiter, now), 1);
    }
}
