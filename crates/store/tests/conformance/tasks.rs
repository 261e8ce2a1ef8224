use tidemill_store::{QueueName, RunNo, RunWrite, Store, StoredTask};

use crate::backend::Backend;
use crate::fixture::*;

/// Tasks of runs 1 and 2 in one queue, in reading order.
const ORDER: [(u8, i64); 6] = [(1, 5), (1, 9), (3, 1), (3, 2), (3, 8), (5, 3)];

fn fill(store: &dyn Store, queue: &QueueName) {
    let with = |run: i64| RunWrite {
        tasks_added: ORDER
            .iter()
            .rev()
            .filter(|(_, seq)| seq % 2 + 1 == run)
            .map(|(priority, seq)| task(run, key(queue, *priority, *seq)))
            .collect(),
        ..start(run)
    };
    apply(store, vec![with(1), with(2)]);
}

fn places(tasks: &[StoredTask]) -> Vec<(u8, i64)> {
    tasks
        .iter()
        .map(|stored| (stored.task.key.priority, stored.task.key.seq))
        .collect()
}

pub(crate) fn queues_are_read_by_priority_then_sequence(backend: &mut dyn Backend) {
    let store = backend.store();
    let queue = queue("q");
    fill(store, &queue);
    assert_eq!(
        places(&store.read_tasks(&queue, (0, i64::MIN), 100).unwrap()),
        ORDER
    );
    let mut read = Vec::new();
    let mut from = (0, 0);
    while let [first, ..] = &store.read_tasks(&queue, from, 2).unwrap()[..] {
        assert_eq!(first.owner, owner(first.task.run.0));
        assert_eq!(
            first.task,
            task(
                first.task.run.0,
                key(&queue, first.task.key.priority, first.task.key.seq)
            )
        );
        from = (first.task.key.priority, first.task.key.seq + 1);
        read.push((first.task.key.priority, first.task.key.seq));
    }
    assert_eq!(read, ORDER);
    assert_eq!(
        places(&store.read_tasks(&queue, (3, 2), 2).unwrap()),
        [(3, 2), (3, 8)],
        "from is inclusive"
    );
    assert_eq!(store.load_run(RunNo(1)).unwrap().unwrap().tasks.len(), 2);
}

pub(crate) fn queues_of_one_name_are_apart(backend: &mut dyn Backend) {
    let store = backend.store();
    let queues = [
        queue("q"),
        QueueName {
            kind: 2,
            ..queue("q")
        },
        QueueName {
            namespace: OTHER_SPACE,
            ..queue("q")
        },
        queue("Q"),
    ];
    let tasks = queues
        .iter()
        .enumerate()
        .map(|(n, queue)| task(1, key(queue, 3, n as i64)))
        .collect();
    apply(
        store,
        vec![RunWrite {
            tasks_added: tasks,
            ..start(1)
        }],
    );
    for (n, queue) in queues.iter().enumerate() {
        assert_eq!(
            places(&store.read_tasks(queue, (0, 0), 9).unwrap()),
            [(3, n as i64)]
        );
    }
    assert_eq!(store.queues_with_tasks().unwrap().len(), 4);
    assert_eq!(store.read_tasks(&queue("none"), (0, 0), 9).unwrap(), []);
}

pub(crate) fn removed_tasks_are_gone(backend: &mut dyn Backend) {
    let queue = queue("q");
    fill(backend.store(), &queue);
    let remove = |run, keys: &[(u8, i64)]| RunWrite {
        tasks_removed: keys
            .iter()
            .map(|(priority, seq)| key(&queue, *priority, *seq))
            .collect(),
        ..write(run)
    };
    apply(
        backend.store(),
        vec![remove(1, &[(3, 2), (4, 444)]), remove(2, &[(1, 9)])],
    );
    let store = backend.store();
    assert_eq!(
        places(&store.read_tasks(&queue, (0, 0), 100).unwrap()),
        [(1, 5), (3, 1), (3, 8), (5, 3)]
    );
    let keys: Vec<_> = store
        .load_run(RunNo(1))
        .unwrap()
        .unwrap()
        .tasks
        .into_iter()
        .map(|task| task.key)
        .collect();
    assert_eq!(keys, [key(&queue, 3, 8)]);
    apply(
        store,
        vec![remove(1, &[(3, 8)]), remove(2, &[(1, 5), (3, 1), (5, 3)])],
    );
    assert_eq!(store.queues_with_tasks().unwrap(), []);
    backend.reopen();
    // A queue that was forgotten while it was empty comes back.
    let again = RunWrite {
        tasks_added: vec![task(1, key(&queue, 2, 50))],
        ..write(1)
    };
    apply(backend.store(), vec![again]);
    assert_eq!(backend.store().queues_with_tasks().unwrap(), [queue]);
}

pub(crate) fn counting_a_queue(backend: &mut dyn Backend) {
    let store = backend.store();
    assert_eq!(store.count_tasks(&queue("q")).unwrap(), (0, None));
    fill(store, &queue("q"));
    assert_eq!(store.count_tasks(&queue("q")).unwrap(), (6, Some(10)));
    apply(
        store,
        vec![RunWrite {
            tasks_removed: vec![key(&queue("q"), 3, 1)],
            ..write(2)
        }],
    );
    assert_eq!(store.count_tasks(&queue("q")).unwrap(), (5, Some(20)));
}
