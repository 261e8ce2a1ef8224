//! A bench for tests that span a run's parts: one run, its history as the store would hold it,
//! its outbox, and a worker that completes workflow tasks with given commands.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use tidemill_proto::api::command::v1::{Command, command::Attributes as C};
use tidemill_proto::api::common::v1::{Payload, Payloads, WorkflowType};
use tidemill_proto::api::enums::v1::{CommandType, EventType};
use tidemill_proto::api::failure::v1::failure::FailureInfo;
use tidemill_proto::api::failure::v1::{ApplicationFailureInfo, Failure};
use tidemill_proto::api::history::v1::{HistoryEvent, WorkflowExecutionStartedEventAttributes};
use tidemill_proto::api::taskqueue::v1::TaskQueue;
use tidemill_proto::wkt;

use crate::complete::{self, Completion};
use crate::search_attribute::{Attribute, Schema};
use crate::start::{NewRun, create};
use crate::time::Time;
use crate::transition::{Batch, OutboxEntry, OutboxItem, Outcome, Transition};
use crate::workflow_task::{self, TaskRef};
use crate::{Cx, Error, Ids, Limits, Run, RunId};

#[derive(Default)]
pub(crate) struct Counter(Cell<u64>);

impl Counter {
    fn next(&self) -> u64 {
        self.0.set(self.0.get() + 1);
        self.0.get()
    }
}

impl Ids for Counter {
    fn random(&self) -> [u8; 16] {
        let mut bytes = [7; 16];
        bytes[..8].copy_from_slice(&(self.next() * 1_000_003).to_le_bytes());
        bytes
    }
    fn task_seq(&self) -> i64 {
        self.next() as i64
    }
    fn run_no(&self) -> i64 {
        self.next() as i64 + 100
    }
}

/// A namespace without search attributes of its own.
pub(crate) struct NoAttributes;

impl Schema for NoAttributes {
    fn attribute(&self, _: &str) -> Option<Attribute> {
        None
    }
}

pub(crate) struct Bench {
    pub(crate) ids: Counter,
    pub(crate) limits: Limits,
    pub(crate) now: Time,
    pub(crate) run: Run,
    pub(crate) history: Vec<Arc<Batch>>,
    pub(crate) outbox: Vec<OutboxEntry>,
    /// Events that [`Bench::types`] has told of.
    told: i64,
}

