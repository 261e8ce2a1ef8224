use tidemill_store::{Error, HistoryBatch, RunNo, RunWrite, Store};

use crate::backend::Backend;
use crate::fixture::*;

const ALL: i64 = i64::MAX;

/// Events 1-2, 3-3, 4-7, 8-8.
fn batches() -> Vec<HistoryBatch> {
    vec![batch(1, 2), batch(3, 3), batch(4, 7), batch(8, 8)]
}

fn with_history(run: i64) -> RunWrite {
    RunWrite {
        history: batches(),
        ..start(run)
    }
}

fn firsts(batches: &[HistoryBatch]) -> Vec<i64> {
    batches.iter().map(|batch| batch.first_event_id).collect()
}

fn read(store: &dyn Store, run: i64) -> Vec<i64> {
    firsts(&store.read_history(RunNo(run), 1, ALL, 100, false).unwrap())
}

pub(crate) fn batches_come_back_in_both_directions(backend: &mut dyn Backend) {
    let store = backend.store();
    apply(store, vec![with_history(1), start(2)]);
    let mut expected = batches();
    assert_eq!(
        store.read_history(RunNo(1), 1, ALL, 100, false).unwrap(),
        expected
    );
    expected.reverse();
    assert_eq!(
        store.read_history(RunNo(1), 1, ALL, 100, true).unwrap(),
        expected
    );
    assert_eq!(
        store.load_run(RunNo(1)).unwrap().unwrap().first_batch,
        batch(1, 2)
    );

    // Pages, each beginning where the last one ended.
    let mut from = 1;
    let mut forward = Vec::new();
    while let [batch] = &store.read_history(RunNo(1), from, ALL, 1, false).unwrap()[..] {
        forward.push(batch.first_event_id);
        from = batch.last_event_id + 1;
    }
    assert_eq!(forward, [1, 3, 4, 8]);
    let mut to = ALL;
    let mut backward = Vec::new();
    while let [batch] = &store.read_history(RunNo(1), 1, to, 1, true).unwrap()[..] {
        backward.push(batch.first_event_id);
        to = batch.first_event_id - 1;
    }
    assert_eq!(backward, [8, 4, 3, 1]);
}

pub(crate) fn a_range_includes_batches_that_overlap_it(backend: &mut dyn Backend) {
    let store = backend.store();
    apply(store, vec![with_history(1)]);
    let rows: [((i64, i64), &[i64]); 9] = [
        ((1, 2), &[1]),
        ((2, 3), &[1, 3]),
        ((0, 1), &[1]),
        ((5, 6), &[4]),
        ((7, 8), &[4, 8]),
        ((8, ALL), &[8]),
        ((9, ALL), &[]),
        ((i64::MIN, 0), &[]),
        ((6, 5), &[4]),
    ];
    for ((from, to), expected) in rows {
        assert_eq!(
            firsts(&store.read_history(RunNo(1), from, to, 100, false).unwrap()),
            expected,
            "{from} to {to}"
        );
        let backward: Vec<i64> = expected.iter().rev().copied().collect();
        assert_eq!(
            firsts(&store.read_history(RunNo(1), from, to, 100, true).unwrap()),
            backward,
            "{from} to {to} backward"
        );
    }
}

pub(crate) fn copies_whole_batches_only(backend: &mut dyn Backend) {
    let store = backend.store();
    apply(store, vec![with_history(1)]);
    // Event 5 is inside a batch: the part before it comes with the write.
    let reset = RunWrite {
        copy_history: Some((RunNo(1), 5)),
        history: vec![batch(4, 4), batch(5, 6)],
        ..start(2)
    };
    apply(store, vec![reset]);
    assert_eq!(read(store, 2), [1, 3, 4, 5]);
    assert_eq!(
        store.load_run(RunNo(2)).unwrap().unwrap().first_batch,
        batch(1, 2)
    );
    // At a batch's end.
    apply(
        store,
        vec![RunWrite {
            copy_history: Some((RunNo(1), 8)),
            history: vec![],
            ..start(3)
        }],
    );
    assert_eq!(read(store, 3), [1, 3, 4]);
    assert_eq!(read(store, 1), [1, 3, 4, 8]);
}

pub(crate) fn a_copy_is_independent_of_its_source(backend: &mut dyn Backend) {
    let store = backend.store();
    // Source and copy in one commit.
    apply(
        store,
        vec![
            with_history(1),
            RunWrite {
                copy_history: Some((RunNo(1), ALL)),
                history: vec![],
                ..start(2)
            },
        ],
    );
    store.apply(&[&delete(&[1])]).unwrap();
    assert_eq!(
        store.read_history(RunNo(2), 1, ALL, 100, false).unwrap(),
        batches()
    );
}

pub(crate) fn a_batch_is_written_once(backend: &mut dyn Backend) {
    let store = backend.store();
    apply(store, vec![start(1)]);
    let again = commit(vec![RunWrite {
        history: vec![HistoryBatch {
            bytes: "other".into(),
            ..batch(1, 2)
        }],
        ..write(1)
    }]);
    assert!(matches!(store.apply(&[&again]), Err(Error::Rejected(_))));
    assert_eq!(
        store.read_history(RunNo(1), 1, ALL, 100, false).unwrap(),
        [batch(1, 2)]
    );
}
