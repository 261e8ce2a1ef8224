//! Retries and timeouts: the stage's own, else those of `defaults`, else Tidemill's.

use crate::plan::{Retry, Timeouts};
use crate::spec::{Policy, Spot};

pub(super) fn retry(own: &Policy, general: &Policy) -> Retry {
    let base = Retry::default();
    let first_delay_ms = pick(&own.delay_ms, &general.delay_ms, base.first_delay_ms);
    Retry {
        attempts: pick(&own.attempts, &general.attempts, base.attempts),
        first_delay_ms,
        backoff: pick(&own.backoff, &general.backoff, base.backoff),
        max_delay_ms: pick(&own.max_delay_ms, &general.max_delay_ms, base.max_delay_ms)
            .max(first_delay_ms),
    }
}

pub(super) fn timeouts(own: &Policy, general: &Policy) -> Timeouts {
    let base = Timeouts::default();
    let total = own.total_ms.as_ref().or(general.total_ms.as_ref());
    let attempt_ms = pick(&own.attempt_ms, &general.attempt_ms, base.attempt_ms);
    Timeouts {
        attempt_ms,
        heartbeat_ms: pick(&own.heartbeat_ms, &general.heartbeat_ms, base.heartbeat_ms),
        total_ms: total.map(|total| total.value),
    }
}

fn pick<T: Clone>(own: &Option<Spot<T>>, general: &Option<Spot<T>>, base: T) -> T {
    own.as_ref()
        .or(general.as_ref())
        .map_or(base, |spot| spot.value.clone())
}
