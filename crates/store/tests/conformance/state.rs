use bytes::Bytes;
use tidemill_store::{Error, RunNo, RunWrite, StateRow};

use crate::backend::Backend;
use crate::fixture::*;

pub(crate) fn rows_are_written_replaced_and_deleted(backend: &mut dyn Backend) {
    let store = backend.store();
    let with = |state| RunWrite { state, ..write(1) };
    apply(store, vec![start(1), start(2)]);
    let first = vec![
        state(0, 0, Some(b"core")),
        state(1, 7, Some(b"seven")),
        state(1, 5, Some(b"five")),
    ];
    apply(store, vec![with(first)]);
    let rows = |run| store.load_run(RunNo(run)).unwrap().unwrap().state;
    assert_eq!(
        rows(1),
        [
            state(0, 0, Some(b"core")),
            state(1, 5, Some(b"five")),
            state(1, 7, Some(b"seven"))
        ]
    );
    assert_eq!(rows(2), []);

    apply(
        store,
        vec![with(vec![
            state(1, 5, None),
            state(0, 0, Some(b"core, changed")),
            state(9, 9, None),
        ])],
    );
    assert_eq!(
        rows(1),
        [
            state(0, 0, Some(b"core, changed")),
            state(1, 7, Some(b"seven"))
        ]
    );
}

pub(crate) fn extreme_values_come_back(backend: &mut dyn Backend) {
    let large: Bytes = (0..3_000_000u32).map(|n| (n * 7) as u8).collect();
    let row = |kind, id, value: &Bytes| StateRow {
        kind,
        id,
        value: Some(value.clone()),
    };
    let rows = vec![
        row(0, i64::MIN, &Bytes::new()),
        row(0, -1, &large),
        row(255, i64::MAX, &Bytes::from_static(&[0, 255])),
    ];
    let mut first = start(i64::MAX - 1);
    first.state = rows.clone();
    first.due = Some(Some(i64::MIN));
    apply(backend.store(), vec![first]);
    let loaded = backend
        .store()
        .load_run(RunNo(i64::MAX - 1))
        .unwrap()
        .unwrap();
    assert_eq!(loaded.state, rows);
    assert_eq!(loaded.due, Some(i64::MIN));
    assert_eq!(
        backend.store().high_water().unwrap(),
        (RunNo(i64::MAX - 1), 0)
    );
}

pub(crate) fn an_unknown_run_is_none(backend: &mut dyn Backend) {
    let store = backend.store();
    assert!(store.load_run(RunNo(7)).unwrap().is_none());
    assert_eq!(
        store
            .read_history(RunNo(7), 1, i64::MAX, 10, false)
            .unwrap(),
        []
    );
    assert_eq!(store.high_water().unwrap(), (RunNo(0), 0));
}

pub(crate) fn a_run_without_history_is_corrupt(backend: &mut dyn Backend) {
    apply(backend.store(), vec![visible(1, execution(1))]);
    assert!(matches!(
        backend.store().load_run(RunNo(1)),
        Err(Error::Corrupt(_))
    ));
}
