//! A rig for tests of the engine: one run, what the store holds of it, and a worker.
//!
//! After every operation the rig checks what must hold of any run at any time ([`Rig::check`]),
//! most of all that the store's rows are enough to bring the run back.

mod check;
mod messages;
mod random;
mod sync_match;
mod traps;

pub(crate) use messages::*;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidemill_proto::api::command::v1::command::Attributes as C;
use tidemill_proto::api::command::v1::{
    CancelTimerCommandAttributes, Command, CompleteWorkflowExecutionCommandAttributes,
    ContinueAsNewWorkflowExecutionCommandAttributes, FailWorkflowExecutionCommandAttributes,
    ProtocolMessageCommandAttributes, RequestCancelActivityTaskCommandAttributes,
    ScheduleActivityTaskCommandAttributes, StartTimerCommandAttributes,
};
use tidemill_proto::api::common::v1::{ActivityType, Payload, RetryPolicy, WorkflowType};
use tidemill_proto::api::enums::v1::{
    CommandType, EventType, IndexedValueType, WorkflowExecutionStatus as Status,
    WorkflowTaskFailedCause,
};
use tidemill_proto::api::failure::v1::Failure;
use tidemill_proto::api::history::v1::history_event::Attributes;
use tidemill_proto::api::history::v1::{HistoryEvent, WorkflowExecutionStartedEventAttributes};
use tidemill_proto::api::protocol::v1::{Message, message::SequencingId};
use tidemill_proto::api::query::v1::{WorkflowQuery, WorkflowQueryResult};
use tidemill_proto::api::taskqueue::v1::TaskQueue;
use tidemill_proto::api::update::v1::{
    Acceptance, Input, Meta, Outcome as UpdateOutcome, Rejection, Request, Response, outcome,
};

use crate::activity::{self, ActivityRef, StartActivity, StartedActivity};
use crate::cancel::{self, CancelRequest};
use crate::close::{self, Termination};
use crate::complete::{self, Completed, Completion};
use crate::fixture::{BEGIN, Counter, failure, payloads, seconds};
use crate::model::Sticky;
use crate::run::UpdateStage;
use crate::search_attribute::{Attribute, Schema};
use crate::signal::{self, Signal};
use crate::start::{NewRun, create};
use crate::transition::{
    Effect, NewTask, OutboxEntry, OutboxItem, Outcome, TaskKind, Transition, UpdateEvent,
};
use crate::update::{self, Status as UpdateStatus};
use crate::workflow_task::{self, Start, Started, TaskFailure, TaskRef};
use crate::{
    Cx, DecodedBatch, Error, Limits, Run, RunId, StartFacts, Time, buffer, deadline, query,
};

/// The search attributes that the rig's namespace knows.
pub(crate) struct Words;

impl Schema for Words {
    fn attribute(&self, name: &str) -> Option<Attribute> {
        let (kind, settable) = match name {
            "Word" => (IndexedValueType::Keyword, true),
            "Number" => (IndexedValueType::Int, true),
            "WorkflowType" => (IndexedValueType::Keyword, false),
            _ => return None,
        };
        Some(Attribute { kind, settable })
    }
}

pub(crate) struct Rig {
    pub(crate) ids: Counter,
    pub(crate) limits: Limits,
    pub(crate) now: Time,
    pub(crate) run: Run,
    pub(crate) history: Vec<Arc<DecodedBatch>>,
    /// The state rows as the store holds them.
    rows: BTreeMap<(u8, i64), Vec<u8>>,
    /// The task rows as the store holds them.
    pub(crate) tasks: Vec<NewTask>,
    pub(crate) outbox: Vec<OutboxEntry>,
    pub(crate) due: Option<Time>,
    pub(crate) effects: Vec<Effect>,
    /// What was written of other runs.
    pub(crate) others: Vec<Transition>,
    /// Commits so far.
    pub(crate) writes: i64,
    /// How many of them change what lists show.
    pub(crate) shown: usize,
    /// Polls that wait: they take tasks in the transition that adds them.
    pub(crate) waiting: usize,
    told: i64,
}

// ---- making one ----

impl Rig {
    /// A run that was just started: its first workflow task is scheduled.
    pub(crate) fn new() -> Self {
        Self::with(WorkflowExecutionStartedEventAttributes::default())
    }

    /// A run that begins with `started`; what every run has is filled in.
    pub(crate) fn with(started: WorkflowExecutionStartedEventAttributes) -> Self {
        Self::begun(started, Limits::default())
    }

    pub(crate) fn begun(started: WorkflowExecutionStartedEventAttributes, limits: Limits) -> Self {
        let ids = Counter::default();
        let transitions =
            create(new_run(started), &context(BEGIN, &ids, &limits)).into_transitions();
        Self::over(ids, limits, BEGIN, transitions)
    }

