//! A bench for tests of one activity: a run that has no more than it, without workflow tasks, so that
//! each operation is seen by itself. Whole runs are in [`crate::testing`].

use std::time::Duration;

use tidemill_proto::api::command::v1::{
    RequestCancelActivityTaskCommandAttributes, ScheduleActivityTaskCommandAttributes,
};
use tidemill_proto::api::common::v1::{ActivityType, Payloads, RetryPolicy};
use tidemill_proto::api::enums::v1::EventType;
use tidemill_proto::api::failure::v1::failure::FailureInfo;
use tidemill_proto::api::failure::v1::{ApplicationFailureInfo, Failure};
use tidemill_proto::api::history::v1::{HistoryEvent, WorkflowExecutionStartedEventAttributes};
use tidemill_proto::api::taskqueue::v1::TaskQueue;

use super::*;
use crate::command::{CommandContext, Refused};
use crate::fixture::{Counter, NoAttributes};
pub(super) use crate::fixture::{payloads as payload, seconds};
use crate::limits::Limits;
use crate::model::WorkflowTask;
use crate::run::{Deadline, RunId};
use crate::start::{NewRun, create};
use crate::transition::{NewTask, Outcome};
use crate::tx::Cx;

pub(super) struct Bench {
    ids: Counter,
    pub(super) limits: Limits,
    pub(super) now: Time,
    pub(super) run: Run,
    /// Events since the last [`Bench::events`].
    history: Vec<HistoryEvent>,
    /// Activity tasks on offer.
    pub(super) tasks: Vec<NewTask>,
}

/// The event id of the workflow task completed event that all commands name.
pub(super) const COMPLETED: i64 = 4;

impl Bench {
    pub(super) fn new() -> Self {
        Self::with(WorkflowExecutionStartedEventAttributes::default())
    }

    pub(super) fn with(started: WorkflowExecutionStartedEventAttributes) -> Self {
        let (ids, limits) = (Counter::default(), Limits::default());
        let now = Time(1_000_000_000_000);
        let started = WorkflowExecutionStartedEventAttributes {
            task_queue: Some(TaskQueue {
                name: "wq".into(),
                ..Default::default()
            }),
            ..started
        };
        let new = NewRun {
            id: RunId {
                no: 1,
                namespace_id: [0; 16],
                workflow_id: "w".into(),
                run_id: "r".into(),
            },
            started,
            metadata: None,
            links: Vec::new(),
            create_request_id: "c".into(),
            awaits_parent: false,
        };
        let cx = Cx {
            now,
            ids: &ids,
            limits: &limits,
            namespace: "ns",
            schema: &NoAttributes,
        };
        let mut run = create(new, &cx).into_transitions().remove(0).run;
        run.core.workflow_task = None;
        run.core.next_event_id = COMPLETED + 1;
        Self {
            ids,
            limits,
            now,
            run,
            history: Vec::new(),
            tasks: Vec::new(),
        }
    }

