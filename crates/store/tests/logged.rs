//! A data file with a log: what lies beside it, what survives, what reads see while others write.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tidemill_store::committer::NO_LANE;
use tidemill_store::logged::{LoggedStore, Options};
use tidemill_store::sqlite::{self, ReadOnly, SqliteStore};
use tidemill_store::*;

const SPACE: NamespaceId = [1; 16];

/// Nothing goes into the tables that need not.
fn lazy() -> Options {
    Options {
        delay: Duration::from_secs(3600),
        bytes: 1 << 40,
    }
}

fn open(path: &Path, options: Options) -> LoggedStore {
    LoggedStore::open(path, options).unwrap()
}

fn error<T>(result: Result<T, Error>) -> Error {
    match result {
        Ok(_) => panic!("it was opened"),
        Err(error) => error,
    }
}

fn run(number: i64, size: usize) -> RunWrite {
    let execution = Execution {
        namespace: SPACE,
        workflow_id: format!("workflow-{number}").into(),
        run_id: (number as u128).to_be_bytes(),
        workflow_type: "Type".into(),
        task_queue: "queue".into(),
        status: 1,
        start_time: number,
        execution_time: number,
        info: Bytes::from(vec![number as u8; size]),
        ..Execution::default()
    };
    RunWrite {
        execution: Some(Box::new(execution)),
        history: vec![HistoryBatch {
            first_event_id: 1,
            last_event_id: 1,
            bytes: Bytes::from_static(b"started"),
        }],
        ..RunWrite::new(RunNo(number))
    }
}

fn start(number: i64, size: usize) -> Commit {
    Commit {
        runs: vec![run(number, size)],
        ..Commit::default()
    }
}

fn numbers(store: &dyn Store) -> Vec<i64> {
    let runs = store.runs_of_namespace(&SPACE, RunNo(0), 10_000).unwrap();
    runs.iter().map(|run| run.run.0).collect()
}

fn beside(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// What a process that is killed now leaves. No file may be removed meanwhile.
fn left_behind(folder: &Path) -> TempDir {
    let left = TempDir::new().unwrap();
    for name in beside(folder) {
        if !name.ends_with("-shm") {
            fs::copy(folder.join(&name), left.path().join(&name)).unwrap();
        }
    }
    left
}

#[test]
fn closing_leaves_one_file_beside_the_lock() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.db");
    let store = open(&path, lazy());
    store.apply(&[&start(1, 10)]).unwrap();
    assert!(beside(folder.path()).contains(&"data.db-log-1".to_owned()));
    drop(store);
    assert_eq!(beside(folder.path()), ["data.db", "data.db.lock"]);
    // It is a data file like any other.
    let plain = SqliteStore::open(&path, sqlite::Options::default()).unwrap();
    assert_eq!(numbers(&plain), [1]);
    plain.apply(&[&start(2, 10)]).unwrap();
    drop(plain);
    assert_eq!(numbers(&open(&path, lazy())), [1, 2]);
}