    /// A rig for the run that `transitions` create.
    pub(crate) fn over(
        ids: Counter,
        limits: Limits,
        now: Time,
        transitions: Vec<Transition>,
    ) -> Self {
        Self::after_history(Vec::new(), ids, limits, now, transitions)
    }

    /// A rig for a run that a transition of this one creates, with the history that they share.
    pub(crate) fn of(&self, created: &Transition) -> Self {
        let mut shared = self.history.clone();
        match created.copy_history {
            Some((no, below)) => {
                assert_eq!(no, self.run.id.no);
                shared.retain(|batch| batch.first_event_id < below);
            }
            None => shared.clear(),
        }
        let (ids, limits) = (Counter::from(1_000_000), self.limits.clone());
        Self::after_history(shared, ids, limits, self.now, vec![created.clone()])
    }

    fn after_history(
        history: Vec<Arc<DecodedBatch>>,
        ids: Counter,
        limits: Limits,
        now: Time,
        transitions: Vec<Transition>,
    ) -> Self {
        let mut rig = Self {
            ids,
            limits,
            now,
            run: transitions[0].run.clone(),
            history,
            rows: BTreeMap::new(),
            tasks: Vec::new(),
            outbox: Vec::new(),
            due: None,
            effects: Vec::new(),
            others: Vec::new(),
            writes: 0,
            shown: 0,
            waiting: 0,
            told: 0,
        };
        rig.take(transitions);
        rig
    }

    /// A run whose first workflow task is done: nothing is pending.
    pub(crate) fn idle() -> Self {
        let mut rig = Self::new();
        rig.task(Vec::new());
        rig.types();
        rig
    }

    /// As [`Rig::idle`], with a worker that keeps the run in its cache.
    pub(crate) fn sticky() -> Self {
        let mut rig = Self::new();
        let started = rig.poll();
        rig.complete(
            &started.task,
            Completion {
                sticky: sticky(),
                ..Default::default()
            },
        )
        .unwrap();
        rig.types();
        rig
    }
}

pub(crate) fn new_run(started: WorkflowExecutionStartedEventAttributes) -> NewRun {
    let started = WorkflowExecutionStartedEventAttributes {
        workflow_type: Some(WorkflowType {
            name: "Type".into(),
        }),
        task_queue: Some(TaskQueue {
            name: "queue".into(),
            ..Default::default()
        }),
        workflow_task_timeout: started.workflow_task_timeout.or(seconds(10)),
        ..started
    };
    NewRun {
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
    }
}

pub(crate) fn context<'a>(now: Time, ids: &'a Counter, limits: &'a Limits) -> Cx<'a> {
    Cx {
        now,
        ids,
        limits,
        namespace: "ns",
        schema: &Words,
    }
}

// ---- operations ----

