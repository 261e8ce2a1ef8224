//! Group commit: order, failures, shutdown, on stores that fail on purpose.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;

use bytes::Bytes;
use tidemill_store::committer::Outcome;
use tidemill_store::sqlite::SqliteStore;
use tidemill_store::visibility::Schema;
use tidemill_store::*;

/// What stands in a commit for it to fail.
const POISON: i64 = -666;
const PANIC: i64 = -667;

/// A store in memory that fails where it is told to, and can be held still.
struct Faulty {
    inner: SqliteStore,
    /// The state ids of each transaction that was tried.
    tried: Mutex<Vec<Vec<i64>>>,
    /// `apply` waits while this is true.
    held: Mutex<bool>,
    released: Condvar,
    /// How many transactions from now on fail whatever is in them.
    outage: AtomicU64,
}

impl Faulty {
    fn new() -> Arc<Self> {
        Arc::new(Faulty {
            inner: SqliteStore::memory().unwrap(),
            tried: Mutex::default(),
            held: Mutex::new(false),
            released: Condvar::new(),
            outage: AtomicU64::new(0),
        })
    }

    fn hold(&self) {
        *self.held.lock().unwrap() = true;
    }

    fn release(&self) {
        *self.held.lock().unwrap() = false;
        self.released.notify_all();
    }

    /// The state ids that are stored.
    fn stored(&self) -> Vec<i64> {
        self.inner
            .load_run(RunNo(1))
            .unwrap()
            .map_or(Vec::new(), |run| {
                run.state.iter().map(|row| row.id).collect()
            })
    }
}

impl Store for Faulty {
    fn apply(&self, commits: &[&Commit]) -> Result<(), Error> {
        let ids: Vec<i64> = commits
            .iter()
            .flat_map(|commit| &commit.runs)
            .flat_map(|run| &run.state)
            .map(|row| row.id)
            .collect();
        self.tried.lock().unwrap().push(ids.clone());
        drop(
            self.released
                .wait_while(self.held.lock().unwrap(), |held| *held)
                .unwrap(),
        );
        if self
            .outage
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            })
            .is_ok()
        {
            return Err(Error::Io("disk full".into()));
        }
        assert!(!ids.contains(&PANIC), "told to");
        if ids.contains(&POISON) {
            return Err(Error::Rejected("poison".into()));
        }
        self.inner.apply(commits)
    }

    fn high_water(&self) -> Result<(RunNo, i64), Error> {
        self.inner.high_water()
    }
    fn current_run(&self, _: &NamespaceId, _: &str) -> Result<Option<RunIdentity>, Error> {
        unimplemented!()
    }
    fn find_run(&self, _: &NamespaceId, _: &str, _: &RunId) -> Result<Option<RunIdentity>, Error> {
        unimplemented!()
    }
    fn load_run(&self, run: RunNo) -> Result<Option<StoredRun>, Error> {
        self.inner.load_run(run)
    }
    fn read_history(
        &self,
        _: RunNo,
        _: i64,
        _: i64,
        _: usize,
        _: bool,
    ) -> Result<Vec<HistoryBatch>, Error> {
        unimplemented!()
    }
    fn due_runs(
        &self,
        _: (Nanos, RunNo),
        _: Nanos,
        _: usize,
    ) -> Result<Vec<(Nanos, RunIdentity)>, Error> {
        unimplemented!()
    }
    fn queues_with_tasks(&self) -> Result<Vec<QueueName>, Error> {
        unimplemented!()
    }
    fn read_tasks(&self, _: &QueueName, _: (u8, i64), _: usize) -> Result<Vec<StoredTask>, Error> {
        unimplemented!()
    }
    fn count_tasks(&self, _: &QueueName) -> Result<(i64, Option<Nanos>), Error> {
        unimplemented!()
    }
    fn read_outbox(
        &self,
        _: (RunNo, i64),
        _: usize,
    ) -> Result<Vec<(RunIdentity, OutboxRow)>, Error> {
        unimplemented!()
    }
    fn expired_runs(&self, _: Nanos, _: usize) -> Result<Vec<RunIdentity>, Error> {
        unimplemented!()
    }
    fn runs_of_namespace(
        &self,
        _: &NamespaceId,
        _: RunNo,
        _: usize,
    ) -> Result<Vec<RunIdentity>, Error> {
        unimplemented!()
    }
    fn namespaces(&self) -> Result<Vec<NamespaceWrite>, Error> {
        unimplemented!()
    }
    fn queue_records(&self) -> Result<Vec<QueueRecord>, Error> {
        unimplemented!()
    }
    fn list(
        &self,
        _: &Schema,
        _: &NamespaceId,
        _: &str,
        _: usize,
        _: Option<&[u8]>,
    ) -> Result<ExecutionPage, Error> {
        unimplemented!()
    }
    fn count(&self, _: &Schema, _: &NamespaceId, _: &str) -> Result<ExecutionCount, Error> {
        unimplemented!()
    }
    fn fsyncs(&self) -> u64 {
        self.inner.fsyncs()
    }
    fn open_runs(&self, _: RunNo, _: usize) -> Result<Vec<RunIdentity>, Error> {
        unimplemented!()
    }
    fn examine(&self, _: bool) -> Result<Examination, Error> {
        unimplemented!()
    }
    fn backup(&self) -> Result<File, Error> {
        unimplemented!()
    }
}

