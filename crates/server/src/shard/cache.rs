//! The runs that a shard holds in memory.

use std::collections::HashMap;
use std::sync::Arc;

use imbl::Vector;
use tidemill_engine::run::UpdateStage;
use tidemill_engine::{Batch, Run};
use tidemill_store::{HistoryBatch, NamespaceId, RunNo};

use crate::history::PAGE_BYTES;

/// Bytes of history kept with a run: polls of busy runs read nothing from the store.
pub(super) const TAIL_BYTES: usize = 64 * 1024;

/// Bytes kept for the worker that knows all but the newest events: what one workflow task brings.
const NEXT_BYTES: usize = PAGE_BYTES;

/// What a run takes beside the records counted one by one: itself, the facts of its start and the
/// cache's own entries, as the allocator rounds them.
const RUN_COST: usize = 3584;
/// A record of a run: a timer, an activity, a child, in the maps that find it.
const RECORD_COST: usize = 1024;
/// An event in the form in which it is worked on, of which a buffered one takes one.
const EVENT_COST: usize = 2304;
/// A batch of the tail beside its bytes.
const BATCH_COST: usize = 128;

/// The newest history batches of a run as they are stored, cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tail {
    batches: Vector<Arc<HistoryBatch>>,
    bytes: usize,
}

impl Tail {
    /// The first event that is held.
    pub(crate) fn first_event_id(&self) -> Option<i64> {
        self.batches.front().map(|b| b.first_event_id)
    }

    pub(crate) fn batches(&self) -> impl DoubleEndedIterator<Item = &HistoryBatch> {
        self.batches.iter().map(|batch| &**batch)
    }

    /// Adds the newest batch and lets old ones go: those past `bytes_max`, but not before their events are
    /// in `known`, the last one that the run's worker has seen, unless they are more than it gets at once.
    pub(super) fn push(&mut self, batch: HistoryBatch, bytes_max: usize, known: i64) {
        self.bytes += batch.bytes.len();
        self.batches.push_back(Arc::new(batch));
        while self.bytes > bytes_max && self.batches.len() > 1 {
            let awaited = |old: &Arc<HistoryBatch>| old.last_event_id > known;
            if self.bytes <= NEXT_BYTES && self.batches.front().is_some_and(awaited) {
                return;
            }
            if let Some(old) = self.batches.pop_front() {
                self.bytes -= old.bytes.len();
            }
        }
    }
}

/// A batch as it is stored: its events in bytes only, a tenth of what they are when decoded.
fn stored(batch: &Batch) -> HistoryBatch {
    HistoryBatch {
        first_event_id: batch.first_event_id,
        last_event_id: batch.last_event_id,
        bytes: batch.bytes.clone(),
    }
}

pub(super) struct Entry {
    pub(super) run: Arc<Run>,
    pub(super) tail: Tail,
    /// The shard's number of the last commit that this run took part in.
    pub(super) commit: u64,
    /// When it was last used, in uses of the cache.
    used: u64,
    /// Bytes of the run's first event.
    started: usize,
    /// What it was counted with.
    cost: usize,
}

impl Entry {
    /// About how many bytes of memory it takes.
    fn cost(&self) -> usize {
        let run = &self.run;
        let records = run.activities.len()
            + run.timers.len()
            + run.children.len()
            + run.external_cancels.len()
            + run.external_signals.len()
            + run.updates.len()
            + run.signal_ids.len()
            + run.attached.len();
        RUN_COST
            + self.started
            + self.tail.bytes
            + self.tail.batches.len() * BATCH_COST
            + records * RECORD_COST
            + run.buffered.len() * EVENT_COST
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
    /// About how many bytes all of them take, and may take.
    bytes: usize,
    bytes_max: usize,
    /// With so many bytes it is looked for runs to drop.
    shrink_at: usize,
}

/// A run's public id as a key; `None` for one that is no UUID, which no run has.
fn key(run: &Run) -> Option<[u8; 16]> {
    tidemill_engine::ids::parse_uuid(&run.id.run_id)
}

impl Cache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            runs: HashMap::new(),
            by_run_id: HashMap::new(),
            current: HashMap::new(),
            uses: 0,
            bytes: 0,
            bytes_max,
            shrink_at: bytes_max + bytes_max / 8,
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

