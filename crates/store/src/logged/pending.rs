//! What was acknowledged and is not in the tables yet, as far as reads have to know it.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use crate::{Commit, NamespaceId, RunId, RunNo};

#[derive(Default)]
pub(super) struct Pending {
    any: bool,
    /// How often all of it went into the tables.
    epoch: u64,
    /// Hashes: two ids of one hash cost a read that waits its turn for nothing.
    workflow_ids: HashSet<u64>,
    hasher: RandomState,
    run_ids: HashSet<RunId>,
    /// Written or deleted.
    runs: HashSet<RunNo>,
    deleted: HashSet<RunNo>,
}

impl Pending {
    /// Says whether nothing was pending before.
    pub(super) fn add(&mut self, commits: &[&Commit]) -> bool {
        for commit in commits {
            for write in &commit.runs {
                self.runs.insert(write.run);
                if let Some(execution) = &write.execution {
                    let hash = self.hash(&execution.namespace, &execution.workflow_id);
                    self.workflow_ids.insert(hash);
                    self.run_ids.insert(execution.run_id);
                }
            }
            self.runs.extend(&commit.deletes);
            self.deleted.extend(&commit.deletes);
        }
        !std::mem::replace(&mut self.any, true)
    }

    /// All of it is in the tables.
    pub(super) fn clear(&mut self) {
        self.any = false;
        self.epoch += 1;
        self.workflow_ids.clear();
        self.run_ids.clear();
        self.runs.clear();
        self.deleted.clear();
    }

    pub(super) fn any(&self) -> bool {
        self.any
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn run(&self, run: RunNo) -> bool {
        self.runs.contains(&run)
    }

    pub(super) fn deleted(&self, run: RunNo) -> bool {
        self.deleted.contains(&run)
    }

    pub(super) fn run_id(&self, run_id: &RunId) -> bool {
        self.run_ids.contains(run_id)
    }

    pub(super) fn workflow_id(&self, namespace: &NamespaceId, workflow_id: &str) -> bool {
        let hash = self.hash(namespace, workflow_id);
        self.workflow_ids.contains(&hash)
    }

    fn hash(&self, namespace: &NamespaceId, workflow_id: &str) -> u64 {
        self.hasher.hash_one((namespace, workflow_id))
    }
}
