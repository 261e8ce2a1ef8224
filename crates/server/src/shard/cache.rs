//! The runs that a shard holds in memory.

use std::collections::HashMap;
use std::sync::Arc;

use imbl::Vector;
use tidemill_engine::run::UpdateStage;
use tidemill_engine::{Batch, Run};
use tidemill_store::{NamespaceId, RunNo};

/// Bytes of history kept with a run: polls of busy runs read nothing from the store.
pub(super) const TAIL_BYTES: usize = 64 * 1024;

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

    /// Adds the newest batch and keeps as many bytes as are allowed, at least that batch.
    pub(super) fn push(&mut self, batch: Arc<Batch>, bytes_max: usize) {
        self.bytes += batch.bytes.len();
        self.batches.push_back(batch);
        while self.bytes > bytes_max && self.batches.len() > 1 {
            if let Some(old) = self.batches.pop_front() {
                self.bytes -= old.bytes.len();
            }
        }
    }
}

pub(super) struct Entry {
    pub(super) run: Arc<Run>,
    pub(super) tail: Tail,
    /// The shard's number of the last commit that this run took part in.
    pub(super) commit: u64,
    /// When it was last used, in uses of the cache.
    used: u64,
}

impl Entry {
    /// Takes over what a transition has made of the run. Of a closed run only the end is kept:
    /// nobody polls it any more.
    pub(super) fn advance(&mut self, run: Run, batches: Vec<Arc<Batch>>) {
        let keep = if run.is_open() { TAIL_BYTES } else { 0 };
        self.run = Arc::new(run);
        batches.into_iter().for_each(|b| self.tail.push(b, keep));
    }

    /// Whether it can be read back from the store as it is. Accepted updates can: a run may wait
    /// for months until one completes.
    fn is_evictable(&self, durable: u64) -> bool {
        let v = &self.run.volatile;
        let speculative = self
            .run
            .core
            .workflow_task
            .as_ref()
            .is_some_and(|t| t.speculative);
        self.commit <= durable
            && v.updates.values().all(|u| u.stage == UpdateStage::Accepted)
            && v.queries.is_empty()
            && !v.close_attempted
            && !speculative
    }
}

pub(super) struct Cache {
    runs: HashMap<RunNo, Entry>,
    by_run_id: HashMap<[u8; 16], RunNo>,
    /// The current run of the workflow ids that have a run here.
    current: HashMap<(NamespaceId, Arc<str>), RunNo>,
    uses: u64,
    most: usize,
    /// With so many runs it is looked for some to drop.
    shrink_at: usize,
}

/// A run's public id as a key; `None` for one that is no UUID, which no run has.
fn key(run: &Run) -> Option<[u8; 16]> {
    tidemill_engine::ids::parse_uuid(&run.id.run_id)
}

impl Cache {
    pub(super) fn new(most: usize) -> Self {
        let most = most.max(16);
        Self {
            runs: HashMap::new(),
            by_run_id: HashMap::new(),
            current: HashMap::new(),
            uses: 0,
            most,
            shrink_at: most + most / 8,
        }
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

    /// The run with a public id, whichever workflow it is of.
    pub(super) fn by_run_id(&self, run_id: &[u8; 16]) -> Option<(RunNo, &Run)> {
        let no = *self.by_run_id.get(run_id)?;
        self.runs.get(&no).map(|entry| (no, &*entry.run))
    }

    /// A run that is here is its workflow id's newest.
    pub(super) fn set_current(&mut self, run: RunNo) {
        if let Some(entry) = self.runs.get(&run) {
            let id = &entry.run.id;
            self.current
                .insert((id.namespace_id, id.workflow_id.clone()), run);
        }
    }

    /// Adds or replaces a run. `is_current`: it is known to be its workflow id's newest.
    /// `durable`: commits up to this one are.
    pub(super) fn insert(&mut self, run: Arc<Run>, tail: Tail, is_current: bool, durable: u64) {
        let no = RunNo(run.id.no);
        if let Some(run_id) = key(&run) {
            self.by_run_id.insert(run_id, no);
        }
        self.uses += 1;
        let entry = Entry {
            run,
            tail,
            commit: 0,
            used: self.uses,
        };
        self.runs.insert(no, entry);
        if is_current {
            self.set_current(no);
        }
        if self.runs.len() > self.shrink_at {
            self.shrink(durable);
        }
    }

    pub(super) fn remove(&mut self, run: RunNo) {
        let Some(entry) = self.runs.remove(&run) else {
            return;
        };
        if let Some(run_id) = key(&entry.run) {
            self.by_run_id.remove(&run_id);
        }
        let id = &entry.run.id;
        let key = (id.namespace_id, id.workflow_id.clone());
        if self.current.get(&key) == Some(&run) {
            self.current.remove(&key);
        }
    }

    /// Drops the runs that were not used for longest, down to the allowed number. The newest use
    /// is whoever asks for room: that run stays.
    fn shrink(&mut self, durable: u64) {
        let goes = |e: &Entry| e.used != self.uses && e.is_evictable(durable);
        let mut idle: Vec<_> = self
            .runs
            .iter()
            .filter(|(_, e)| goes(e))
            .map(|(no, e)| (e.used, *no))
            .collect();
        let surplus = self.runs.len().saturating_sub(self.most).min(idle.len());
        if surplus > 0 {
            idle.select_nth_unstable(surplus - 1);
            for (_, run) in idle.into_iter().take(surplus) {
                self.remove(run);
            }
        }
        // What cannot go now is not looked at again for each new run.
        self.shrink_at = self.runs.len().max(self.most) + self.most / 8;
    }

    /// Empties the cache: every run that was in it, and its last commit.
    pub(super) fn clear(&mut self) -> Vec<(Arc<Run>, u64)> {
        self.current.clear();
        self.by_run_id.clear();
        self.shrink_at = self.most + self.most / 8;
        self.runs.drain().map(|(_, e)| (e.run, e.commit)).collect()
    }
}