    pub(super) fn cx(&self) -> Cx<'_> {
        Cx {
            now: self.now,
            ids: &self.ids,
            limits: &self.limits,
            namespace: "ns",
            schema: &NoAttributes,
        }
    }

    pub(super) fn wait(&mut self, ms: u64) {
        self.now = self.now.plus(Duration::from_millis(ms));
    }

    /// Takes over what an operation did. Whatever leaves the queue must have been on it.
    pub(super) fn apply<T>(&mut self, outcome: Outcome<T>) -> Result<T, Error> {
        for t in outcome.transitions {
            for (kind, place) in t.tasks_removed {
                if kind == TaskKind::Activity {
                    let at = self.tasks.iter().position(|t| t.place == place);
                    self.tasks.remove(at.expect("a removed task was on offer"));
                }
            }
            self.tasks.extend(
                t.tasks_added
                    .into_iter()
                    .filter(|t| t.kind == TaskKind::Activity),
            );
            self.history
                .extend(t.batches.iter().flat_map(|b| b.decode().unwrap().events));
            self.run = t.run;
        }
        // The records survive being stored, and every task on offer has its record.
        for activity in self.run.activities.values() {
            let bytes = prost::Message::encode_to_vec(&**activity);
            assert_eq!(**activity, prost::Message::decode(&bytes[..]).unwrap());
            let offered = self
                .tasks
                .iter()
                .any(|t| Some(&t.place) == activity.task.as_ref());
            assert_eq!(offered, activity.task.is_some());
        }
        let offered = self
            .run
            .activities
            .values()
            .filter(|a| a.task.is_some())
            .count();
        assert_eq!(offered, self.tasks.len(), "no task outlives its activity");
        outcome.reply
    }

    /// A worker has the workflow task from now on: events are buffered.
    pub(super) fn busy(&mut self) {
        self.run.core.workflow_task = Some(WorkflowTask {
            scheduled_id: 2,
            started_id: 3,
            attempt: 1,
            ..Default::default()
        });
    }

    /// The workflow task is over, or was never started: buffered events are written.
    pub(super) fn idle(&mut self) {
        self.run.core.workflow_task = None;
        let cx = self.cx();
        let outcome = Tx::new(&self.run, &cx).finish(());
        self.apply(outcome).unwrap();
        self.run.core.workflow_task = None;
    }

    /// Runs `f` as the commands of a workflow task.
    pub(super) fn commands<T>(
        &mut self,
        f: impl FnOnce(&mut Tx<'_>, &CommandContext) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        self.busy();
        let context = CommandContext {
            completed_id: self.run.core.next_event_id - 1,
            metadata: None,
            identity: "decider".into(),
            group_markers: Vec::new(),
        };
        let cx = self.cx();
        let mut tx = Tx::new(&self.run, &cx);
        let result = f(&mut tx, &context);
        tx.run.core.workflow_task = None;
        let outcome = tx.finish(());
        if result.is_ok() {
            self.apply(outcome).unwrap();
        }
        self.run.core.workflow_task = None;
        result
    }

    pub(super) fn schedule(
        &mut self,
        attributes: ScheduleActivityTaskCommandAttributes,
    ) -> Result<Scheduled, Refused> {
        self.commands(|tx, context| schedule(tx, attributes, context, true))
    }

    pub(super) fn request_cancel(&mut self, scheduled_event_id: i64) -> Result<bool, Refused> {
        let attributes = RequestCancelActivityTaskCommandAttributes { scheduled_event_id };
        self.commands(|tx, context| request_cancel(tx, attributes, context))
    }

    /// A poller takes the task at the head of the queue.
    pub(super) fn start(&mut self) -> Result<StartedActivity, Error> {
        let task = self.tasks.first().expect("a task is on offer").clone();
        self.start_task(&task, "req")
    }

    pub(super) fn start_task(
        &mut self,
        task: &NewTask,
        request_id: &str,
    ) -> Result<StartedActivity, Error> {
        let request = StartActivity {
            scheduled_id: task.scheduled_id,
            stamp: task.stamp,
            identity: "worker".into(),
            request_id: request_id.into(),
            worker_version: None,
        };
        let outcome = start::start(&self.run, &request, &self.cx())?;
        self.apply(outcome)
    }

    pub(super) fn complete(&mut self, activity: ActivityRef) -> Result<(), Error> {
        let request = Complete {
            activity,
            result: Some(payload("done")),
            identity: "worker".into(),
            worker_version: None,
        };
        let outcome = complete(&self.run, request, &self.cx())?;
        self.apply(outcome)
    }

    pub(super) fn fail(
        &mut self,
        activity: ActivityRef,
        failure: Failure,
    ) -> Result<Vec<Failure>, Error> {
        let request = Fail {
            activity,
            failure: Some(failure),
            last_heartbeat_details: None,
            identity: "worker".into(),
            worker_version: None,
            cause: 0,
        };
        let outcome = fail(&self.run, request, &self.cx())?;
        self.apply(outcome)
    }

    pub(super) fn cancel(&mut self, activity: ActivityRef) -> Result<(), Error> {
        let request = Cancel {
            activity,
            details: Some(payload("stopped")),
            identity: "worker".into(),
            worker_version: None,
        };
        let outcome = cancel(&self.run, request, &self.cx())?;
        self.apply(outcome)
    }

    pub(super) fn heartbeat(
        &mut self,
        activity: ActivityRef,
        details: Option<Payloads>,
    ) -> Result<HeartbeatReply, Error> {
        let request = Heartbeat {
            activity,
            details,
            identity: "worker".into(),
        };
        let outcome = heartbeat(&self.run, request, &self.cx())?;
        self.apply(outcome)
    }

    /// Fires what is due.
    pub(super) fn fire(&mut self) {
        let cx = self.cx();
        let mut tx = Tx::new(&self.run, &cx);
        while let Some((at, Deadline::Activity(id))) = tx.run.deadlines.first().copied()
            && at <= tx.now()
        {
            timeout::fire(&mut tx, id);
        }
        let outcome = tx.finish(());
        self.apply(outcome).unwrap();
        self.run.core.workflow_task = self
            .run
            .core
            .workflow_task
            .take()
            .filter(|t| t.started_id != 0);
    }

    /// The only pending activity.
    pub(super) fn activity(&self) -> Activity {
        assert_eq!(self.run.activities.len(), 1);
        (**self.run.activities.values().next().unwrap()).clone()
    }

    /// What was written since the last call. Drops a workflow task that was scheduled.
    pub(super) fn events(&mut self) -> Vec<HistoryEvent> {
        self.run.core.workflow_task = self
            .run
            .core
            .workflow_task
            .take()
            .filter(|t| t.started_id != 0);
        std::mem::take(&mut self.history)
    }

    /// The types of what was written since the last call.
    pub(super) fn types(&mut self) -> Vec<EventType> {
        self.events().iter().map(HistoryEvent::event_type).collect()
    }
}

/// An activity with a start-to-close timeout of ten seconds and the default policy.
pub(super) fn attributes() -> ScheduleActivityTaskCommandAttributes {
    ScheduleActivityTaskCommandAttributes {
        activity_id: "a".into(),
        activity_type: Some(ActivityType { name: "T".into() }),
        task_queue: Some(TaskQueue {
            name: "q".into(),
            ..Default::default()
        }),
        start_to_close_timeout: seconds(10),
        input: Some(payload("in")),
        ..Default::default()
    }
}

/// As [`attributes`] with a bound on the attempts.
pub(super) fn attempts(maximum_attempts: i32) -> ScheduleActivityTaskCommandAttributes {
    ScheduleActivityTaskCommandAttributes {
        retry_policy: Some(RetryPolicy {
            maximum_attempts,
            ..Default::default()
        }),
        ..attributes()
    }
}

pub(super) fn big() -> Payloads {
    payload(&"x".repeat(3 << 20))
}

pub(super) fn failure(message: &str) -> Failure {
    Failure {
        message: message.into(),
        failure_info: Some(FailureInfo::ApplicationFailureInfo(
            ApplicationFailureInfo::default(),
        )),
        ..Default::default()
    }
}

pub(super) fn fatal(message: &str) -> Failure {
    Failure {
        failure_info: Some(FailureInfo::ApplicationFailureInfo(
            ApplicationFailureInfo {
                non_retryable: true,
                ..Default::default()
            },
        )),
        ..failure(message)
    }
}

pub(super) fn by_id() -> ActivityRef {
    ActivityRef::ById {
        activity_id: "a".into(),
    }
}
