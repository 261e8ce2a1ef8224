//! A page of stored tasks that is being read, and what happens to the queue meanwhile:
//!
//! - tasks that are added at or above the page's beginning are kept, because the page may have
//!   been read before their commit;
//! - tasks that leave are remembered, because the page may still show their rows.
//!
//! Tasks that workers hold are known to the backlog anyway.

use std::collections::{BTreeMap, HashSet};

use tidemill_store::StoredTask;

use super::backlog::{END, Key, key_of};

#[derive(Debug)]
pub(super) struct Page {
    /// The first key that is read. Should the backlog's limit sink below it, the page would leave
    /// a gap and is of no use.
    pub(super) from: Key,
    max: usize,
    arrivals: BTreeMap<Key, StoredTask>,
    /// `arrivals` holds all that came below this; it keeps at most `max`.
    arrivals_limit: Key,
    gone: HashSet<Key>,
}

impl Page {
    pub(super) fn new(from: Key, max: usize) -> Self {
        let (arrivals, gone) = (BTreeMap::new(), HashSet::new());
        Self {
            from,
            max,
            arrivals,
            arrivals_limit: END,
            gone,
        }
    }

    pub(super) fn arrived(&mut self, task: StoredTask) {
        let key = key_of(&task);
        // It may have left and come back.
        self.gone.remove(&key);
        if key < self.arrivals_limit {
            self.arrivals.insert(key, task);
            if self.arrivals.len() > self.max
                && let Some((largest, _)) = self.arrivals.pop_last()
            {
                self.arrivals_limit = largest;
            }
        }
    }

    pub(super) fn left(&mut self, key: Key) {
        self.arrivals.remove(&key);
        if key >= self.from {
            self.gone.insert(key);
        }
    }

    /// Takes the arrivals out.
    pub(super) fn drain(&mut self) -> Vec<StoredTask> {
        std::mem::take(&mut self.arrivals).into_values().collect()
    }

    /// Brings together what was read, complete below `read_limit`, and what happened meanwhile:
    /// a limit, and all tasks between the page's beginning and that limit. A task may be there
    /// twice.
    pub(super) fn merge(
        self,
        rows: Vec<StoredTask>,
        read_limit: Key,
    ) -> (Key, impl Iterator<Item = StoredTask>) {
        let limit = read_limit.min(self.arrivals_limit);
        let gone = self.gone;
        let tasks = rows.into_iter().chain(self.arrivals.into_values());
        let there = move |task: &StoredTask| {
            let key = key_of(task);
            key < limit && !gone.contains(&key)
        };
        (limit, tasks.filter(there))
    }

    #[cfg(test)]
    pub(super) fn arrivals(&self) -> usize {
        self.arrivals.len()
    }
}
