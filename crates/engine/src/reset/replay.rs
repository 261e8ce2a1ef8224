//! The state of a run, from its history alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_proto::api::common::v1::{Callback, Priority};
use tidemill_proto::api::enums::v1::{EventType, WorkflowExecutionStatus as Status};
use tidemill_proto::api::history::v1::history_event::Attributes as A;
use tidemill_proto::api::history::v1::{
    ActivityTaskScheduledEventAttributes, HistoryEvent,
    WorkflowExecutionOptionsUpdatedEventAttributes,
};

use crate::child;
use crate::model::{AttachedRequest, Child, Core, External, Timer, UpdateRecord, Visible};
use crate::reset_point;
use crate::run::{Run, RunId};
use crate::time::{Time, span};
use crate::transition::{Initiated, OutboxItem};
use crate::tx::{Cx, Tx};
use crate::{DecodedBatch, Error};
use crate::{search_attribute, upsert};

/// A run's state before event `point`. What only lives between events (attempts, heartbeats,
/// stickiness, buffered events) is not in it.
pub(super) struct Replay<'h> {
    pub(super) core: Core,
    pub(super) visible: Visible,
    /// The pending workflow task.
    pub(super) task: Option<Task>,
    pub(super) activities: BTreeMap<i64, PendingActivity<'h>>,
    pub(super) records: Records,
}

#[derive(Clone, Copy)]
pub(super) struct Task {
    pub(super) scheduled_id: i64,
    /// 0 while not started.
    pub(super) started_id: i64,
}

pub(super) struct PendingActivity<'h> {
    pub(super) scheduled: &'h ActivityTaskScheduledEventAttributes,
    pub(super) batch_id: i64,
    pub(super) cancel_requested_id: i64,
    /// Its started event's id and identity. Since those are written when an activity closes, only
    /// a history of another server has one without the other.
    pub(super) started: Option<(i64, &'h str)>,
}

/// Everything else that is pending or remembered.
#[derive(Default)]
pub(super) struct Records {
    timers: BTreeMap<i64, Timer>,
    children: BTreeMap<i64, Child>,
    cancels: BTreeMap<i64, External>,
    signals: BTreeMap<i64, External>,
    updates: BTreeMap<String, UpdateRecord>,
    signal_ids: Vec<String>,
    attached: Vec<AttachedRequest>,
}

/// Replays a base's history for the run `id` that is to be forked from it now.
pub(super) fn replay<'h>(
    base: &Run,
    history: &'h [Arc<DecodedBatch>],
    point: i64,
    id: &RunId,
    cx: &Cx<'_>,
) -> Result<Replay<'h>, Error> {
    let mut replay = Replay::new(base, cx);
    let mut next = 1;
    for batch in history {
        for event in batch.events.iter().take_while(|e| e.event_id < point) {
            if event.event_id != next {
                return Err(Error::DataLoss(format!(
                    "event {next} of run {} is missing",
                    base.id.run_id
                )));
            }
            next += 1;
            replay.apply(batch.first_event_id, event, id, cx)?;
        }
    }
    if next != point {
        return Err(Error::DataLoss(format!(
            "event {next} of run {} is missing",
            base.id.run_id
        )));
    }
    Ok(replay)
}

impl<'h> Replay<'h> {
    /// The state of a run that starts now, as the base did: its timeouts begin anew.
    fn new(base: &Run, cx: &Cx<'_>) -> Self {
        let start = base.start().attributes();
        let after = |timeout| {
            let timeout = span(timeout);
            (!timeout.is_zero()).then(|| cx.now.plus(timeout))
        };
        let chain = after(&start.workflow_execution_timeout);
        let run = [after(&start.workflow_run_timeout), chain]
            .into_iter()
            .flatten()
            .min();
        let core = Core {
            status: Status::Running as i32,
            next_event_id: 1,
            start_time: cx.now.0,
            // Cron counts from here: the base's backoff is over.
            execution_time: cx.now.0,
            run_expiration: run.map_or(0, |t| t.0),
            execution_expiration: chain.map_or(0, |t| t.0),
            ..Default::default()
        };
        let visible = Visible {
            memo: start.memo.clone(),
            search_attributes: start.search_attributes.clone(),
            reset_points: start.prev_auto_reset_points.clone(),
            attached_callbacks: Vec::new(),
        };
        Self {
            core,
            visible,
            task: None,
            activities: BTreeMap::new(),
            records: Records::default(),
        }
    }

