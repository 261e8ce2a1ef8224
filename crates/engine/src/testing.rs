//! A rig for tests of the engine: one run, what the store holds of it, and a worker.
//!
//! After every operation the rig checks what must hold of any run at any time ([`Rig::check`]),
//! most of all that the store's rows are enough to bring the run back.

mod random;
mod traps;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
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
use tidemill_proto::api::history::v1::{
    History, HistoryEvent, WorkflowExecutionStartedEventAttributes,
};
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
    Batch, Effect, NewTask, OutboxEntry, Outcome, TaskKind, Transition, UpdateEvent,
};
use crate::update::{self, Status as UpdateStatus};
use crate::workflow_task::{self, Start, Started, TaskFailure, TaskRef};
use crate::{Cx, Error, Limits, Run, RunId, Time, buffer, deadline, query};

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
    pub(crate) history: Vec<Arc<Batch>>,
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
        let mut rig = Self {
            ids,
            limits,
            now,
            run: transitions[0].run.clone(),
            history: Vec::new(),
            rows: BTreeMap::new(),
            tasks: Vec::new(),
            outbox: Vec::new(),
            due: None,
            effects: Vec::new(),
            others: Vec::new(),
            writes: 0,
            shown: 0,
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
        self.take(outcome.transitions);
        outcome.reply
    }

    fn take(&mut self, transitions: Vec<Transition>) {
        for t in transitions {
            if t.run.id.no == self.run.id.no {
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
        for batch in &t.batches {
            assert_eq!(History::decode(&*batch.bytes).unwrap().events, batch.events);
        }
        self.shown += usize::from(t.visible_changed);
        self.history.extend(t.batches);
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
        let first = Arc::new(self.history[0].events[0].clone());
        let rows = self
            .rows
            .iter()
            .map(|((kind, id), value)| (*kind, *id, value.as_slice()));
        Run::load(self.run.id.clone(), first, rows).unwrap()
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

// ---- what must hold at any time ----

impl Rig {
    pub(crate) fn check(&self) {
        self.check_history();
        self.check_order();
        self.check_store();
        self.check_tasks();
        self.check_volatile();
        if self.run.is_open() {
            self.check_open();
        } else {
            self.check_closed();
        }
    }

    /// Event ids have no gaps, batches are what they say, and the run knows where they end.
    fn check_history(&self) {
        let core = &self.run.core;
        let ids: Vec<_> = self.events().map(|e| e.event_id).collect();
        let all: Vec<_> = (1..core.next_event_id).collect();
        assert_eq!(ids, all);
        for batch in &self.history {
            assert_eq!(batch.first_event_id, batch.events[0].event_id);
            assert_eq!(
                batch.last_event_id,
                batch.events[batch.events.len() - 1].event_id
            );
            for (i, event) in batch.events.iter().enumerate() {
                let kind = event.attributes.as_ref().map(Attributes::event_type);
                assert_eq!(Some(event.event_type()), kind);
                assert!(event.event_time.is_some() && event.version == 0);
                let ends = event.event_type() == EventType::WorkflowTaskStarted;
                assert!(
                    !ends || i + 1 == batch.events.len(),
                    "a started event ends its batch"
                );
            }
        }
        let task_ids: Vec<_> = self.events().map(|e| e.task_id).collect();
        assert!(task_ids.is_sorted_by(|a, b| a < b));
        assert_eq!(
            core.history_size,
            self.history
                .iter()
                .map(|b| b.bytes.len() as i64)
                .sum::<i64>()
        );
        assert_eq!(
            core.last_first_event_id,
            self.history.last().unwrap().first_event_id
        );
    }

    /// Nothing stands between a workflow task's start and its end.
    fn check_order(&self) {
        use EventType as E;
        let kinds: Vec<_> = self.events().map(HistoryEvent::event_type).collect();
        for (i, pair) in kinds.windows(2).enumerate() {
            let ends = matches!(
                pair[1],
                E::WorkflowTaskCompleted | E::WorkflowTaskFailed | E::WorkflowTaskTimedOut
            );
            assert!(
                pair[0] != E::WorkflowTaskStarted || ends,
                "{:?} after event {}",
                pair[1],
                i + 1
            );
        }
        for event in self.events() {
            match event.attributes.as_ref().unwrap() {
                Attributes::WorkflowTaskStartedEventAttributes(a) => {
                    assert_eq!(
                        kinds[a.scheduled_event_id as usize - 1],
                        E::WorkflowTaskScheduled
                    );
                }
                Attributes::WorkflowTaskCompletedEventAttributes(a) => {
                    assert_eq!(
                        kinds[a.scheduled_event_id as usize - 1],
                        E::WorkflowTaskScheduled
                    );
                    assert_eq!(a.started_event_id, event.event_id - 1);
                }
                Attributes::WorkflowTaskFailedEventAttributes(a) => {
                    assert_eq!(a.started_event_id, event.event_id - 1);
                }
                _ => {}
            }
        }
    }

    /// What the store holds brings the run back, but for what lives in memory only.
    fn check_store(&self) {
        let (run, loaded) = (&self.run, self.loaded());
        let mut core = run.core.clone();
        core.workflow_task = core.workflow_task.filter(|t| !t.speculative);
        // The stamps of speculative tasks die with them.
        assert!(core.next_stamp >= loaded.core.next_stamp);
        core.next_stamp = loaded.core.next_stamp;
        assert_eq!(core, loaded.core);
        assert_eq!(run.started.attributes, loaded.started.attributes);
        assert_eq!(run.visible, loaded.visible);
        assert_eq!(run.activities, loaded.activities);
        assert_eq!(run.activity_ids, loaded.activity_ids);
        assert_eq!(run.timers, loaded.timers);
        assert_eq!(run.timer_ids, loaded.timer_ids);
        assert_eq!(run.children, loaded.children);
        assert_eq!(run.external_cancels, loaded.external_cancels);
        assert_eq!(run.external_signals, loaded.external_signals);
        assert_eq!(run.updates, loaded.updates);
        assert_eq!(run.signal_ids, loaded.signal_ids);
        assert_eq!(run.attached, loaded.attached);
        assert_eq!(run.buffered, loaded.buffered);
        assert_eq!(run.deadlines, loaded.deadlines);
        // A write that only moves the wake-up time is no transition of the run.
        assert!(run.core.transitions <= self.writes);
        assert_eq!(Time(run.core.stored_due).get(), self.due);
        if let Some(next) = run.next_deadline() {
            assert!(
                self.due.is_some_and(|due| due <= next),
                "due {:?} after {next:?}",
                self.due
            );
        }
        let records = [
            run.activities.len(),
            run.timers.len(),
            run.children.len(),
            run.external_cancels.len(),
            run.external_signals.len(),
            run.updates.len(),
            run.signal_ids.len(),
            run.attached.len(),
            run.buffered.len(),
        ];
        assert_eq!(
            self.rows.len(),
            2 + records.iter().sum::<usize>(),
            "no row outlives its record"
        );
    }

    /// Every offered task has its record, every record that is offered its task.
    fn check_tasks(&self) {
        let workflow = self
            .run
            .core
            .workflow_task
            .iter()
            .filter(|t| t.started_id == 0 && !t.speculative);
        let mut offered: Vec<_> = workflow
            .map(|t| {
                (
                    TaskKind::Workflow,
                    t.task.clone().expect("it waits"),
                    t.scheduled_id,
                    t.stamp,
                )
            })
            .collect();
        for a in self.run.activities.values() {
            let place = a.task.clone();
            offered.extend(place.map(|p| (TaskKind::Activity, p, a.scheduled_id, a.stamp)));
        }
        offered.sort_by_key(|(_, place, ..)| place.seq);
        let mut tasks: Vec<_> = self
            .tasks
            .iter()
            .map(|t| (t.kind, t.place.clone(), t.scheduled_id, t.stamp))
            .collect();
        tasks.sort_by_key(|(_, place, ..)| place.seq);
        assert_eq!(offered, tasks);
        if let Some(t) = self
            .run
            .core
            .workflow_task
            .as_ref()
            .filter(|t| t.started_id != 0 || t.speculative)
        {
            assert_eq!(t.task, None);
        }
    }

    /// Updates in memory and on record agree.
    fn check_volatile(&self) {
        let live = &self.run.volatile.updates;
        for record in self
            .run
            .updates
            .values()
            .filter(|r| r.completed_id == 0 && self.run.is_open())
        {
            let stage = live.get(&record.update_id).expect("it is not over").stage;
            assert_eq!(stage == UpdateStage::Accepted, record.accepted_id != 0);
        }
        for update in live.values().filter(|u| u.stage == UpdateStage::Accepted) {
            assert!(self.run.updates[&update.update_id].accepted_id != 0);
        }
    }

    fn check_open(&self) {
        let (run, core) = (&self.run, &self.run.core);
        assert!(run.buffered.is_empty() || run.workflow_task_started());
        let kind = |id: i64| {
            self.events()
                .nth(id as usize - 1)
                .map(HistoryEvent::event_type)
        };
        match &core.workflow_task {
            Some(t) if t.speculative => {
                assert_eq!((t.scheduled_id, t.attempt), (core.next_event_id, 1));
                assert!(t.started_id == 0 || t.started_id == t.scheduled_id + 1);
            }
            Some(t) if t.attempt > 1 => {
                assert!(t.scheduled_id <= core.next_event_id);
                let begun = t.started_id != 0;
                assert!(
                    !begun
                        || (t.scheduled_id, t.started_id)
                            == (core.next_event_id, core.next_event_id + 1)
                );
                assert!(!t.sticky && core.sticky.is_none());
            }
            Some(t) => {
                assert_eq!(kind(t.scheduled_id), Some(EventType::WorkflowTaskScheduled));
                assert!(t.started_id == 0 || t.started_id == run.last_event_id());
                assert!(
                    t.started_id == 0 || kind(t.started_id) == Some(EventType::WorkflowTaskStarted)
                );
            }
            None => {}
        }
        if let Some(t) = &core.workflow_task {
            assert!(
                t.original_scheduled_time != 0 && t.original_scheduled_time <= t.scheduled_time
            );
        }
        if workflow_task::may_schedule(run) {
            // Nothing waits for a workflow task that will not come.
            assert!(!update::has_admitted(run), "an update waits");
            assert!(run.volatile.queries.is_empty(), "a query waits");
            let unseen = self
                .events()
                .filter(|e| e.event_id > core.last_completed_id);
            for event in
                unseen.filter(|e| e.event_type() != EventType::WorkflowExecutionOptionsUpdated)
            {
                let from_outside = buffer::is_bufferable(event.event_type());
                assert!(
                    !from_outside,
                    "the workflow has not seen event {}",
                    event.event_id
                );
            }
        }
    }

    fn check_closed(&self) {
        let (run, core) = (&self.run, &self.run.core);
        assert!(!matches!(
            run.status(),
            Status::Running | Status::Paused | Status::Unspecified
        ));
        assert!(core.workflow_task.is_none() && core.sticky.is_none());
        assert_eq!(core.close_event_id, run.last_event_id());
        assert!(core.close_time != 0);
        assert_eq!(
            (run.activities.len(), run.timers.len(), run.children.len()),
            (0, 0, 0)
        );
        assert_eq!((run.buffered.len(), run.signal_ids.len()), (0, 0));
        assert_eq!(
            (run.external_cancels.len(), run.external_signals.len()),
            (0, 0)
        );
        assert_eq!(
            (run.volatile.updates.len(), run.volatile.queries.len()),
            (0, 0)
        );
        assert_eq!((run.next_deadline(), self.due), (None, None));
        let open = [
            EventType::WorkflowTaskFailed,
            EventType::WorkflowTaskCompleted,
        ];
        let last = self.events().next_back().unwrap().event_type();
        assert!(
            !buffer::is_bufferable(last) && !open.contains(&last),
            "{last:?} closes no run"
        );
    }
}

// ---- commands and messages ----

pub(crate) fn command(attributes: C) -> Command {
    use CommandType as T;
    let kind = match &attributes {
        C::ScheduleActivityTaskCommandAttributes(_) => T::ScheduleActivityTask,
        C::RequestCancelActivityTaskCommandAttributes(_) => T::RequestCancelActivityTask,
        C::StartTimerCommandAttributes(_) => T::StartTimer,
        C::CancelTimerCommandAttributes(_) => T::CancelTimer,
        C::RecordMarkerCommandAttributes(_) => T::RecordMarker,
        C::UpsertWorkflowSearchAttributesCommandAttributes(_) => T::UpsertWorkflowSearchAttributes,
        C::ModifyWorkflowPropertiesCommandAttributes(_) => T::ModifyWorkflowProperties,
        C::CompleteWorkflowExecutionCommandAttributes(_) => T::CompleteWorkflowExecution,
        C::FailWorkflowExecutionCommandAttributes(_) => T::FailWorkflowExecution,
        C::CancelWorkflowExecutionCommandAttributes(_) => T::CancelWorkflowExecution,
        C::ContinueAsNewWorkflowExecutionCommandAttributes(_) => T::ContinueAsNewWorkflowExecution,
        C::StartChildWorkflowExecutionCommandAttributes(_) => T::StartChildWorkflowExecution,
        C::ProtocolMessageCommandAttributes(_) => T::ProtocolMessage,
        other => panic!("the rig does not know {other:?}"),
    };
    Command {
        command_type: kind as i32,
        attributes: Some(attributes),
        ..Default::default()
    }
}

pub(crate) fn start_timer(id: &str, s: i64) -> Command {
    let timer = StartTimerCommandAttributes {
        timer_id: id.into(),
        start_to_fire_timeout: seconds(s),
    };
    command(timer.into())
}

pub(crate) fn cancel_timer(id: &str) -> Command {
    command(
        CancelTimerCommandAttributes {
            timer_id: id.into(),
        }
        .into(),
    )
}

/// An activity with a start-to-close timeout of half an hour.
pub(crate) fn schedule_activity(id: &str, attempts: i32) -> Command {
    command(
        ScheduleActivityTaskCommandAttributes {
            activity_id: id.into(),
            activity_type: Some(ActivityType { name: "A".into() }),
            task_queue: Some(TaskQueue {
                name: "activities".into(),
                ..Default::default()
            }),
            start_to_close_timeout: seconds(1800),
            retry_policy: Some(RetryPolicy {
                maximum_attempts: attempts,
                ..Default::default()
            }),
            ..Default::default()
        }
        .into(),
    )
}

pub(crate) fn cancel_activity(scheduled_event_id: i64) -> Command {
    command(RequestCancelActivityTaskCommandAttributes { scheduled_event_id }.into())
}

pub(crate) fn complete_workflow() -> Command {
    command(
        CompleteWorkflowExecutionCommandAttributes {
            result: Some(payloads("done")),
        }
        .into(),
    )
}

pub(crate) fn fail_workflow() -> Command {
    command(
        FailWorkflowExecutionCommandAttributes {
            failure: Some(failure("Bug")),
        }
        .into(),
    )
}

pub(crate) fn continue_again() -> Command {
    command(ContinueAsNewWorkflowExecutionCommandAttributes::default().into())
}

pub(crate) fn sticky() -> Option<Sticky> {
    Some(Sticky {
        queue: "sticky".into(),
        timeout: 5_000_000_000,
    })
}

pub(crate) fn request(update_id: &str) -> Request {
    Request {
        meta: Some(Meta {
            update_id: update_id.into(),
            identity: "caller".into(),
        }),
        input: Some(Input {
            name: "U".into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn message(id: &str, update_id: &str, name: &str, body: &impl prost::Message) -> Message {
    Message {
        id: id.into(),
        protocol_instance_id: update_id.into(),
        body: Some(tidemill_proto::wkt::Any {
            type_url: format!("type.googleapis.com/temporal.api.update.v1.{name}"),
            value: body.encode_to_vec(),
        }),
        sequencing_id: Some(SequencingId::EventId(0)),
    }
}

pub(crate) fn acceptance(update_id: &str) -> Message {
    let body = Acceptance {
        accepted_request_message_id: format!("{update_id}/request"),
        accepted_request: Some(request(update_id)),
        ..Default::default()
    };
    message(
        &format!("{update_id}/accept"),
        update_id,
        "Acceptance",
        &body,
    )
}

pub(crate) fn update_result() -> UpdateOutcome {
    UpdateOutcome {
        value: Some(outcome::Value::Success(payloads("updated"))),
    }
}

pub(crate) fn response(update_id: &str) -> Message {
    let body = Response {
        meta: request(update_id).meta,
        outcome: Some(update_result()),
    };
    message(
        &format!("{update_id}/complete"),
        update_id,
        "Response",
        &body,
    )
}

pub(crate) fn rejection(update_id: &str) -> Message {
    let body = Rejection {
        failure: Some(failure("No")),
        ..Default::default()
    };
    message(
        &format!("{update_id}/reject"),
        update_id,
        "Rejection",
        &body,
    )
}

/// The commands that go with messages, as SDKs send them.
pub(crate) fn for_messages(messages: &[Message]) -> Vec<Command> {
    let rejects = |m: &Message| m.id.ends_with("/reject");
    let command = |m: &Message| {
        command(
            ProtocolMessageCommandAttributes {
                message_id: m.id.clone(),
            }
            .into(),
        )
    };
    messages
        .iter()
        .filter(|m| !rejects(m))
        .map(command)
        .collect()
}

/// A completion with messages and their commands, then `more` commands.
pub(crate) fn with_messages(messages: Vec<Message>, more: Vec<Command>) -> Completion {
    let commands = for_messages(&messages).into_iter().chain(more).collect();
    Completion {
        commands,
        messages,
        ..Default::default()
    }
}

/// A completion that answers queries.
pub(crate) fn answers(ids: &[&str]) -> Completion {
    let query_results = ids
        .iter()
        .map(|id| ((*id).to_owned(), WorkflowQueryResult::default()))
        .collect();
    Completion {
        query_results,
        ..Default::default()
    }
}

/// A payload of JSON.
pub(crate) fn json(text: &str) -> Payload {
    Payload {
        metadata: [("encoding".to_owned(), b"json/plain".to_vec())].into(),
        data: text.into(),
        ..Default::default()
    }
}
