use bytes::Bytes;
use tidemill_store::{Commit, Error, NamespaceWrite, RunNo, RunWrite};

use crate::backend::Backend;
use crate::fixture::*;

/// A write that contradicts `start(1)`: its first history batch exists.
fn contradiction() -> RunWrite {
    RunWrite {
        history: vec![batch(1, 9)],
        ..write(1)
    }
}

pub(crate) fn a_failing_commit_leaves_nothing_of_its_batch(backend: &mut dyn Backend) {
    let store = backend.store();
    apply(
        store,
        vec![RunWrite {
            state: vec![state(0, 0, Some(b"before"))],
            due: Some(Some(5)),
            ..start(1)
        }],
    );
    let queue = queue("new queue");
    let good = Commit {
        namespaces: vec![NamespaceWrite {
            id: OTHER_SPACE,
            name: "other".into(),
            value: Some(Bytes::from_static(b"x")),
        }],
        ..commit(vec![
            RunWrite {
                state: vec![state(0, 0, Some(b"after"))],
                due: Some(None),
                tasks_added: vec![task(1, key(&queue, 3, 1))],
                outbox_added: vec![outbox(1)],
                ..write(1)
            },
            start(2),
        ])
    };
    let result = store.apply(&[
        &good,
        &delete(&[1]),
        &commit(vec![start(1)]),
        &commit(vec![contradiction()]),
    ]);
    assert!(matches!(result, Err(Error::Rejected(_))), "{result:?}");

    let loaded = store.load_run(RunNo(1)).unwrap().unwrap();
    assert_eq!(loaded.state, [state(0, 0, Some(b"before"))]);
    assert_eq!(loaded.due, Some(5));
    assert_eq!((loaded.tasks, loaded.outbox), (vec![], vec![]));
    assert!(store.load_run(RunNo(2)).unwrap().is_none());
    assert_eq!(store.namespaces().unwrap(), []);
    assert_eq!(store.queues_with_tasks().unwrap(), []);
    assert_eq!(store.high_water().unwrap(), (RunNo(1), 0));
}

pub(crate) fn commits_of_a_batch_are_applied_in_order(backend: &mut dyn Backend) {
    let store = backend.store();
    let value = |value| {
        commit(vec![RunWrite {
            state: vec![state(0, 0, value)],
            ..write(1)
        }])
    };
    let batch = [
        commit(vec![start(1)]),
        value(Some(b"one".as_slice())),
        value(None),
        value(Some(b"two")),
    ];
    store.apply(&batch.iter().collect::<Vec<_>>()).unwrap();
    assert_eq!(
        store.load_run(RunNo(1)).unwrap().unwrap().state,
        [state(0, 0, Some(b"two"))]
    );
    // A run that ends and comes to be within one batch.
    store
        .apply(&[&delete(&[1]), &commit(vec![start(1)])])
        .unwrap();
    assert_eq!(store.load_run(RunNo(1)).unwrap().unwrap().state, []);
}

pub(crate) fn empty_commits_are_accepted(backend: &mut dyn Backend) {
    let store = backend.store();
    let before = store.fsyncs();
    store.apply(&[]).unwrap();
    store
        .apply(&[&Commit::default(), &Commit::default()])
        .unwrap();
    assert_eq!(store.fsyncs(), before);
    store
        .apply(&[
            &Commit::default(),
            &commit(vec![start(1)]),
            &Commit::default(),
        ])
        .unwrap();
    assert!(store.load_run(RunNo(1)).unwrap().is_some());
}

pub(crate) fn one_id_is_a_namespace_once(backend: &mut dyn Backend) {
    let store = backend.store();
    let named = |id, name: &str| Commit {
        namespaces: vec![NamespaceWrite {
            id,
            name: name.into(),
            value: Some(Bytes::from_static(b"x")),
        }],
        ..Commit::default()
    };
    store.apply(&[&named(SPACE, "name")]).unwrap();
    assert!(matches!(
        store.apply(&[&named(OTHER_SPACE, "name")]),
        Err(Error::Rejected(_))
    ));
    store.apply(&[&named(SPACE, "name")]).unwrap();
    store.apply(&[&named(OTHER_SPACE, "other")]).unwrap();
    assert_eq!(store.namespaces().unwrap().len(), 2);
}

pub(crate) fn a_commit_after_a_failure_finds_its_names(backend: &mut dyn Backend) {
    let store = backend.store();
    apply(store, vec![start(1)]);
    // The namespace and the queue are named for the first time in a commit that fails.
    let queue = tidemill_store::QueueName {
        namespace: OTHER_SPACE,
        ..queue("queue")
    };
    let mut first = start(2);
    first.execution.as_mut().unwrap().namespace = OTHER_SPACE;
    first.tasks_added = vec![task(2, key(&queue, 3, 1))];
    store
        .apply(&[&commit(vec![first.clone(), contradiction()])])
        .unwrap_err();
    apply(store, vec![start(3)]);
    apply(store, vec![first]);
    let tasks = store.read_tasks(&queue, (0, 0), 10).unwrap();
    assert_eq!(tasks.len(), 1);
    assert_eq!(tasks[0].owner.namespace, OTHER_SPACE);
    assert_eq!(
        store.load_run(RunNo(3)).unwrap().unwrap().owner.namespace,
        SPACE
    );
}
