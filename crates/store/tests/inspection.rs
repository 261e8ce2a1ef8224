//! Looking at data files from outside, and putting a backup in the place of a lost one.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tempfile::TempDir;
use tidemill_store::sqlite::{Options, ReadOnly, SqliteStore, restore};
use tidemill_store::*;

const SPACE: NamespaceId = [1; 16];

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path, Options::default()).unwrap()
}

/// A commit that makes a run with a history of `bytes`.
fn run(run: i64, first_event_id: i64, bytes: usize) -> Commit {
    let execution = Execution {
        namespace: SPACE,
        workflow_id: format!("workflow-{run}").into(),
        run_id: (run as u128).to_be_bytes(),
        workflow_type: "Type".into(),
        task_queue: "queue".into(),
        status: 1,
        start_time: run,
        execution_time: run,
        ..Execution::default()
    };
    let write = RunWrite {
        execution: Some(Box::new(execution)),
        history: vec![HistoryBatch {
            first_event_id,
            last_event_id: first_event_id,
            bytes: Bytes::from(vec![7; bytes]),
        }],
        ..RunWrite::new(RunNo(run))
    };
    let namespace = NamespaceWrite {
        id: SPACE,
        name: "space".into(),
        value: Some(Bytes::new()),
    };
    Commit {
        namespaces: vec![namespace],
        runs: vec![write],
        ..Commit::default()
    }
}

fn fill(store: &SqliteStore, runs: i64) {
    for number in 1..=runs {
        store.apply(&[&run(number, 1, 500)]).unwrap();
    }
}

/// Every file of a folder with its bytes.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

fn error<T>(result: Result<T, Error>) -> Error {
    result.err().expect("it was refused")
}

#[test]
fn a_look_changes_nothing() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data ?.db");
    fill(&open(&path), 20);
    let before = files(folder.path());
    let seen = ReadOnly::open(&path).unwrap();
    let found = seen.examine(true).unwrap();
    assert_eq!((found.runs_open, found.damage.len()), (20, 0), "{found:?}");
    assert_eq!(found.path.as_deref(), Some(&*path.canonicalize().unwrap()));
    assert!(matches!(
        error(SqliteStore::open(&path, Options::default())),
        Error::Locked { .. }
    ));
    assert!(seen.apply(&[&run(21, 1, 1)]).is_err(), "nothing is written");
    drop(seen);
    assert_eq!(before, files(folder.path()));
    open(&path);
}

/// As a process leaves it that was killed: much of the data is in the log alone.
#[test]
fn a_log_that_was_left_is_read_and_stays() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.db");
    let store = open(&path);
    fill(&store, 20);
    let crashed = TempDir::new().unwrap();
    for name in ["data.db", "data.db-wal"] {
        fs::copy(folder.path().join(name), crashed.path().join(name)).unwrap();
    }
    let before = files(crashed.path());
    let seen = ReadOnly::open(&crashed.path().join("data.db")).unwrap();
    let found = seen.examine(true).unwrap();
    assert_eq!((found.runs_open, found.damage.len()), (20, 0), "{found:?}");
    assert_eq!(found.beside[0].name, "data.db-wal", "{found:?}");
    drop(seen);
    assert_eq!(before, files(crashed.path()));
}

#[test]
fn a_file_in_use_is_not_looked_at() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.db");
    let _store = open(&path);
    assert!(matches!(error(ReadOnly::open(&path)), Error::Locked { .. }));
}

#[test]
fn what_is_no_data_file_is_told_so() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("file");
    assert!(matches!(
        error(ReadOnly::open(&path)),
        Error::Unusable { .. }
    ));
    for text in ["", "text", &"x".repeat(5000)] {
        fs::write(&path, text).unwrap();
        assert!(matches!(
            error(ReadOnly::open(&path)),
            Error::NotADataFile { .. }
        ));
    }
}

#[test]
fn a_damaged_page_is_named() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.db");
    fill(&open(&path), 400);
    let sound = fs::read(&path).unwrap();
    let pages = sound.len() / 4096;
    assert!(pages > 60);
    let mut named = 0;
    // The first page holds the header: without it there is no data file to look at.
    for page in 2..=pages {
        let mut file = fs::File::options().write(true).open(&path).unwrap();
        file.seek(SeekFrom::Start((page as u64 - 1) * 4096))
            .unwrap();
        file.write_all(&[0xa5; 4096]).unwrap();
        drop(file);
        let damage = ReadOnly::open(&path).unwrap().examine(true).unwrap().damage;
        assert!(!damage.is_empty(), "page {page} is not as it was written");
        let page_text = format!("page {page}");
        named += usize::from(damage.iter().any(|line| line.contains(&page_text)));
        fs::write(&path, &sound).unwrap();
    }
    assert_eq!(named, pages - 1);
    let healthy = ReadOnly::open(&path).unwrap().examine(true).unwrap();
    assert_eq!(healthy.damage, Vec::<String>::new());
}

#[test]
fn missing_events_are_named() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.db");
    let store = open(&path);
    fill(&store, 2);
    store.apply(&[&run(3, 4, 10)]).unwrap();
    let damage = store.examine(true).unwrap().damage;
    assert_eq!(damage, ["history: run 3: events 1 to 3 are not there"]);
    assert!(store.examine(false).unwrap().damage.is_empty());
}

#[test]
fn a_backup_is_put_where_nothing_is() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let store = open(&path("data.db"));
    fill(&store, 20);
    let mut copy = store.backup().unwrap();
    std::io::copy(&mut copy, &mut fs::File::create(path("copy")).unwrap()).unwrap();
    assert!(!path("data.db.backup").exists(), "the copy has no name");

    assert!(matches!(
        error(restore(&path("copy"), &path("data.db"))),
        Error::Locked { .. }
    ));
    drop(store);
    let refused = error(restore(&path("copy"), &path("data.db"))).to_string();
    assert!(refused.contains("there is something already"), "{refused}");
    // The log of a lost data file would be taken for the new one's.
    fs::write(path("new.db-wal"), "log").unwrap();
    let refused = error(restore(&path("copy"), &path("new.db"))).to_string();
    assert!(refused.contains("new.db-wal"), "{refused}");
    fs::write(path("copy-wal"), "log").unwrap();
    let refused = error(restore(&path("copy"), &path("other.db"))).to_string();
    assert!(refused.contains("was not closed"), "{refused}");
    fs::remove_file(path("copy-wal")).unwrap();

    restore(&path("copy"), &path("other.db")).unwrap();
    let store = open(&path("other.db"));
    assert_eq!(store.open_runs(RunNo(0), 100).unwrap().len(), 20);
    store.apply(&[&run(21, 1, 1)]).unwrap();
}
