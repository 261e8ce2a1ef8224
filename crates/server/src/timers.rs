//! When runs want to be woken.
//!
//! The store knows every run's wake-up time; only those within the horizon are held here, so a
//! million runs that sleep for a month cost nothing. One task sleeps until the earliest and
//! another reads the next stretch from the store before it is needed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tidemill_engine::Time;
use tidemill_store::{RunIdentity, RunNo};
use tokio::sync::Notify;

use crate::core::{Core, blocking, now};

pub(crate) struct Timers {
    heap: Mutex<BinaryHeap<Reverse<Entry>>>,
    /// An earlier entry than all before was added.
    earlier: Notify,
    /// Wake-up times until here are held in memory.
    loaded_until: AtomicI64,
}

struct Entry {
    at: Time,
    run: RunIdentity,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

/// Rows read from the store at a time.
const PAGE: usize = 1000;

impl Timers {
    pub(crate) fn new() -> Self {
        Self {
            heap: Mutex::default(),
            earlier: Notify::new(),
            loaded_until: AtomicI64::new(0),
        }
    }

    /// A run's wake-up time has become durable. Beyond the horizon the store alone keeps it.
    ///
    /// Called after the commit, so a time that is just beyond the horizon is seen by the reader
    /// that moves the horizon on: the horizon moves first, then the reader reads.
    pub(crate) fn arm(&self, run: RunIdentity, at: Time) {
        if at.0 <= self.loaded_until.load(Ordering::SeqCst) {
            self.push(Entry { at, run });
        }
    }

    fn push(&self, entry: Entry) {
        let mut heap = self.heap.lock();
        let first = heap.peek().is_none_or(|Reverse(e)| entry.at < e.at);
        heap.push(Reverse(entry));
        drop(heap);
        if first {
            self.earlier.notify_one();
        }
    }

    fn next(&self) -> Option<Time> {
        self.heap.lock().peek().map(|Reverse(e)| e.at)
    }

    fn pop_due(&self, now: Time) -> Option<(RunIdentity, Time)> {
        let mut heap = self.heap.lock();
        if heap.peek().is_some_and(|Reverse(e)| e.at <= now) {
            return heap.pop().map(|Reverse(e)| (e.run, e.at));
        }
        None
    }
}

/// Wakes runs when their time comes. Never early: the wall clock is read again after each sleep.
pub(crate) async fn wake_due(core: Arc<Core>) {
    loop {
        while let Some((run, at)) = core.timers.pop_due(now()) {
            core.shards.wake(run, at);
        }
        let sleep = core.timers.next().map_or(Duration::from_secs(3600), |at| {
            // A wall clock that is set while we sleep is noticed within this bound.
            at.since(now()).min(Duration::from_secs(60)) + Duration::from_micros(200)
        });
        tokio::select! {
            biased;
            () = tokio::time::sleep(sleep) => {}
            () = core.timers.earlier.notified() => {}
        }
    }
}

/// Keeps the wake-up times of the near future in memory.
pub(crate) async fn read_ahead(core: Arc<Core>) {
    let mut from = (i64::MIN, RunNo(0));
    loop {
        let until = now().plus(core.config.timer_horizon).0;
        core.timers.loaded_until.store(until, Ordering::SeqCst);
        // Commits that saw the old horizon have ended before ours: what they wrote is read.
        core.barrier().await;
        loop {
            let reader = core.clone();
            let page = blocking(move || reader.store.due_runs(from, until, PAGE)).await;
            match page {
                Ok(Ok(page)) => {
                    let full = page.len() == PAGE;
                    for (at, run) in page {
                        from = (at, run.run);
                        core.timers.push(Entry { at: Time(at), run });
                    }
                    if !full {
                        break;
                    }
                }
                Ok(Err(error)) => {
                    tracing::error!(%error, "cannot read wake-up times; trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                // Without this loop no far wake-up would come any more.
                Err(error) if error.is_panic() => {
                    tracing::error!("reading wake-up times panicked; trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(_) => return,
            }
        }
        from = (until, RunNo(i64::MAX));
        tokio::time::sleep(core.config.timer_horizon / 2).await;
    }
}
