//! A transition in the making: a clone of the run, the events added so far, the rows touched.
//!
//! Every engine operation opens a [`Tx`], changes the run through it, and closes it with
//! [`Tx::finish`]. Nothing is visible outside before that, so an error simply drops the `Tx`.

mod records;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tidemill_proto::api::enums::v1::{EventType, WorkflowExecutionStatus};
use tidemill_proto::api::history::v1::HistoryEvent;
use tidemill_proto::api::history::v1::history_event::Attributes;

use crate::Error;
use crate::encoded::{Batch, OpenBatch};
use crate::ids::Ids;
use crate::limits::Limits;
use crate::model::{Kind, TaskPlace};
use crate::run::{BUFFERED_ID, Run};
use crate::time::Time;
use crate::transition::{
    Effect, NewTask, OutboxEntry, OutboxItem, Outcome, Row, TaskKind, Transition, UpdateEvent,
};
use crate::{buffer, workflow_task};

/// The inputs that every operation gets: time, identifiers, bounds.
pub struct Cx<'a> {
    pub now: Time,
    pub ids: &'a dyn Ids,
    pub limits: &'a Limits,
    /// Name of the run's namespace, for events that carry it.
    pub namespace: &'a str,
    /// The namespace's search attributes.
    pub schema: &'a dyn crate::search_attribute::Schema,
}

impl Cx<'_> {
    pub fn uuid(&self) -> String {
        crate::ids::uuid(self.ids)
    }

    /// The id of a new run.
    pub fn run_id(&self) -> String {
        crate::ids::uuid_at(self.ids, self.now)
    }
}

enum RowChange {
    /// Encode the record as it is at the end of the transition.
    Derive,
    Value(Bytes),
    Delete,
}

pub struct Tx<'a> {
    pub run: Run,
    pub cx: &'a Cx<'a>,
    open_batch: OpenBatch,
    closed_batches: Vec<Batch>,
    rows: BTreeMap<(Kind, i64), RowChange>,
    created: bool,
    copy_history: Option<(i64, i64)>,
    visible_changed: bool,
    tasks_added: Vec<NewTask>,
    tasks_removed: Vec<(TaskKind, TaskPlace)>,
    outbox_added: Vec<OutboxEntry>,
    outbox_removed: Vec<i64>,
    effects: Vec<Effect>,
    /// Something happened that the workflow must see.
    wants_workflow_task: bool,
    /// Buffered events that the commands being applied have produced themselves.
    own_buffered: usize,
    /// Other runs written in the same commit (the run that follows, one that was replaced).
    others: Vec<Transition>,
}

impl<'a> Tx<'a> {
    pub fn new(run: &Run, cx: &'a Cx<'a>) -> Self {
        Self::over(run.clone(), cx)
    }

    /// A transition that creates its run.
    pub fn creating(run: Run, cx: &'a Cx<'a>) -> Self {
        let mut tx = Self::over(run, cx);
        tx.created = true;
        tx.visible_changed = true;
        tx.touch(Kind::Visible, 0);
        tx
    }

    fn over(run: Run, cx: &'a Cx<'a>) -> Self {
        Self {
            run,
            cx,
            open_batch: OpenBatch::default(),
            closed_batches: Vec::new(),
            rows: BTreeMap::new(),
            created: false,
            copy_history: None,
            visible_changed: false,
            tasks_added: Vec::new(),
            tasks_removed: Vec::new(),
            outbox_added: Vec::new(),
            outbox_removed: Vec::new(),
            effects: Vec::new(),
            wants_workflow_task: false,
            own_buffered: 0,
            others: Vec::new(),
        }
    }

    pub fn now(&self) -> Time {
        self.cx.now
    }