/// A commit that writes one state row of run 1.
fn row(id: i64) -> Commit {
    let write = RunWrite {
        state: vec![StateRow {
            kind: 0,
            id,
            value: Some(Bytes::from_static(b"x")),
        }],
        ..RunWrite::new(RunNo(1))
    };
    Commit {
        runs: vec![write],
        ..Commit::default()
    }
}

/// Makes run 1, so that its state can be loaded.
fn create(store: &Faulty) {
    let mut commit = row(0);
    let run = &mut commit.runs[0];
    run.state.clear();
    run.history.push(HistoryBatch {
        first_event_id: 1,
        last_event_id: 1,
        bytes: Bytes::new(),
    });
    run.execution = Some(Box::new(Execution {
        namespace: [1; 16],
        workflow_id: "w".into(),
        run_id: [1; 16],
        workflow_type: String::new(),
        task_queue: String::new(),
        status: 1,
        start_time: 0,
        execution_time: 0,
        ..Execution::default()
    }));
    store.inner.apply(&[&commit]).unwrap();
}

/// A committer on a faulty store, with what its callbacks said, in their order.
struct Setup {
    store: Arc<Faulty>,
    committer: Arc<Committer>,
    send: mpsc::Sender<(Ticket, Outcome)>,
    called: mpsc::Receiver<(Ticket, Outcome)>,
    submitted: Ticket,
}

impl Setup {
    fn new() -> Self {
        let store = Faulty::new();
        create(&store);
        let committer = Arc::new(Committer::start(store.clone()));
        let (send, called) = mpsc::channel();
        Setup {
            store,
            committer,
            send,
            called,
            submitted: 0,
        }
    }

    fn submit(&mut self, lane: usize, generation: u64, commit: Commit) {
        self.submitted += 1;
        let expected = self.submitted;
        let (send, committer) = (self.send.clone(), self.committer.clone());
        let on_done = move |outcome| {
            assert!(
                committer.durable() >= expected,
                "a callback before its commit is settled"
            );
            send.send((expected, outcome)).unwrap();
        };
        assert_eq!(
            self.committer
                .submit(lane, generation, commit, Box::new(on_done)),
            expected
        );
    }

    /// Holds the store in the middle of a transaction, so that what is submitted next gathers.
    fn gather(&mut self) {
        self.store.hold();
        let before = self.store.tried.lock().unwrap().len();
        self.submit(99, 0, row(1_000_000 + self.submitted as i64));
        while self.store.tried.lock().unwrap().len() == before {
            std::thread::yield_now();
        }
    }

    /// The outcomes of all submissions since the last call, in order.
    fn outcomes(&mut self) -> Vec<Result<(), String>> {
        let mut outcomes = Vec::new();
        let mut last = 0;
        while last < self.submitted {
            let (ticket, outcome) = self
                .called
                .recv_timeout(Duration::from_secs(30))
                .expect("a callback was lost");
            assert!(last == 0 || ticket == last + 1, "{ticket} after {last}");
            last = ticket;
            outcomes.push(outcome.map_err(|error| error.to_string()));
        }
        outcomes
    }
}

const REJECTED: &str = "commit rejected: poison";

fn failed() -> Result<(), String> {
    Err(REJECTED.into())
}

#[test]
fn what_gathers_is_one_transaction() {
    let mut setup = Setup::new();
    setup.gather();
    for id in 1..=100 {
        setup.submit(id as usize % 4, 1, row(id));
    }
    setup.store.release();
    assert_eq!(setup.outcomes(), vec![Ok(()); 101]);
    let tried = setup.store.tried.lock().unwrap();
    assert_eq!(tried.len(), 2);
    assert_eq!(tried[1], (1..=100).collect::<Vec<_>>());
    let stats = setup.committer.stats();
    assert_eq!((stats.commits, stats.failed, stats.waiting), (101, 0, 0));
    assert_eq!((stats.transactions, stats.batch_size_sum), (2, 101));
    assert_eq!(
        (stats.batch_sizes.buckets[0], stats.batch_sizes.buckets[7]),
        (1, 1)
    );
    assert_eq!(setup.committer.durable(), 101);
}

