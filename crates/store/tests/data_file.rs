//! The data file: who may open it, what is refused, what survives.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use tempfile::TempDir;
use tidemill_store::sqlite::{Durability, Options, SqliteStore, reseal};
use tidemill_store::{Commit, Error, NamespaceWrite, RunNo, Store};

fn open(path: &Path) -> Result<SqliteStore, Error> {
    SqliteStore::open(
        path,
        Options {
            durability: Durability::Full,
        },
    )
}

fn error(path: &Path) -> Error {
    match open(path) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error,
    }
}

/// A commit that takes a record of `size` bytes.
fn record(id: u8, size: usize) -> Commit {
    let value = NamespaceWrite {
        id: [id; 16],
        name: format!("name {id}"),
        value: Some(Bytes::from(vec![id; size])),
    };
    Commit {
        namespaces: vec![value],
        ..Commit::default()
    }
}

fn names(store: &SqliteStore) -> Vec<String> {
    store
        .namespaces()
        .unwrap()
        .into_iter()
        .map(|namespace| namespace.name)
        .collect()
}

#[test]
fn a_second_opener_is_refused_until_the_first_has_closed() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.db");
    let store = open(&path).unwrap();
    assert!(matches!(error(&path), Error::Locked { .. }));
    // Another name of the same file.
    std::os::unix::fs::symlink(&path, folder.path().join("link.db")).unwrap();
    assert!(matches!(
        error(&folder.path().join("link.db")),
        Error::Locked { .. }
    ));
    store.apply(&[&record(1, 10)]).unwrap();
    drop(store);
    let store = open(&folder.path().join("link.db")).unwrap();
    assert_eq!(names(&store), ["name 1"]);
    assert_eq!(store.path().unwrap(), path.canonicalize().unwrap());
}

#[test]
fn closing_leaves_one_file_beside_the_lock() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder.path().join("data.db")).unwrap();
    store.apply(&[&record(1, 10)]).unwrap();
    assert_eq!(names(&store).len(), 1);
    drop(store);
    let mut left: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["data.db", "data.db.lock"]);
}

/// Opens a file with these bytes, expects an error, and that the file is as it was.
fn refused(bytes: &[u8]) -> Error {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.db");
    fs::write(&path, bytes).unwrap();
    let refused = error(&path);
    assert_eq!(fs::read(&path).unwrap(), bytes, "{refused}");
    assert!(!folder.path().join("data.db-wal").exists());
    refused
}

fn data_file() -> Vec<u8> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.db");
    open(&path).unwrap().apply(&[&record(1, 10)]).unwrap();
    fs::read(&path).unwrap()
}

#[test]
fn a_newer_format_is_refused_untouched() {
    let mut bytes = data_file();
    bytes[60..64].copy_from_slice(&99i32.to_be_bytes());
    tidemill_checksums::seal(&mut bytes[..4096], 1);
    let refused = refused(&bytes);
    assert!(
        matches!(
            refused,
            Error::NewerFormat {
                found: 99,
                supported: 4
            }
        ),
        "{refused}"
    );
}

#[test]
fn a_changed_format_number_is_damage() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.db");
    drop(open(&path).unwrap());
    let mut bytes = fs::read(&path).unwrap();
    bytes[60] ^= 0x10;
    fs::write(&path, &bytes).unwrap();
    match error(&path) {
        Error::Corrupt(reason) => assert!(
            reason.contains("page 1 is not as it was written"),
            "{reason}"
        ),
        other => panic!("{other}"),
    }
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

/// What a killed process leaves, after a program that knows no checksums had it open.
fn closed_by_another_program(folder: &Path) -> std::path::PathBuf {
    let (path, killed) = (folder.join("data.db"), folder.join("killed.db"));
    let store = open(&path).unwrap();
    for id in 1..20 {
        store.apply(&[&record(id, 3_000)]).unwrap();
    }
    fs::copy(&path, &killed).unwrap();
    fs::copy(folder.join("data.db-wal"), folder.join("killed.db-wal")).unwrap();
    let other = rusqlite::Connection::open(&killed).unwrap();
    let read: i64 = other
        .query_row("SELECT count(*) FROM namespaces", [], |row| row.get(0))
        .unwrap();
    assert_eq!(read, 19);
    other.close().unwrap();
    assert!(!folder.join("killed.db-wal").exists());
    killed
}

