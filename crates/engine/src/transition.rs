//! What a step of the engine produces: data for the store, the queues and the callers. Nothing
//! here is carried out by the engine.

use bytes::Bytes;
use prost::Message;
use tidemill_proto::api::failure::v1::Failure;
use tidemill_proto::api::query::v1::WorkflowQueryResult;
use tidemill_proto::api::update::v1::Outcome as UpdateOutcome;

use crate::Error;
use crate::encoded::Batch;
use crate::model::TaskPlace;
use crate::run::Run;
use crate::time::Time;

/// The result of one engine call: transitions to commit together, and the answer to give once
/// they are durable. The answer may be an error although something was written (a workflow task
/// that the engine failed, for instance).
#[derive(Debug)]
pub struct Outcome<T> {
    pub transitions: Vec<Transition>,
    pub reply: Result<T, Error>,
}

impl<T> Outcome<T> {
    /// An answer without any change.
    pub fn unchanged(reply: T) -> Self {
        Self {
            transitions: Vec::new(),
            reply: Ok(reply),
        }
    }

    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Outcome<U> {
        Outcome {
            transitions: self.transitions,
            reply: self.reply.map(f),
        }
    }
}

/// The change of one run.
#[derive(Clone, Debug)]
pub struct Transition {
    /// The run as it is afterwards.
    pub run: Run,
    /// The run did not exist before.
    pub created: bool,
    /// Copies the history of run number `.0` below event id `.1` first (reset).
    pub copy_history: Option<(i64, i64)>,
    pub batches: Vec<Batch>,
    pub rows: Vec<Row>,
    /// The run's visible face changed: write its row of the executions table.
    pub visible_changed: bool,
    /// `Some(t)` replaces the wake-up time in the store.
    pub due: Option<Option<Time>>,
    pub tasks_added: Vec<NewTask>,
    pub tasks_removed: Vec<(TaskKind, TaskPlace)>,
    pub outbox_added: Vec<OutboxEntry>,
    pub outbox_removed: Vec<i64>,
    pub effects: Vec<Effect>,
}

impl Transition {
    /// Whether the store has anything to write.
    pub fn is_durable(&self) -> bool {
        self.created
            || self.visible_changed
            || !self.batches.is_empty()
            || !self.rows.is_empty()
            || self.due.is_some()
            || !self.tasks_added.is_empty()
            || !self.tasks_removed.is_empty()
            || !self.outbox_added.is_empty()
            || !self.outbox_removed.is_empty()
    }
}

impl Transition {
    /// Puts the run's next transition behind this one, so that both are committed together. What the
    /// second takes back of the first is never written.
    pub fn then(&mut self, next: Transition) {
        debug_assert_eq!(self.run.id.no, next.run.id.no);
        debug_assert!(!next.created && next.copy_history.is_none());
        self.run = next.run;
        self.batches.extend(next.batches);
        for row in next.rows {
            let before = self
                .rows
                .iter_mut()
                .find(|r| (r.kind, r.id) == (row.kind, row.id));
            match before {
                Some(before) => *before = row,
                None => self.rows.push(row),
            }
        }
        self.visible_changed |= next.visible_changed;
        self.due = next.due.or(self.due);
        for (kind, place) in next.tasks_removed {
            match self.tasks_added.iter().position(|t| t.place == place) {
                Some(added) => {
                    self.tasks_added.remove(added);
                }
                None => self.tasks_removed.push((kind, place)),
            }
        }
        self.tasks_added.extend(next.tasks_added);
        for id in next.outbox_removed {
            match self.outbox_added.iter().position(|e| e.id == id) {
                Some(added) => {
                    self.outbox_added.remove(added);
                }
                None => self.outbox_removed.push(id),
            }
        }
        self.outbox_added.extend(next.outbox_added);
        self.effects.extend(next.effects);
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub kind: u8,
    pub id: i64,
    pub value: Option<Bytes>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskKind {
    Workflow,
    Activity,
}

/// A task for a worker, to be offered once its transition is durable.
#[derive(Clone, Debug, PartialEq)]
pub struct NewTask {
    pub kind: TaskKind,
    pub place: TaskPlace,
    pub scheduled_id: i64,
    pub stamp: i64,
    /// On a sticky queue: offer it on `normal_queue` instead when no poller is near.
    pub sticky: bool,
    pub normal_queue: String,
    pub created: Time,
}

/// Something to tell the world once the transition is durable.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Offer a speculative workflow task: it has no row in the store.
    Speculative {
        queue: String,
        normal_queue: String,
        sticky: bool,
        priority: u8,
        scheduled_id: i64,
        stamp: i64,
    },
    /// A buffered query was answered by the worker.
    QueryAnswered {
        id: String,
        result: WorkflowQueryResult,
    },
    /// A buffered query is to be dispatched directly instead.
    QueryReleased { id: String },
    /// A buffered query cannot be answered.
    QueryFailed { id: String, error: Error },
    Update {
        update_id: String,
        event: UpdateEvent,
    },
}

/// What callers that wait for an update learn.
#[derive(Clone, Debug, PartialEq)]
pub enum UpdateEvent {
    Accepted,
    Completed(UpdateOutcome),
    Rejected(Failure),
    /// The caller gets this error (retryable ones are retried by the server itself).
    Aborted(Error),
    /// The run closed but goes on in another one: try there.
    Moved,
}

/// An effect on another run, kept in the store until it was carried out.
#[derive(Clone, PartialEq, Message)]
pub struct OutboxEntry {
    #[prost(int64, tag = "1")]
    pub id: i64,
    #[prost(oneof = "OutboxItem", tags = "2, 3, 4, 5, 6, 7")]
    pub item: Option<OutboxItem>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum OutboxItem {
    /// Start the child of this initiated event.
    #[prost(message, tag = "2")]
    StartChild(Initiated),
    /// The parent has recorded the child's start: schedule its first workflow task.
    #[prost(message, tag = "3")]
    ReleaseChild(RunAddress),
    #[prost(message, tag = "4")]
    CancelExternal(Initiated),
    #[prost(message, tag = "5")]
    SignalExternal(Initiated),
    #[prost(message, tag = "6")]
    ParentClosed(ParentClosed),
    /// Tell the parent that this run has closed.
    #[prost(message, tag = "7")]
    ChildClosed(RunAddress),
}

/// An initiated event: its id and the first event id of its batch.
#[derive(Clone, PartialEq, Message)]
pub struct Initiated {
    #[prost(int64, tag = "1")]
    pub event_id: i64,
    #[prost(int64, tag = "2")]
    pub batch_id: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct RunAddress {
    #[prost(string, tag = "1")]
    pub namespace_id: String,
    #[prost(string, tag = "2")]
    pub workflow_id: String,
    #[prost(string, tag = "3")]
    pub run_id: String,
    /// For `ChildClosed`: the parent's initiated event.
    #[prost(int64, tag = "4")]
    pub initiated_id: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct ParentClosed {
    #[prost(message, optional, tag = "1")]
    pub child: Option<RunAddress>,
    #[prost(
        enumeration = "tidemill_proto::api::enums::v1::ParentClosePolicy",
        tag = "2"
    )]
    pub policy: i32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activity;
    use crate::testing::{Rig, schedule_activity};
    use crate::workflow_task::{self, Start};

