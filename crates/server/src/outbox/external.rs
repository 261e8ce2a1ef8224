//! Effects on workflows that a command names: cancel requests and signals.

use std::sync::Arc;

use tidemill_engine::external::{self, Step, deliver};
use tidemill_engine::transition::Initiated;
use tidemill_engine::{Error, Outcome, Run, cancel, signal};
use tidemill_proto::api::common::v1::WorkflowExecution;
use tidemill_proto::api::enums::v1::{
    CancelExternalWorkflowExecutionFailedCause as CancelFailed,
    SignalExternalWorkflowExecutionFailedCause as SignalFailed,
};
use tidemill_proto::api::history::v1::history_event::Attributes;
use tidemill_store::RunIdentity;

use super::{done, ignore_missing, source};
use crate::core::Core;
use crate::namespaces::Namespace;
use crate::shard::Target;

pub(super) async fn cancel_external(
    core: &Arc<Core>,
    namespace: &Namespace,
    owner: &RunIdentity,
    entry: i64,
    initiated: &Initiated,
) -> Result<(), Error> {
    let (view, event) = source(core, namespace, owner, initiated).await?;
    let Some(Attributes::RequestCancelExternalWorkflowExecutionInitiatedEventAttributes(asked)) =
        event.attributes
    else {
        return Err(Error::DataLoss(format!(
            "event {} asks for no cancellation",
            initiated.event_id
        )));
    };
    let id = initiated.event_id;
    let failed = match deliver::cancel(&view.run, id, &asked) {
        Step::Drop => return done(core, owner, entry, Ok(())).await,
        Step::Fail(cause) => Some(cause),
        Step::Deliver(request) => {
            let only_child = asked.child_workflow_only;
            let sender = view.run.id.execution();
            let delivered = to_external(
                core,
                namespace,
                &asked.namespace,
                &asked.workflow_execution,
                move |run, cx| {
                    if only_child && run.is_open() && !external::is_child_of(run, &sender) {
                        return Err(Error::not_found("the workflow is not a child"));
                    }
                    Ok(cancel::request(run, request, cx))
                },
            )
            .await;
            match delivered {
                Ok(()) => None,
                Err(Error::NotFound(_)) => Some(CancelFailed::ExternalWorkflowExecutionNotFound),
                Err(Error::NamespaceNotFound(_)) => Some(CancelFailed::NamespaceNotFound),
                Err(error) => return Err(error),
            }
        }
    };
    core.shards
        .on_run(Target::of(namespace, owner), move |run, cx| {
            Ok(match failed {
                None => external::cancel_requested(run, id, &asked, entry, cx),
                Some(cause) => external::cancel_failed(run, id, &asked, cause, entry, cx),
            })
        })
        .await
        .map(|_| ())
}

pub(super) async fn signal_external(
    core: &Arc<Core>,
    namespace: &Namespace,
    owner: &RunIdentity,
    entry: i64,
    initiated: &Initiated,
) -> Result<(), Error> {
    let (view, event) = source(core, namespace, owner, initiated).await?;
    let Some(Attributes::SignalExternalWorkflowExecutionInitiatedEventAttributes(asked)) =
        event.attributes
    else {
        return Err(Error::DataLoss(format!(
            "event {} asks for no signal",
            initiated.event_id
        )));
    };
    let id = initiated.event_id;
    let mut delivered_as = None;
    let failed = match deliver::signal(&view.run, id, &asked) {
        Step::Drop => return done(core, owner, entry, Ok(())).await,
        Step::Fail(cause) => Some(cause),
        Step::Deliver(sent) => {
            let only_child = asked.child_workflow_only;
            let sender = view.run.id.execution();
            delivered_as = Some(sent.request_id.clone());
            let delivered = to_external(
                core,
                namespace,
                &asked.namespace,
                &asked.workflow_execution,
                move |run, cx| {
                    if only_child && run.is_open() && !external::is_child_of(run, &sender) {
                        return Err(Error::not_found("the workflow is not a child"));
                    }
                    signal::signal(run, sent, cx)
                },
            )
            .await;
            match delivered {
                Ok(()) => None,
                Err(Error::NotFound(_)) => Some(SignalFailed::ExternalWorkflowExecutionNotFound),
                Err(Error::NamespaceNotFound(_)) => Some(SignalFailed::NamespaceNotFound),
                Err(Error::InvalidArgument(_)) => Some(SignalFailed::SignalCountLimitExceeded),
                Err(error) => return Err(error),
            }
        }
    };
    let target_execution = asked.workflow_execution.clone();
    let target_namespace = asked.namespace.clone();
    core.shards
        .on_run(Target::of(namespace, owner), move |run, cx| {
            Ok(match failed {
                None => external::signaled(run, id, &asked, entry, cx),
                Some(cause) => external::signal_failed(run, id, &asked, cause, entry, cx),
            })
        })
        .await?;
    if failed.is_none()
        && let Some(request_id) = delivered_as
    {
        let forgotten = to_external(
            core,
            namespace,
            &target_namespace,
            &target_execution,
            move |run, cx| Ok(external::forget_signal(run, &request_id, cx)),
        );
        return ignore_missing(forgotten.await);
    }
    Ok(())
}

/// Runs an operation on the workflow that a command names.
async fn to_external(
    core: &Arc<Core>,
    own: &Namespace,
    namespace: &str,
    execution: &Option<WorkflowExecution>,
    operation: impl FnOnce(&Run, &tidemill_engine::Cx<'_>) -> Result<Outcome<()>, Error>
    + Send
    + 'static,
) -> Result<(), Error> {
    let namespace = if namespace.is_empty() {
        own.clone()
    } else {
        core.namespaces.by_name(namespace)?
    };
    let execution = execution.clone().unwrap_or_default();
    let target = Target::new(&namespace, &execution.workflow_id, &execution.run_id)?;
    core.shards.on_run(target, operation).await.map(|_| ())
}