#[test]
fn what_another_program_wrote_is_accepted_when_somebody_says_so() {
    let folder = TempDir::new().unwrap();
    let killed = closed_by_another_program(folder.path());
    match error(&killed) {
        Error::Corrupt(reason) => assert!(reason.contains("another program wrote it"), "{reason}"),
        other => panic!("{other}"),
    }
    assert!(reseal(&killed).unwrap() > 10);
    assert_eq!(reseal(&killed).unwrap(), 0);
    assert_eq!(names(&open(&killed).unwrap()).len(), 19);
}

#[test]
fn a_file_with_other_damage_is_not_accepted_and_stays_as_it_is() {
    let folder = TempDir::new().unwrap();
    let killed = closed_by_another_program(folder.path());
    reseal(&killed).unwrap();
    let mut bytes = fs::read(&killed).unwrap();
    let value = bytes.windows(99).position(|them| them == [9; 99]).unwrap();
    bytes[value] ^= 1;
    let unsealed = bytes.len() - tidemill_checksums::TRAILER;
    bytes[unsealed..].fill(0);
    fs::write(&killed, &bytes).unwrap();
    match reseal(&killed).unwrap_err() {
        Error::Corrupt(reason) => assert!(
            reason.contains(&format!(": {}", value / 4096 + 1)),
            "{reason}"
        ),
        other => panic!("{other}"),
    }
    assert_eq!(fs::read(&killed).unwrap(), bytes);
    let held = open(&folder.path().join("held.db")).unwrap();
    assert!(matches!(
        reseal(&folder.path().join("held.db")),
        Err(Error::Locked { .. })
    ));
    drop(held);
}

#[test]
fn a_newer_format_in_the_log_is_refused_untouched() {
    let folder = TempDir::new().unwrap();
    let (path, copy) = (folder.path().join("data.db"), folder.path().join("copy.db"));
    drop(open(&path).unwrap());
    let newer = rusqlite::Connection::open(&path).unwrap();
    newer
        .execute_batch(
            "PRAGMA wal_autocheckpoint = 0; UPDATE meta SET value = 7 WHERE key = 'format';",
        )
        .unwrap();
    let wal = |path: &Path| path.with_extension("db-wal");
    fs::copy(&path, &copy).unwrap();
    fs::copy(wal(&path), wal(&copy)).unwrap();
    let before = (fs::read(&copy).unwrap(), fs::read(wal(&copy)).unwrap());
    assert!(matches!(error(&copy), Error::NewerFormat { found: 7, .. }));
    assert_eq!(
        (fs::read(&copy).unwrap(), fs::read(wal(&copy)).unwrap()),
        before
    );
}

#[test]
fn files_of_others_are_refused_untouched() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("other.db");
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE theirs (x);")
        .unwrap();
    let foreign = fs::read(&path).unwrap();
    for bytes in [&foreign[..], b"x", b"[settings]\nport = 1\n", &[0; 5000]] {
        let refused = refused(bytes);
        assert!(matches!(refused, Error::NotADataFile { .. }), "{refused}");
    }
    // A cut-off transaction of theirs does not make it ours.
    fs::write(folder.path().join("other.db-journal"), b"not a journal").unwrap();
    let refused = error(&path);
    assert!(matches!(refused, Error::NotADataFile { .. }), "{refused}");
    assert_eq!(fs::read(&path).unwrap(), foreign);
}

#[test]
fn an_empty_file_becomes_a_data_file() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.db");
    fs::write(&path, b"").unwrap();
    drop(open(&path).unwrap());
    let header = fs::read(&path).unwrap();
    assert_eq!(
        (&header[60..64], &header[68..72]),
        (&4i32.to_be_bytes()[..], &b"Tide"[..])
    );
}

#[test]
fn unusable_places_say_what_to_do() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, b"").unwrap();
    let rows = [
        (folder.path().to_owned(), "this is a folder"),
        (folder.path().join("missing/data.db"), "create it"),
        (file.join("data.db"), "choose another --data-file"),
        (
            folder.path().join("x".repeat(300)),
            "choose another --data-file",
        ),
    ];
    for (path, advice) in rows {
        let refused = error(&path);
        assert!(matches!(refused, Error::Unusable { .. }), "{refused}");
        assert!(refused.to_string().contains(advice), "{refused}");
    }
}

