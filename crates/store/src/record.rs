//! The records that cross the store's boundary. They are plain data: ids, times and
//! opaque bytes. What the bytes mean is the business of `tidemill-engine`.

use std::sync::Arc;

use bytes::Bytes;

/// Nanoseconds since the Unix epoch.
pub type Nanos = i64;

/// A run's number: unique in one store, never reused, larger for later runs. The current run of a
/// workflow id is the one with the largest number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunNo(pub i64);

/// A namespace's id (a UUID's 16 bytes).
pub type NamespaceId = [u8; 16];
/// A run's public id (a UUID's 16 bytes).
pub type RunId = [u8; 16];

/// Everything that one transition of one run changes. All of a [`Commit`] is applied or none.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    pub runs: Vec<RunWrite>,
    pub deletes: Vec<RunNo>,
    pub namespaces: Vec<NamespaceWrite>,
    pub queues: Vec<QueueRecord>,
}

impl Commit {
    /// True when nothing would be written: such a commit costs no transaction and only waits for
    /// those before it.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
            && self.deletes.is_empty()
            && self.namespaces.is_empty()
            && self.queues.is_empty()
    }
}

/// The writes of one run.
#[derive(Clone, Debug)]
pub struct RunWrite {
    pub run: RunNo,
    /// Set for a run that this commit creates, or whose visible attributes changed.
    pub execution: Option<Box<Execution>>,
    /// Copies all history batches of another run whose last event id is below the given one
    /// (reset). Applied before `history`.
    pub copy_history: Option<(RunNo, i64)>,
    pub history: Vec<HistoryBatch>,
    pub state: Vec<StateRow>,
    /// `Some(new)` replaces the run's wake-up time; `Some(None)` removes it.
    pub due: Option<Option<Nanos>>,
    pub tasks_added: Vec<TaskRow>,
    pub tasks_removed: Vec<TaskKey>,
    pub outbox_added: Vec<OutboxRow>,
    pub outbox_removed: Vec<i64>,
}

impl RunWrite {
    /// No write of this run yet.
    pub fn new(run: RunNo) -> Self {
        Self {
            run,
            execution: None,
            copy_history: None,
            history: Vec::new(),
            state: Vec::new(),
            due: None,
            tasks_added: Vec::new(),
            tasks_removed: Vec::new(),
            outbox_added: Vec::new(),
            outbox_removed: Vec::new(),
        }
    }
}

/// Events `first_event_id..=last_event_id`, encoded by the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryBatch {
    pub first_event_id: i64,
    pub last_event_id: i64,
    pub bytes: Bytes,
}

/// One row of a run's state. `value: None` deletes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRow {
    pub kind: u8,
    /// Integer key of the row within its kind.
    pub id: i64,
    pub value: Option<Bytes>,
}

/// A task queue in the store: namespace, name and kind (1 workflow, 2 activity).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueName {
    pub namespace: NamespaceId,
    pub name: Arc<str>,
    pub kind: u8,
}

/// Where a task stands: queues are read in (priority, seq) order. `seq` is unique in the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskKey {
    pub queue: QueueName,
    /// 1 (first) to 5.
    pub priority: u8,
    pub seq: i64,
}

/// A task that waits to be handed to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskRow {
    pub key: TaskKey,
    pub run: RunNo,
    pub scheduled_event_id: i64,
    /// Distinguishes successive tasks of one scheduled event (attempt, options change).
    pub stamp: i64,
    pub created: Nanos,
}

/// A task read back, with what is needed to route it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTask {
    pub task: TaskRow,
    pub owner: RunIdentity,
}

/// Who a run is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RunIdentity {
    pub run: RunNo,
    pub namespace: NamespaceId,
    pub workflow_id: Arc<str>,
    pub run_id: RunId,
}

/// An effect on another run that is still to be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRow {
    /// Unique within the run.
    pub id: i64,
    pub value: Bytes,
}

/// The visible face of a run: one row of the executions table. Written when the run starts,
/// when its memo or search attributes change, and when it closes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Execution {
    pub namespace: NamespaceId,
    pub workflow_id: Arc<str>,
    pub run_id: RunId,
    pub workflow_type: String,
    pub task_queue: String,
    /// `temporal.api.enums.v1.WorkflowExecutionStatus`.
    pub status: i32,
    pub start_time: Nanos,
    pub execution_time: Nanos,
    pub close_time: Option<Nanos>,
    /// Set on close only.
    pub history_length: Option<i64>,
    pub history_size_bytes: Option<i64>,
    pub execution_duration: Option<i64>,
    pub state_transition_count: Option<i64>,
    pub parent_workflow_id: Option<String>,
    pub parent_run_id: Option<String>,
    pub root_workflow_id: Option<String>,
    pub root_run_id: Option<String>,
    /// What `ListWorkflowExecutions` returns beside the columns: an encoded
    /// `temporal.api.workflow.v1.WorkflowExecutionInfo`, opaque to the store.
    pub info: Bytes,
    /// Search attributes (custom and predefined), decoded.
    pub attributes: Vec<(String, AttributeValue)>,
    /// When the run may be deleted; set on close.
    pub delete_after: Option<Nanos>,
}

/// A search attribute's value.
#[derive(Clone, Debug, PartialEq)]
pub enum AttributeValue {
    Bool(bool),
    Int(i64),
    Double(f64),
    Datetime(Nanos),
    Keyword(String),
    KeywordList(Vec<String>),
    Text(String),
}

/// The type of a search attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttributeType {
    Bool,
    Int,
    Double,
    Datetime,
    Keyword,
    KeywordList,
    Text,
}

/// A run as loaded: all that the engine needs to go on with it.
#[derive(Clone, Debug)]
pub struct StoredRun {
    pub owner: RunIdentity,
    pub state: Vec<StateRow>,
    /// The first history batch, which holds `WorkflowExecutionStarted`.
    pub first_batch: HistoryBatch,
    pub outbox: Vec<OutboxRow>,
    /// Tasks of this run that are still in the task table.
    pub tasks: Vec<TaskRow>,
    pub due: Option<Nanos>,
}

/// A namespace's record; `value` is opaque.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceWrite {
    pub id: NamespaceId,
    pub name: String,
    /// `None` deletes the record.
    pub value: Option<Bytes>,
}

/// What was set on a task queue; `value` is opaque. It is replaced as a whole, and lasts as long as
/// the record of its namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueRecord {
    pub queue: QueueName,
    pub value: Bytes,
}

/// One page of a visibility query.
#[derive(Clone, Debug)]
pub struct ExecutionPage {
    pub executions: Vec<ListedExecution>,
    /// Opaque; `None` on the last page.
    pub next: Option<Bytes>,
}

/// A listed run.
#[derive(Clone, Debug)]
pub struct ListedExecution {
    pub run: RunNo,
    pub run_id: RunId,
    pub workflow_id: Arc<str>,
    pub status: i32,
    pub close_time: Option<Nanos>,
    pub history_length: Option<i64>,
    pub info: Bytes,
}

/// The answer to a count: the total and, when the filter ends in `GROUP BY`, the groups.
#[derive(Clone, Debug, PartialEq)]
pub struct ExecutionCount {
    pub total: i64,
    pub groups: Vec<(AttributeValue, i64)>,
}