    pub fn limits(&self) -> &'a Limits {
        self.cx.limits
    }

    // ---- events ----

    /// Adds an event: its id, or [`BUFFERED_ID`] when it waits for the started workflow task.
    pub fn push(&mut self, attributes: impl Into<Attributes>) -> i64 {
        self.push_event(HistoryEvent {
            attributes: Some(attributes.into()),
            ..Default::default()
        })
    }

    /// As [`Tx::push`], for an event with metadata, links or a time of its own.
    pub fn push_event(&mut self, mut event: HistoryEvent) -> i64 {
        let kind = event
            .attributes
            .as_ref()
            .map_or(EventType::Unspecified, Attributes::event_type);
        event.event_type = kind as i32;
        event.worker_may_ignore = buffer::worker_may_ignore(kind);
        if event.event_time.is_none() {
            event.event_time = Some(self.now().proto());
        }
        if self.run.workflow_task_started() && buffer::is_bufferable(kind) {
            // A speculative task must be in history before what it will be followed by.
            workflow_task::make_durable(self);
            let row = self.next_row_id();
            self.put_row(Kind::Buffered, row, Bytes::from(event.encode_to_vec()));
            self.run.buffered.push_back((row, Arc::new(event)));
            self.own_buffered += 1;
            return BUFFERED_ID;
        }
        workflow_task::make_durable(self);
        self.append(event)
    }

    /// Writes an event to history now.
    pub(crate) fn append(&mut self, mut event: HistoryEvent) -> i64 {
        // Workflow task started events end their batch: resets and branches cut there.
        if self.batch_has_ended() {
            self.close_batch();
        }
        let id = self.run.core.next_event_id;
        self.run.core.next_event_id += 1;
        event.event_id = id;
        event.task_id = (self.run.id.no << 20) + id;
        self.open_batch.append(&event);
        id
    }

    /// First event id of the batch that the next event goes to.
    pub fn batch_id(&self) -> i64 {
        if self.open_batch.is_empty() || self.batch_has_ended() {
            self.run.core.next_event_id
        } else {
            self.open_batch.first_event_id()
        }
    }

    fn batch_has_ended(&self) -> bool {
        self.open_batch.last_type() == EventType::WorkflowTaskStarted as i32
    }

    fn close_batch(&mut self) {
        if !self.open_batch.is_empty() {
            let batch = std::mem::take(&mut self.open_batch).close();
            self.closed_batches.push(batch);
        }
    }

    pub fn has_events(&self) -> bool {
        !self.open_batch.is_empty() || !self.closed_batches.is_empty()
    }

    /// Writes all buffered events to history. Only legal while no workflow task is started.
    pub(crate) fn flush_buffered(&mut self) -> bool {
        if self.run.buffered.is_empty() {
            return false;
        }
        debug_assert!(!self.run.workflow_task_started());
        // What the next task will see is new: it is not the same attempt over again.
        self.run.core.workflow_task_attempt = 1;
        let waiting = std::mem::take(&mut self.run.buffered);
        let mut ordered = Vec::with_capacity(waiting.len());
        for (row, event) in waiting {
            self.delete_row(Kind::Buffered, row);
            ordered.push(Arc::unwrap_or_clone(event));
        }
        buffer::flush(self, ordered);
        true
    }

    /// Whether events wait that came before this transition: the workflow has not seen them.
    pub(crate) fn has_unseen(&self) -> bool {
        self.run.buffered.len() > self.own_buffered
    }

    /// Drops a buffered event; whether there was one.
    pub(crate) fn remove_buffered(&mut self, matches: impl Fn(&HistoryEvent) -> bool) -> bool {
        let Some(at) = self.run.buffered.iter().position(|(_, e)| matches(e)) else {
            return false;
        };
        let (row, _) = self.run.buffered.remove(at);
        self.delete_row(Kind::Buffered, row);
        true
    }

    // ---- tasks, outbox, effects ----

    /// Adds a task row; its place is remembered in the record that it belongs to.
    pub(crate) fn add_task(
        &mut self,
        kind: TaskKind,
        queue: &str,
        priority: u8,
        scheduled_id: i64,
        stamp: i64,
        normal_queue: Option<&str>,
    ) -> TaskPlace {
        let place = TaskPlace {
            queue: queue.to_owned(),
            priority: u32::from(priority),
            seq: self.cx.ids.task_seq(),
        };
        self.tasks_added.push(NewTask {
            kind,
            place: place.clone(),
            scheduled_id,
            stamp,
            sticky: normal_queue.is_some(),
            normal_queue: normal_queue.unwrap_or(queue).to_owned(),
            created: self.now(),
        });
        place
    }

    /// Removes a task row (the task was started, or is void).
    pub(crate) fn remove_task(&mut self, kind: TaskKind, place: TaskPlace) {
        if let Some(at) = self.tasks_added.iter().position(|t| t.place == place) {
            // Added by this very transition: it never reaches the store.
            self.tasks_added.remove(at);
        } else {
            self.tasks_removed.push((kind, place));
        }
    }

    pub fn add_outbox(&mut self, item: OutboxItem) {
        self.run.core.next_outbox_id += 1;
        self.outbox_added.push(OutboxEntry {
            id: self.run.core.next_outbox_id,
            item: Some(item),
        });
    }

    /// Marks an outbox entry as carried out.
    pub fn remove_outbox(&mut self, id: i64) {
        self.outbox_removed.push(id);
    }

    /// Drops entries that this transition added.
    pub(crate) fn retain_outbox(&mut self, keep: impl Fn(&OutboxItem) -> bool) {
        self.outbox_added
            .retain(|e| e.item.as_ref().is_some_and(&keep));
    }

    /// Takes back the offer of a speculative task that is started in the same breath.
    pub(crate) fn withdraw_speculative(&mut self) {
        self.effects
            .retain(|e| !matches!(e, Effect::Speculative { .. }));
    }

    pub fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub fn update_event(&mut self, update_id: impl Into<String>, event: UpdateEvent) {
        self.effects.push(Effect::Update {
            update_id: update_id.into(),
            event,
        });
    }

    /// Asks for a workflow task once the transition closes, unless one is pending.
    pub fn want_workflow_task(&mut self) {
        self.wants_workflow_task = true;
    }

    /// The run's row of the executions table is to be written.
    pub fn mark_visible(&mut self) {
        self.visible_changed = true;
    }

    pub fn add_other(&mut self, transition: Transition) {
        self.others.push(transition);
    }

    pub(crate) fn copy_history_from(&mut self, run_no: i64, below_event_id: i64) {
        self.copy_history = Some((run_no, below_event_id));
    }

    // ---- close ----

    /// Closes the transition: flushes buffered events, schedules the workflow task that was asked
    /// for, and hands everything over with the reply.
    pub fn finish<T>(self, reply: T) -> Outcome<T> {
        self.finish_with(Ok(reply))
    }

    /// As [`Tx::finish`] with an error for the caller although the change stands.
    pub fn finish_with<T>(self, reply: Result<T, Error>) -> Outcome<T> {
        Outcome {
            transitions: self.into_transitions(),
            reply,
        }
    }

    pub fn into_transitions(mut self) -> Vec<Transition> {
        if self.run.is_open() {
            if !self.run.workflow_task_started() && self.flush_buffered() {
                self.wants_workflow_task = true;
            }
            if self.wants_workflow_task && workflow_task::may_schedule(&self.run) {
                workflow_task::schedule(&mut self);
            }
            crate::close::enforce_limits(&mut self);
        }
        let batches = self.take_batches();
        let durable = self.created
            || self.visible_changed
            || !batches.is_empty()
            || !self.rows.is_empty()
            || !self.tasks_added.is_empty()
            || !self.tasks_removed.is_empty()
            || !self.outbox_added.is_empty()
            || !self.outbox_removed.is_empty();
        let due = self.settle_due();
        let mut rows = Vec::new();
        if durable || due.is_some() {
            // A wake-up that only moved the next one is nothing that happened to the run.
            self.run.core.transitions += i64::from(durable);
            let run = &self.run;
            // The core row is read first on load: it comes first.
            rows.push(Row {
                kind: Kind::Core as u8,
                id: 0,
                value: run.row(Kind::Core, 0).map(Bytes::from),
            });
            for ((kind, id), change) in std::mem::take(&mut self.rows) {
                let value = match change {
                    RowChange::Derive => run.row(kind, id).map(Bytes::from),
                    RowChange::Value(v) => Some(v),
                    RowChange::Delete => None,
                };
                if kind != Kind::Core {
                    rows.push(Row {
                        kind: kind as u8,
                        id,
                        value,
                    });
                }
            }
        }
        let mut all = vec![Transition {
            run: self.run,
            created: self.created,
            copy_history: self.copy_history,
            batches,
            rows,
            visible_changed: self.visible_changed,
            due,
            tasks_added: self.tasks_added,
            tasks_removed: self.tasks_removed,
            outbox_added: self.outbox_added,
            outbox_removed: self.outbox_removed,
            effects: self.effects,
        }];
        all.append(&mut self.others);
        all
    }

    fn take_batches(&mut self) -> Vec<Batch> {
        self.close_batch();
        let batches = std::mem::take(&mut self.closed_batches);
        for batch in &batches {
            self.run.core.history_size += batch.bytes.len() as i64;
            self.run.core.last_first_event_id = batch.first_event_id;
        }
        if let Some(first) = batches.first().filter(|b| b.first_event_id == 1) {
            Arc::make_mut(&mut self.run.started).share(&first.bytes);
        }
        batches
    }

    /// The store's wake-up time is moved only when it must be: it may be too early (a look that
    /// finds nothing), never too late. Most deadlines of a busy run pass without a write.
    fn settle_due(&mut self) -> Option<Option<Time>> {
        let stored = Time(self.run.core.stored_due).get();
        let next = self.run.next_deadline();
        let change = match (stored, next) {
            (Some(_), None) if !self.run.is_open() => Some(None),
            (None, Some(n)) => Some(Some(n)),
            (Some(s), Some(n)) if n < s || s <= self.now() => Some(Some(n)),
            (Some(s), None) if s <= self.now() => Some(None),
            _ => None,
        };
        if let Some(due) = change {
            self.run.core.stored_due = due.map_or(0, |t| t.0);
        }
        change
    }
}

/// The run's status as the protocol's enum.
pub fn set_status(run: &mut Run, status: WorkflowExecutionStatus) {
    run.core.status = status as i32;
}

#[cfg(test)]
mod tests;
