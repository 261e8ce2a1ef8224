use bytes::Bytes;
use tidemill_store::{Commit, NamespaceWrite, RunNo};

use crate::backend::Backend;
use crate::fixture::*;

pub(crate) fn the_current_run_is_the_newest(backend: &mut dyn Backend) {
    let store = backend.store();
    let named = |run: i64, id: &str| {
        let mut write = start(run);
        write.execution.as_mut().unwrap().workflow_id = id.into();
        write
    };
    apply(
        store,
        vec![
            named(9, "a"),
            named(3, "a"),
            named(11, "b"),
            named(12, "aa"),
            named(13, ""),
        ],
    );
    let current = |id: &str| store.current_run(&SPACE, id).unwrap().map(|run| run.run.0);
    assert_eq!(
        [
            current("a"),
            current("b"),
            current("c"),
            current("A"),
            current("")
        ],
        [Some(9), Some(11), None, None, Some(13)]
    );
    assert!(store.current_run(&OTHER_SPACE, "a").unwrap().is_none());
    store.apply(&[&delete(&[9])]).unwrap();
    assert_eq!(current("a"), Some(3));
}

pub(crate) fn a_run_is_found_by_all_its_names(backend: &mut dyn Backend) {
    let store = backend.store();
    apply(store, vec![start(1), start(2)]);
    assert_eq!(
        store.find_run(&SPACE, "workflow-2", &run_id(2)).unwrap(),
        Some(owner(2))
    );
    assert_eq!(store.load_run(RunNo(2)).unwrap().unwrap().owner, owner(2));
    for (namespace, workflow, run) in [
        (OTHER_SPACE, "workflow-2", 2),
        (SPACE, "workflow-1", 2),
        (SPACE, "workflow-2", 1),
        (SPACE, "", 2),
    ] {
        assert_eq!(
            store.find_run(&namespace, workflow, &run_id(run)).unwrap(),
            None,
            "{workflow} {run}"
        );
    }
}

pub(crate) fn runs_of_a_namespace_are_paged_by_number(backend: &mut dyn Backend) {
    let store = backend.store();
    let mut writes: Vec<_> = (1..=7)
        .map(|run| {
            visible(
                run,
                if run % 2 == 0 {
                    closed(run, 5)
                } else {
                    execution(run)
                },
            )
        })
        .collect();
    writes[3].execution.as_mut().unwrap().namespace = OTHER_SPACE;
    apply(store, writes);
    let page = |after, limit| {
        numbers(
            &store
                .runs_of_namespace(&SPACE, RunNo(after), limit)
                .unwrap(),
        )
    };
    assert_eq!(page(0, 3), [1, 2, 3]);
    assert_eq!(page(3, 3), [5, 6, 7]);
    assert_eq!(page(7, 3), [] as [i64; 0]);
    assert_eq!(
        store.runs_of_namespace(&SPACE, RunNo(4), 1).unwrap(),
        [owner(5)]
    );
    assert_eq!(
        numbers(&store.runs_of_namespace(&OTHER_SPACE, RunNo(0), 10).unwrap()),
        [4]
    );
    assert_eq!(store.runs_of_namespace(&[7; 16], RunNo(0), 10).unwrap(), []);
}

pub(crate) fn namespaces_are_written_and_renamed(backend: &mut dyn Backend) {
    let namespace = |id, name: &str, value: &'static [u8]| NamespaceWrite {
        id,
        name: name.into(),
        value: Some(Bytes::from_static(value)),
    };
    let put = |writes: &[NamespaceWrite]| Commit {
        namespaces: writes.to_vec(),
        ..Commit::default()
    };
    let first = [
        namespace(SPACE, "one", b"1"),
        namespace(OTHER_SPACE, "two", b""),
    ];
    backend.store().apply(&[&put(&first)]).unwrap();
    assert_eq!(backend.store().namespaces().unwrap(), first);
    let renamed = [
        namespace(SPACE, "one-deleted", b"gone"),
        namespace(OTHER_SPACE, "one", b"2"),
    ];
    backend.store().apply(&[&put(&renamed)]).unwrap();
    backend.reopen();
    assert_eq!(backend.store().namespaces().unwrap(), renamed);
}