    fn apply(
        &mut self,
        batch_id: i64,
        event: &'h HistoryEvent,
        id: &RunId,
        cx: &Cx<'_>,
    ) -> Result<(), Error> {
        let event_id = event.event_id;
        let time = event
            .event_time
            .as_ref()
            .map_or(Time::ZERO, Time::from_proto);
        let records = &mut self.records;
        let Some(attributes) = &event.attributes else {
            return Err(Error::DataLoss(format!(
                "event {event_id} has no attributes"
            )));
        };
        match attributes {
            A::WorkflowExecutionStartedEventAttributes(_) => {}

            A::WorkflowTaskScheduledEventAttributes(_) => {
                self.task = Some(Task {
                    scheduled_id: event_id,
                    started_id: 0,
                });
            }
            A::WorkflowTaskStartedEventAttributes(a) => {
                self.task = Some(Task {
                    scheduled_id: a.scheduled_event_id,
                    started_id: event_id,
                });
            }
            A::WorkflowTaskCompletedEventAttributes(a) => {
                self.task = None;
                self.core.last_completed_started_id = a.started_event_id;
                self.core.last_completed_id = event_id;
                self.core.worker_version = a.worker_version.clone();
                let build_id = a.worker_version.as_ref().map_or("", |v| &v.build_id);
                let checksum = &a.binary_checksum;
                let point = reset_point::point(build_id, checksum, &id.run_id, event_id, time);
                reset_point::note(&mut self.visible, point, cx.limits.reset_points);
            }
            A::WorkflowTaskTimedOutEventAttributes(_) | A::WorkflowTaskFailedEventAttributes(_) => {
                self.task = None
            }

            A::ActivityTaskScheduledEventAttributes(scheduled) => {
                let pending = PendingActivity {
                    scheduled,
                    batch_id,
                    cancel_requested_id: 0,
                    started: None,
                };
                self.activities.insert(event_id, pending);
            }
            A::ActivityTaskStartedEventAttributes(a) => {
                if let Some(activity) = self.activities.get_mut(&a.scheduled_event_id) {
                    activity.started = Some((event_id, &a.identity));
                }
            }
            A::ActivityTaskCancelRequestedEventAttributes(a) => {
                if let Some(activity) = self.activities.get_mut(&a.scheduled_event_id) {
                    activity.cancel_requested_id = event_id;
                }
            }
            A::ActivityTaskCompletedEventAttributes(a) => self.end_activity(a.scheduled_event_id),
            A::ActivityTaskFailedEventAttributes(a) => self.end_activity(a.scheduled_event_id),
            A::ActivityTaskTimedOutEventAttributes(a) => self.end_activity(a.scheduled_event_id),
            A::ActivityTaskCanceledEventAttributes(a) => self.end_activity(a.scheduled_event_id),

            A::TimerStartedEventAttributes(a) => {
                let fire_time = time.plus(span(&a.start_to_fire_timeout)).0;
                let timer = Timer {
                    started_id: event_id,
                    timer_id: a.timer_id.clone(),
                    fire_time,
                };
                records.timers.insert(event_id, timer);
            }
            A::TimerFiredEventAttributes(a) => drop(records.timers.remove(&a.started_event_id)),
            A::TimerCanceledEventAttributes(a) => drop(records.timers.remove(&a.started_event_id)),

            A::StartChildWorkflowExecutionInitiatedEventAttributes(a) => {
                let child = child::command::record(a, event_id, batch_id, cx.uuid());
                records.children.insert(event_id, child);
            }
            A::ChildWorkflowExecutionStartedEventAttributes(a) => {
                if let Some(child) = records.children.get_mut(&a.initiated_event_id) {
                    child.started_id = event_id;
                    child.run_id = a
                        .workflow_execution
                        .as_ref()
                        .map_or_else(String::new, |e| e.run_id.clone());
                }
            }
            A::StartChildWorkflowExecutionFailedEventAttributes(a) => {
                records.end_child(a.initiated_event_id)
            }
            A::ChildWorkflowExecutionCompletedEventAttributes(a) => {
                records.end_child(a.initiated_event_id)
            }
            A::ChildWorkflowExecutionFailedEventAttributes(a) => {
                records.end_child(a.initiated_event_id)
            }
            A::ChildWorkflowExecutionCanceledEventAttributes(a) => {
                records.end_child(a.initiated_event_id)
            }
            A::ChildWorkflowExecutionTimedOutEventAttributes(a) => {
                records.end_child(a.initiated_event_id)
            }
            A::ChildWorkflowExecutionTerminatedEventAttributes(a) => {
                records.end_child(a.initiated_event_id)
            }

            A::RequestCancelExternalWorkflowExecutionInitiatedEventAttributes(_) => {
                records
                    .cancels
                    .insert(event_id, external(event_id, batch_id, cx));
            }
            A::RequestCancelExternalWorkflowExecutionFailedEventAttributes(a) => {
                records.cancels.remove(&a.initiated_event_id);
            }
            A::ExternalWorkflowExecutionCancelRequestedEventAttributes(a) => {
                records.cancels.remove(&a.initiated_event_id);
            }
            A::SignalExternalWorkflowExecutionInitiatedEventAttributes(_) => {
                records
                    .signals
                    .insert(event_id, external(event_id, batch_id, cx));
            }
            A::SignalExternalWorkflowExecutionFailedEventAttributes(a) => {
                records.signals.remove(&a.initiated_event_id);
            }
            A::ExternalWorkflowExecutionSignaledEventAttributes(a) => {
                records.signals.remove(&a.initiated_event_id);
            }

            A::WorkflowExecutionSignaledEventAttributes(a) => {
                self.core.signal_count += 1;
                if !a.request_id.is_empty() {
                    records.signal_ids.push(a.request_id.clone());
                }
            }
            A::WorkflowExecutionCancelRequestedEventAttributes(_) => {
                self.core.cancel_requested = true;
                self.core.cancel_requested_id = event_id;
            }
            A::UpsertWorkflowSearchAttributesEventAttributes(a) => {
                if let Some(upserted) = &a.search_attributes {
                    search_attribute::merge(
                        self.visible.search_attributes.get_or_insert_default(),
                        upserted,
                    );
                }
            }
            A::WorkflowPropertiesModifiedEventAttributes(a) => {
                if let Some(upserted) = &a.upserted_memo {
                    upsert::merge_memo(self.visible.memo.get_or_insert_default(), upserted);
                }
            }
            A::WorkflowExecutionOptionsUpdatedEventAttributes(a) => {
                let Options {
                    priority,
                    attached,
                    callbacks,
                } = Options::of(a, event_id);
                if priority.is_some() {
                    self.core.priority_override = priority;
                }
                records.attached.extend(attached);
                self.visible.attached_callbacks.extend(callbacks);
            }
            A::WorkflowExecutionPausedEventAttributes(_) => {
                self.core.status = Status::Paused as i32
            }
            A::WorkflowExecutionUnpausedEventAttributes(_) => {
                self.core.status = Status::Running as i32
            }

            A::WorkflowExecutionUpdateAdmittedEventAttributes(a) => {
                let update_id = a
                    .request
                    .as_ref()
                    .and_then(|r| r.meta.as_ref())
                    .map_or("", |m| &m.update_id);
                let update = self.update(update_id);
                update.admitted_id = event_id;
                update.request = a.request.clone();
            }
            A::WorkflowExecutionUpdateAcceptedEventAttributes(a) => {
                let update = self.update(&a.protocol_instance_id);
                update.accepted_id = event_id;
                update.request = None;
            }
            A::WorkflowExecutionUpdateCompletedEventAttributes(a) => {
                let update_id = a.meta.as_ref().map_or("", |m| &m.update_id);
                let update = self.update(update_id);
                update.completed_id = event_id;
                update.completed_batch_id = batch_id;
            }

            // Facts for the workflow's own replay, and events that no state hangs on.
            A::MarkerRecordedEventAttributes(_)
            | A::WorkflowExecutionUpdateRejectedEventAttributes(_)
            | A::WorkflowPropertiesModifiedExternallyEventAttributes(_)
            | A::ActivityPropertiesModifiedExternallyEventAttributes(_)
            | A::WorkflowExecutionTimeSkippingTransitionedEventAttributes(_) => {}

            A::NexusOperationScheduledEventAttributes(_)
            | A::NexusOperationStartedEventAttributes(_)
            | A::NexusOperationCompletedEventAttributes(_)
            | A::NexusOperationFailedEventAttributes(_)
            | A::NexusOperationCanceledEventAttributes(_)
            | A::NexusOperationTimedOutEventAttributes(_)
            | A::NexusOperationCancelRequestedEventAttributes(_)
            | A::NexusOperationCancelRequestCompletedEventAttributes(_)
            | A::NexusOperationCancelRequestFailedEventAttributes(_) => {
                return Err(Error::Unimplemented(
                    "a run with Nexus operations cannot be reset by this server".into(),
                ));
            }

            A::WorkflowExecutionCompletedEventAttributes(_)
            | A::WorkflowExecutionFailedEventAttributes(_)
            | A::WorkflowExecutionTimedOutEventAttributes(_)
            | A::WorkflowExecutionTerminatedEventAttributes(_)
            | A::WorkflowExecutionCanceledEventAttributes(_)
            | A::WorkflowExecutionContinuedAsNewEventAttributes(_) => {
                return Err(Error::DataLoss(format!(
                    "event {event_id} closes the run but is not its last"
                )));
            }
        }
        Ok(())
    }