pub(crate) const BEGIN: Time = Time(1_700_000_000_000_000_000);

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(WorkflowExecutionStartedEventAttributes::default())
    }

    /// A run that begins with `started`; what every run has is filled in.
    pub(crate) fn with(started: WorkflowExecutionStartedEventAttributes) -> Self {
        let (ids, limits) = (Counter::default(), Limits::default());
        let started = WorkflowExecutionStartedEventAttributes {
            workflow_type: Some(WorkflowType {
                name: "Type".into(),
            }),
            task_queue: Some(TaskQueue {
                name: "queue".into(),
                ..Default::default()
            }),
            workflow_task_timeout: seconds(10),
            ..started
        };
        let new = NewRun {
            id: RunId {
                no: 1,
                namespace_id: [1; 16],
                workflow_id: "w".into(),
                run_id: "first".into(),
            },
            started,
            metadata: None,
            links: Vec::new(),
            create_request_id: "create".into(),
            awaits_parent: false,
        };
        let transitions = create(new, &Self::context(BEGIN, &ids, &limits)).into_transitions();
        Self::over(ids, limits, BEGIN, transitions)
    }

    /// A bench for the run that a transition creates, with the history that it shares.
    pub(crate) fn of(&self, created: &Transition) -> Self {
        let mut bench = Self::over(
            Counter(Cell::new(1_000_000)),
            self.limits.clone(),
            self.now,
            vec![created.clone()],
        );
        if let Some((no, below)) = created.copy_history {
            assert_eq!(no, self.run.id.no);
            let shared = self
                .history
                .iter()
                .filter(|b| b.first_event_id < below)
                .cloned();
            bench.history.splice(0..0, shared);
        }
        bench
    }

    fn over(ids: Counter, limits: Limits, now: Time, transitions: Vec<Transition>) -> Self {
        let run = transitions[0].run.clone();
        let mut bench = Self {
            ids,
            limits,
            now,
            run,
            history: Vec::new(),
            outbox: Vec::new(),
            told: 0,
        };
        bench.take(transitions);
        bench
    }

    fn context<'a>(now: Time, ids: &'a Counter, limits: &'a Limits) -> Cx<'a> {
        Cx {
            now,
            ids,
            limits,
            namespace: "ns",
            schema: &NoAttributes,
        }
    }

    pub(crate) fn cx(&self) -> Cx<'_> {
        Self::context(self.now, &self.ids, &self.limits)
    }

    pub(crate) fn wait(&mut self, s: f64) {
        self.now = self.now.plus(Duration::from_secs_f64(s));
    }

    /// Takes over what was done to the run; the transitions of other runs come back.
    pub(crate) fn take(&mut self, transitions: Vec<Transition>) -> Vec<Transition> {
        let mut others = Vec::new();
        for t in transitions {
            if t.run.id.no != self.run.id.no {
                others.push(t);
                continue;
            }
            self.history.extend(t.batches.iter().cloned());
            self.outbox.retain(|e| !t.outbox_removed.contains(&e.id));
            self.outbox.extend(t.outbox_added);
            self.run = t.run;
        }
        others
    }

    pub(crate) fn apply<T>(&mut self, outcome: Outcome<T>) -> Result<T, Error> {
        let others = self.take(outcome.transitions);
        assert!(others.is_empty(), "no other run was meant to change");
        outcome.reply
    }

    /// A worker takes the pending workflow task.
    pub(crate) fn begin(&mut self) -> TaskRef {
        let task = self
            .run
            .core
            .workflow_task
            .clone()
            .expect("a workflow task is pending");
        let start = workflow_task::Start {
            scheduled_id: task.scheduled_id,
            stamp: task.stamp,
            identity: "worker".into(),
            request_id: "poll".into(),
            from_sticky: false,
            worker_version: None,
        };
        let outcome = workflow_task::start(&self.run, &start, &self.cx()).unwrap();
        self.apply(outcome).unwrap().task
    }

    /// The worker completes it; the transitions of other runs come back.
    pub(crate) fn end(
        &mut self,
        task: &TaskRef,
        commands: Vec<C>,
    ) -> Result<Vec<Transition>, Error> {
        let commands = commands.into_iter().map(command).collect();
        let completion = Completion {
            commands,
            identity: "worker".into(),
            ..Default::default()
        };
        let outcome = complete::complete(&self.run, task, completion, &self.cx())?;
        let others = self.take(outcome.transitions);
        outcome.reply.map(|_| others)
    }

    /// A whole workflow task.
    pub(crate) fn task(&mut self, commands: Vec<C>) -> Result<Vec<Transition>, Error> {
        let task = self.begin();
        self.end(&task, commands)
    }

    pub(crate) fn events(&self) -> impl DoubleEndedIterator<Item = &HistoryEvent> {
        self.history.iter().flat_map(|b| &b.events)
    }

    /// The last event of a type.
    pub(crate) fn last(&self, kind: EventType) -> HistoryEvent {
        self.events()
            .rev()
            .find(|e| e.event_type() == kind)
            .cloned()
            .unwrap_or_else(|| panic!("no {kind:?}"))
    }

    /// The types of the events since the last call.
    pub(crate) fn types(&mut self) -> Vec<EventType> {
        let new: Vec<_> = self
            .events()
            .filter(|e| e.event_id > self.told)
            .map(|e| e.event_type())
            .collect();
        self.told = self.run.last_event_id();
        new
    }

    pub(crate) fn items(&self) -> Vec<OutboxItem> {
        self.outbox.iter().filter_map(|e| e.item.clone()).collect()
    }

    /// The history has no gaps and no overlaps, and the run knows where it ends.
    pub(crate) fn check_history(&self) {
        let ids: Vec<_> = self.events().map(|e| e.event_id).collect();
        let all: Vec<_> = (1..=self.run.last_event_id()).collect();
        assert_eq!(ids, all);
        for batch in &self.history {
            assert_eq!(batch.first_event_id, batch.events[0].event_id);
            assert_eq!(
                batch.last_event_id,
                batch.events[batch.events.len() - 1].event_id
            );
        }
    }
}

fn command(attributes: C) -> Command {
    let kind = match &attributes {
        C::StartTimerCommandAttributes(_) => CommandType::StartTimer,
        C::CancelTimerCommandAttributes(_) => CommandType::CancelTimer,
        C::ScheduleActivityTaskCommandAttributes(_) => CommandType::ScheduleActivityTask,
        C::StartChildWorkflowExecutionCommandAttributes(_) => {
            CommandType::StartChildWorkflowExecution
        }
        C::RequestCancelExternalWorkflowExecutionCommandAttributes(_) => {
            CommandType::RequestCancelExternalWorkflowExecution
        }
        C::ModifyWorkflowPropertiesCommandAttributes(_) => CommandType::ModifyWorkflowProperties,
        C::SignalExternalWorkflowExecutionCommandAttributes(_) => {
            CommandType::SignalExternalWorkflowExecution
        }
        C::CompleteWorkflowExecutionCommandAttributes(_) => CommandType::CompleteWorkflowExecution,
        C::FailWorkflowExecutionCommandAttributes(_) => CommandType::FailWorkflowExecution,
        C::ContinueAsNewWorkflowExecutionCommandAttributes(_) => {
            CommandType::ContinueAsNewWorkflowExecution
        }
        other => panic!("the bench does not know {other:?}"),
    };
    Command {
        command_type: kind as i32,
        attributes: Some(attributes),
        ..Default::default()
    }
}

pub(crate) fn seconds(s: i64) -> Option<wkt::Duration> {
    Some(wkt::Duration {
        seconds: s,
        nanos: 0,
    })
}

pub(crate) fn payloads(text: &str) -> Payloads {
    Payloads {
        payloads: vec![Payload {
            data: text.into(),
            ..Default::default()
        }],
    }
}

pub(crate) fn failure(kind: &str) -> Failure {
    Failure {
        message: "failed".into(),
        failure_info: Some(FailureInfo::ApplicationFailureInfo(
            ApplicationFailureInfo {
                r#type: kind.into(),
                ..Default::default()
            },
        )),
        ..Default::default()
    }
}