    /// Takes over what a transition has made of a run, be it here or not. `created`: it has made the
    /// run, which so is its workflow id's newest. Of a closed run only the end is kept: nobody polls it
    /// any more.
    pub(super) fn put(&mut self, run: Run, batches: &[Batch], created: bool, durable: u64) {
        let (keep, known) = match run.is_open() {
            true => (TAIL_BYTES, run.core.last_completed_started_id),
            false => (0, i64::MAX),
        };
        let Some(entry) = self.get(RunNo(run.id.no)) else {
            let mut tail = Tail::default();
            for batch in batches {
                tail.push(stored(batch), keep, known);
            }
            return self.insert(Arc::new(run), tail, created, durable);
        };
        entry.run = Arc::new(run);
        for batch in batches {
            entry.tail.push(stored(batch), keep, known);
        }
        let (before, cost) = (entry.cost, entry.cost());
        entry.cost = cost;
        self.bytes = self.bytes - before + cost;
        self.shrink_if_full(durable);
    }

    /// Adds or replaces a run. `is_current`: it is known to be its workflow id's newest.
    /// `durable`: commits up to this one are.
    pub(super) fn insert(&mut self, run: Arc<Run>, tail: Tail, is_current: bool, durable: u64) {
        let no = RunNo(run.id.no);
        if let Some(run_id) = key(&run) {
            self.by_run_id.insert(run_id, no);
        }
        self.uses += 1;
        let mut entry = Entry {
            started: run.start().size(),
            run,
            tail,
            commit: 0,
            used: self.uses,
            cost: 0,
        };
        entry.cost = entry.cost();
        self.bytes += entry.cost;
        if let Some(replaced) = self.runs.insert(no, entry) {
            self.bytes -= replaced.cost;
        }
        if is_current {
            self.set_current(no);
        }
        self.shrink_if_full(durable);
    }

    pub(super) fn remove(&mut self, run: RunNo) {
        let Some(entry) = self.runs.remove(&run) else {
            return;
        };
        self.bytes -= entry.cost;
        if let Some(run_id) = key(&entry.run) {
            self.by_run_id.remove(&run_id);
        }
        let id = &entry.run.id;
        let key = (id.namespace_id, id.workflow_id.clone());
        if self.current.get(&key) == Some(&run) {
            self.current.remove(&key);
        }
    }

    /// Drops the runs that were not used for longest, down to the allowed bytes. The newest use
    /// is whoever asks for room: that run stays.
    fn shrink_if_full(&mut self, durable: u64) {
        if self.bytes <= self.shrink_at {
            return;
        }
        let goes = |e: &Entry| e.used != self.uses && e.is_evictable(durable);
        let mut idle: Vec<_> = self
            .runs
            .iter()
            .filter(|(_, e)| goes(e))
            .map(|(no, e)| (e.used, *no))
            .collect();
        idle.sort_unstable();
        for (_, run) in idle {
            if self.bytes <= self.bytes_max {
                break;
            }
            self.remove(run);
        }
        // What cannot go now is not looked at again for each new run.
        self.shrink_at = self.bytes.max(self.bytes_max) + self.bytes_max / 8;
    }

    /// Empties the cache: every run that was in it, and its last commit.
    pub(super) fn clear(&mut self) -> Vec<(Arc<Run>, u64)> {
        self.current.clear();
        self.by_run_id.clear();
        self.bytes = 0;
        self.shrink_at = self.bytes_max + self.bytes_max / 8;
        self.runs.drain().map(|(_, e)| (e.run, e.commit)).collect()
    }
}

#[cfg(test)]
mod tests {
    use tidemill_engine::model::{Core, Visible};
    use tidemill_engine::{RunId, StartFacts};
    use tidemill_proto::api::enums::v1::WorkflowExecutionStatus as Status;
    use tidemill_proto::api::history::v1::{HistoryEvent, WorkflowExecutionStartedEventAttributes};

    use super::*;