    fn end_activity(&mut self, scheduled_id: i64) {
        self.activities.remove(&scheduled_id);
    }

    /// The record of an update, counted when it is new.
    fn update(&mut self, update_id: &str) -> &mut UpdateRecord {
        let count = &mut self.core.update_count;
        self.records
            .updates
            .entry(update_id.to_owned())
            .or_insert_with(|| {
                *count += 1;
                UpdateRecord {
                    update_id: update_id.to_owned(),
                    ..Default::default()
                }
            })
    }
}

/// The request is sent again under a new id: whether the base's arrived is not known here.
fn external(initiated_id: i64, initiated_batch_id: i64, cx: &Cx<'_>) -> External {
    External {
        initiated_id,
        initiated_batch_id,
        request_id: cx.uuid(),
    }
}

/// What an options updated event changes.
pub(super) struct Options {
    pub(super) priority: Option<Priority>,
    pub(super) attached: Option<AttachedRequest>,
    pub(super) callbacks: Vec<Callback>,
}

impl Options {
    pub(super) fn of(a: &WorkflowExecutionOptionsUpdatedEventAttributes, event_id: i64) -> Self {
        let attached = (!a.attached_request_id.is_empty()).then(|| AttachedRequest {
            request_id: a.attached_request_id.clone(),
            event_id,
            event_type: EventType::WorkflowExecutionOptionsUpdated as i32,
            row: 0,
        });
        Self {
            priority: a.priority.clone(),
            attached,
            callbacks: a.attached_completion_callbacks.clone(),
        }
    }
}

