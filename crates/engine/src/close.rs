//! How runs end, and what that sets off: the run that follows, the parent, the children, those
//! who wait (contract sections 2.4, 4.6, 5.3, 5.7).

use prost::Message as _;
use tidemill_proto::api::command::v1::{
    CancelWorkflowExecutionCommandAttributes, CompleteWorkflowExecutionCommandAttributes,
    ContinueAsNewWorkflowExecutionCommandAttributes, FailWorkflowExecutionCommandAttributes,
};
use tidemill_proto::api::common::v1::{Link, Payloads};
use tidemill_proto::api::enums::v1::{
    ParentClosePolicy, RetryState, WorkflowExecutionStatus as Status,
    WorkflowTaskFailedCause as Cause,
};
use tidemill_proto::api::history::v1::{
    HistoryEvent, WorkflowExecutionCanceledEventAttributes,
    WorkflowExecutionCompletedEventAttributes, WorkflowExecutionFailedEventAttributes,
    WorkflowExecutionTerminatedEventAttributes, WorkflowExecutionTimedOutEventAttributes,
};

use crate::Error;
use crate::command::{CommandContext, Refused};
use crate::continuation::{self, Closing};
use crate::run::Run;
use crate::transition::{OutboxItem, Outcome, ParentClosed, RunAddress, TaskKind};
use crate::tx::{Cx, Tx};
use crate::workflow_task::{self, TaskFailure};

/// The identity under which the engine itself acts on runs.
pub const ENGINE_IDENTITY: &str = "history-service";

/// What a terminated event says.
#[derive(Clone, Debug, Default)]
pub struct Termination {
    pub reason: String,
    pub details: Option<Payloads>,
    pub identity: String,
    pub links: Vec<Link>,
    /// The run lives on in a reset one: the parent is not told.
    pub for_reset: bool,
}

impl Termination {
    /// A termination that the engine decides on.
    pub fn by_engine(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            identity: ENGINE_IDENTITY.to_owned(),
            ..Default::default()
        }
    }
}

/// Terminates an open run.
pub fn terminate_run(
    run: &Run,
    termination: Termination,
    cx: &Cx<'_>,
) -> Result<Outcome<()>, Error> {
    if !run.is_open() {
        return Err(Error::already_completed());
    }
    let mut tx = Tx::new(run, cx);
    terminate(&mut tx, termination);
    Ok(tx.finish(()))
}

/// Ends the run at once. A started workflow task is failed first, so that what it was shown and
/// what came meanwhile stand in history in order.
pub fn terminate(tx: &mut Tx<'_>, termination: Termination) {
    end_started_task(tx);
    let for_reset = termination.for_reset;
    tx.push_event(HistoryEvent {
        attributes: Some(
            WorkflowExecutionTerminatedEventAttributes {
                reason: termination.reason,
                details: termination.details,
                identity: termination.identity,
            }
            .into(),
        ),
        links: termination.links,
        ..Default::default()
    });
    finish(
        tx,
        Status::Terminated,
        Continues::No {
            tell_parent: !for_reset,
        },
    );
}

/// The run's time is over.
pub(crate) fn time_out(tx: &mut Tx<'_>) {
    end_started_task(tx);
    let (retry_state, next) = continuation::retry_or_cron(&tx.run, Closing::TimedOut, tx.cx);
    let new_execution_run_id = next
        .as_ref()
        .map_or(String::new(), |n| n.id.run_id.to_string());
    tx.push(WorkflowExecutionTimedOutEventAttributes {
        retry_state: retry_state as i32,
        new_execution_run_id,
    });
    follow(tx, Status::TimedOut, next);
}

/// A started workflow task cannot end any other way once the run is closed from outside.
fn end_started_task(tx: &mut Tx<'_>) {
    if tx.run.workflow_task_started() {
        workflow_task::fail_task(
            tx,
            TaskFailure::by_engine(
                Cause::ForceCloseCommand,
                "workflow task was force closed",
                ENGINE_IDENTITY,
            ),
        );
    } else if tx
        .run
        .core
        .workflow_task
        .as_ref()
        .is_some_and(|t| t.speculative)
    {
        tx.run.core.workflow_task = None;
    }
    if let Some(task) = tx.run.core.workflow_task.take()
        && let Some(place) = task.task
    {
        tx.remove_task(TaskKind::Workflow, place);
    }
    tx.flush_buffered();
}