#[test]
fn a_kill_loses_nothing_that_was_committed() {
    for options in [
        lazy(),
        Options {
            delay: Duration::ZERO,
            bytes: 2_000,
        },
    ] {
        let folder = TempDir::new().unwrap();
        let store = open(&folder.path().join("data.db"), options);
        for number in 1..=25 {
            store.apply(&[&start(number, 600)]).unwrap();
            let left = left_behind(folder.path());
            let revived = open(&left.path().join("data.db"), lazy());
            assert_eq!(numbers(&revived), (1..=number).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_file_with_a_log_is_not_opened_without_it() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder.path().join("data.db"), lazy());
    store.apply(&[&start(1, 10)]).unwrap();
    let left = left_behind(folder.path());
    let path = left.path().join("data.db");
    let refused = error(SqliteStore::open(&path, sqlite::Options::default()));
    assert!(
        matches!(&refused, Error::Unusable { reason, .. } if reason.contains("log beside it")),
        "{refused}"
    );
    assert_eq!(numbers(&open(&path, lazy())), [1]);
}

/// Whoever needs a damaged page is refused, and nobody else: what is staged beside it stays.
#[test]
fn a_damaged_page_stops_no_other_run() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.db");
    let store = open(&path, lazy());
    for number in 1..=3 {
        store.apply(&[&start(number, 20_000)]).unwrap();
    }
    drop(store);
    let mut data = fs::read(&path).unwrap();
    let value = data.windows(2000).position(|bytes| bytes == [2; 2000]);
    let at = value.unwrap() + 1000;
    data[at] ^= 1;
    fs::write(&path, data).unwrap();

    let store = open(&path, lazy());
    store.apply(&[&start(4, 10)]).unwrap();
    let delete = |number| Commit {
        deletes: vec![RunNo(number)],
        ..Commit::default()
    };
    let refused = store.apply(&[&delete(2)]).unwrap_err();
    let page = format!("page {} ", at / 4096 + 1);
    assert!(
        matches!(&refused, Error::Corrupt(what) if what.contains(&page)),
        "{refused}"
    );
    store.apply(&[&delete(1)]).unwrap();
    store.apply(&[&start(5, 10)]).unwrap();
    store.flush().unwrap();
    drop(store);
    assert_eq!(numbers(&open(&path, lazy())), [2, 3, 4, 5]);
}

#[test]
fn a_damaged_log_is_named_and_nothing_is_changed() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder.path().join("data.db"), lazy());
    for number in 1..=10 {
        store.apply(&[&start(number, 2_000)]).unwrap();
    }
    let left = left_behind(folder.path());
    let log = left.path().join("data.db-log-1");
    let mut bytes = fs::read(&log).unwrap();
    bytes[560] ^= 4;
    fs::write(&log, &bytes).unwrap();
    let refused = error(LoggedStore::open(&left.path().join("data.db"), lazy()));
    assert!(
        matches!(&refused, Error::Corrupt(text) if text.contains("data.db-log-1 is damaged")),
        "{refused}"
    );
    // With the byte as it was, all is there.
    bytes[560] ^= 4;
    fs::write(&log, &bytes).unwrap();
    let revived = open(&left.path().join("data.db"), lazy());
    assert_eq!(numbers(&revived).len(), 10);
}

/// Many segments: frames are forgotten as soon as what came of them is on disk.
#[test]
fn the_log_stays_bounded() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.db");
    let options = Options {
        delay: Duration::ZERO,
        ..Options::default()
    };
    let store = open(&path, options);
    let logs = || {
        beside(folder.path())
            .iter()
            .filter(|name| name.contains("-log-"))
            .count()
    };
    let mut most = 0;
    for number in 1..=120 {
        // Random enough not to be compressed away, and too large for that.
        store.apply(&[&start(number, 1 << 20)]).unwrap();
        most = most.max(logs());
    }
    assert!(most < 20, "{most} files for 120 MB");
    drop(store);
    assert_eq!(numbers(&open(&path, lazy())).len(), 120);
}

#[test]
fn a_full_disk_is_an_error_and_lifts() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.db");
    let store = open(&path, lazy());
    store.apply(&[&start(1, 10)]).unwrap();
    store.limit_pages(Some(1)).unwrap();
    let refused = store.apply(&[&start(2, 1 << 20)]).unwrap_err();
    assert!(
        matches!(&refused, Error::Io(text) if text.contains("free some disk space")),
        "{refused}"
    );
    store.limit_pages(None).unwrap();
    // At the latest when the time between two attempts has passed.
    while store.apply(&[&start(2, 1 << 20)]).is_err() {
        std::thread::yield_now();
    }
    assert_eq!(numbers(&store), [1, 2]);
    let left = left_behind(folder.path());
    assert_eq!(numbers(&open(&left.path().join("data.db"), lazy())), [1, 2]);
}

