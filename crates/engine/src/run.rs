//! One run as the engine sees it: its records in memory, cheap to clone.
//!
//! The maps are persistent, so a transition works on a clone and the original stays as it was
//! if the transition fails. What the store holds is [`Core`] and one row per record; the
//! [`Volatile`] part is lost with the process, and callers retry.

use std::sync::Arc;
use std::time::Duration;

use imbl::Vector;
use prost::Message;
use tidemill_proto::api::common::v1::{Priority, WorkflowExecution};
use tidemill_proto::api::enums::v1::WorkflowExecutionStatus;
use tidemill_proto::api::history::v1::HistoryEvent;
use tidemill_proto::api::query::v1::WorkflowQuery;
use tidemill_proto::api::update::v1::Request;

use crate::map::{Map, Set};
use crate::model::{
    Activity, AttachedRequest, Child, Core, External, Kind, SignalId, Timer, UpdateRecord, Visible,
};
use crate::start_facts::StartFacts;
use crate::time::{Time, span};

/// Stands for the id of an event that is buffered and has none yet.
pub const BUFFERED_ID: i64 = -123;

/// Who a run is. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunId {
    /// The store's number of the run.
    pub no: i64,
    pub namespace_id: [u8; 16],
    pub workflow_id: Arc<str>,
    /// UUID text.
    pub run_id: Arc<str>,
}

impl RunId {
    pub fn execution(&self) -> WorkflowExecution {
        WorkflowExecution {
            workflow_id: self.workflow_id.to_string(),
            run_id: self.run_id.to_string(),
        }
    }
}

/// A deadline of one part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deadline {
    /// A user timer, by started event id.
    Timer(i64),
    /// An activity, by scheduled event id: one of its timeouts, or the end of its retry backoff.
    Activity(i64),
}

#[derive(Clone, Debug)]
pub struct Run {
    pub id: RunId,
    pub started: Arc<StartFacts>,
    pub core: Core,
    pub visible: Arc<Visible>,
    pub activities: Map<i64, Arc<Activity>>,
    pub activity_ids: Map<String, i64>,
    pub timers: Map<i64, Arc<Timer>>,
    pub timer_ids: Map<String, i64>,
    pub children: Map<i64, Arc<Child>>,
    pub external_cancels: Map<i64, Arc<External>>,
    pub external_signals: Map<i64, Arc<External>>,
    pub updates: Map<String, Arc<UpdateRecord>>,
    /// Request ids of signals seen, with their row.
    pub signal_ids: Map<String, i64>,
    pub attached: Map<String, Arc<AttachedRequest>>,
    /// Events that wait for the started workflow task to end, with their row.
    pub buffered: Vector<(i64, Arc<HistoryEvent>)>,
    pub deadlines: Set<(Time, Deadline)>,
    pub volatile: Volatile,
}

/// What a run holds in memory only.
#[derive(Clone, Debug, Default)]
pub struct Volatile {
    /// Updates that were not completed, by id.
    pub updates: Map<String, Arc<LiveUpdate>>,
    pub next_update_seq: u64,
    /// Queries that wait for the next workflow task, oldest first.
    pub queries: Vector<BufferedQuery>,
    /// A close command was refused because of buffered events: no more of them until the
    /// workflow task is done.
    pub close_attempted: bool,
}

/// An update on its way through the workflow.
#[derive(Clone, Debug)]
pub struct LiveUpdate {
    pub update_id: String,
    /// Order of admission.
    pub seq: u64,
    pub request: Request,
    pub stage: UpdateStage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UpdateStage {
    /// Waits for a workflow task.
    Admitted,
    /// Was sent with the started workflow task.
    Sent,
    Accepted,
}

#[derive(Clone, Debug)]
pub struct BufferedQuery {
    /// Identifies the caller that waits; unique in the process.
    pub id: String,
    pub query: WorkflowQuery,
    /// Sent with the workflow task that is started.
    pub sent: bool,
}

impl Run {
    /// A run with no records but its start.
    pub fn new(id: RunId, started: Arc<StartFacts>, core: Core, visible: Visible) -> Self {
        Self {
            id,
            started,
            core,
            visible: Arc::new(visible),
            activities: Map::default(),
            activity_ids: Map::default(),
            timers: Map::default(),
            timer_ids: Map::default(),
            children: Map::default(),
            external_cancels: Map::default(),
            external_signals: Map::default(),
            updates: Map::default(),
            signal_ids: Map::default(),
            attached: Map::default(),
            buffered: Vector::new(),
            deadlines: Set::default(),
            volatile: Volatile::default(),
        }
    }