fn check_blob(tx: &Tx<'_>, size: usize, cause: Cause, what: &str) -> Result<(), Refused> {
    if size > tx.limits().blob_size {
        return Err(Refused::terminate(
            cause,
            format!(
                "{what} exceeds size limit: {size} bytes, at most {} are allowed",
                tx.limits().blob_size
            ),
        ));
    }
    Ok(())
}

/// A close command while events wait that the workflow has not seen is not obeyed.
fn check_handled(tx: &Tx<'_>) -> Result<(), Refused> {
    if !tx.has_unseen() {
        return Ok(());
    }
    Err(Refused::new(
        Cause::UnhandledCommand,
        "new events arrived while the workflow task was running",
    ))
}

pub(crate) fn complete(
    tx: &mut Tx<'_>,
    attributes: CompleteWorkflowExecutionCommandAttributes,
    command: &CommandContext,
) -> Result<(), Refused> {
    check_handled(tx)?;
    let size = attributes.result.as_ref().map_or(0, |r| r.encoded_len());
    check_blob(
        tx,
        size,
        Cause::BadCompleteWorkflowExecutionAttributes,
        "CompleteWorkflowExecution result",
    )?;
    let closing = Closing::Completed {
        result: attributes.result.clone(),
    };
    let (_, next) = continuation::retry_or_cron(&tx.run, closing, tx.cx);
    tx.push_event(
        command.event(WorkflowExecutionCompletedEventAttributes {
            result: attributes.result,
            workflow_task_completed_event_id: command.completed_id,
            new_execution_run_id: next
                .as_ref()
                .map_or(String::new(), |n| n.id.run_id.to_string()),
        }),
    );
    follow(tx, Status::Completed, next);
    Ok(())
}

pub(crate) fn fail(
    tx: &mut Tx<'_>,
    attributes: FailWorkflowExecutionCommandAttributes,
    command: &CommandContext,
) -> Result<(), Refused> {
    check_handled(tx)?;
    let Some(failure) = attributes.failure else {
        return Err(Refused::new(
            Cause::BadFailWorkflowExecutionAttributes,
            "Failure is not set on FailWorkflowExecutionCommand.",
        ));
    };
    check_blob(
        tx,
        failure.encoded_len(),
        Cause::BadFailWorkflowExecutionAttributes,
        "FailWorkflowExecution failure",
    )?;
    let closing = Closing::Failed {
        failure: failure.clone(),
    };
    let (retry_state, next) = continuation::retry_or_cron(&tx.run, closing, tx.cx);
    tx.push_event(
        command.event(WorkflowExecutionFailedEventAttributes {
            failure: Some(failure),
            retry_state: retry_state as i32,
            workflow_task_completed_event_id: command.completed_id,
            new_execution_run_id: next
                .as_ref()
                .map_or(String::new(), |n| n.id.run_id.to_string()),
        }),
    );
    follow(tx, Status::Failed, next);
    Ok(())
}

pub(crate) fn cancel(
    tx: &mut Tx<'_>,
    attributes: CancelWorkflowExecutionCommandAttributes,
    command: &CommandContext,
) -> Result<(), Refused> {
    check_handled(tx)?;
    let size = attributes.details.as_ref().map_or(0, |d| d.encoded_len());
    check_blob(
        tx,
        size,
        Cause::BadCancelWorkflowExecutionAttributes,
        "CancelWorkflowExecution details",
    )?;
    tx.push_event(command.event(WorkflowExecutionCanceledEventAttributes {
        workflow_task_completed_event_id: command.completed_id,
        details: attributes.details,
    }));
    finish(tx, Status::Canceled, Continues::No { tell_parent: true });
    Ok(())
}

pub(crate) fn continue_as_new(
    tx: &mut Tx<'_>,
    attributes: ContinueAsNewWorkflowExecutionCommandAttributes,
    command: &CommandContext,
) -> Result<(), Refused> {
    check_handled(tx)?;
    let next = continuation::continue_as_new(tx, attributes, command)?;
    tx.run.core.new_run_id = next.run.id.run_id.to_string();
    tx.add_other(next);
    finish(tx, Status::ContinuedAsNew, Continues::Yes);
    Ok(())
}