impl Records {
    fn end_child(&mut self, initiated_id: i64) {
        self.children.remove(&initiated_id);
    }

    /// Gives the records to the new run. Timers that are due fire as soon as the run is looked
    /// at; unanswered requests to other workflows are sent again.
    pub(super) fn write(self, tx: &mut Tx<'_>) {
        for timer in self.timers.into_values() {
            tx.put_timer(timer);
        }
        for child in self.children.into_values() {
            tx.put_child(child);
        }
        for cancel in self.cancels.into_values() {
            let entry = Initiated {
                event_id: cancel.initiated_id,
                batch_id: cancel.initiated_batch_id,
            };
            tx.put_external_cancel(cancel);
            tx.add_outbox(OutboxItem::CancelExternal(entry));
        }
        for signal in self.signals.into_values() {
            let entry = Initiated {
                event_id: signal.initiated_id,
                batch_id: signal.initiated_batch_id,
            };
            tx.put_external_signal(signal);
            tx.add_outbox(OutboxItem::SignalExternal(entry));
        }
        // Rows are numbered in the order of admission: that is how updates are restored.
        let mut updates: Vec<_> = self.updates.into_values().collect();
        updates.sort_by_key(|u| u.admitted_id.max(u.accepted_id));
        for update in updates {
            tx.put_update(update);
        }
        for request_id in self.signal_ids {
            tx.remember_signal(&request_id);
        }
        for request in self.attached {
            tx.put_attached(request);
        }
    }
}
