//! What a batcher has done and holds.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

use super::{Error, Kind};

/// A batcher at one moment. Sums are since it was made.
///
/// `submitted` is the sum of `succeeded`, `failed`, `expired` and `cancelled`, and of the items that have no
/// answer yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Batches that began.
    pub batches: u64,
    /// Items that were in them, each counted once.
    pub items: u64,
    /// Mean share of the batches' places that were taken: `items / (batches * limit)`, 0 to 1; 0
    /// before the first batch.
    pub fill: f64,
    /// Calls of [`Execute::execute`](super::Execute::execute); more than batches when some were split.
    pub calls: u64,
    /// How often a batch or a part of one was halved.
    pub splits: u64,
    /// Items that anyone submitted.
    pub submitted: u64,
    /// Items that got their result.
    pub succeeded: u64,
    /// Items that got an error other than the next two.
    pub failed: u64,
    /// Items whose deadline passed before their batch began.
    pub expired: u64,
    /// Items that nobody waited for any more, and those that a closed batcher refused.
    pub cancelled: u64,
    /// Items in the queue now.
    pub queued: usize,
    /// Batches in execution now.
    pub running: usize,
    /// How long the oldest item of the queue has waited.
    pub oldest_wait_s: f64,
    /// How long the items of all batches had been in the queue, summed.
    pub wait_sum_s: f64,
}

/// The sums that are counted item by item or call by call.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) calls: AtomicU64,
    pub(super) splits: AtomicU64,
    pub(super) submitted: AtomicU64,
    succeeded: AtomicU64,
    failed: AtomicU64,
    expired: AtomicU64,
    cancelled: AtomicU64,
}

impl Counters {
    pub(super) fn answered<O>(&self, result: &Result<O, Error>) {
        let counter = match result {
            Ok(_) => &self.succeeded,
            Err(error) => match error.kind {
                Kind::Expired => &self.expired,
                Kind::Cancelled => &self.cancelled,
                _ => &self.failed,
            },
        };
        counter.fetch_add(1, Relaxed);
    }

    pub(super) fn abandoned(&self, items: usize) {
        self.cancelled.fetch_add(items as u64, Relaxed);
    }

    /// The part of the statistics that is counted here.
    pub(super) fn read(&self) -> Stats {
        Stats {
            calls: self.calls.load(Relaxed),
            splits: self.splits.load(Relaxed),
            submitted: self.submitted.load(Relaxed),
            succeeded: self.succeeded.load(Relaxed),
            failed: self.failed.load(Relaxed),
            expired: self.expired.load(Relaxed),
            cancelled: self.cancelled.load(Relaxed),
            ..Stats::default()
        }
    }
}
