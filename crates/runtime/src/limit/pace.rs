//! How fast a window's share is given out: evenly, with small bursts.
//!
//! The window alone keeps the cap. Without a pace, all of it would be granted in its first moment,
//! and providers that count over shorter spans than they say would refuse most of it.

use serde::{Deserialize, Serialize};

/// Share of a window that may be granted at once after a pause.
const BURST: f64 = 0.1;

/// A bucket that fills with a window's share in a window's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Pace {
    level: f64,
    /// When it was last filled; 0 before the first time.
    at_ms: i64,
}

impl Pace {
    /// Fills it for the time that has gone by, to no more than a burst, or `least` if that is more.
    pub(super) fn fill(&mut self, now_ms: i64, cap: u64, window_ms: u64, least: u64) {
        let most = (cap as f64 * BURST).max(least as f64).max(1.0);
        let since = (now_ms - self.at_ms).max(0) as f64;
        // A level above `most` was given back, or is from when more waited: it stays.
        let filled = self.level + cap as f64 * since / window_ms as f64;
        self.level = filled.min(most.max(self.level));
        self.at_ms = now_ms;
    }

    pub(super) fn level(&self) -> u64 {
        self.level.max(0.0) as u64
    }

    pub(super) fn take(&mut self, amount: u64) {
        self.level -= amount as f64;
    }

    /// What was granted and not used may be granted again at once.
    pub(super) fn give_back(&mut self, amount: u64, cap: u64) {
        self.level = (self.level + amount as f64).min(cap as f64);
    }

    /// Milliseconds until the level is there.
    pub(super) fn wait_ms(&self, needed: u64, cap: u64, window_ms: u64) -> u64 {
        let missing = (needed as f64 - self.level).max(0.0);
        (missing * window_ms as f64 / cap.max(1) as f64).ceil() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    #[test]
    fn it_fills_with_the_cap_in_a_window_and_bursts_are_small() {
        let mut pace = Pace::default();
        pace.fill(1_000_000, 600, MINUTE, 0);
        assert_eq!(pace.level(), 60, "a tenth after a long pause");
        pace.take(60);
        assert_eq!(pace.wait_ms(1, 600, MINUTE), 100);
        pace.fill(1_000_100, 600, MINUTE, 0);
        assert_eq!(pace.level(), 1);
        pace.fill(1_001_000, 600, MINUTE, 0);
        assert_eq!(pace.level(), 10);
    }

    #[test]
    fn it_rises_to_what_the_largest_request_needs() {
        let mut pace = Pace::default();
        pace.fill(1_000_000, 100, MINUTE, 80);
        assert_eq!(pace.level(), 80);
        pace.fill(1_000_001, 100, MINUTE, 0);
        assert_eq!(pace.level(), 80, "what is there is not lost");
        pace.take(80);
        pace.fill(2_000_000, 1, MINUTE, 0);
        assert_eq!(pace.level(), 1, "one request at least");
    }

    #[test]
    fn what_comes_back_is_there_again() {
        let mut pace = Pace::default();
        pace.fill(1_000_000, 100, MINUTE, 0);
        pace.take(10);
        pace.give_back(7, 100);
        assert_eq!(pace.level(), 7);
        pace.give_back(1_000, 100);
        assert_eq!(pace.level(), 100);
    }
}