/// Closes the run; `next`, if any, follows it.
fn follow(tx: &mut Tx<'_>, status: Status, next: Option<crate::start::NewRun>) {
    match next {
        Some(next) => {
            tx.run.core.new_run_id = next.id.run_id.to_string();
            for transition in crate::start::create(next, tx.cx).into_transitions() {
                tx.add_other(transition);
            }
            finish(tx, status, Continues::Yes);
        }
        None => finish(tx, status, Continues::No { tell_parent: true }),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Continues {
    Yes,
    No { tell_parent: bool },
}

/// The closing event has been written: everything that hangs on an open run goes.
fn finish(tx: &mut Tx<'_>, status: Status, continues: Continues) {
    let now = tx.now();
    let close_event_id = tx.run.last_event_id();
    crate::tx::set_status(&mut tx.run, status);
    let core = &mut tx.run.core;
    core.close_time = now.0;
    core.close_event_id = close_event_id;
    core.sticky = None;
    core.workflow_task_attempt = 1;
    core.backoff_until = 0;
    core.awaits_parent = false;
    if let Some(task) = core.workflow_task.take()
        && let Some(place) = task.task
    {
        tx.remove_task(TaskKind::Workflow, place);
    }
    tx.mark_visible();
    // Children that were not started never will be.
    tx.retain_outbox(|item| !matches!(item, OutboxItem::StartChild(_)));
    let children: Vec<_> = tx.run.children.values().cloned().collect();
    for child in children {
        let policy = ParentClosePolicy::try_from(child.parent_close_policy).unwrap_or_default();
        if child.started_id != 0
            && matches!(
                policy,
                ParentClosePolicy::Terminate | ParentClosePolicy::RequestCancel
            )
        {
            tx.add_outbox(OutboxItem::ParentClosed(ParentClosed {
                child: Some(RunAddress {
                    namespace_id: child.namespace_id.clone(),
                    workflow_id: child.workflow_id.clone(),
                    run_id: child.run_id.clone(),
                    initiated_id: child.initiated_id,
                }),
                policy: policy as i32,
            }));
        }
    }
    if continues == (Continues::No { tell_parent: true })
        && let Some(parent) = parent_address(&tx.run)
    {
        tx.add_outbox(OutboxItem::ChildClosed(parent));
    }
    tx.drop_pending();
    crate::update::close(tx, continues == Continues::Yes);
    crate::query::release(tx);
}

fn parent_address(run: &Run) -> Option<RunAddress> {
    let parent = run.start().known_parent()?;
    Some(RunAddress {
        namespace_id: parent.namespace_id.clone(),
        workflow_id: parent.execution.workflow_id.clone(),
        run_id: parent.execution.run_id.clone(),
        initiated_id: parent.initiated_event_id,
    })
}

/// Ends a run that has outgrown the limits, and a workflow task that keeps too many events
/// waiting. Called once as every transition closes.
pub(crate) fn enforce_limits(tx: &mut Tx<'_>) {
    let limits = tx.limits();
    let waiting = tx.run.buffered.len();
    if waiting > limits.buffered_events
        || (waiting > 1
            && tx
                .run
                .buffered
                .iter()
                .map(|(_, e)| e.encoded_len())
                .sum::<usize>()
                > limits.buffered_event_bytes)
    {
        workflow_task::fail_task(
            tx,
            TaskFailure::by_engine(
                Cause::ForceCloseCommand,
                "too many events wait for the workflow task",
                ENGINE_IDENTITY,
            ),
        );
        tx.flush_buffered();
        if workflow_task::may_schedule(&tx.run) {
            workflow_task::schedule(tx);
        }
    }
    if tx.run.core.next_event_id - 1 > limits.history_count {
        terminate(
            tx,
            Termination::by_engine("Workflow history count exceeds limit."),
        );
    } else if tx.run.core.history_size > limits.history_size {
        terminate(
            tx,
            Termination::by_engine("Workflow history size exceeds limit."),
        );
    }
}

/// The retry state of a run that has no retry policy.
pub const NO_RETRY: RetryState = RetryState::RetryPolicyNotSet;

#[cfg(test)]
mod tests;