    /// Rebuilds a run from its rows `(kind, id, value)` and its start.
    pub fn load<'a>(
        id: RunId,
        started: Arc<StartFacts>,
        rows: impl IntoIterator<Item = (u8, i64, &'a [u8])>,
    ) -> Result<Self, prost::DecodeError> {
        let mut run = Self::new(id, started, Core::default(), Visible::default());
        for (kind, key, value) in rows {
            match kind {
                k if k == Kind::Core as u8 => run.core = Core::decode(value)?,
                k if k == Kind::Visible as u8 => run.visible = Arc::new(Visible::decode(value)?),
                k if k == Kind::Activity as u8 => run.put_activity(Activity::decode(value)?),
                k if k == Kind::Timer as u8 => run.put_timer(Timer::decode(value)?),
                k if k == Kind::Child as u8 => {
                    run.children.insert(key, Arc::new(Child::decode(value)?));
                }
                k if k == Kind::ExternalCancel as u8 => {
                    run.external_cancels
                        .insert(key, Arc::new(External::decode(value)?));
                }
                k if k == Kind::ExternalSignal as u8 => {
                    run.external_signals
                        .insert(key, Arc::new(External::decode(value)?));
                }
                k if k == Kind::Update as u8 => {
                    let u = UpdateRecord::decode(value)?;
                    run.updates.insert(u.update_id.clone(), Arc::new(u));
                }
                k if k == Kind::SignalId as u8 => {
                    run.signal_ids
                        .insert(SignalId::decode(value)?.request_id, key);
                }
                k if k == Kind::Buffered as u8 => {
                    run.buffered
                        .push_back((key, Arc::new(HistoryEvent::decode(value)?)));
                }
                k if k == Kind::RequestId as u8 => {
                    let r = AttachedRequest::decode(value)?;
                    run.attached.insert(r.request_id.clone(), Arc::new(r));
                }
                // A row kind of a newer minor format: carried by the store, unknown to us.
                _ => {}
            }
        }
        crate::update::restore(&mut run);
        Ok(run)
    }

    /// The stored value of a record, `None` when it is gone.
    pub(crate) fn row(&self, kind: Kind, id: i64) -> Option<Vec<u8>> {
        match kind {
            Kind::Core => {
                let task = self.core.workflow_task.as_ref();
                if !task.is_some_and(|t| t.speculative) {
                    return Some(self.core.encode_to_vec());
                }
                let core = Core {
                    workflow_task: None,
                    ..self.core.clone()
                };
                Some(core.encode_to_vec())
            }
            Kind::Visible => Some(self.visible.encode_to_vec()),
            Kind::Activity => self.activities.get(&id).map(|a| a.encode_to_vec()),
            Kind::Timer => self.timers.get(&id).map(|t| t.encode_to_vec()),
            Kind::Child => self.children.get(&id).map(|c| c.encode_to_vec()),
            Kind::ExternalCancel => self.external_cancels.get(&id).map(|e| e.encode_to_vec()),
            Kind::ExternalSignal => self.external_signals.get(&id).map(|e| e.encode_to_vec()),
            // These rows are written with their value when they change.
            Kind::Update | Kind::SignalId | Kind::Buffered | Kind::RequestId => None,
        }
    }

    pub fn start(&self) -> &StartFacts {
        &self.started
    }

    pub fn status(&self) -> WorkflowExecutionStatus {
        WorkflowExecutionStatus::try_from(self.core.status).unwrap_or_default()
    }

    pub fn is_open(&self) -> bool {
        matches!(
            self.status(),
            WorkflowExecutionStatus::Running | WorkflowExecutionStatus::Paused
        )
    }

    pub fn workflow_type(&self) -> &str {
        self.start().workflow_type.as_ref().map_or("", |t| &t.name)
    }

    pub fn task_queue(&self) -> &str {
        &self.start().task_queue
    }

    pub fn first_run_id(&self) -> &str {
        &self.start().first_execution_run_id
    }

