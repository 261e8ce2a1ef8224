//! A store that takes commits, and may refuse them.

use std::fs::File;

use bytes::Bytes;
use shuttle::sync::Mutex;
use tidemill_store_models::*;

/// A commit whose number is larger is refused.
pub(crate) const FAILS: i64 = 1_000;

pub(crate) struct Toy(Mutex<State>);

struct State {
    applied: Vec<i64>,
    /// So many transactions fail from now on.
    outages: u32,
}

/// A commit that has this number.
pub(crate) fn commit(number: i64) -> Commit {
    let run = RunWrite {
        run: RunNo(number),
        execution: None,
        copy_history: None,
        history: Vec::new(),
        state: vec![StateRow {
            kind: 1,
            id: number,
            value: Some(Bytes::new()),
        }],
        due: None,
        tasks_added: Vec::new(),
        tasks_removed: Vec::new(),
        outbox_added: Vec::new(),
        outbox_removed: Vec::new(),
    };
    Commit {
        runs: vec![run],
        ..Commit::default()
    }
}

impl Toy {
    pub(crate) fn failing(outages: u32) -> Self {
        Toy(Mutex::new(State {
            applied: Vec::new(),
            outages,
        }))
    }

    pub(crate) fn applied(&self) -> Vec<i64> {
        self.0.lock().unwrap().applied.clone()
    }

    pub(crate) fn holds(&self, number: i64) -> bool {
        self.applied().contains(&number)
    }
}

impl Store for Toy {
    fn apply(&self, commits: &[&Commit]) -> Result<(), Error> {
        // The flush: others go on meanwhile.
        shuttle::thread::yield_now();
        let mut state = self.0.lock().unwrap();
        if state.outages > 0 {
            state.outages -= 1;
            return Err(Error::Io("full".into()));
        }
        let numbers: Vec<_> = commits.iter().map(|commit| commit.runs[0].run.0).collect();
        if numbers.iter().any(|number| *number >= FAILS) {
            return Err(Error::Rejected("told to".into()));
        }
        state.applied.extend(numbers);
        Ok(())
    }

    fn fsyncs(&self) -> u64 {
        0
    }

    fn high_water(&self) -> Result<(RunNo, i64), Error> {
        unreachable!("nobody reads")
    }
    fn current_run(&self, _: &NamespaceId, _: &str) -> Result<Option<RunIdentity>, Error> {
        unreachable!("nobody reads")
    }
    fn find_run(&self, _: &NamespaceId, _: &str, _: &RunId) -> Result<Option<RunIdentity>, Error> {
        unreachable!("nobody reads")
    }
    fn load_run(&self, _: RunNo) -> Result<Option<StoredRun>, Error> {
        unreachable!("nobody reads")
    }
    fn read_history(
        &self,
        _: RunNo,
        _: i64,
        _: i64,
        _: usize,
        _: bool,
    ) -> Result<Vec<HistoryBatch>, Error> {
        unreachable!("nobody reads")
    }
    fn due_runs(
        &self,
        _: (Nanos, RunNo),
        _: Nanos,
        _: usize,
    ) -> Result<Vec<(Nanos, RunIdentity)>, Error> {
        unreachable!("nobody reads")
    }
    fn queues_with_tasks(&self) -> Result<Vec<QueueName>, Error> {
        unreachable!("nobody reads")
    }
    fn read_tasks(&self, _: &QueueName, _: (u8, i64), _: usize) -> Result<Vec<StoredTask>, Error> {
        unreachable!("nobody reads")
    }
    fn count_tasks(&self, _: &QueueName) -> Result<(i64, Option<Nanos>), Error> {
        unreachable!("nobody reads")
    }
    fn read_outbox(
        &self,
        _: (RunNo, i64),
        _: usize,
    ) -> Result<Vec<(RunIdentity, OutboxRow)>, Error> {
        unreachable!("nobody reads")
    }
    fn expired_runs(&self, _: Nanos, _: usize) -> Result<Vec<RunIdentity>, Error> {
        unreachable!("nobody reads")
    }
    fn runs_of_namespace(
        &self,
        _: &NamespaceId,
        _: RunNo,
        _: usize,
    ) -> Result<Vec<RunIdentity>, Error> {
        unreachable!("nobody reads")
    }
    fn namespaces(&self) -> Result<Vec<NamespaceWrite>, Error> {
        unreachable!("nobody reads")
    }
    fn queue_records(&self) -> Result<Vec<QueueRecord>, Error> {
        unreachable!("nobody reads")
    }
    fn list(
        &self,
        _: &visibility::Schema,
        _: &NamespaceId,
        _: &str,
        _: usize,
        _: Option<&[u8]>,
    ) -> Result<ExecutionPage, Error> {
        unreachable!("nobody reads")
    }
    fn count(
        &self,
        _: &visibility::Schema,
        _: &NamespaceId,
        _: &str,
    ) -> Result<ExecutionCount, Error> {
        unreachable!("nobody reads")
    }
    fn open_runs(&self, _: RunNo, _: usize) -> Result<Vec<RunIdentity>, Error> {
        unreachable!("nobody reads")
    }
    fn examine(&self, _: bool) -> Result<Examination, Error> {
        unreachable!("nobody reads")
    }
    fn backup(&self) -> Result<File, Error> {
        unreachable!("nobody reads")
    }
}
