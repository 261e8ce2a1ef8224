//! What is kept of a run beside its history: small records, each stored as one row.
//!
//! The records are protobuf messages of our own, so that a newer binary reads what an older one
//! wrote: a field is never renumbered, a removed one is never reused.

use prost::Message;
use tidemill_proto::api::common::v1::{
    Callback, Memo, Payloads, Priority, RetryPolicy, SearchAttributes, WorkerVersionStamp,
};
use tidemill_proto::api::failure::v1::Failure;
use tidemill_proto::api::workflow::v1::ResetPoints;

/// The kind of a state row. The numbers are stored: never change them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    Core = 0,
    Visible = 1,
    Activity = 2,
    Timer = 3,
    Child = 4,
    ExternalCancel = 5,
    ExternalSignal = 6,
    Update = 7,
    SignalId = 8,
    Buffered = 9,
    RequestId = 10,
}

/// The counters and flags of a run: rewritten by every transition, so kept small.
#[derive(Clone, PartialEq, Message)]
pub struct Core {
    /// `temporal.api.enums.v1.WorkflowExecutionStatus`.
    #[prost(int32, tag = "1")]
    pub status: i32,
    #[prost(int64, tag = "2")]
    pub next_event_id: i64,
    /// First event id of the last batch.
    #[prost(int64, tag = "3")]
    pub last_first_event_id: i64,
    #[prost(int64, tag = "4")]
    pub history_size: i64,
    #[prost(int64, tag = "5")]
    pub transitions: i64,
    /// The pending workflow task; speculative ones are not stored.
    #[prost(message, optional, tag = "6")]
    pub workflow_task: Option<WorkflowTask>,
    /// Attempt of the next workflow task to be scheduled, 0 and 1 both mean the first.
    #[prost(int32, tag = "7")]
    pub workflow_task_attempt: i32,
    #[prost(message, optional, tag = "8")]
    pub sticky: Option<Sticky>,
    /// Started event id of the last completed workflow task, 0 before the first.
    #[prost(int64, tag = "9")]
    pub last_completed_started_id: i64,
    /// Event id of the last workflow task completed event, 0 before the first.
    #[prost(int64, tag = "10")]
    pub last_completed_id: i64,
    #[prost(bool, tag = "11")]
    pub cancel_requested: bool,
    #[prost(int64, tag = "12")]
    pub signal_count: i64,
    #[prost(int64, tag = "13")]
    pub start_time: i64,
    /// Start plus the first workflow task's backoff.
    #[prost(int64, tag = "14")]
    pub execution_time: i64,
    #[prost(int64, tag = "15")]
    pub close_time: i64,
    /// While set, the first workflow task waits for this time (cron, retry, start delay).
    #[prost(int64, tag = "16")]
    pub backoff_until: i64,
    /// A child whose parent has yet to record its start.
    #[prost(bool, tag = "17")]
    pub awaits_parent: bool,
    /// When the run times out, 0 for never.
    #[prost(int64, tag = "18")]
    pub run_expiration: i64,
    /// When the whole chain of runs times out, 0 for never.
    #[prost(int64, tag = "19")]
    pub execution_expiration: i64,
    #[prost(string, tag = "20")]
    pub create_request_id: String,
    /// The wake-up time that the store holds, 0 for none. Never later than the earliest deadline.
    #[prost(int64, tag = "21")]
    pub stored_due: i64,
    #[prost(int64, tag = "22")]
    pub next_outbox_id: i64,
    /// Ids for rows that are keyed by nothing better (signal ids, buffered events).
    #[prost(int64, tag = "23")]
    pub next_row_id: i64,
    /// Updates that were accepted, completed or admitted by a reset.
    #[prost(int64, tag = "24")]
    pub update_count: i64,
    #[prost(int32, tag = "25")]
    pub workflow_task_problems: i32,
    #[prost(string, tag = "26")]
    pub reset_run_id: String,
    #[prost(int64, tag = "27")]
    pub last_reset_time: i64,
    #[prost(message, optional, tag = "28")]
    pub worker_version: Option<WorkerVersionStamp>,
    /// Event id of the cancel request, 0 for none.
    #[prost(int64, tag = "29")]
    pub cancel_requested_id: i64,
    /// Event id of the event that closed the run.
    #[prost(int64, tag = "30")]
    pub close_event_id: i64,
    /// Set when the run's memo/attributes were changed by `UpdateWorkflowExecutionOptions`.
    #[prost(message, optional, tag = "31")]
    pub priority_override: Option<Priority>,
    /// Run that follows this one (continue-as-new, retry, cron).
    #[prost(string, tag = "32")]
    pub new_run_id: String,
    /// Sum of `task_stamp`s given out: distinguishes tasks of one scheduled event.
    #[prost(int64, tag = "33")]
    pub next_stamp: i64,
    /// The id of the reset request that made this run, by which its repeats are recognised.
    #[prost(string, tag = "34")]
    pub reset_request_id: String,
}

