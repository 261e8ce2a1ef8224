//! What a run remembers of its start.

use std::sync::Arc;

use bytes::Bytes;
use prost::{DecodeError, Message};
use tidemill_proto::api::common::v1::{Priority, WorkflowExecution, WorkflowType};
use tidemill_proto::api::history::v1::history_event::Attributes;
use tidemill_proto::api::history::v1::{HistoryEvent, WorkflowExecutionStartedEventAttributes};
use tidemill_proto::wkt;

use crate::encoded;

/// The facts of a `WorkflowExecutionStarted` event that are asked for again and again, beside the
/// event itself in bytes: decoded it would be most of what a waiting run takes.
#[derive(Clone, Debug, PartialEq)]
pub struct StartFacts {
    pub workflow_type: Option<WorkflowType>,
    pub task_queue: Box<str>,
    pub workflow_execution_timeout: Option<wkt::Duration>,
    pub workflow_run_timeout: Option<wkt::Duration>,
    pub workflow_task_timeout: Option<wkt::Duration>,
    pub original_execution_run_id: Arc<str>,
    pub first_execution_run_id: Arc<str>,
    pub cron_schedule: Box<str>,
    /// How many callbacks it was started with.
    pub callbacks: usize,
    pub attempt: i32,
    pub priority: Option<Priority>,
    /// `None` for a run that no other workflow has started.
    pub parent: Option<Box<Parent>>,
    pub root_workflow_execution: Option<Box<WorkflowExecution>>,
    event: Bytes,
}

/// Who has started a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Parent {
    pub namespace_id: String,
    pub execution: WorkflowExecution,
    pub initiated_event_id: i64,
}

impl StartFacts {
    /// Of a run's first event; `None` when that is no start.
    pub fn of(event: &HistoryEvent) -> Option<Self> {
        Self::new(event, event.encode_to_vec().into())
    }

    /// Of a run's first batch, in bytes.
    pub fn read(first_batch: &Bytes) -> Result<Option<Self>, DecodeError> {
        let Some(Ok(place)) = encoded::places(first_batch).next() else {
            return Ok(None);
        };
        let bytes = first_batch.slice(place.event);
        let event = HistoryEvent::decode(bytes.clone())?;
        Ok(Self::new(&event, bytes))
    }

    fn new(event: &HistoryEvent, bytes: Bytes) -> Option<Self> {
        let Some(Attributes::WorkflowExecutionStartedEventAttributes(a)) = &event.attributes else {
            return None;
        };
        let original_execution_run_id: Arc<str> = a.original_execution_run_id.as_str().into();
        let is_original = a.first_execution_run_id == a.original_execution_run_id;
        let parent = a
            .parent_workflow_execution
            .as_ref()
            .map(|execution| Parent {
                namespace_id: a.parent_workflow_namespace_id.clone(),
                execution: execution.clone(),
                initiated_event_id: a.parent_initiated_event_id,
            });
        Some(Self {
            workflow_type: a.workflow_type.clone(),
            task_queue: a.task_queue.as_ref().map_or("", |q| &q.name).into(),
            workflow_execution_timeout: a.workflow_execution_timeout,
            workflow_run_timeout: a.workflow_run_timeout,
            workflow_task_timeout: a.workflow_task_timeout,
            first_execution_run_id: match is_original {
                true => original_execution_run_id.clone(),
                false => a.first_execution_run_id.as_str().into(),
            },
            original_execution_run_id,
            cron_schedule: a.cron_schedule.as_str().into(),
            callbacks: a.completion_callbacks.len(),
            attempt: a.attempt,
            priority: a.priority.clone(),
            parent: parent.map(Box::new),
            root_workflow_execution: a.root_workflow_execution.clone().map(Box::new),
            event: bytes,
        })
    }

    /// The parent, unless it is only a trace of none.
    pub fn known_parent(&self) -> Option<&Parent> {
        self.parent
            .as_deref()
            .filter(|p| !p.execution.workflow_id.is_empty())
    }

    /// The whole event.
    pub fn event(&self) -> HistoryEvent {
        HistoryEvent::decode(self.event.clone()).expect("it was decoded or encoded before")
    }

    /// The whole event's attributes.
    pub fn attributes(&self) -> WorkflowExecutionStartedEventAttributes {
        match self.event().attributes {
            Some(Attributes::WorkflowExecutionStartedEventAttributes(a)) => a,
            other => unreachable!("the first event of a run is its start, not {other:?}"),
        }
    }

    /// Bytes of the event.
    pub fn size(&self) -> usize {
        self.event.len()
    }

    /// The event is in this batch, which is kept in any case.
    pub(crate) fn share(&mut self, first_batch: &Bytes) {
        if let Some(Ok(place)) = encoded::places(first_batch).next() {
            self.event = first_batch.slice(place.event);
        }
    }
}
