//! What the committer counts.

use std::time::Duration;

use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Totals since the committer started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitStats {
    /// Submissions that are settled: durable or failed.
    pub commits: u64,
    /// How many of them failed.
    pub failed: u64,
    /// Submissions that no transaction has begun with.
    pub waiting: u64,
    /// Transactions, failed ones included.
    pub transactions: u64,
    pub transactions_failed: u64,
    /// Commits in all transactions; by `transactions`, the mean size of a batch.
    pub batch_size_sum: u64,
    /// Commits per transaction.
    pub batch_sizes: Histogram,
    /// Time in the store, flushes included.
    pub apply_nanos: u64,
    /// Microseconds per transaction.
    pub apply_micros: Histogram,
    /// The store's [`fsyncs`](crate::Store::fsyncs).
    pub fsyncs: u64,
}

/// Counts by powers of two: `buckets[n]` has the values from 2^(n-1), exclusive, to 2^n, inclusive;
/// the last one all that are larger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    pub buckets: [u64; BUCKETS],
}

const BUCKETS: usize = 24;

impl Histogram {
    /// The largest value that bucket `n` counts; `None` for the last, which has no bound.
    pub fn upper_bound(n: usize) -> Option<u64> {
        (n + 1 < BUCKETS).then(|| 1 << n)
    }
}

#[derive(Default)]
struct Buckets([AtomicU64; BUCKETS]);

impl Buckets {
    fn add(&self, value: u64) {
        let bucket = value.max(1).next_power_of_two().trailing_zeros() as usize;
        self.0[bucket.min(BUCKETS - 1)].fetch_add(1, Relaxed);
    }

    fn snapshot(&self) -> Histogram {
        Histogram {
            buckets: std::array::from_fn(|bucket| self.0[bucket].load(Relaxed)),
        }
    }
}

/// Written by whoever is the writer; read by anyone, each counter for itself.
#[derive(Default)]
pub(super) struct Counters {
    commits: AtomicU64,
    failed: AtomicU64,
    transactions: AtomicU64,
    transactions_failed: AtomicU64,
    batch_size_sum: AtomicU64,
    batch_sizes: Buckets,
    apply_nanos: AtomicU64,
    apply_micros: Buckets,
}

impl Counters {
    pub(super) fn applied(&self, commits: usize, took: Duration, ok: bool) {
        self.transactions.fetch_add(1, Relaxed);
        self.transactions_failed.fetch_add(u64::from(!ok), Relaxed);
        self.batch_size_sum.fetch_add(commits as u64, Relaxed);
        self.batch_sizes.add(commits as u64);
        self.apply_nanos.fetch_add(took.as_nanos() as u64, Relaxed);
        self.apply_micros.add(took.as_micros() as u64);
    }

    pub(super) fn settled(&self, commits: usize, failed: usize) {
        self.commits.fetch_add(commits as u64, Relaxed);
        self.failed.fetch_add(failed as u64, Relaxed);
    }

    pub(super) fn snapshot(&self, waiting: u64, fsyncs: u64) -> CommitStats {
        CommitStats {
            commits: self.commits.load(Relaxed),
            failed: self.failed.load(Relaxed),
            waiting,
            transactions: self.transactions.load(Relaxed),
            transactions_failed: self.transactions_failed.load(Relaxed),
            batch_size_sum: self.batch_size_sum.load(Relaxed),
            batch_sizes: self.batch_sizes.snapshot(),
            apply_nanos: self.apply_nanos.load(Relaxed),
            apply_micros: self.apply_micros.snapshot(),
            fsyncs,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_land_below_their_upper_bound() {
        for (value, bucket) in [
            (0, 0),
            (1, 0),
            (2, 1),
            (3, 2),
            (4, 2),
            (5, 3),
            (512, 9),
            (u64::MAX >> 1, BUCKETS - 1),
        ] {
            let buckets = Buckets::default();
            buckets.add(value);
            assert_eq!(buckets.snapshot().buckets[bucket], 1, "{value}");
            assert!(
                Histogram::upper_bound(bucket).is_none_or(|bound| value <= bound),
                "{value}"
            );
        }
    }
}