/// Some write through the committer, and read back what was acknowledged in every way, while what is
/// staged goes into the tables all the time.
#[test]
fn what_was_acknowledged_is_seen_at_once() {
    const WRITERS: i64 = 6;
    const RUNS: i64 = 60;
    let folder = TempDir::new().unwrap();
    let options = Options {
        delay: Duration::from_micros(300),
        bytes: 5_000,
    };
    let store = Arc::new(open(&folder.path().join("data.db"), options));
    let committer = Committer::start(store.clone());
    let (done, counted) = (AtomicBool::new(false), AtomicI64::new(0));
    let commit = |commit: Commit| {
        let (tell, told) = mpsc::channel();
        committer.submit(
            NO_LANE,
            0,
            commit,
            Box::new(move |outcome| tell.send(outcome).unwrap()),
        );
        told.recv().unwrap().unwrap();
    };
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (store, commit, counted) = (&store, &commit, &counted);
                scope.spawn(move || {
                    for n in 0..RUNS {
                        let number = 1 + writer * RUNS + n;
                        let id = format!("workflow-{number}");
                        let run_id = (number as u128).to_be_bytes();
                        assert_eq!(store.current_run(&SPACE, &id).unwrap(), None);
                        commit(start(number, 100));
                        counted.fetch_add(1, Ordering::SeqCst);
                        let current = store.current_run(&SPACE, &id).unwrap().unwrap();
                        assert_eq!(current.run, RunNo(number));
                        let found = store.find_run(&SPACE, &id, &run_id).unwrap();
                        assert_eq!(found, Some(current));
                        let mut next = run(number, 0);
                        next.execution = None;
                        next.history[0].first_event_id = 2;
                        next.history[0].last_event_id = 2;
                        next.due = Some(Some(number));
                        commit(Commit {
                            runs: vec![next],
                            ..Commit::default()
                        });
                        let history = store.read_history(RunNo(number), 1, 9, 9, false).unwrap();
                        assert_eq!(history.len(), 2);
                        let loaded = store.load_run(RunNo(number)).unwrap().unwrap();
                        assert_eq!(loaded.due, Some(number));
                        if n % 3 == 0 {
                            counted.fetch_sub(1, Ordering::SeqCst);
                            commit(Commit {
                                deletes: vec![RunNo(number)],
                                ..Commit::default()
                            });
                            assert_eq!(store.current_run(&SPACE, &id).unwrap(), None);
                            assert_eq!(store.find_run(&SPACE, &id, &run_id).unwrap(), None);
                            assert!(store.load_run(RunNo(number)).unwrap().is_none());
                        }
                    }
                })
            })
            .collect();
        // Lists see at least what was acknowledged before them.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let least = counted.load(Ordering::SeqCst);
                let most_deleted = WRITERS;
                let seen = store
                    .count(&visibility::Schema::default(), &SPACE, "")
                    .unwrap()
                    .total;
                assert!(seen >= least - most_deleted, "{seen} of {least}");
            }
        });
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    committer.close();
    let kept = WRITERS * (RUNS - RUNS / 3);
    assert_eq!(numbers(&*store).len() as i64, kept);
    let left = left_behind(folder.path());
    assert_eq!(
        numbers(&open(&left.path().join("data.db"), lazy())).len() as i64,
        kept
    );
}

/// What a look at a file tells whose server was killed.
#[test]
fn an_examination_reads_the_log_of_a_file_that_was_not_closed() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder.path().join("data.db"), lazy());
    for number in 1..=10 {
        store.apply(&[&start(number, 2_000)]).unwrap();
    }
    assert_eq!(store.examine(false).unwrap().unapplied, 0, "all is in");
    for number in 11..=13 {
        store.apply(&[&start(number, 2_000)]).unwrap();
    }
    let left = left_behind(folder.path());
    let path = left.path().join("data.db");
    let look = || ReadOnly::open(&path).unwrap().examine(true).unwrap();
    let found = look();
    assert_eq!((found.unapplied, found.runs_open), (3, 10));
    assert_eq!(found.damage, Vec::<String>::new());
    assert!(found.beside.iter().any(|file| file.name == "data.db-log-1"));

    let log = left.path().join("data.db-log-1");
    let sound = fs::read(&log).unwrap();
    let mut bytes = sound.clone();
    bytes[560] ^= 4;
    fs::write(&log, &bytes).unwrap();
    let damage = look().damage;
    assert!(
        matches!(&damage[..], [one] if one.contains("data.db-log-1 is damaged")),
        "{damage:?}"
    );
    fs::remove_file(&log).unwrap();
    let damage = look().damage;
    assert!(
        matches!(&damage[..], [one] if one.contains("is missing")),
        "{damage:?}"
    );
    fs::write(&log, &sound).unwrap();
    assert_eq!(numbers(&open(&path, lazy())).len(), 13);
    assert_eq!(look().unapplied, 0);
}