#[test]
fn a_kill_loses_nothing_that_was_committed() {
    let folder = TempDir::new().unwrap();
    let (path, copy) = (folder.path().join("data.db"), folder.path().join("copy.db"));
    let store = open(&path).unwrap();
    for id in 1..=20 {
        store.apply(&[&record(id, 1000)]).unwrap();
        // What a process that is killed now leaves on the disk; the log's index is lost with it.
        fs::copy(&path, &copy).unwrap();
        fs::copy(path.with_extension("db-wal"), copy.with_extension("db-wal")).unwrap();
        let revived = open(&copy).unwrap();
        assert_eq!(names(&revived).len(), id as usize);
    }
}

#[test]
fn a_log_cut_anywhere_leaves_whole_commits() {
    let folder = TempDir::new().unwrap();
    let (path, copy) = (folder.path().join("data.db"), folder.path().join("copy.db"));
    let store = open(&path).unwrap();
    for id in 1..=6 {
        store
            .apply(&[&record(id, 3000), &record(100 + id, 10)])
            .unwrap();
    }
    let data = fs::read(&path).unwrap();
    let log = fs::read(path.with_extension("db-wal")).unwrap();
    let mut seen = Vec::new();
    for cut in (0..=log.len()).step_by(997).chain([log.len()]) {
        fs::write(&copy, &data).unwrap();
        fs::write(copy.with_extension("db-wal"), &log[..cut]).unwrap();
        let count = names(&open(&copy).unwrap()).len();
        assert_eq!(count % 2, 0, "cut at {cut}");
        seen.push(count);
    }
    assert!(seen.is_sorted(), "{seen:?}");
    assert_eq!((seen[0], seen[seen.len() - 1]), (0, 12));
}

#[test]
fn a_full_disk_is_an_error_and_lifts() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.db");
    let store = open(&path).unwrap();
    store.apply(&[&record(1, 10)]).unwrap();
    store.limit_pages(Some(1)).unwrap();
    let refused = store
        .apply(&[&record(2, 10), &record(3, 1 << 20)])
        .unwrap_err();
    assert!(
        matches!(&refused, Error::Io(text) if text.contains("free some disk space")),
        "{refused}"
    );
    assert_eq!(names(&store), ["name 1"]);
    // What needs no new page goes on.
    store.apply(&[&record(2, 10)]).unwrap();
    store.limit_pages(None).unwrap();
    store.apply(&[&record(3, 1 << 20)]).unwrap();
    assert_eq!(names(&store), ["name 1", "name 2", "name 3"]);
    drop(store);
    assert_eq!(names(&open(&path).unwrap()), ["name 1", "name 2", "name 3"]);
}

#[test]
fn damage_is_reported_as_such() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.db");
    let store = open(&path).unwrap();
    for id in 1..=50 {
        store.apply(&[&record(id, 3000)]).unwrap();
    }
    drop(store);
    let mut bytes = fs::read(&path).unwrap();
    bytes[4096..].fill(0x5a);
    fs::write(&path, &bytes).unwrap();
    let result = open(&path).and_then(|store| store.namespaces());
    assert!(matches!(result, Err(Error::Corrupt(_))), "{result:?}");
}

/// Commits until the log has been through many checkpoints, with readers beside.
#[test]
fn the_log_stays_bounded_while_others_read() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.db");
    let store = SqliteStore::open(
        &path,
        Options {
            durability: Durability::Relaxed,
        },
    )
    .unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    assert_eq!(store.high_water().unwrap(), (RunNo(0), 0));
                }
            });
        }
        for round in 0..100 {
            for id in [round as u8, 199 - round as u8] {
                store.apply(&[&record(id, 600_000)]).unwrap();
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let log = fs::metadata(path.with_extension("db-wal")).unwrap().len();
    assert!(log < 96 << 20, "{log} bytes of log for 120 MB of commits");
    assert_eq!(names(&store).len(), 200);
}