#[test]
fn batches_are_bounded_by_count_and_bytes() {
    let mut setup = Setup::new();
    setup.gather();
    for id in 1..=1000 {
        setup.submit(0, 1, row(id));
    }
    let large = |id| {
        let mut commit = row(id);
        commit.runs[0].state[0].value = Some(Bytes::from(vec![0; 3 << 20]));
        commit
    };
    for id in 2001..=2003 {
        setup.submit(0, 1, large(id));
    }
    setup.store.release();
    assert_eq!(setup.outcomes(), vec![Ok(()); 1004]);
    let sizes: Vec<usize> = setup
        .store
        .tried
        .lock()
        .unwrap()
        .iter()
        .map(Vec::len)
        .collect();
    assert_eq!(
        sizes,
        [1, 512, 489, 1, 1],
        "the first large one fits behind 488 small ones"
    );
}

#[test]
fn a_bad_commit_does_not_fail_its_neighbours() {
    let mut setup = Setup::new();
    setup.gather();
    setup.submit(0, 1, row(10));
    setup.submit(1, 1, row(POISON));
    setup.submit(2, 1, row(12));
    setup.store.release();
    assert_eq!(setup.outcomes(), [Ok(()), Ok(()), failed(), Ok(())]);
    assert_eq!(setup.store.stored(), [10, 12, 1_000_000]);
    assert_eq!(
        setup.store.tried.lock().unwrap()[1..],
        [vec![10, POISON, 12], vec![10], vec![POISON], vec![12]]
    );
}

#[test]
fn what_was_built_on_a_failure_fails_until_the_next_generation() {
    let mut setup = Setup::new();
    setup.gather();
    setup.submit(0, 7, row(1));
    setup.submit(0, 7, row(POISON));
    setup.submit(0, 7, row(2));
    setup.submit(1, 7, row(3));
    setup.submit(0, 6, row(4));
    setup.submit(0, 7, Commit::default());
    setup.submit(0, 8, row(5));
    setup.store.release();
    assert_eq!(
        setup.outcomes(),
        [
            Ok(()),
            Ok(()),
            failed(),
            failed(),
            Ok(()),
            failed(),
            failed(),
            Ok(())
        ]
    );
    // The lane stays closed in later batches too, and no transaction is spent on it.
    let before = setup.store.tried.lock().unwrap().len();
    setup.submitted = 8;
    setup.submit(0, 7, row(6));
    assert_eq!(
        setup.called.recv().unwrap().1.unwrap_err().to_string(),
        REJECTED
    );
    assert_eq!(setup.store.tried.lock().unwrap().len(), before);
    setup.submit(0, 8, row(7));
    assert!(setup.called.recv().unwrap().1.is_ok());
    assert_eq!(setup.store.stored(), [1, 3, 5, 7, 1_000_000]);
    assert_eq!(setup.committer.stats().failed, 5);
}

#[test]
fn a_commit_alone_is_not_tried_twice() {
    let mut setup = Setup::new();
    setup.submit(0, 1, row(POISON));
    assert_eq!(setup.outcomes(), [failed()]);
    assert_eq!(*setup.store.tried.lock().unwrap(), [vec![POISON]]);
    // With only empty ones beside it, it is alone too.
    setup.gather();
    setup.submit(1, 1, Commit::default());
    setup.submit(2, 1, row(POISON));
    setup.submit(3, 1, Commit::default());
    setup.store.release();
    assert_eq!(
        setup
            .called
            .iter()
            .take(4)
            .map(|(_, outcome)| outcome.is_ok())
            .collect::<Vec<_>>(),
        [true, true, false, true]
    );
    assert_eq!(setup.store.tried.lock().unwrap().len(), 3);
}

#[test]
fn an_outage_fails_what_it_meets_and_no_more() {
    let mut setup = Setup::new();
    setup.store.outage.store(1, Ordering::SeqCst);
    setup.submit(0, 1, row(1));
    assert_eq!(setup.outcomes(), [Err("store: disk full".to_owned())]);
    setup.submit(1, 1, row(2));
    assert!(setup.called.recv().unwrap().1.is_ok());
    setup.submit(0, 2, row(3));
    assert!(setup.called.recv().unwrap().1.is_ok());
    assert_eq!(setup.store.stored(), [2, 3]);
}

