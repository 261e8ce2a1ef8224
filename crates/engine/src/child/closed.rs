//! A child has closed: its parent records how.

use tidemill_proto::api::common::v1::{Payloads, WorkflowExecution, WorkflowType};
use tidemill_proto::api::enums::v1::RetryState;
use tidemill_proto::api::failure::v1::Failure;
use tidemill_proto::api::history::v1::history_event::Attributes;
use tidemill_proto::api::history::v1::{
    ChildWorkflowExecutionCanceledEventAttributes, ChildWorkflowExecutionCompletedEventAttributes,
    ChildWorkflowExecutionFailedEventAttributes, ChildWorkflowExecutionTerminatedEventAttributes,
    ChildWorkflowExecutionTimedOutEventAttributes, HistoryEvent,
};

use super::record_started;
use crate::Error;
use crate::model::Child;
use crate::run::Run;
use crate::transition::Outcome;
use crate::tx::{Cx, Tx};

/// The end of a child, as its closing event tells it.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "made once and consumed at once")]
pub enum How {
    Completed {
        result: Option<Payloads>,
    },
    Failed {
        failure: Option<Failure>,
        retry_state: RetryState,
    },
    Canceled {
        details: Option<Payloads>,
    },
    Terminated,
    TimedOut {
        retry_state: RetryState,
    },
}

/// A child that has closed for good: nothing follows its last run.
#[derive(Clone, Debug, PartialEq)]
pub struct CloseFacts {
    /// The child's last run.
    pub execution: WorkflowExecution,
    /// The first run of its chain: the one that the parent started.
    pub first_run_id: String,
    pub how: How,
}

impl CloseFacts {
    /// The facts of a closed run from its last event; `None` when that closes nothing, or goes on
    /// in another run.
    pub fn of(child: &Run, close_event: &HistoryEvent) -> Option<Self> {
        use Attributes as A;
        if !child.core.new_run_id.is_empty() {
            return None;
        }
        let how = match close_event.attributes.as_ref()? {
            A::WorkflowExecutionCompletedEventAttributes(a) => How::Completed {
                result: a.result.clone(),
            },
            A::WorkflowExecutionFailedEventAttributes(a) => How::Failed {
                failure: a.failure.clone(),
                retry_state: a.retry_state(),
            },
            A::WorkflowExecutionCanceledEventAttributes(a) => How::Canceled {
                details: a.details.clone(),
            },
            A::WorkflowExecutionTerminatedEventAttributes(_) => How::Terminated,
            A::WorkflowExecutionTimedOutEventAttributes(a) => How::TimedOut {
                retry_state: a.retry_state(),
            },
            _ => return None,
        };
        Some(Self {
            execution: child.id.execution(),
            first_run_id: child.first_run_id().to_owned(),
            how,
        })
    }
}

/// Records the end of a child. `NotFound` when the parent is closed or does not wait for this
/// child (any more): the news is void. A parent that was closed by a reset lives on in the run
/// that its `reset_run_id` names: the news is for that one, under the same initiated event.
pub fn closed(
    parent: &Run,
    initiated_id: i64,
    facts: CloseFacts,
    cx: &Cx<'_>,
) -> Result<Outcome<()>, Error> {
    if !parent.is_open() {
        return Err(Error::already_completed());
    }
    let child = parent
        .children
        .get(&initiated_id)
        .filter(|c| c.workflow_id == facts.execution.workflow_id)
        .filter(|c| c.run_id.is_empty() || c.run_id == facts.first_run_id)
        .ok_or_else(|| Error::not_found("the child workflow is not pending"))?;
    let mut child = (**child).clone();
    let mut tx = Tx::new(parent, cx);
    if child.started_id == 0 {
        // It ended before its start was recorded (terminated while it waited to be released).
        child = record_started(&mut tx, child, &facts.first_run_id, None);
    }
    record_closed(&mut tx, &child, facts.execution, facts.how);
    Ok(tx.finish(()))
}

/// Writes the event that ends a started child.
pub(crate) fn record_closed(
    tx: &mut Tx<'_>,
    child: &Child,
    execution: WorkflowExecution,
    how: How,
) {
    tx.remove_child(child.initiated_id);
    let (namespace, namespace_id) = (child.namespace.clone(), child.namespace_id.clone());
    let workflow_execution = Some(execution);
    let workflow_type = Some(WorkflowType {
        name: child.workflow_type.clone(),
    });
    let (initiated_event_id, started_event_id) = (child.initiated_id, child.started_id);
    let event: Attributes = match how {
        How::Completed { result } => ChildWorkflowExecutionCompletedEventAttributes {
            result,
            namespace,
            namespace_id,
            workflow_execution,
            workflow_type,
            initiated_event_id,
            started_event_id,
        }
        .into(),
        How::Failed {
            failure,
            retry_state,
        } => ChildWorkflowExecutionFailedEventAttributes {
            failure,
            retry_state: retry_state as i32,
            namespace,
            namespace_id,
            workflow_execution,
            workflow_type,
            initiated_event_id,
            started_event_id,
        }
        .into(),
        How::Canceled { details } => ChildWorkflowExecutionCanceledEventAttributes {
            details,
            namespace,
            namespace_id,
            workflow_execution,
            workflow_type,
            initiated_event_id,
            started_event_id,
        }
        .into(),
        How::Terminated => ChildWorkflowExecutionTerminatedEventAttributes {
            namespace,
            namespace_id,
            workflow_execution,
            workflow_type,
            initiated_event_id,
            started_event_id,
        }
        .into(),
        How::TimedOut { retry_state } => ChildWorkflowExecutionTimedOutEventAttributes {
            retry_state: retry_state as i32,
            namespace,
            namespace_id,
            workflow_execution,
            workflow_type,
            initiated_event_id,
            started_event_id,
        }
        .into(),
    };
    tx.push(event);
    tx.want_workflow_task();
}