    /// An open run with a first event of about so many bytes.
    fn run(no: i64, bytes: usize) -> Run {
        let started = WorkflowExecutionStartedEventAttributes {
            identity: "x".repeat(bytes),
            ..Default::default()
        };
        let id = RunId {
            no,
            namespace_id: [1; 16],
            workflow_id: format!("w{no}").into(),
            run_id: format!("00000000-0000-0000-0000-{no:012}").into(),
        };
        let started = HistoryEvent {
            attributes: Some(started.into()),
            ..Default::default()
        };
        let core = Core {
            status: Status::Running as i32,
            ..Default::default()
        };
        let started = StartFacts::of(&started).unwrap();
        Run::new(id, Arc::new(started), core, Visible::default())
    }

    fn batch(event_id: i64, bytes: usize) -> Batch {
        Batch {
            first_event_id: event_id,
            last_event_id: event_id,
            bytes: vec![0; bytes].into(),
        }
    }

    #[test]
    fn runs_go_by_bytes_and_those_used_last_stay() {
        const BUDGET: usize = 1024 * 1024;
        for bytes in [0, 10_000, 100_000] {
            let mut cache = Cache::new(BUDGET);
            cache.put(run(0, bytes), &[], true, 0);
            for no in 1..1_000 {
                cache.put(run(no, bytes), &[], true, 0);
                assert!(cache.bytes <= BUDGET + BUDGET / 8, "{bytes}");
                // One that is used again and again.
                assert!(cache.get(RunNo(0)).is_some(), "{bytes}: {no}");
            }
            let kept = cache.runs.len();
            let room = BUDGET / (RUN_COST + bytes);
            assert!(
                (room / 2..=room * 9 / 8 + 1).contains(&kept),
                "{bytes}: {kept}"
            );
            assert!(cache.get(RunNo(999)).is_some() && cache.get(RunNo(1)).is_none());
            assert_eq!((cache.by_run_id.len(), cache.current.len()), (kept, kept));
            let all: Vec<_> = cache.runs.keys().copied().collect();
            all.into_iter().for_each(|no| cache.remove(no));
            assert_eq!(cache.bytes, 0);
        }
    }

    #[test]
    fn what_is_not_durable_stays_whatever_it_takes() {
        let mut cache = Cache::new(0);
        for no in 0..10 {
            cache.put(run(no, 0), &[], true, 0);
            cache.get(RunNo(no)).unwrap().commit = 1;
        }
        assert_eq!(cache.runs.len(), 10);
        cache.put(run(10, 0), &[], true, 1);
        assert_eq!(cache.runs.len(), 1);
    }

    #[test]
    fn a_run_is_counted_with_what_is_kept_of_its_history() {
        // As of a run whose worker has seen the events up to this one.
        let seen = |event_id| {
            let mut run = run(1, 0);
            run.core.last_completed_started_id = event_id;
            run
        };
        let mut cache = Cache::new(usize::MAX / 4);
        cache.put(seen(0), &[batch(1, 100)], true, 0);
        let before = cache.bytes;
        cache.put(seen(0), &[batch(2, 50_000), batch(3, 10_000)], false, 0);
        assert_eq!(cache.bytes, before + 60_000 + 2 * BATCH_COST);
        let first = |cache: &mut Cache| cache.get(RunNo(1)).unwrap().tail.first_event_id();
        // The oldest go when there are too many.
        cache.put(seen(3), &[batch(4, 10_000)], false, 0);
        assert_eq!(first(&mut cache), Some(3));
        // What the worker has not seen stays, however large, as long as one task brings it.
        cache.put(seen(3), &[batch(5, 1 << 20), batch(6, 10)], false, 0);
        assert_eq!(first(&mut cache), Some(4));
        cache.put(seen(5), &[batch(7, 10)], false, 0);
        assert_eq!(first(&mut cache), Some(6));
        cache.put(seen(5), &[batch(8, NEXT_BYTES)], false, 0);
        assert_eq!(first(&mut cache), Some(8));
        let mut closed = seen(0);
        closed.core.status = Status::Completed as i32;
        cache.put(closed, &[batch(9, 10)], false, 0);
        assert_eq!(first(&mut cache), Some(9));
        assert_eq!(cache.bytes, before - 100 + 10);
        assert_eq!(cache.clear().len(), 1);
        assert_eq!(cache.bytes, 0);
    }
}
