//! The batchers of one worker, by key.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Batcher, Stats};

/// Batchers by the key that all their items share: model, revision, parameters, shape class.
///
/// One that is idle for a while is dropped, and so is the one that was used the longest ago when there are too
/// many idle ones. One that somebody holds, or that has items, never is.
pub struct Batchers<I, O> {
    inner: Arc<Mutex<Inner<I, O>>>,
}

struct Inner<I, O> {
    batchers: BTreeMap<String, Held<I, O>>,
    most: usize,
    idle: Duration,
    closed: Option<String>,
    /// A task is looking for idle ones.
    sweeping: bool,
}

struct Held<I, O> {
    batcher: Arc<Batcher<I, O>>,
    used: Instant,
}

impl<I, O> Held<I, O> {
    fn idle(&self) -> bool {
        Arc::strong_count(&self.batcher) == 1 && self.batcher.is_idle()
    }
}

impl<I: Send + 'static, O: Send + 'static> Batchers<I, O> {
    /// Keeps at most `most` of which any is idle, none longer than `idle` after its last use.
    pub fn new(most: usize, idle: Duration) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                batchers: BTreeMap::new(),
                most,
                idle,
                closed: None,
                sweeping: false,
            })),
        }
    }

    /// The batcher of `key`; `make` is called when there is none. After [`close`](Self::close) it
    /// is a closed one.
    pub fn get_or_make<E>(
        &self,
        key: &str,
        make: impl FnOnce() -> Result<Batcher<I, O>, E>,
    ) -> Result<Arc<Batcher<I, O>>, E> {
        let now = Instant::now();
        // Dropped after the lock: they may hold models.
        let dropped;
        let batcher = {
            let mut inner = self.inner.lock();
            if let Some(held) = inner.batchers.get_mut(key) {
                held.used = now;
                return Ok(held.batcher.clone());
            }
            let batcher = Arc::new(make()?);
            if let Some(reason) = &inner.closed {
                batcher.close(reason);
                return Ok(batcher);
            }
            dropped = inner.make_room();
            let held = Held {
                batcher: batcher.clone(),
                used: now,
            };
            inner.batchers.insert(key.to_owned(), held);
            if !std::mem::replace(&mut inner.sweeping, true) {
                tokio::spawn(sweep(Arc::downgrade(&self.inner), inner.idle));
            }
            batcher
        };
        drop(dropped);
        Ok(batcher)
    }

    /// By key.
    pub fn stats(&self) -> Vec<(String, Stats)> {
        let batchers = self.all();
        batchers
            .into_iter()
            .map(|(key, batcher)| (key, batcher.stats()))
            .collect()
    }

    /// All there are, by key.
    pub fn all(&self) -> Vec<(String, Arc<Batcher<I, O>>)> {
        let inner = self.inner.lock();
        let batchers = inner.batchers.iter();
        batchers
            .map(|(key, held)| (key.clone(), held.batcher.clone()))
            .collect()
    }

    /// [Closes](Batcher::close) all, and those that will be made.
    pub fn close(&self, reason: &str) {
        self.inner.lock().closed = Some(reason.to_owned());
        for (_, batcher) in self.all() {
            batcher.close(reason);
        }
    }
}

impl<I, O> Inner<I, O> {
    /// Takes out idle ones while there are too many for one more.
    fn make_room(&mut self) -> Vec<Held<I, O>> {
        let mut taken = Vec::new();
        while self.batchers.len() >= self.most {
            let idle = self.batchers.iter().filter(|(_, held)| held.idle());
            let oldest = idle.min_by_key(|(_, held)| held.used);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else {
                break;
            };
            taken.extend(self.batchers.remove(&oldest));
        }
        taken
    }

    fn take_idle(&mut self, now: Instant) -> Vec<Held<I, O>> {
        let idle = self.idle;
        let mut keys = Vec::new();
        for (key, held) in &mut self.batchers {
            if !held.idle() {
                held.used = now;
            } else if now.saturating_duration_since(held.used) >= idle {
                keys.push(key.clone());
            }
        }
        keys.iter()
            .filter_map(|key| self.batchers.remove(key))
            .collect()
    }
}

/// Drops idle batchers until there are none.
async fn sweep<I, O>(inner: Weak<Mutex<Inner<I, O>>>, idle: Duration) {
    // Often enough that none stays for much longer than it may.
    let period = (idle / 4).max(Duration::from_millis(10));
    loop {
        tokio::time::sleep(period).await;
        let Some(inner) = inner.upgrade() else {
            return;
        };
        let mut inner = inner.lock();
        let dropped = inner.take_idle(Instant::now());
        let empty = inner.batchers.is_empty();
        inner.sweeping = !empty;
        drop(inner);
        drop(dropped);
        if empty {
            return;
        }
    }
}
