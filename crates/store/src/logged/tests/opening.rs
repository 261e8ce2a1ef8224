//! Opening what a crash of an opening, or of a stop, has left.

use super::workload::{Workload, expected};
use super::*;
use crate::Store;
use crate::log::disk::Disk as _;
use crate::log::sim::Random;

/// A store that was used, with the commits that it holds.
fn used(disk: &SimDisk) -> (LoggedStore, Vec<Commit>) {
    let store = open(empty(), disk).unwrap();
    let (mut workload, random) = (Workload::default(), &mut Random(3));
    let mut commits = Vec::new();
    for _ in 0..60 {
        let (commit, then) = workload.next(random);
        store.apply(&[&commit]).unwrap();
        commits.push(commit);
        workload = then;
    }
    (store, commits)
}

#[test]
fn a_clean_stop_leaves_no_log() {
    let disk = SimDisk::default();
    let (store, commits) = used(&disk);
    store.shared.close();
    assert_eq!(disk.list().unwrap(), []);
    let tables = copy(&store);
    assert_eq!(content(&tables), expected(&commits));
    let log: i64 = tables
        .query_row("SELECT count(*) FROM meta WHERE key = 'log'", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(log, 0);
    // Frames go on where they ended, so that an old log is known as such.
    let again = open(tables, &disk).unwrap();
    assert_eq!(again.shared.log.last_lsn(), 60);
}

#[test]
fn a_stop_that_was_cut_off_before_the_log_was_removed_is_finished() {
    let disk = SimDisk::default();
    let (store, commits) = used(&disk);
    let log = disk.after_kill();
    store.shared.close();
    let again = open(copy(&store), &log).unwrap();
    assert_eq!(shown(&again), expected(&commits));
}

#[test]
fn an_opening_that_was_cut_off_after_its_first_segment_is_repeated() {
    let disk = SimDisk::default();
    let (store, commits) = used(&disk);
    store.shared.close();
    Log::create(Arc::new(disk.clone()), [1; 16], 61).unwrap();
    let again = open(copy(&store), &disk).unwrap();
    assert_eq!(shown(&again), expected(&commits));
}

fn refused(conn: Connection, disk: &SimDisk) -> String {
    match open(conn, disk) {
        Err(error @ Error::Corrupt(_)) => error.to_string(),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was opened"),
    }
}

#[test]
fn a_log_that_is_missing_is_asked_for() {
    let disk = SimDisk::default();
    let (store, _) = used(&disk);
    store.flush().unwrap();
    let refused = refused(copy(&store), &SimDisk::default());
    assert!(refused.contains("put it back"), "{refused}");
}

#[test]
fn the_log_of_a_later_moment_is_refused() {
    let disk = SimDisk::default();
    let (store, _) = used(&disk);
    // A data file from a clean stop, before all that.
    let refused = refused(empty(), &disk);
    assert!(refused.contains("move the log away"), "{refused}");
    drop(store);
}

#[test]
fn the_log_of_another_data_file_is_refused() {
    let disk = SimDisk::default();
    let (_store, _) = used(&disk);
    let (other, _) = used(&SimDisk::default());
    other.flush().unwrap();
    let refused = refused(copy(&other), &disk);
    assert!(refused.contains("another data file"), "{refused}");
}

#[test]
fn a_log_that_does_not_fit_is_refused() {
    let disk = SimDisk::default();
    let (store, _) = used(&disk);
    store.flush().unwrap();
    let tables = copy(&store);
    // The tables hold more than they say, so that the log's commits contradict them.
    tables
        .execute("UPDATE meta SET value = 0 WHERE key = 'applied_lsn'", [])
        .unwrap();
    let refused = refused(tables, &disk);
    assert!(refused.contains("does not fit"), "{refused}");
}

/// SQLite gives up the whole transaction when it runs out of room.
#[test]
fn what_is_staged_outlives_a_full_disk() {
    let disk = SimDisk::default();
    let (store, mut commits) = used(&disk);
    let (mut workload, random) = (Workload::after(100_000), &mut Random(4));
    store.limit_pages(Some(1)).unwrap();
    let mut refused = 0;
    for _ in 0..200 {
        let (commit, then) = workload.next(random);
        match store.apply(&[&commit]) {
            Ok(()) => {
                commits.push(commit);
                workload = then;
            }
            Err(error) => {
                assert!(
                    error.to_string().contains("free some disk space"),
                    "{error}"
                );
                refused += 1;
            }
        }
    }
    assert!(refused > 20, "{refused}");
    store.limit_pages(None).unwrap();
    assert_eq!(shown(&store), expected(&commits));
    store.flush().unwrap();
    assert_eq!(content(&copy(&store)), expected(&commits));
}

/// A group that fails takes the open transaction along.
#[test]
fn what_is_staged_outlives_a_commit_that_is_refused() {
    let disk = SimDisk::default();
    let (store, mut commits) = used(&disk);
    let (mut workload, random) = (Workload::after(100_000), &mut Random(4));
    for _ in 0..20 {
        let refused = store.apply(&commits.iter().collect::<Vec<_>>());
        assert!(matches!(refused, Err(Error::Rejected(_))), "{refused:?}");
        let (commit, then) = workload.next(random);
        store.apply(&[&commit]).unwrap();
        commits.push(commit);
        workload = then;
    }
    assert_eq!(shown(&store), expected(&commits));
    store.flush().unwrap();
    assert_eq!(content(&copy(&store)), expected(&commits));
}

#[test]
fn what_is_staged_outlives_a_panic() {
    let disk = SimDisk::default();
    let (store, commits) = used(&disk);
    let (commit, _) = Workload::after(100_000).next(&mut Random(4));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut writer = store.shared.sqlite.writer();
        writer.stage(&[&commit], || panic!("the log panicked"))
    }));
    assert!(panicked.is_err());
    assert_eq!(shown(&store), expected(&commits));
}