/// A pending workflow task.
#[derive(Clone, PartialEq, Message)]
pub struct WorkflowTask {
    #[prost(int64, tag = "1")]
    pub scheduled_id: i64,
    /// 0 until a worker has taken it.
    #[prost(int64, tag = "2")]
    pub started_id: i64,
    /// 1 for the first; more means transient: its events are not in history yet.
    #[prost(int32, tag = "3")]
    pub attempt: i32,
    #[prost(bool, tag = "4")]
    pub speculative: bool,
    #[prost(int64, tag = "5")]
    pub scheduled_time: i64,
    /// Carried over heartbeats.
    #[prost(int64, tag = "6")]
    pub original_scheduled_time: i64,
    #[prost(int64, tag = "7")]
    pub started_time: i64,
    /// Start-to-close, nanoseconds.
    #[prost(int64, tag = "8")]
    pub timeout: i64,
    /// Schedule-to-start deadline, 0 for none (normal queue).
    #[prost(int64, tag = "9")]
    pub start_deadline: i64,
    /// Scheduled on the sticky queue.
    #[prost(bool, tag = "10")]
    pub sticky: bool,
    #[prost(string, tag = "11")]
    pub request_id: String,
    #[prost(string, tag = "12")]
    pub identity: String,
    /// Where its row stands in the store's task table; `None` once started or when speculative.
    #[prost(message, optional, tag = "13")]
    pub task: Option<TaskPlace>,
    #[prost(int64, tag = "14")]
    pub stamp: i64,
    /// Facts of the started event, so that a transient one can be written later.
    #[prost(message, optional, tag = "15")]
    pub started: Option<StartedFacts>,
    /// Update ids whose messages were sent with this task.
    #[prost(string, repeated, tag = "16")]
    pub sent_updates: Vec<String>,
}

/// What a workflow task started event says beside its ids.
#[derive(Clone, PartialEq, Message)]
pub struct StartedFacts {
    #[prost(int64, tag = "1")]
    pub history_size: i64,
    #[prost(bool, tag = "2")]
    pub suggest_continue_as_new: bool,
    #[prost(int32, repeated, tag = "3")]
    pub reasons: Vec<i32>,
}

