//! What operators need: open runs, an examination, a backup.

use std::fs;
use std::io::Read;

use tempfile::TempDir;
use tidemill_store::sqlite::{Options, SqliteStore};
use tidemill_store::{RunNo, RunWrite, Store};

use crate::backend::Backend;
use crate::fixture::*;

/// Three open runs and a closed one in between.
fn fill(store: &dyn Store) {
    let execution = Some(Box::new(closed(3, 1)));
    let ended = RunWrite {
        execution,
        ..start(3)
    };
    apply(store, vec![start(1), start(2), ended, start(4)]);
}

pub(crate) fn open_runs_are_paged_by_number(backend: &mut dyn Backend) {
    let store = backend.store();
    fill(store);
    let open = |after, limit| numbers(&store.open_runs(RunNo(after), limit).unwrap());
    assert_eq!(open(0, 10), [1, 2, 4]);
    assert_eq!(open(0, 2), [1, 2]);
    assert_eq!(open(2, 2), [4]);
    assert!(open(4, 2).is_empty());
}

pub(crate) fn an_examination_counts_and_finds_nothing_wrong(backend: &mut dyn Backend) {
    fill(backend.store());
    let found = backend.store().examine(true).unwrap();
    assert_eq!((found.runs_open, found.runs_closed), (3, 1));
    assert_eq!(found.damage, Vec::<String>::new());
    let sizes: i64 = found.tables.iter().map(|table| table.bytes).sum();
    assert!(sizes > 0 && sizes <= found.bytes, "{found:?}");
    assert!(found.tables.iter().any(|table| table.name == "history"));
    let quick = backend.store().examine(false).unwrap();
    assert!(quick.tables.is_empty());
    assert_eq!(quick.runs_open, 3);
}

pub(crate) fn a_backup_is_a_data_file_of_its_own(backend: &mut dyn Backend) {
    fill(backend.store());
    let mut copy = backend.store().backup().unwrap();
    apply(backend.store(), vec![start(5)]);

    let folder = TempDir::new().unwrap();
    let path = folder.path().join("copy.db");
    let mut bytes = Vec::new();
    copy.read_to_end(&mut bytes).unwrap();
    fs::write(&path, bytes).unwrap();
    let copy = SqliteStore::open(&path, Options::default()).unwrap();
    let open = copy.open_runs(RunNo(0), 10).unwrap();
    assert_eq!(open, [owner(1), owner(2), owner(4)]);
    assert_eq!(copy.high_water().unwrap().0, RunNo(4));
    for run in 1..=4 {
        let (here, there) = (
            backend.store().load_run(RunNo(run)),
            copy.load_run(RunNo(run)),
        );
        let (here, there) = (here.unwrap().unwrap(), there.unwrap().unwrap());
        assert_eq!(format!("{here:?}"), format!("{there:?}"));
    }
}
