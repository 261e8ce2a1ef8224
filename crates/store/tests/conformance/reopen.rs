use tidemill_store::{AttributeValue, RunNo, RunWrite};

use crate::backend::Backend;
use crate::fixture::*;
use crate::visibility::list;

pub(crate) fn everything_is_there_after_reopening(backend: &mut dyn Backend) {
    let tasks = vec![
        task(1, key(&queue("a"), 2, 11)),
        task(1, key(&queue("b"), 3, 12)),
    ];
    let mut first = RunWrite {
        history: vec![batch(1, 2), batch(3, 6)],
        state: vec![state(0, 0, Some(b"core")), state(2, 5, Some(b""))],
        due: Some(Some(77)),
        tasks_added: tasks.clone(),
        outbox_added: vec![outbox(4)],
        ..start(1)
    };
    first.execution.as_mut().unwrap().attributes =
        vec![("Color".into(), AttributeValue::Keyword("red".into()))];
    apply(backend.store(), vec![first]);
    backend.reopen();
    let store = backend.store();
    let loaded = store.load_run(RunNo(1)).unwrap().unwrap();
    assert_eq!(loaded.owner, owner(1));
    assert_eq!(
        loaded.state,
        [state(0, 0, Some(b"core")), state(2, 5, Some(b""))]
    );
    assert_eq!(loaded.first_batch, batch(1, 2));
    assert_eq!(loaded.outbox, [outbox(4)]);
    assert_eq!(loaded.tasks, tasks);
    assert_eq!(loaded.due, Some(77));
    assert_eq!(
        store.read_history(RunNo(1), 1, 9, 9, false).unwrap(),
        [batch(1, 2), batch(3, 6)]
    );
    assert_eq!(store.queues_with_tasks().unwrap(), [queue("a"), queue("b")]);
    assert_eq!(list(store, "Color = 'red'").0, [1]);
}

pub(crate) fn high_water_counts_runs_and_tasks(backend: &mut dyn Backend) {
    let with = |run, tasks: &[(&str, u8, i64)]| RunWrite {
        tasks_added: tasks
            .iter()
            .map(|(name, priority, seq)| task(run, key(&queue(name), *priority, *seq)))
            .collect(),
        ..start(run)
    };
    apply(
        backend.store(),
        vec![
            with(5, &[("a", 1, 40), ("a", 5, 7)]),
            with(4, &[("b", 3, 39), ("a", 0, 2), ("a", 255, 3)]),
        ],
    );
    backend.reopen();
    assert_eq!(backend.store().high_water().unwrap(), (RunNo(5), 40));
    let removed = RunWrite {
        tasks_removed: vec![key(&queue("a"), 1, 40)],
        ..write(5)
    };
    apply(backend.store(), vec![removed]);
    backend.reopen();
    assert_eq!(backend.store().high_water().unwrap(), (RunNo(5), 39));
}