    /// The same run twice: in one, transitions are committed one after the other, in the other as one.
    struct Twins {
        apart: Rig,
        together: Rig,
        pending: Vec<Transition>,
    }

    impl Twins {
        fn new() -> Self {
            let mut twins = Self {
                apart: Rig::new(),
                together: Rig::new(),
                pending: Vec::new(),
            };
            for rig in [&mut twins.apart, &mut twins.together] {
                rig.task(vec![schedule_activity("a", 1), schedule_activity("b", 1)]);
            }
            twins
        }

        fn op(&mut self, f: impl Fn(&Run, &crate::Cx<'_>) -> Result<Vec<Transition>, Error>) {
            let one = f(&self.apart.run, &self.apart.cx()).unwrap();
            self.apart.take(one);
            let run = self
                .pending
                .last()
                .map_or(&self.together.run, |last| &last.run);
            let mut next = f(run, &self.together.cx()).unwrap();
            let next = next.pop().unwrap();
            match self.pending.last_mut() {
                Some(first) => {
                    first.then(next);
                    // Two changes of the run in one commit.
                    self.together.writes += 1;
                }
                None => self.pending.push(next),
            }
        }

        /// Commits what is pending, and compares.
        fn settle(&mut self) -> Transition {
            let whole = self.pending.pop().unwrap();
            self.together.take(vec![whole.clone()]);
            let (a, b) = (&self.apart, &self.together);
            assert_eq!(a.run.core, b.run.core);
            assert_eq!(a.run.activities, b.run.activities);
            assert_eq!((&a.history, &a.tasks, a.due), (&b.history, &b.tasks, b.due));
            whole
        }
    }

    fn start_activity(run: &Run, cx: &crate::Cx<'_>, id: &str) -> Result<Vec<Transition>, Error> {
        let activity = run.activities[&run.activity_ids[id]].clone();
        let start = activity::StartActivity {
            scheduled_id: activity.scheduled_id,
            stamp: activity.stamp,
            identity: "worker".into(),
            request_id: "poll".into(),
            worker_version: None,
        };
        Ok(activity::start(run, &start, cx)?.transitions)
    }

    fn start_task(run: &Run, cx: &crate::Cx<'_>) -> Result<Vec<Transition>, Error> {
        let task = run.core.workflow_task.clone().unwrap();
        let start = Start {
            scheduled_id: task.scheduled_id,
            stamp: task.stamp,
            identity: "worker".into(),
            request_id: "poll".into(),
            from_sticky: false,
            worker_version: None,
        };
        Ok(workflow_task::start(run, &start, cx)?.transitions)
    }

    #[test]
    fn a_task_that_starts_at_once_leaves_what_two_commits_leave_but_no_row() {
        let mut twins = Twins::new();
        twins.op(|run, cx| start_activity(run, cx, "a"));
        twins.settle();
        twins.op(|run, cx| {
            let complete = activity::Complete {
                activity: activity::ActivityRef::ById {
                    activity_id: "a".into(),
                },
                result: None,
                identity: "worker".into(),
                worker_version: None,
            };
            Ok(activity::complete(run, complete, cx)?.transitions)
        });
        twins.op(start_task);
        let whole = twins.settle();
        assert!(whole.tasks_added.is_empty() && whole.tasks_removed.is_empty());
        assert!(whole.run.workflow_task_started());
    }

    #[test]
    fn what_was_there_before_goes_and_what_is_not_taken_stays() {
        let mut twins = Twins::new();
        let signal = |run: &Run, cx: &crate::Cx<'_>| {
            let signal = crate::signal::Signal {
                name: "S".into(),
                ..Default::default()
            };
            Ok(crate::signal::signal(run, signal, cx)?.transitions)
        };
        twins.op(signal);
        twins.op(|run, cx| start_activity(run, cx, "b"));
        let whole = twins.settle();
        let added: Vec<_> = whole.tasks_added.iter().map(|t| t.kind).collect();
        let removed: Vec<_> = whole.tasks_removed.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(added, [TaskKind::Workflow]);
        assert_eq!(removed, [TaskKind::Activity]);
    }
}
