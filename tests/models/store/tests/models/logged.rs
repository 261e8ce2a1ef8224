//! The store with a log: reads beside commits, beside the thread that puts them into the tables.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, OpenFlags};
use shuttle::sync::atomic::{AtomicI64, Ordering};
use shuttle::thread;
use tempfile::TempDir;
use tidemill_store_models::logged::{LoggedStore, Options};
use tidemill_store_models::sqlite::SqliteStore;
use tidemill_store_models::*;

use crate::explore::explore;

const SPACE: NamespaceId = [1; 16];
/// The tables take what is staged whenever their thread runs.
const AT_ONCE: Duration = Duration::ZERO;
/// Not within an execution.
const NEVER: Duration = Duration::from_secs(3600);

/// In memory where the system has such a place: what a power cut would leave does not matter here.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        TempDir::new_in(memory).unwrap()
    } else {
        TempDir::new().unwrap()
    }
}

fn open(folder: &TempDir, delay: Duration, bytes: usize) -> Arc<LoggedStore> {
    let options = Options { delay, bytes };
    Arc::new(LoggedStore::open(&folder.path().join("data.db"), options).unwrap())
}

fn workflow(number: i64) -> String {
    format!("workflow-{number}")
}

fn start(number: i64) -> Commit {
    let execution = Execution {
        namespace: SPACE,
        workflow_id: workflow(number).into(),
        run_id: (number as u128).to_be_bytes(),
        workflow_type: "Type".into(),
        task_queue: "queue".into(),
        status: 1,
        start_time: number,
        execution_time: number,
        ..Execution::default()
    };
    let run = RunWrite {
        execution: Some(Box::new(execution)),
        history: vec![HistoryBatch {
            first_event_id: 1,
            last_event_id: 1,
            bytes: Bytes::from_static(b"started"),
        }],
        ..RunWrite::new(RunNo(number))
    };
    Commit {
        runs: vec![run],
        ..Commit::default()
    }
}

fn delete(number: i64) -> Commit {
    Commit {
        deletes: vec![RunNo(number)],
        ..Commit::default()
    }
}

fn numbers(store: &dyn Store) -> Vec<i64> {
    let runs = store.runs_of_namespace(&SPACE, RunNo(0), 100).unwrap();
    runs.iter().map(|run| run.run.0).collect()
}

/// What any other connection finds in the tables.
fn in_tables(path: &Path) -> i64 {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    conn.query_row("SELECT count(*) FROM executions", [], |row| row.get(0))
        .unwrap()
}

/// What was acknowledged before a read began is seen by it: starts, and the end of one.
fn reads_see_what_was_acknowledged(delay: Duration) {
    let folder = folder();
    let store = open(&folder, delay, 1 << 30);
    store.apply(&[&start(1)]).unwrap();
    store.flush().unwrap();
    // The last run that is known to be there; from `DELETED` on, the first is known to be gone.
    const DELETED: i64 = 3;
    let acknowledged = Arc::new(AtomicI64::new(1));
    let writer = {
        let (store, acknowledged) = (store.clone(), acknowledged.clone());
        thread::spawn(move || {
            store.apply(&[&start(2)]).unwrap();
            acknowledged.store(2, Ordering::SeqCst);
            store.apply(&[&delete(1)]).unwrap();
            acknowledged.store(DELETED, Ordering::SeqCst);
        })
    };
    let flusher = {
        let store = store.clone();
        thread::spawn(move || store.flush().unwrap())
    };
    for _ in 0..2 {
        let before = acknowledged.load(Ordering::SeqCst);
        let found = |number: i64| store.current_run(&SPACE, &workflow(number)).unwrap();
        assert!(before < 2 || found(2).is_some(), "2 was started");
        let before = acknowledged.load(Ordering::SeqCst);
        assert!(before < DELETED || found(1).is_none(), "1 was deleted");
        assert!(
            before < DELETED || store.load_run(RunNo(1)).unwrap().is_none(),
            "1 was deleted"
        );
    }
    let before = acknowledged.load(Ordering::SeqCst);
    let listed = numbers(&*store);
    assert!(before < 2 || listed.contains(&2), "{before}: {listed:?}");
    assert!(
        before < DELETED || !listed.contains(&1),
        "{before}: {listed:?}"
    );
    writer.join().unwrap();
    flusher.join().unwrap();
    let path = folder.path().join("data.db");
    drop(store);
    let store = SqliteStore::open(&path, Default::default()).unwrap();
    assert_eq!(numbers(&store), [2]);
}

#[test]
fn reads_beside_commits_that_stay_staged() {
    explore(1_000, || reads_see_what_was_acknowledged(NEVER));
}

#[test]
fn reads_beside_commits_that_go_into_the_tables() {
    explore(1_000, || reads_see_what_was_acknowledged(AT_ONCE));
}

/// Whoever stages wakes the thread, or it would sleep for ever over what it should put into the tables.
fn all_comes_into_the_tables(delay: Duration, bytes: usize) {
    let folder = folder();
    let store = open(&folder, delay, bytes);
    let writers: Vec<_> = (1..=2)
        .map(|number| {
            let store = store.clone();
            thread::spawn(move || store.apply(&[&start(number)]).unwrap())
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    while in_tables(&folder.path().join("data.db")) < 2 {
        thread::yield_now();
    }
}

#[test]
fn what_is_staged_comes_into_the_tables_by_itself() {
    explore(100, || all_comes_into_the_tables(AT_ONCE, 1 << 30));
}

#[test]
fn much_that_is_staged_comes_into_the_tables_before_its_time() {
    explore(100, || all_comes_into_the_tables(NEVER, 1));
}
