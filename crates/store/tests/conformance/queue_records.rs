use bytes::Bytes;
use tidemill_store::{
    Commit, NamespaceId, NamespaceWrite, QueueName, QueueRecord, RunWrite, Store,
};

use crate::backend::Backend;
use crate::fixture::*;

fn record(queue: QueueName, value: &'static [u8]) -> QueueRecord {
    QueueRecord {
        queue,
        value: Bytes::from_static(value),
    }
}

fn put(store: &dyn Store, queues: &[QueueRecord]) {
    let commit = Commit {
        queues: queues.to_vec(),
        ..Commit::default()
    };
    store.apply(&[&commit]).unwrap();
}

/// Writes or deletes a namespace's record.
fn namespace(store: &dyn Store, id: NamespaceId, value: Option<&'static [u8]>) {
    let write = NamespaceWrite {
        id,
        name: format!("name {}", id[0]),
        value: value.map(Bytes::from_static),
    };
    let commit = Commit {
        namespaces: vec![write],
        ..Commit::default()
    };
    store.apply(&[&commit]).unwrap();
}

pub(crate) fn records_are_replaced_and_read_back(backend: &mut dyn Backend) {
    let store = backend.store();
    namespace(store, SPACE, Some(b"x"));
    namespace(store, OTHER_SPACE, Some(b"y"));
    assert_eq!(store.queue_records().unwrap(), []);
    // Apart by namespace, name and kind.
    let activities = QueueName {
        kind: 2,
        ..queue("a")
    };
    let foreign = QueueName {
        namespace: OTHER_SPACE,
        ..queue("a")
    };
    let first = [
        record(queue("a"), b"one"),
        record(activities.clone(), b"two"),
        record(queue("b"), b""),
        record(foreign.clone(), b"four"),
    ];
    put(store, &first);
    assert_eq!(store.queue_records().unwrap(), first);
    put(store, &[record(activities.clone(), b"changed")]);
    backend.reopen();
    let changed = [
        record(queue("a"), b"one"),
        record(activities, b"changed"),
        record(queue("b"), b""),
        record(foreign, b"four"),
    ];
    assert_eq!(backend.store().queue_records().unwrap(), changed);
}

pub(crate) fn records_outlive_an_empty_queue(backend: &mut dyn Backend) {
    let store = backend.store();
    namespace(store, SPACE, Some(b"x"));
    let records = [record(queue("a"), b"set")];
    put(store, &records);
    let added = RunWrite {
        tasks_added: vec![task(1, key(&queue("a"), 3, 1))],
        ..start(1)
    };
    apply(store, vec![added]);
    let removed = RunWrite {
        tasks_removed: vec![key(&queue("a"), 3, 1)],
        ..write(1)
    };
    apply(store, vec![removed]);
    backend.reopen();
    assert_eq!(backend.store().queues_with_tasks().unwrap(), []);
    assert_eq!(backend.store().queue_records().unwrap(), records);
}

pub(crate) fn records_go_with_their_namespace(backend: &mut dyn Backend) {
    let store = backend.store();
    namespace(store, SPACE, Some(b"x"));
    namespace(store, OTHER_SPACE, Some(b"y"));
    let foreign = QueueName {
        namespace: OTHER_SPACE,
        ..queue("a")
    };
    let kept = [record(foreign, b"kept")];
    put(store, &[record(queue("a"), b"gone")]);
    put(store, &kept);
    namespace(store, SPACE, None);
    assert_eq!(store.queue_records().unwrap(), kept);
    // Whoever is late by now writes what nobody reads.
    put(store, &[record(queue("a"), b"late")]);
    backend.reopen();
    assert_eq!(backend.store().queue_records().unwrap(), kept);
    // The id came back, the record did not.
    namespace(backend.store(), SPACE, None);
    namespace(backend.store(), SPACE, Some(b"x"));
    assert_eq!(backend.store().queue_records().unwrap().len(), 1);
}
