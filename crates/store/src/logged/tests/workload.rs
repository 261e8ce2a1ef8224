//! Random commits that fit each other, and what comes of them.

use std::sync::Arc;

use bytes::Bytes;

use crate::log::sim::Random;
use crate::sqlite::SqliteStore;
use crate::{
    AttributeValue, Commit, Execution, HistoryBatch, NamespaceWrite, OutboxRow, QueueName,
    QueueRecord, RunNo, RunWrite, StateRow, Store, TaskKey, TaskRow,
};

/// Makes commits for the state that the acknowledged ones have left.
#[derive(Clone, Default)]
pub(super) struct Workload {
    /// Numbers are used once, whatever became of the commit.
    next: i64,
    runs: Vec<Known>,
    namespaces: u8,
}

#[derive(Clone)]
struct Known {
    run: i64,
    tasks: Vec<TaskKey>,
    outbox: Vec<i64>,
}

fn bytes(random: &mut Random) -> Bytes {
    let len = if random.one_in(20) {
        random.below(9_000)
    } else {
        random.below(200)
    };
    Bytes::from(vec![random.draw() as u8; len])
}

fn execution(run: i64, random: &mut Random) -> Execution {
    let closed = random.one_in(2).then_some(run * 10);
    Execution {
        namespace: [random.below(2) as u8; 16],
        workflow_id: format!("workflow-{}", run % 7).into(),
        run_id: (run as u128).to_be_bytes(),
        workflow_type: "Type".into(),
        task_queue: "queue".into(),
        status: 1 + i32::from(closed.is_some()),
        start_time: run,
        execution_time: run,
        close_time: closed,
        history_length: closed,
        parent_workflow_id: random.one_in(5).then(|| "parent".into()),
        info: bytes(random),
        attributes: (0..random.below(3))
            .map(|n| (format!("A{n}"), AttributeValue::Int(random.below(4) as i64)))
            .collect(),
        delete_after: closed,
        ..Execution::default()
    }
}

impl Workload {
    /// One that uses no number up to this one.
    pub(super) fn after(number: i64) -> Self {
        Workload {
            next: number,
            ..Workload::default()
        }
    }

    /// Uses none of the numbers that the other has used.
    pub(super) fn skip_to(&mut self, other: &Workload) {
        self.next = other.next;
    }

    fn number(&mut self) -> i64 {
        self.next += 1;
        self.next
    }

    fn queue(random: &mut Random) -> QueueName {
        QueueName {
            namespace: [random.below(2) as u8; 16],
            name: Arc::from(["a", "b", "c"][random.below(3)]),
            kind: 1 + random.below(2) as u8,
        }
    }

    fn write(&mut self, run: &mut Known, first: bool, random: &mut Random) -> RunWrite {
        let event = self.number();
        let mut write = RunWrite {
            execution: (first || random.one_in(6)).then(|| Box::new(execution(run.run, random))),
            history: vec![HistoryBatch {
                first_event_id: event,
                last_event_id: event,
                bytes: bytes(random),
            }],
            due: random
                .one_in(2)
                .then(|| random.one_in(2).then_some(random.below(1_000) as i64)),
            ..RunWrite::new(RunNo(run.run))
        };
        for _ in 0..random.below(3) {
            write.state.push(StateRow {
                kind: random.below(3) as u8,
                id: random.below(3) as i64,
                value: (!random.one_in(3)).then(|| bytes(random)),
            });
        }
        if random.one_in(2) {
            let key = TaskKey {
                queue: Self::queue(random),
                priority: 1 + random.below(5) as u8,
                seq: self.number(),
            };
            run.tasks.push(key.clone());
            write.tasks_added.push(TaskRow {
                key,
                run: RunNo(run.run),
                scheduled_event_id: event,
                stamp: 0,
                created: event,
            });
        } else if !run.tasks.is_empty() {
            let at = random.below(run.tasks.len());
            write.tasks_removed.push(run.tasks.swap_remove(at));
        }
        if random.one_in(4) {
            let id = self.number();
            run.outbox.push(id);
            write.outbox_added.push(OutboxRow {
                id,
                value: bytes(random),
            });
        } else {
            write.outbox_removed.extend(run.outbox.pop());
        }
        write
    }

    /// A commit, and the workload once that is acknowledged.
    pub(super) fn next(&mut self, random: &mut Random) -> (Commit, Workload) {
        let mut commit = Commit::default();
        let mut then = self.clone();
        match random.below(12) {
            0..=2 => {
                let mut run = Known {
                    run: then.number(),
                    tasks: Vec::new(),
                    outbox: Vec::new(),
                };
                let mut write = then.write(&mut run, true, random);
                if let Some(base) = self.runs.last()
                    && random.one_in(4)
                {
                    write.copy_history = Some((RunNo(base.run), i64::MAX / 2));
                    write.history.clear();
                }
                commit.runs.push(write);
                then.runs.push(run);
            }
            3..=8 if !then.runs.is_empty() => {
                for _ in 0..1 + random.below(2) {
                    let at = random.below(then.runs.len());
                    let mut run = then.runs[at].clone();
                    commit.runs.push(then.write(&mut run, false, random));
                    then.runs[at] = run;
                }
            }
            9 if !then.runs.is_empty() => {
                let at = random.below(then.runs.len());
                commit.deletes.push(RunNo(then.runs.swap_remove(at).run));
            }
            10 => {
                then.namespaces = (then.namespaces + 1) % 4;
                let id = [then.namespaces / 2; 16];
                commit.namespaces.push(NamespaceWrite {
                    id,
                    name: format!("name {}", id[0]),
                    value: (!random.one_in(4)).then(|| bytes(random)),
                });
            }
            _ => commit.queues.push(QueueRecord {
                queue: Self::queue(random),
                value: bytes(random),
            }),
        }
        self.next = then.next;
        (commit, then)
    }

    /// A commit that contradicts what is stored, if that can be.
    pub(super) fn contradiction(&mut self, random: &mut Random) -> Option<Commit> {
        let mut run = self.runs.last()?.clone();
        let mut write = self.write(&mut run, false, random);
        write.history.extend(write.history.clone());
        Some(Commit {
            runs: vec![write],
            ..Commit::default()
        })
    }
}

/// What a store that knows no log shows after these commits.
pub(super) fn expected(commits: &[Commit]) -> Vec<String> {
    let store = SqliteStore::memory().unwrap();
    for commit in commits {
        store.apply(&[commit]).unwrap();
    }
    super::content(store.writer().conn())
}
