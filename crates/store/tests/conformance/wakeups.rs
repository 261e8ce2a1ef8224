use tidemill_store::{RunNo, RunWrite};

use crate::backend::Backend;
use crate::fixture::*;

pub(crate) fn due_runs_are_paged_in_order_of_time(backend: &mut dyn Backend) {
    let store = backend.store();
    let with = |run, time| RunWrite {
        due: Some(Some(time)),
        ..start(run)
    };
    apply(
        store,
        vec![
            with(1, 30),
            with(2, 10),
            with(3, 30),
            with(4, 20),
            with(5, 31),
            start(6),
        ],
    );
    let page = |after: (i64, i64), until, limit| {
        let runs = store
            .due_runs((after.0, RunNo(after.1)), until, limit)
            .unwrap();
        assert!(runs.iter().all(|(_, run)| *run == owner(run.run.0)));
        runs.into_iter()
            .map(|(time, run)| (time, run.run.0))
            .collect::<Vec<_>>()
    };
    let start = (i64::MIN, i64::MIN);
    assert_eq!(page(start, 30, 100), [(10, 2), (20, 4), (30, 1), (30, 3)]);
    assert_eq!(page(start, 9, 100), []);
    assert_eq!(page(start, 30, 3), [(10, 2), (20, 4), (30, 1)]);
    assert_eq!(page((30, 1), 30, 3), [(30, 3)]);
    assert_eq!(page((30, 3), 30, 3), []);
    assert_eq!(page((30, 3), i64::MAX, 3), [(31, 5)]);
}

pub(crate) fn a_wakeup_is_replaced_and_removed(backend: &mut dyn Backend) {
    let store = backend.store();
    let with = |due| RunWrite { due, ..write(1) };
    apply(store, vec![start(1)]);
    let now = || {
        let listed: Vec<_> = store
            .due_runs((i64::MIN, RunNo(0)), i64::MAX, 10)
            .unwrap()
            .into_iter()
            .map(|(time, _)| time)
            .collect();
        assert_eq!(
            store.load_run(RunNo(1)).unwrap().unwrap().due,
            listed.first().copied()
        );
        listed
    };
    for (due, expected) in [
        (Some(Some(50)), vec![50]),
        (Some(Some(20)), vec![20]),
        (None, vec![20]),
        (Some(Some(20)), vec![20]),
        (Some(Some(90)), vec![90]),
        (Some(None), vec![]),
        (Some(None), vec![]),
        (Some(Some(1)), vec![1]),
    ] {
        apply(store, vec![with(due)]);
        assert_eq!(now(), expected, "{due:?}");
    }
}

pub(crate) fn expired_runs_are_those_past_their_retention(backend: &mut dyn Backend) {
    let store = backend.store();
    apply(
        store,
        vec![
            visible(1, closed(1, 300)),
            visible(2, closed(2, 100)),
            visible(3, execution(3)),
            visible(4, closed(4, 200)),
        ],
    );
    let expired = |now, limit| numbers(&store.expired_runs(now, limit).unwrap());
    assert_eq!(expired(99, 10), [] as [i64; 0]);
    assert_eq!(expired(200, 10), [2, 4]);
    assert_eq!(expired(i64::MAX, 2), [2, 4]);
    // Retention that changed, and a run that closes.
    apply(
        store,
        vec![visible(2, closed(2, 999)), visible(3, closed(3, 150))],
    );
    assert_eq!(expired(300, 10), [3, 4, 1]);
    assert_eq!(store.expired_runs(150, 10).unwrap(), [owner(3)]);
}