#[test]
fn empty_commits_cost_no_transaction_and_keep_their_place() {
    let mut setup = Setup::new();
    setup.submit(0, 1, Commit::default());
    assert_eq!(setup.outcomes(), [Ok(())]);
    assert!(setup.store.tried.lock().unwrap().is_empty());
    setup.gather();
    setup.submit(0, 1, Commit::default());
    assert_eq!(
        setup.committer.durable(),
        1,
        "it waits for what is before it"
    );
    assert!(setup.called.try_recv().is_err());
    setup.store.release();
    assert_eq!(
        setup
            .called
            .iter()
            .take(2)
            .map(|(ticket, _)| ticket)
            .collect::<Vec<_>>(),
        [2, 3]
    );
}

#[test]
fn a_panic_of_the_store_is_one_commits_error() {
    let mut setup = Setup::new();
    setup.gather();
    setup.submit(0, 1, row(1));
    setup.submit(1, 1, row(PANIC));
    setup.submit(2, 1, row(3));
    setup.store.release();
    let outcomes = setup.outcomes();
    assert_eq!((&outcomes[1], &outcomes[3]), (&Ok(()), &Ok(())));
    assert!(outcomes[2].as_ref().unwrap_err().contains("panicked"));
}

#[test]
fn a_panic_of_a_callback_stops_nobody() {
    let mut setup = Setup::new();
    setup.submitted += 1;
    setup
        .committer
        .submit(0, 1, row(1), Box::new(|_| panic!("told to")));
    setup.submit(0, 1, row(2));
    assert_eq!(
        setup
            .called
            .recv_timeout(Duration::from_secs(30))
            .unwrap()
            .0,
        2
    );
}

#[test]
fn each_callers_order_is_kept() {
    let store = Faulty::new();
    create(&store);
    let committer = Committer::start(store.clone());
    let called = Arc::new(Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for caller in 0..4 {
            let (committer, called) = (&committer, &called);
            scope.spawn(move || {
                let mut last = 0;
                for n in 0..500 {
                    let called = called.clone();
                    let ticket = committer.submit(
                        caller,
                        0,
                        row((caller * 1000 + n) as i64),
                        Box::new(move |outcome: Outcome| {
                            outcome.unwrap();
                            called.lock().unwrap().push((caller, n));
                        }),
                    );
                    assert!(ticket > last);
                    last = ticket;
                }
            });
        }
    });
    committer.close();
    let called = called.lock().unwrap();
    assert_eq!(called.len(), 2000);
    for caller in 0..4 {
        let of: Vec<usize> = called
            .iter()
            .filter(|(by, _)| *by == caller)
            .map(|(_, n)| *n)
            .collect();
        assert_eq!(of, (0..500).collect::<Vec<_>>());
    }
    assert_eq!(store.stored().len(), 2000);
}

#[test]
fn closing_writes_what_was_submitted() {
    let mut setup = Setup::new();
    setup.gather();
    for id in 1..=50 {
        setup.submit(0, 1, row(id));
    }
    std::thread::scope(|scope| {
        let committer = setup.committer.clone();
        let closing = scope.spawn(move || committer.close());
        setup.store.release();
        closing.join().unwrap();
    });
    // All callbacks have run when `close` is back.
    assert_eq!(
        setup
            .called
            .try_iter()
            .filter(|(_, outcome)| outcome.is_ok())
            .count(),
        51
    );
    assert_eq!(setup.store.stored().len(), 51);
    let late = Arc::new(Mutex::new(None));
    let said = late.clone();
    setup.committer.submit(
        0,
        1,
        row(60),
        Box::new(move |outcome| *said.lock().unwrap() = Some(outcome.is_err())),
    );
    assert_eq!(*late.lock().unwrap(), Some(true));
    setup.committer.close();
}

#[test]
fn a_callback_may_submit_and_drop_the_committer() {
    let store = Faulty::new();
    create(&store);
    let committer = Arc::new(Committer::start(store.clone()));
    let (send, done) = mpsc::channel();
    let inner = committer.clone();
    committer.submit(
        0,
        0,
        row(1),
        Box::new(move |_| {
            inner.submit(
                0,
                0,
                row(2),
                Box::new(move |outcome| send.send(outcome.is_ok()).unwrap()),
            );
            drop(inner);
        }),
    );
    drop(committer);
    assert!(done.recv_timeout(Duration::from_secs(30)).is_ok());
}
