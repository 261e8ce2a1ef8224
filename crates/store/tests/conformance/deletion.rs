use bytes::Bytes;
use tidemill_store::{AttributeValue, Commit, NamespaceWrite, RunNo, RunWrite};

use crate::backend::Backend;
use crate::fixture::*;
use crate::visibility::{list, schema};

fn full(run: i64) -> RunWrite {
    let mut write = RunWrite {
        state: vec![state(0, 0, Some(b"a")), state(3, 4, Some(b"b"))],
        due: Some(Some(50 + run)),
        tasks_added: vec![
            task(run, key(&queue("q"), 3, run)),
            task(run, key(&queue("p"), 1, 100 + run)),
        ],
        outbox_added: vec![outbox(1), outbox(2)],
        ..start(run)
    };
    let execution = write.execution.as_mut().unwrap();
    execution.delete_after = Some(9);
    execution.attributes = vec![("Color".into(), AttributeValue::Keyword("red".into()))];
    write
}

pub(crate) fn deletion_leaves_nothing(backend: &mut dyn Backend) {
    apply(backend.store(), vec![full(1), full(2)]);
    backend.store().apply(&[&delete(&[1])]).unwrap();
    backend.reopen();
    let store = backend.store();
    assert!(store.load_run(RunNo(1)).unwrap().is_none());
    assert_eq!(
        store
            .read_history(RunNo(1), 1, i64::MAX, 10, false)
            .unwrap(),
        []
    );
    assert!(store.current_run(&SPACE, "workflow-1").unwrap().is_none());
    assert!(
        store
            .find_run(&SPACE, "workflow-1", &run_id(1))
            .unwrap()
            .is_none()
    );
    assert_eq!(list(store, "").0, [2]);
    assert_eq!(list(store, "Color = 'red'").0, [2]);
    let of = |run| store.load_run(RunNo(run)).unwrap().unwrap();
    assert_eq!(of(2).tasks.len(), 2);

    // What the deleted run left would show under a new run of its number.
    apply(store, vec![start(1)]);
    let loaded = of(1);
    assert_eq!(
        (loaded.state, loaded.due, loaded.tasks, loaded.outbox),
        (vec![], None, vec![], vec![])
    );
    assert_eq!(list(store, "Color = 'red'").0, [2]);
    assert_eq!(
        store.due_runs((0, RunNo(0)), i64::MAX, 10).unwrap(),
        [(52, owner(2))]
    );
    assert_eq!(store.count_tasks(&queue("q")).unwrap().0, 1);
    assert_eq!(store.count_tasks(&queue("p")).unwrap().0, 1);
    assert_eq!(numbers(&store.expired_runs(100, 10).unwrap()), [2]);
    let outbox = store.read_outbox((RunNo(0), 0), 10).unwrap();
    assert!(outbox.iter().all(|(owner, _)| owner.run == RunNo(2)) && outbox.len() == 2);

    store.apply(&[&delete(&[1, 2])]).unwrap();
    assert_eq!(store.queues_with_tasks().unwrap(), []);
    assert_eq!(store.count(&schema(), &SPACE, "").unwrap().total, 0);
}

pub(crate) fn deleting_what_is_not_there_is_no_error(backend: &mut dyn Backend) {
    let store = backend.store();
    store.apply(&[&delete(&[5, 6])]).unwrap();
    assert_eq!(store.high_water().unwrap(), (RunNo(0), 0));
}

pub(crate) fn run_numbers_are_not_reused(backend: &mut dyn Backend) {
    apply(backend.store(), vec![start(3), start(7), start(8)]);
    let high = |backend: &mut dyn Backend| {
        backend.reopen();
        backend.store().high_water().unwrap().0.0
    };
    backend.store().apply(&[&delete(&[3])]).unwrap();
    assert_eq!(high(backend), 8);
    backend.store().apply(&[&delete(&[8])]).unwrap();
    assert_eq!(high(backend), 8);
    backend.store().apply(&[&delete(&[7])]).unwrap();
    assert_eq!(high(backend), 8);
    apply(backend.store(), vec![start(9)]);
    backend
        .store()
        .apply(&[&commit(vec![start(12)]), &delete(&[12, 9])])
        .unwrap();
    assert_eq!(high(backend), 12);
    apply(backend.store(), vec![start(13)]);
    assert_eq!(high(backend), 13);
}

pub(crate) fn a_namespace_can_go_before_and_after_its_runs(backend: &mut dyn Backend) {
    let put = |value: Option<&'static [u8]>| Commit {
        namespaces: vec![NamespaceWrite {
            id: SPACE,
            name: "name".into(),
            value: value.map(Bytes::from_static),
        }],
        ..Commit::default()
    };
    backend
        .store()
        .apply(&[&put(Some(b"x")), &commit(vec![start(1)])])
        .unwrap();
    backend.store().apply(&[&put(None)]).unwrap();
    backend.reopen();
    let store = backend.store();
    assert_eq!(store.namespaces().unwrap(), []);
    assert_eq!(store.load_run(RunNo(1)).unwrap().unwrap().owner, owner(1));
    assert_eq!(
        numbers(&store.runs_of_namespace(&SPACE, RunNo(0), 10).unwrap()),
        [1]
    );
    // Its name is free again.
    let other = Commit {
        namespaces: vec![NamespaceWrite {
            id: OTHER_SPACE,
            name: "name".into(),
            value: Some(Bytes::from_static(b"y")),
        }],
        ..delete(&[1])
    };
    store.apply(&[&other]).unwrap();
    store.apply(&[&put(None)]).unwrap();
    assert_eq!(store.namespaces().unwrap(), other.namespaces);
    // One that never was.
    let never = NamespaceWrite {
        id: [9; 16],
        name: "never".into(),
        value: None,
    };
    store
        .apply(&[&Commit {
            namespaces: vec![never],
            ..Commit::default()
        }])
        .unwrap();
}