/// A row of the store's task table.
#[derive(Clone, PartialEq, Message)]
pub struct TaskPlace {
    #[prost(string, tag = "1")]
    pub queue: String,
    #[prost(uint32, tag = "2")]
    pub priority: u32,
    #[prost(int64, tag = "3")]
    pub seq: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Sticky {
    #[prost(string, tag = "1")]
    pub queue: String,
    /// Schedule-to-start, nanoseconds.
    #[prost(int64, tag = "2")]
    pub timeout: i64,
}

/// Memo, search attributes and reset points as they are now.
#[derive(Clone, PartialEq, Message)]
pub struct Visible {
    #[prost(message, optional, tag = "1")]
    pub memo: Option<Memo>,
    #[prost(message, optional, tag = "2")]
    pub search_attributes: Option<SearchAttributes>,
    #[prost(message, optional, tag = "3")]
    pub reset_points: Option<ResetPoints>,
    /// Completion callbacks attached after the start.
    #[prost(message, repeated, tag = "4")]
    pub attached_callbacks: Vec<Callback>,
}

/// A pending activity. Its scheduled event holds type, input and header.
#[derive(Clone, PartialEq, Message)]
pub struct Activity {
    #[prost(int64, tag = "1")]
    pub scheduled_id: i64,
    /// First event id of the batch that holds the scheduled event.
    #[prost(int64, tag = "2")]
    pub scheduled_batch_id: i64,
    #[prost(string, tag = "3")]
    pub activity_id: String,
    #[prost(string, tag = "4")]
    pub activity_type: String,
    #[prost(string, tag = "5")]
    pub task_queue: String,
    #[prost(int32, tag = "6")]
    pub attempt: i32,
    /// The first attempt's schedule time.
    #[prost(int64, tag = "7")]
    pub first_scheduled_time: i64,
    /// This attempt's schedule time: in the future while backing off.
    #[prost(int64, tag = "8")]
    pub scheduled_time: i64,
    /// 0 while not started.
    #[prost(int64, tag = "9")]
    pub started_time: i64,
    #[prost(string, tag = "10")]
    pub request_id: String,
    /// Identity of the worker that has or last had it.
    #[prost(string, tag = "11")]
    pub identity: String,
    /// Timeouts in nanoseconds, 0 for none.
    #[prost(int64, tag = "12")]
    pub schedule_to_close: i64,
    #[prost(int64, tag = "13")]
    pub schedule_to_start: i64,
    #[prost(int64, tag = "14")]
    pub start_to_close: i64,
    #[prost(int64, tag = "15")]
    pub heartbeat: i64,
    #[prost(message, optional, tag = "16")]
    pub retry_policy: Option<RetryPolicy>,
    #[prost(bool, tag = "17")]
    pub cancel_requested: bool,
    #[prost(int64, tag = "18")]
    pub cancel_requested_id: i64,
    #[prost(int64, tag = "19")]
    pub last_heartbeat_time: i64,
    #[prost(message, optional, tag = "20")]
    pub heartbeat_details: Option<Payloads>,
    #[prost(message, optional, tag = "21")]
    pub last_failure: Option<Failure>,
    #[prost(int64, tag = "22")]
    pub last_attempt_complete_time: i64,
    /// Changes whenever tasks given out before must not start any more.
    #[prost(int64, tag = "23")]
    pub stamp: i64,
    /// Its row in the task table while it waits for a worker.
    #[prost(message, optional, tag = "24")]
    pub task: Option<TaskPlace>,
    #[prost(message, optional, tag = "25")]
    pub priority: Option<Priority>,
    #[prost(message, optional, tag = "26")]
    pub pause: Option<Pause>,
    /// A reset was asked for while the attempt runs.
    #[prost(bool, tag = "27")]
    pub reset_requested: bool,
    #[prost(bool, tag = "28")]
    pub reset_heartbeat: bool,
    #[prost(message, optional, tag = "29")]
    pub worker_version: Option<WorkerVersionStamp>,
    /// Not offered to workers because the run is paused.
    #[prost(bool, tag = "30")]
    pub held: bool,
    /// Attempts from before the last reset. `attempt` only grows, so that the token of an old
    /// attempt never fits a new one; what the world sees is `attempt - attempts_forgotten`.
    #[prost(int32, tag = "31")]
    pub attempts_forgotten: i32,
}

/// Who paused an activity and why.
#[derive(Clone, PartialEq, Message)]
pub struct Pause {
    #[prost(int64, tag = "1")]
    pub time: i64,
    #[prost(string, tag = "2")]
    pub identity: String,
    #[prost(string, tag = "3")]
    pub reason: String,
    #[prost(string, tag = "4")]
    pub request_id: String,
}

/// A running user timer.
#[derive(Clone, PartialEq, Message)]
pub struct Timer {
    #[prost(int64, tag = "1")]
    pub started_id: i64,
    #[prost(string, tag = "2")]
    pub timer_id: String,
    #[prost(int64, tag = "3")]
    pub fire_time: i64,
}

/// A child workflow that was initiated and has not closed.
#[derive(Clone, PartialEq, Message)]
pub struct Child {
    #[prost(int64, tag = "1")]
    pub initiated_id: i64,
    /// First event id of the batch that holds the initiated event.
    #[prost(int64, tag = "2")]
    pub initiated_batch_id: i64,
    /// 0 until the child's start was recorded; [`crate::BUFFERED_ID`] while that is buffered.
    #[prost(int64, tag = "3")]
    pub started_id: i64,
    #[prost(string, tag = "4")]
    pub namespace: String,
    #[prost(string, tag = "5")]
    pub namespace_id: String,
    #[prost(string, tag = "6")]
    pub workflow_id: String,
    #[prost(string, tag = "7")]
    pub run_id: String,
    #[prost(string, tag = "8")]
    pub workflow_type: String,
    #[prost(int32, tag = "9")]
    pub parent_close_policy: i32,
    #[prost(string, tag = "10")]
    pub create_request_id: String,
    #[prost(string, tag = "11")]
    pub control: String,
}

/// A signal or cancel request to another workflow, not yet answered.
#[derive(Clone, PartialEq, Message)]
pub struct External {
    #[prost(int64, tag = "1")]
    pub initiated_id: i64,
    #[prost(int64, tag = "2")]
    pub initiated_batch_id: i64,
    #[prost(string, tag = "3")]
    pub request_id: String,
}

/// An update that history knows of.
#[derive(Clone, PartialEq, Message)]
pub struct UpdateRecord {
    #[prost(string, tag = "1")]
    pub update_id: String,
    /// Set when a reset re-applied the update: it is to be delivered again.
    #[prost(int64, tag = "2")]
    pub admitted_id: i64,
    #[prost(int64, tag = "3")]
    pub accepted_id: i64,
    #[prost(int64, tag = "4")]
    pub completed_id: i64,
    /// First event id of the batch that holds the completed event.
    #[prost(int64, tag = "5")]
    pub completed_batch_id: i64,
    /// Row key.
    #[prost(int64, tag = "6")]
    pub row: i64,
    /// Kept while the update is admitted by a reset and not accepted.
    #[prost(message, optional, tag = "7")]
    pub request: Option<tidemill_proto::api::update::v1::Request>,
}

/// A signal's request id, kept to drop repeats.
#[derive(Clone, PartialEq, Message)]
pub struct SignalId {
    #[prost(string, tag = "1")]
    pub request_id: String,
}

/// A request id that was attached to the run after its start.
#[derive(Clone, PartialEq, Message)]
pub struct AttachedRequest {
    #[prost(string, tag = "1")]
    pub request_id: String,
    /// [`crate::BUFFERED_ID`] while its event is buffered.
    #[prost(int64, tag = "2")]
    pub event_id: i64,
    #[prost(int32, tag = "3")]
    pub event_type: i32,
    #[prost(int64, tag = "4")]
    pub row: i64,
}
