//! The command by which a workflow starts a child.

use prost::Message as _;
use tidemill_proto::api::command::v1::StartChildWorkflowExecutionCommandAttributes;
use tidemill_proto::api::enums::v1::{
    ParentClosePolicy, WorkflowIdReusePolicy, WorkflowTaskFailedCause as Cause,
};
use tidemill_proto::api::history::v1::StartChildWorkflowExecutionInitiatedEventAttributes;

use crate::activity::priority;
use crate::command::{CommandContext, Refused};
use crate::ids::format_uuid;
use crate::model::Child;
use crate::transition::{Initiated, OutboxItem};
use crate::tx::Tx;
use crate::{cron, run_options, upsert};

const BAD: Cause = Cause::BadStartChildExecutionAttributes;

/// Records that a child is to be started; the server starts it once this is durable.
pub fn start(
    tx: &mut Tx<'_>,
    attributes: StartChildWorkflowExecutionCommandAttributes,
    command: &CommandContext,
) -> Result<(), Refused> {
    let initiated = checked(tx, attributes, command.completed_id)?;
    let (batch_id, create_request_id) = (tx.batch_id(), tx.cx.uuid());
    let event_id = tx.push_event(command.event(initiated.clone()));
    tx.put_child(record(&initiated, event_id, batch_id, create_request_id));
    tx.add_outbox(OutboxItem::StartChild(Initiated { event_id, batch_id }));
    Ok(())
}

/// The record of a child that was initiated and not started.
pub(crate) fn record(
    initiated: &StartChildWorkflowExecutionInitiatedEventAttributes,
    initiated_id: i64,
    initiated_batch_id: i64,
    create_request_id: String,
) -> Child {
    Child {
        initiated_id,
        initiated_batch_id,
        started_id: 0,
        namespace: initiated.namespace.clone(),
        namespace_id: initiated.namespace_id.clone(),
        workflow_id: initiated.workflow_id.clone(),
        run_id: String::new(),
        workflow_type: initiated
            .workflow_type
            .as_ref()
            .map_or_else(String::new, |t| t.name.clone()),
        parent_close_policy: initiated.parent_close_policy,
        create_request_id,
        control: initiated.control.clone(),
    }
}

/// The command as its event shows it: checked, and with what it leaves out filled in.
fn checked(
    tx: &Tx<'_>,
    mut a: StartChildWorkflowExecutionCommandAttributes,
    completed_id: i64,
) -> Result<StartChildWorkflowExecutionInitiatedEventAttributes, Refused> {
    let id = a.workflow_id.clone();
    let bad = |text: String| Refused::new(BAD, format!("start child workflow `{id}`: {text}"));
    let limits = tx.limits();
    if !a.namespace.is_empty() && a.namespace != tx.cx.namespace {
        return Err(bad("cross namespace commands are not allowed".into()));
    }
    run_options::check_id("workflow id", &a.workflow_id, limits).map_err(bad)?;
    let kind = a.workflow_type.as_ref().map_or("", |t| t.name.as_str());
    run_options::check_id("workflow type", kind, limits).map_err(bad)?;
    run_options::check_timeouts(&[
        ("execution timeout", &a.workflow_execution_timeout),
        ("run timeout", &a.workflow_run_timeout),
        ("workflow task timeout", &a.workflow_task_timeout),
    ])
    .map_err(bad)?;
    let retry_policy = run_options::retry_policy(a.retry_policy).map_err(bad)?;
    cron::validate(&a.cron_schedule, tx.now())
        .map_err(|e| bad(format!("invalid cron schedule: {e}")))?;
    a.search_attributes = a
        .search_attributes
        .map(|s| upsert::checked(tx, s))
        .transpose()?;
    priority::validate(&a.priority).map_err(bad)?;
    let task_queue =
        run_options::task_queue(a.task_queue, tx.run.task_queue(), limits).map_err(bad)?;
    let size = a.input.as_ref().map_or(0, |i| i.encoded_len());
    if size > limits.blob_size {
        let text = format!(
            "child workflow input has {size} bytes; at most {} are allowed",
            limits.blob_size
        );
        return Err(Refused::terminate(BAD, text));
    }
    if let Some(memo) = &a.memo {
        upsert::check_memo(tx, memo, BAD)?;
    }
    if tx.run.children.len() >= limits.pending_children {
        let text = format!(
            "{} child workflows are pending; no more are allowed",
            tx.run.children.len()
        );
        return Err(Refused::new(
            Cause::PendingChildWorkflowsLimitExceeded,
            text,
        ));
    }
    let run_timeout =
        run_options::run_timeout(&a.workflow_run_timeout, &a.workflow_execution_timeout);
    Ok(StartChildWorkflowExecutionInitiatedEventAttributes {
        workflow_task_completed_event_id: completed_id,
        namespace: tx.cx.namespace.to_owned(),
        namespace_id: format_uuid(&tx.run.id.namespace_id),
        workflow_id: a.workflow_id,
        workflow_type: a.workflow_type,
        task_queue: Some(task_queue),
        header: a.header,
        input: a.input,
        workflow_execution_timeout: a.workflow_execution_timeout,
        workflow_run_timeout: run_timeout,
        workflow_task_timeout: run_options::task_timeout(
            &a.workflow_task_timeout,
            &run_timeout,
            limits,
        ),
        parent_close_policy: or(a.parent_close_policy, ParentClosePolicy::Terminate as i32),
        control: a.control,
        workflow_id_reuse_policy: or(
            a.workflow_id_reuse_policy,
            WorkflowIdReusePolicy::AllowDuplicate as i32,
        ),
        retry_policy,
        cron_schedule: a.cron_schedule,
        memo: run_options::memo(a.memo),
        search_attributes: run_options::search_attributes(a.search_attributes),
        inherit_build_id: a.inherit_build_id,
        priority: a.priority,
        versioning_override: a.versioning_override,
        ..Default::default()
    })
}

/// An enum's value, or its default when it is unspecified.
fn or(value: i32, default: i32) -> i32 {
    if value == 0 { default } else { value }
}
