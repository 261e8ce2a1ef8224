//! The commands by which a workflow signals another one or asks it to cancel.

use prost::Message as _;
use tidemill_proto::api::command::v1::{
    RequestCancelExternalWorkflowExecutionCommandAttributes,
    SignalExternalWorkflowExecutionCommandAttributes,
};
use tidemill_proto::api::common::v1::WorkflowExecution;
use tidemill_proto::api::enums::v1::WorkflowTaskFailedCause as Cause;
use tidemill_proto::api::history::v1::{
    RequestCancelExternalWorkflowExecutionInitiatedEventAttributes,
    SignalExternalWorkflowExecutionInitiatedEventAttributes,
};

use crate::command::{CommandContext, Refused};
use crate::ids::{format_uuid, parse_uuid};
use crate::model::External;
use crate::run_options::check_id;
use crate::transition::{Initiated, OutboxItem};
use crate::tx::Tx;

/// Records that another workflow is to be asked to cancel.
pub fn request_cancel(
    tx: &mut Tx<'_>,
    a: RequestCancelExternalWorkflowExecutionCommandAttributes,
    command: &CommandContext,
) -> Result<(), Refused> {
    let target = WorkflowExecution {
        workflow_id: a.workflow_id,
        run_id: a.run_id,
    };
    let bad = |text: String| {
        let text = format!(
            "request to cancel workflow `{}`: {text}",
            target.workflow_id
        );
        Refused::new(
            Cause::BadRequestCancelExternalWorkflowExecutionAttributes,
            text,
        )
    };
    check_target(tx, &a.namespace, &target).map_err(bad)?;
    // Whether the child gets the request or is never started would depend on what comes first.
    let started_now = |c: &crate::model::Child| {
        c.initiated_id > command.completed_id && c.workflow_id == target.workflow_id
    };
    if tx.run.children.values().any(|c| started_now(c)) {
        return Err(bad("the same workflow task starts it as a child".into()));
    }
    let pending = tx.run.external_cancels.len();
    if pending >= tx.limits().pending_external_cancels {
        let text = format!(
            "{pending} requests to cancel other workflows are pending; no more are allowed"
        );
        return Err(Refused::new(Cause::PendingRequestCancelLimitExceeded, text));
    }
    let batch_id = tx.batch_id();
    let event_id = tx.push_event(command.event(
        RequestCancelExternalWorkflowExecutionInitiatedEventAttributes {
            workflow_task_completed_event_id: command.completed_id,
            namespace: tx.cx.namespace.to_owned(),
            namespace_id: format_uuid(&tx.run.id.namespace_id),
            workflow_execution: Some(target),
            control: a.control,
            child_workflow_only: a.child_workflow_only,
            reason: a.reason,
        },
    ));
    let request_id = tx.cx.uuid();
    tx.put_external_cancel(External {
        initiated_id: event_id,
        initiated_batch_id: batch_id,
        request_id,
    });
    tx.add_outbox(OutboxItem::CancelExternal(Initiated { event_id, batch_id }));
    Ok(())
}

/// Records that another workflow is to be signaled.
pub fn signal(
    tx: &mut Tx<'_>,
    a: SignalExternalWorkflowExecutionCommandAttributes,
    command: &CommandContext,
) -> Result<(), Refused> {
    const BAD: Cause = Cause::BadSignalWorkflowExecutionAttributes;
    let target = a.execution.unwrap_or_default();
    let bad = |text: String| {
        Refused::new(
            BAD,
            format!("signal to workflow `{}`: {text}", target.workflow_id),
        )
    };
    check_target(tx, &a.namespace, &target).map_err(bad)?;
    check_id("signal name", &a.signal_name, tx.limits()).map_err(bad)?;
    let pending = tx.run.external_signals.len();
    if pending >= tx.limits().pending_external_signals {
        let text = format!("{pending} signals to other workflows are pending; no more are allowed");
        return Err(Refused::new(Cause::PendingSignalsLimitExceeded, text));
    }
    let (size, most) = (
        a.input.as_ref().map_or(0, |i| i.encoded_len()),
        tx.limits().blob_size,
    );
    if size > most {
        let text = format!("signal input has {size} bytes; at most {most} are allowed");
        return Err(Refused::terminate(BAD, text));
    }
    let batch_id = tx.batch_id();
    let event_id = tx.push_event(command.event(
        SignalExternalWorkflowExecutionInitiatedEventAttributes {
            workflow_task_completed_event_id: command.completed_id,
            namespace: tx.cx.namespace.to_owned(),
            namespace_id: format_uuid(&tx.run.id.namespace_id),
            workflow_execution: Some(target),
            signal_name: a.signal_name,
            input: a.input,
            control: a.control,
            child_workflow_only: a.child_workflow_only,
            header: a.header,
        },
    ));
    let request_id = tx.cx.uuid();
    tx.put_external_signal(External {
        initiated_id: event_id,
        initiated_batch_id: batch_id,
        request_id,
    });
    tx.add_outbox(OutboxItem::SignalExternal(Initiated { event_id, batch_id }));
    Ok(())
}

fn check_target(tx: &Tx<'_>, namespace: &str, target: &WorkflowExecution) -> Result<(), String> {
    if !namespace.is_empty() && namespace != tx.cx.namespace {
        return Err("cross namespace commands are not allowed".into());
    }
    check_id("workflow id", &target.workflow_id, tx.limits())?;
    if !target.run_id.is_empty() && parse_uuid(&target.run_id).is_none() {
        return Err(format!("run id `{}` is not a UUID", target.run_id));
    }
    Ok(())
}