    pub fn now_or_start(&self) -> Time {
        Time(self.core.start_time)
    }

    /// Id of the last event in history.
    pub fn last_event_id(&self) -> i64 {
        self.core.next_event_id - 1
    }

    pub fn run_timeout(&self) -> Duration {
        span(&self.start().workflow_run_timeout)
    }

    pub fn workflow_task_started(&self) -> bool {
        self.core
            .workflow_task
            .as_ref()
            .is_some_and(|t| t.started_id != 0)
    }

    pub fn priority(&self) -> Option<Priority> {
        self.core
            .priority_override
            .clone()
            .or_else(|| self.start().priority.clone())
    }

    /// 1 to 5, for the workflow's own tasks.
    pub fn priority_key(&self) -> u8 {
        priority_key(&self.priority())
    }

    /// The earliest time at which this run needs to be looked at.
    pub fn next_deadline(&self) -> Option<Time> {
        if !self.is_open() {
            return None;
        }
        let c = &self.core;
        let task = c
            .workflow_task
            .as_ref()
            .and_then(crate::workflow_task::deadline);
        [
            Time(c.run_expiration).get(),
            Time(c.backoff_until).get(),
            task,
            self.deadlines.first().map(|d| d.0),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub fn put_activity(&mut self, activity: Activity) {
        let id = activity.scheduled_id;
        self.forget_activity_deadline(id);
        if let Some(at) = crate::activity::deadline(&activity) {
            self.deadlines.insert((at, Deadline::Activity(id)));
        }
        self.activity_ids.insert(activity.activity_id.clone(), id);
        self.activities.insert(id, Arc::new(activity));
    }

    pub fn remove_activity(&mut self, id: i64) -> Option<Arc<Activity>> {
        self.forget_activity_deadline(id);
        let activity = self.activities.remove(&id)?;
        self.activity_ids.remove(&activity.activity_id);
        Some(activity)
    }

    fn forget_activity_deadline(&mut self, id: i64) {
        if let Some(at) = self
            .activities
            .get(&id)
            .and_then(|a| crate::activity::deadline(a))
        {
            self.deadlines.remove(&(at, Deadline::Activity(id)));
        }
    }

    pub fn put_timer(&mut self, timer: Timer) {
        self.deadlines
            .insert((Time(timer.fire_time), Deadline::Timer(timer.started_id)));
        self.timer_ids
            .insert(timer.timer_id.clone(), timer.started_id);
        self.timers.insert(timer.started_id, Arc::new(timer));
    }

    pub fn remove_timer(&mut self, started_id: i64) -> Option<Arc<Timer>> {
        let timer = self.timers.remove(&started_id)?;
        self.deadlines
            .remove(&(Time(timer.fire_time), Deadline::Timer(started_id)));
        self.timer_ids.remove(&timer.timer_id);
        Some(timer)
    }
}

/// A priority's key as queues use it: 1 to 5, 3 when unset.
pub fn priority_key(priority: &Option<Priority>) -> u8 {
    match priority.as_ref().map_or(0, |p| p.priority_key) {
        i32::MIN..=0 => 3,
        k => k.min(5) as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priority_keys() {
        for (key, expected) in [
            (i32::MIN, 3),
            (-1, 3),
            (0, 3),
            (1, 1),
            (3, 3),
            (5, 5),
            (6, 5),
            (i32::MAX, 5),
        ] {
            let priority = Some(Priority {
                priority_key: key,
                ..Default::default()
            });
            assert_eq!(priority_key(&priority), expected, "{key}");
        }
        assert_eq!(priority_key(&None), 3);
    }

    #[test]
    fn rows_of_newer_versions_are_not_our_business() {
        let rig = crate::testing::Rig::idle();
        let core = rig.run.row(Kind::Core, 0).unwrap();
        let rows = [
            (Kind::Core as u8, 0, core.as_slice()),
            (200, 7, b"whatever".as_slice()),
        ];
        let loaded = Run::load(rig.run.id.clone(), rig.run.started.clone(), rows).unwrap();
        assert_eq!(loaded.core, rig.run.core);
        let broken = [(Kind::Timer as u8, 1, b"\xff".as_slice())];
        assert!(Run::load(rig.run.id.clone(), rig.run.started.clone(), broken).is_err());
    }
}