impl Rig {
    pub(crate) fn cx(&self) -> Cx<'_> {
        context(self.now, &self.ids, &self.limits)
    }

    /// Carries an operation out and checks what must hold afterwards.
    pub(crate) fn op<T>(
        &mut self,
        f: impl FnOnce(&Run, &Cx<'_>) -> Result<Outcome<T>, Error>,
    ) -> Result<T, Error> {
        let outcome = f(&self.run, &self.cx())?;
        self.apply(outcome)
    }

    /// As [`Rig::op`] for what was carried out already.
    pub(crate) fn apply<T>(&mut self, outcome: Outcome<T>) -> Result<T, Error> {
        self.take(outcome.transitions);
        outcome.reply
    }

    pub(crate) fn take(&mut self, transitions: Vec<Transition>) {
        for mut t in transitions {
            if t.run.id.no == self.run.id.no {
                self.start_for_polls(&mut t);
                self.store(t);
            } else {
                self.others.push(t);
            }
        }
        self.check();
    }

    /// What the store does with a transition.
    fn store(&mut self, t: Transition) {
        let rows_needed = t.created
            || !t.batches.is_empty()
            || t.due.is_some()
            || !t.tasks_added.is_empty()
            || !t.tasks_removed.is_empty()
            || !t.outbox_added.is_empty()
            || !t.outbox_removed.is_empty();
        assert!(
            !rows_needed || !t.rows.is_empty(),
            "whatever is written moves the counters"
        );
        self.writes += i64::from(t.is_durable());
        for row in t.rows {
            match row.value {
                Some(value) => self.rows.insert((row.kind, row.id), value.to_vec()),
                None => self.rows.remove(&(row.kind, row.id)),
            };
        }
        for (kind, place) in t.tasks_removed {
            let at = self
                .tasks
                .iter()
                .position(|task| task.kind == kind && task.place == place);
            self.tasks.remove(at.expect("what is removed was there"));
        }
        for task in t.tasks_added {
            assert!(self.tasks.iter().all(|other| other.place != task.place));
            self.tasks.push(task);
        }
        for id in t.outbox_removed {
            self.outbox.retain(|e| e.id != id);
        }
        self.outbox.extend(t.outbox_added);
        if let Some(due) = t.due {
            self.due = due;
        }
        self.shown += usize::from(t.visible_changed);
        self.history
            .extend(t.batches.iter().map(|b| Arc::new(b.decode().unwrap())));
        self.effects.extend(t.effects);
        self.run = t.run;
    }

    pub(crate) fn wait(&mut self, seconds: f64) {
        self.now = self.now.plus(Duration::from_secs_f64(seconds));
    }

    /// Waits and acts on what is due then.
    pub(crate) fn after(&mut self, seconds: f64) {
        self.wait(seconds);
        self.fire();
    }

    pub(crate) fn fire(&mut self) {
        self.op(|run, cx| Ok(deadline::fire(run, cx))).unwrap();
    }

    pub(crate) fn signal(&mut self, request_id: &str) -> Result<(), Error> {
        let signal = Signal {
            name: "S".into(),
            request_id: request_id.into(),
            ..Default::default()
        };
        self.op(|run, cx| signal::signal(run, signal, cx))
    }

    pub(crate) fn cancel(&mut self) {
        self.op(|run, cx| Ok(cancel::request(run, CancelRequest::default(), cx)))
            .unwrap();
    }

    pub(crate) fn terminate(&mut self) -> Result<(), Error> {
        let termination = Termination {
            reason: "because".into(),
            ..Default::default()
        };
        self.op(|run, cx| close::terminate_run(run, termination, cx))
    }

    pub(crate) fn update(&mut self, id: &str) -> Result<UpdateStatus, Error> {
        self.op(|run, cx| update::admit(run, request(id), cx))
    }

    pub(crate) fn query(&mut self, id: &str) -> Result<(), Error> {
        self.op(|run, cx| query::buffer(run, id, WorkflowQuery::default(), cx))
    }

    /// A worker takes the pending workflow task from the queue that it is on.
    pub(crate) fn poll(&mut self) -> Started {
        let task = self
            .run
            .core
            .workflow_task
            .as_ref()
            .expect("a workflow task is pending");
        let from_sticky = task.sticky && self.run.core.sticky.is_some();
        self.poll_from(from_sticky).unwrap()
    }

    pub(crate) fn poll_from(&mut self, from_sticky: bool) -> Result<Started, Error> {
        let (scheduled_id, stamp) = self
            .run
            .core
            .workflow_task
            .as_ref()
            .map_or((0, 0), |t| (t.scheduled_id, t.stamp));
        self.start(Start {
            scheduled_id,
            stamp,
            identity: "worker".into(),
            request_id: "poll".into(),
            from_sticky,
            worker_version: None,
        })
    }

    pub(crate) fn start(&mut self, start: Start) -> Result<Started, Error> {
        self.op(|run, cx| workflow_task::start(run, &start, cx))
    }

    pub(crate) fn complete(
        &mut self,
        task: &TaskRef,
        completion: Completion,
    ) -> Result<Completed, Error> {
        let completion = Completion {
            identity: "worker".into(),
            ..completion
        };
        self.op(|run, cx| complete::complete(run, task, completion, cx))
    }

    pub(crate) fn commands(
        &mut self,
        task: &TaskRef,
        commands: Vec<Command>,
    ) -> Result<Completed, Error> {
        self.complete(
            task,
            Completion {
                commands,
                ..Default::default()
            },
        )
    }

    /// A whole workflow task on the normal queue.
    pub(crate) fn task(&mut self, commands: Vec<Command>) -> Completed {
        let started = self.poll();
        self.commands(&started.task, commands).unwrap()
    }

    /// A worker takes the pending workflow task, of which only the token matters.
    pub(crate) fn begin(&mut self) -> TaskRef {
        self.poll().task
    }

    /// The worker completes it; the transitions of other runs come back.
    pub(crate) fn end(
        &mut self,
        task: &TaskRef,
        commands: Vec<C>,
    ) -> Result<Vec<Transition>, Error> {
        let before = self.others.len();
        self.commands(task, commands.into_iter().map(command).collect())?;
        Ok(self.others.split_off(before))
    }

    /// A whole workflow task, which may be refused; the transitions of other runs come back.
    pub(crate) fn decide(&mut self, commands: Vec<C>) -> Result<Vec<Transition>, Error> {
        let task = self.begin();
        self.end(&task, commands)
    }

    pub(crate) fn fail(&mut self, task: &TaskRef) -> Result<(), Error> {
        let failure = TaskFailure {
            cause: WorkflowTaskFailedCause::WorkflowWorkerUnhandledFailure,
            failure: Some(failure("Panic")),
            identity: "worker".into(),
            binary_checksum: String::new(),
            worker_version: None,
        };
        self.op(|run, cx| workflow_task::fail(run, task, failure, cx))
    }

    /// A worker takes an activity.
    pub(crate) fn start_activity(&mut self, activity_id: &str) -> StartedActivity {
        let a = self.run.activities[&self.run.activity_ids[activity_id]].clone();
        let start = StartActivity {
            scheduled_id: a.scheduled_id,
            stamp: a.stamp,
            identity: "worker".into(),
            request_id: "poll".into(),
            worker_version: None,
        };
        self.op(|run, cx| activity::start(run, &start, cx)).unwrap()
    }

    pub(crate) fn complete_activity(&mut self, activity_id: &str) -> Result<(), Error> {
        let complete = activity::Complete {
            activity: ActivityRef::ById {
                activity_id: activity_id.into(),
            },
            result: Some(payloads("result")),
            identity: "worker".into(),
            worker_version: None,
        };
        self.op(|run, cx| activity::complete(run, complete, cx))
    }

    pub(crate) fn fail_activity(
        &mut self,
        activity_id: &str,
        failure: Failure,
    ) -> Result<(), Error> {
        let fail = activity::Fail {
            activity: ActivityRef::ById {
                activity_id: activity_id.into(),
            },
            failure: Some(failure),
            last_heartbeat_details: None,
            identity: "worker".into(),
            worker_version: None,
            cause: 0,
        };
        self.op(|run, cx| activity::fail(run, fail, cx)).map(|_| ())
    }

    /// The process dies and another one loads the run from the store.
    pub(crate) fn reload(&mut self) {
        self.run = self.loaded();
        self.effects.clear();
        self.check();
    }

    fn loaded(&self) -> Run {
        let first = StartFacts::read(&self.history[0].bytes).unwrap().unwrap();
        let rows = self
            .rows
            .iter()
            .map(|((kind, id), value)| (*kind, *id, value.as_slice()));
        Run::load(self.run.id.clone(), Arc::new(first), rows).unwrap()
    }
}

