//! From the engine's transitions to the store's commits.

use std::sync::Arc;

use prost::Message;
use tidemill_engine::{Run, TaskKind, Time, Transition, search_attribute};
use tidemill_store::{
    Commit, Execution, HistoryBatch, OutboxRow, QueueName, RunNo, RunWrite, StateRow, TaskKey,
    TaskRow,
};

use crate::core::identity;
use crate::namespaces::Namespace;
use crate::search_attributes;

/// The store's number of a kind of task queue.
pub(crate) const WORKFLOW_QUEUE: u8 = 1;
pub(crate) const ACTIVITY_QUEUE: u8 = 2;

pub(crate) fn queue_kind(kind: TaskKind) -> u8 {
    match kind {
        TaskKind::Workflow => WORKFLOW_QUEUE,
        TaskKind::Activity => ACTIVITY_QUEUE,
    }
}

/// All durable changes of some transitions, as one commit.
pub(crate) fn commit(transitions: &[Transition], namespace: &Namespace) -> Commit {
    Commit {
        runs: transitions
            .iter()
            .filter(|t| t.is_durable())
            .map(|t| run_write(t, namespace))
            .collect(),
        ..Default::default()
    }
}

fn run_write(t: &Transition, namespace: &Namespace) -> RunWrite {
    let run = RunNo(t.run.id.no);
    RunWrite {
        run,
        execution: t
            .visible_changed
            .then(|| Box::new(execution(&t.run, namespace))),
        copy_history: t.copy_history.map(|(from, below)| (RunNo(from), below)),
        history: t
            .batches
            .iter()
            .map(|b| HistoryBatch {
                first_event_id: b.first_event_id,
                last_event_id: b.last_event_id,
                bytes: b.bytes.clone(),
            })
            .collect(),
        state: t
            .rows
            .iter()
            .map(|r| StateRow {
                kind: r.kind,
                id: r.id,
                value: r.value.clone(),
            })
            .collect(),
        due: t.due.map(|due| due.map(|at| at.0)),
        tasks_added: t
            .tasks_added
            .iter()
            .map(|task| task_row(&t.run, task))
            .collect(),
        tasks_removed: t
            .tasks_removed
            .iter()
            .map(|(kind, place)| task_key(&t.run, *kind, place))
            .collect(),
        outbox_added: t
            .outbox_added
            .iter()
            .map(|e| OutboxRow {
                id: e.id,
                value: e.encode_to_vec().into(),
            })
            .collect(),
        outbox_removed: t.outbox_removed.clone(),
    }
}

fn task_key(run: &Run, kind: TaskKind, place: &tidemill_engine::model::TaskPlace) -> TaskKey {
    TaskKey {
        queue: QueueName {
            namespace: run.id.namespace_id,
            name: Arc::from(place.queue.as_str()),
            kind: queue_kind(kind),
        },
        priority: place.priority as u8,
        seq: place.seq,
    }
}

/// A new task as the store and matching know it.
pub(crate) fn task_row(run: &Run, task: &tidemill_engine::NewTask) -> TaskRow {
    TaskRow {
        key: task_key(run, task.kind, &task.place),
        run: RunNo(run.id.no),
        scheduled_event_id: task.scheduled_id,
        stamp: task.stamp,
        created: task.created.0,
    }
}

/// A run's row of the executions table.
fn execution(run: &Run, namespace: &Namespace) -> Execution {
    let core = &run.core;
    let info = tidemill_engine::describe::info(run, namespace);
    let id = identity(&run.id);
    let parent = info.parent_execution.clone();
    let root = info.root_execution.clone();
    let close_time = Time(core.close_time).get();
    let closed = close_time.is_some();
    let schema = namespace.search_attributes();
    let fields = run
        .visible
        .search_attributes
        .iter()
        .flat_map(|sa| &sa.indexed_fields);
    // What the engine let in decodes; an attribute that was removed since is not shown any more.
    let attributes = fields
        .filter_map(|(name, payload)| {
            let kind = search_attributes::to_proto(schema.stored_type(name)?);
            let value = search_attribute::decode(payload, kind).ok()??;
            Some((name.clone(), search_attributes::to_store(value)))
        })
        .collect();
    Execution {
        namespace: id.namespace,
        workflow_id: id.workflow_id,
        run_id: id.run_id,
        workflow_type: run.workflow_type().to_owned(),
        task_queue: run.task_queue().to_owned(),
        status: core.status,
        start_time: core.start_time,
        execution_time: core.execution_time,
        close_time: close_time.map(|t| t.0),
        history_length: closed.then_some(info.history_length),
        history_size_bytes: closed.then_some(info.history_size_bytes),
        execution_duration: close_time
            .map(|at| tidemill_engine::time::nanos(at.since(Time(core.execution_time)))),
        state_transition_count: closed.then_some(core.transitions),
        parent_workflow_id: parent.as_ref().map(|p| p.workflow_id.clone()),
        parent_run_id: parent.map(|p| p.run_id),
        root_workflow_id: root.as_ref().map(|r| r.workflow_id.clone()),
        root_run_id: root.map(|r| r.run_id),
        info: info.encode_to_vec().into(),
        attributes,
        delete_after: close_time.map(|at| at.plus(namespace.retention).0),
    }
}
