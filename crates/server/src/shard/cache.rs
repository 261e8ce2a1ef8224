//! The runs that a shard holds in memory.

use std::collections::HashMap;
use std::sync::Arc;

use imbl::Vector;
use tidemill_engine::{Batch, Run};
use tidemill_store::{NamespaceId, RunNo};

/// Bytes of history kept with a run: polls of busy runs read nothing from the store.
const TAIL_BYTES: usize = 64 * 1024;

/// The newest history batches of a run, cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tail {
    batches: Vector<Arc<Batch>>,
    bytes: usize,
}

impl Tail {
    /// The first event that is held.
    pub(crate) fn first_event_id(&self) -> Option<i64> {
        self.batches.front().map(|b| b.first_event_id)
    }

    pub(crate) fn batches(&self) -> impl DoubleEndedIterator<Item = &Arc<Batch>> {
        self.batches.iter()
    }

    pub(super) fn push(&mut self, batch: Arc<Batch>) {
        self.bytes += batch.bytes.len();
        self.batches.push_back(batch);
        while self.bytes > TAIL_BYTES && self.batches.len() > 1 {
            if let Some(old) = self.batches.pop_front() {
                self.bytes -= old.bytes.len();
            }
        }
    }
}

pub(super) struct Entry {
    pub(super) run: Run,
    pub(super) tail: Tail,
    /// The last commit that this run took part in.
    pub(super) ticket: u64,
    /// When it was last used, in uses of the cache.
    used: u64,
}

impl Entry {
    /// Whether it can be read back from the store as it is.
    fn is_evictable(&self, durable: u64) -> bool {
        let v = &self.run.volatile;
        let speculative = self.run.core.workflow_task.as_ref().is_some_and(|t| t.speculative);
        self.ticket <= durable && v.updates.is_empty() && v.queries.is_empty() && !speculative
    }
}

pub(super) struct Cache {
    runs: HashMap<RunNo, Entry>,
    /// The current run of the workflow ids that have a run here.
    current: HashMap<(NamespaceId, Arc<str>), RunNo>,
    uses: u64,
    most: usize,
}

impl Cache {
    pub(super) fn new(most: usize) -> Self {
        Self { runs: HashMap::new(), current: HashMap::new(), uses: 0, most: most.max(16) }
    }

    pub(super) fn get(&mut self, run: RunNo) -> Option<&mut Entry> {
        self.uses += 1;
        let entry = self.runs.get_mut(&run)?;
        entry.used = self.uses;
        Some(entry)
    }

    pub(super) fn current(&self, namespace: NamespaceId, workflow_id: &Arc<str>) -> Option<RunNo> {
        self.current.get(&(namespace, workflow_id.clone())).copied()
    }

    /// A run in memory that matches. A scan: for the rare case only.
    pub(super) fn find(&self, matches: impl Fn(&Run) -> bool) -> Option<RunNo> {
        self.runs.iter().find(|(_, e)| matches(&e.run)).map(|(no, _)| *no)
    }

    /// Adds or replaces a run. `is_current`: it is known to be its workflow id's newest.
    pub(super) fn insert(&mut self, run: Run, tail: Tail, ticket: u64, is_current: bool, durable: u64) {
        let no = RunNo(run.id.no);
        if is_current {
            self.current.insert((run.id.namespace_id, run.id.workflow_id.clone()), no);
        }
        self.uses += 1;
        self.runs.insert(no, Entry { run, tail, ticket, used: self.uses });
        if self.runs.len() > self.most + self.most / 8 {
            self.shrink(durable);
        }
    }

    pub(super) fn remove(&mut self, run: RunNo) {
        if let Some(entry) = self.runs.remove(&run) {
            self.forget_current(&entry.run);
        }
    }

    fn forget_current(&mut self, run: &Run) {
        let key = (run.id.namespace_id, run.id.workflow_id.clone());
        if self.current.get(&key) == Some(&RunNo(run.id.no)) {
            self.current.remove(&key);
        }
    }

    /// Drops the runs that were not used for longest, down to the allowed number.
    fn shrink(&mut self, durable: u64) {
        let mut idle: Vec<_> =
            self.runs.iter().filter(|(_, e)| e.is_evictable(durable)).map(|(no, e)| (e.used, *no)).collect();
        let surplus = self.runs.len().saturating_sub(self.most).min(idle.len());
        if surplus == 0 {
            return;
        }
        idle.select_nth_unstable(surplus - 1);
        for (_, run) in idle.into_iter().take(surplus) {
            self.remove(run);
        }
    }

    /// Empties the cache: every run that was in it.
    pub(super) fn clear(&mut self) -> Vec<RunNo> {
        self.current.clear();
        self.runs.drain().map(|(no, _)| no).collect()
    }
}
