//! What arrived at a provider within the last window.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidemill_pipeline::limit::Amount;

/// Into how many spans a window is divided: what is counted leaves it all at once with its span.
const SPANS: u64 = 120;

/// Amounts by the span of time in which they arrived. One is forgotten when all of it is older than
/// the window, so what is counted is never less than what the provider counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Window {
    /// By the time at which the span begins.
    spans: BTreeMap<i64, Amount>,
}

/// Milliseconds of a span.
fn span(window_ms: u64) -> i64 {
    (window_ms / SPANS).max(1) as i64
}

impl Window {
    pub(super) fn add(&mut self, at_ms: i64, amount: Amount, window_ms: u64) {
        if !amount.is_zero() {
            *self.spans.entry(begin(at_ms, window_ms)).or_default() += amount;
        }
    }

    /// Takes back tokens of what arrived then; what is forgotten already stays so.
    pub(super) fn credit(&mut self, at_ms: i64, tokens: u64, window_ms: u64) {
        if let Some(amount) = self.spans.get_mut(&begin(at_ms, window_ms)) {
            amount.tokens = amount.tokens.saturating_sub(tokens);
        }
    }

    pub(super) fn forget(&mut self, now_ms: i64, window_ms: u64) {
        let oldest = oldest(now_ms, window_ms);
        while let Some(first) = self.spans.first_entry()
            && *first.key() < oldest
        {
            first.remove();
        }
    }

    pub(super) fn used(&self) -> Amount {
        let mut sum = Amount::default();
        for amount in self.spans.values() {
            sum += *amount;
        }
        sum
    }

    /// Milliseconds until so much will have been forgotten.
    pub(super) fn wait_ms(&self, excess: Amount, now_ms: i64, window_ms: u64) -> u64 {
        let mut freed = Amount::default();
        for (begin, amount) in &self.spans {
            if freed.requests >= excess.requests && freed.tokens >= excess.tokens {
                break;
            }
            freed += *amount;
            if freed.requests >= excess.requests && freed.tokens >= excess.tokens {
                let gone = begin + span(window_ms) + window_ms as i64;
                return u64::try_from(gone - now_ms).unwrap_or(0);
            }
        }
        0
    }

    /// The window becomes longer or shorter: what is there counts as if it had arrived at the end of
    /// its span.
    pub(super) fn resize(&mut self, from_ms: u64, to_ms: u64) {
        for (at, amount) in std::mem::take(&mut self.spans) {
            self.add(at + span(from_ms), amount, to_ms);
        }
    }
}

fn begin(at_ms: i64, window_ms: u64) -> i64 {
    at_ms - at_ms.rem_euclid(span(window_ms))
}

/// Spans that begin before it are over.
fn oldest(now_ms: i64, window_ms: u64) -> i64 {
    now_ms - window_ms as i64 - span(window_ms) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    #[test]
    fn nothing_is_forgotten_before_its_window_is_over() {
        for at in [0, 1, 499, 500, 59_999] {
            let mut window = Window::default();
            let one = Amount::new(1, 10);
            window.add(at, one, MINUTE);
            window.forget(at + 60_000 - 1, MINUTE);
            assert_eq!(window.used(), one, "arrived at {at}");
            let wait = window.wait_ms(one, at, MINUTE) as i64;
            window.forget(at + wait - 1, MINUTE);
            assert_eq!(window.used(), one, "arrived at {at}");
            window.forget(at + wait, MINUTE);
            assert!(window.used().is_zero(), "arrived at {at}");
            assert!(
                (60_000..=60_500).contains(&wait),
                "arrived at {at}, counted for {wait}"
            );
        }
    }

    #[test]
    fn the_wait_is_for_as_much_as_is_needed() {
        let mut window = Window::default();
        for second in 0..10 {
            window.add(second * 1_000, Amount::new(1, 100), MINUTE);
        }
        for (excess, until) in [
            (Amount::new(0, 0), 0),
            (Amount::new(1, 0), 60_500),
            (Amount::new(0, 100), 60_500),
            (Amount::new(1, 101), 61_500),
            (Amount::new(10, 1), 69_500),
            (Amount::new(11, 0), 0),
        ] {
            assert_eq!(window.wait_ms(excess, 0, MINUTE), until, "{excess:?}");
        }
    }

    #[test]
    fn a_credit_is_of_what_it_was_charged_to() {
        let mut window = Window::default();
        window.add(1_000, Amount::new(1, 100), MINUTE);
        window.add(5_000, Amount::new(1, 100), MINUTE);
        window.credit(1_200, 90, MINUTE);
        window.credit(9_000, 90, MINUTE);
        assert_eq!(window.used(), Amount::new(2, 110));
        window.forget(61_500, MINUTE);
        assert_eq!(window.used(), Amount::new(1, 100));
    }

    #[test]
    fn a_window_that_changes_counts_no_less() {
        let mut window = Window::default();
        window.add(499, Amount::new(1, 1), MINUTE);
        window.resize(MINUTE, 6_000);
        window.forget(499 + 6_000 - 1, 6_000);
        assert_eq!(window.used(), Amount::new(1, 1));
    }
}
