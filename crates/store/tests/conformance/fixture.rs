//! Records to write.

use std::sync::Arc;

use bytes::Bytes;
use tidemill_store::{
    Commit, Execution, HistoryBatch, NamespaceId, OutboxRow, QueueName, RunIdentity, RunNo,
    RunWrite, StateRow, Store, TaskKey, TaskRow,
};

pub(crate) const SPACE: NamespaceId = [1; 16];
pub(crate) const OTHER_SPACE: NamespaceId = [2; 16];

pub(crate) fn execution(run: i64) -> Execution {
    Execution {
        namespace: SPACE,
        workflow_id: format!("workflow-{run}").into(),
        run_id: run_id(run),
        workflow_type: "Type".into(),
        task_queue: "queue".into(),
        status: 1,
        start_time: run.saturating_mul(1_000),
        execution_time: run.saturating_mul(1_000),
        info: Bytes::from(format!("info of {run}")),
        ..Execution::default()
    }
}

/// `execution(run)`, closed.
pub(crate) fn closed(run: i64, delete_after: i64) -> Execution {
    Execution {
        status: 2,
        close_time: Some(1_000 * run + 500),
        history_length: Some(3),
        delete_after: Some(delete_after),
        ..execution(run)
    }
}

pub(crate) fn run_id(run: i64) -> [u8; 16] {
    (run as u128).to_be_bytes()
}

pub(crate) fn owner(run: i64) -> RunIdentity {
    RunIdentity {
        run: RunNo(run),
        namespace: SPACE,
        workflow_id: format!("workflow-{run}").into(),
        run_id: run_id(run),
    }
}

pub(crate) fn batch(first_event_id: i64, last_event_id: i64) -> HistoryBatch {
    HistoryBatch {
        first_event_id,
        last_event_id,
        bytes: Bytes::from(format!("events {first_event_id} to {last_event_id}")),
    }
}

pub(crate) fn state(kind: u8, id: i64, value: Option<&'static [u8]>) -> StateRow {
    StateRow {
        kind,
        id,
        value: value.map(Bytes::from_static),
    }
}

pub(crate) fn outbox(id: i64) -> OutboxRow {
    OutboxRow {
        id,
        value: Bytes::from(format!("effect {id}")),
    }
}

pub(crate) fn queue(name: &str) -> QueueName {
    QueueName {
        namespace: SPACE,
        name: Arc::from(name),
        kind: 1,
    }
}

pub(crate) fn key(queue: &QueueName, priority: u8, seq: i64) -> TaskKey {
    TaskKey {
        queue: queue.clone(),
        priority,
        seq,
    }
}

pub(crate) fn task(run: i64, key: TaskKey) -> TaskRow {
    TaskRow {
        run: RunNo(run),
        scheduled_event_id: 5,
        stamp: 1,
        created: 10 * key.seq,
        key,
    }
}

/// No write of a run yet; tests fill in what they are about.
pub(crate) fn write(run: i64) -> RunWrite {
    RunWrite::new(RunNo(run))
}

/// The first write of a run: its execution and one history batch.
pub(crate) fn start(run: i64) -> RunWrite {
    RunWrite {
        execution: Some(Box::new(execution(run))),
        history: vec![batch(1, 2)],
        ..write(run)
    }
}

/// The write of a run that has no more than a row.
pub(crate) fn visible(run: i64, execution: Execution) -> RunWrite {
    RunWrite {
        execution: Some(Box::new(execution)),
        ..write(run)
    }
}

pub(crate) fn commit(runs: Vec<RunWrite>) -> Commit {
    Commit {
        runs,
        ..Commit::default()
    }
}

pub(crate) fn delete(runs: &[i64]) -> Commit {
    Commit {
        deletes: runs.iter().copied().map(RunNo).collect(),
        ..Commit::default()
    }
}

/// Applies one commit of these writes.
pub(crate) fn apply(store: &dyn Store, runs: Vec<RunWrite>) {
    store.apply(&[&commit(runs)]).unwrap();
}

/// The numbers of runs.
pub(crate) fn numbers(runs: &[RunIdentity]) -> Vec<i64> {
    runs.iter().map(|run| run.run.0).collect()
}