// ---- looking at it ----

impl Rig {
    pub(crate) fn events(&self) -> impl DoubleEndedIterator<Item = &HistoryEvent> {
        self.history.iter().flat_map(|b| &b.events)
    }

    /// The events since the last call.
    pub(crate) fn new_events(&mut self) -> Vec<HistoryEvent> {
        let new = self
            .events()
            .filter(|e| e.event_id > self.told)
            .cloned()
            .collect();
        self.told = self.run.last_event_id();
        new
    }

    /// The types of the events since the last call.
    pub(crate) fn types(&mut self) -> Vec<EventType> {
        self.new_events()
            .iter()
            .map(HistoryEvent::event_type)
            .collect()
    }

    /// The attributes of the last event of a type.
    pub(crate) fn last(&self, kind: EventType) -> HistoryEvent {
        self.events()
            .rev()
            .find(|e| e.event_type() == kind)
            .cloned()
            .unwrap_or_else(|| panic!("no {kind:?}"))
    }

    pub(crate) fn count(&self, kind: EventType) -> usize {
        self.events().filter(|e| e.event_type() == kind).count()
    }

    /// The effects on other runs that wait to be carried out.
    pub(crate) fn items(&self) -> Vec<OutboxItem> {
        self.outbox.iter().filter_map(|e| e.item.clone()).collect()
    }

    /// What callers of updates were told since the last call.
    pub(crate) fn update_events(&mut self) -> Vec<(String, UpdateEvent)> {
        let (updates, rest) = std::mem::take(&mut self.effects)
            .into_iter()
            .partition(|e| matches!(e, Effect::Update { .. }));
        self.effects = rest;
        let told = |effect| match effect {
            Effect::Update { update_id, event } => Some((update_id, event)),
            _ => None,
        };
        Vec::into_iter(updates).filter_map(told).collect()
    }

    /// The pending workflow task in words.
    pub(crate) fn state(&self) -> String {
        if !self.run.is_open() {
            return format!("{:?}", self.run.status()).to_lowercase();
        }
        let mut words = match &self.run.core.workflow_task {
            None => "none".to_owned(),
            Some(t) => {
                let mut words = Vec::new();
                words.push(if t.started_id == 0 {
                    "scheduled".to_owned()
                } else {
                    "started".to_owned()
                });
                if t.sticky {
                    words.push("sticky".into());
                }
                if t.speculative {
                    words.push("speculative".into());
                }
                if t.attempt > 1 {
                    words.push(format!("attempt {}", t.attempt));
                }
                words.join(" ")
            }
        };
        if !self.run.buffered.is_empty() {
            words.push_str(&format!(" +{}", self.run.buffered.len()));
        }
        words
    }
}
