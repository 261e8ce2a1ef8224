//! Terminate, delete, and changes to an open run's options (contract sections 5.3, 5.4, 5.10).

use tidemill_engine::close::{self, Termination};
use tidemill_engine::{Error, Outcome, Run, options};
use tidemill_proto::api::workflowservice::v1::{
    DeleteWorkflowExecutionRequest, DeleteWorkflowExecutionResponse,
    TerminateWorkflowExecutionRequest, TerminateWorkflowExecutionResponse,
    UpdateWorkflowExecutionOptionsRequest, UpdateWorkflowExecutionOptionsResponse,
};

use super::{Call, target};
use crate::Server;
use crate::core::{blocking, identity, now};
use crate::namespaces::Namespace;
use crate::shard::Target;

/// Checks that the current run belongs to the chain that the caller means.
pub(super) fn in_chain(run: &Run, first_run_id: &str) -> Result<(), Error> {
    if first_run_id.is_empty() || run.first_run_id() == first_run_id {
        return Ok(());
    }
    Err(Error::not_found("workflow execution not found"))
}

impl Server {
    pub async fn terminate_workflow_execution(
        &self,
        namespace: &Namespace,
        request: TerminateWorkflowExecutionRequest,
        _call: Call,
    ) -> Result<TerminateWorkflowExecutionResponse, Error> {
        let mut target = target(namespace, &request.workflow_execution)?;
        let chain = request.first_execution_run_id;
        if !chain.is_empty() {
            target.run_id = None;
        }
        let termination = Termination {
            reason: request.reason,
            details: request.details,
            identity: request.identity,
            links: request.links,
            for_reset: false,
        };
        self.core
            .shards
            .on_run(target, move |run, cx| {
                in_chain(run, &chain)?;
                close::terminate_run(run, termination, cx)
            })
            .await?;
        Ok(TerminateWorkflowExecutionResponse {})
    }

    pub async fn delete_workflow_execution(
        &self,
        namespace: &Namespace,
        request: DeleteWorkflowExecutionRequest,
        _call: Call,
    ) -> Result<DeleteWorkflowExecutionResponse, Error> {
        let target = target(namespace, &request.workflow_execution)?;
        self.delete_run(target).await?;
        Ok(DeleteWorkflowExecutionResponse {})
    }

    /// Ends a run if it is open, and removes all that is stored of it.
    pub(crate) async fn delete_run(&self, target: Target) -> Result<(), Error> {
        let done = self
            .core
            .shards
            .on_run(target, |run, cx| {
                if run.is_open() {
                    close::terminate_run(
                        run,
                        Termination::by_engine("Delete workflow execution"),
                        cx,
                    )
                } else {
                    Ok(Outcome::unchanged(()))
                }
            })
            .await?;
        self.core.shards.delete(identity(&done.view.run.id)).await
    }

    /// Deletes every run of a namespace that is itself being deleted.
    pub async fn delete_runs_of(&self, namespace: &Namespace) -> Result<(), Error> {
        loop {
            let core = self.core.clone();
            let id = namespace.id;
            let page = blocking(move || {
                core.store
                    .runs_of_namespace(&id, tidemill_store::RunNo(0), 1000)
            })
            .await
            .map_err(|e| Error::Internal(e.to_string()))?
            .map_err(|e| Error::Unavailable(e.to_string()))?;
            if page.is_empty() {
                return Ok(());
            }
            for run in page {
                match self.delete_run(Target::of(namespace, &run)).await {
                    Ok(()) | Err(Error::NotFound(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }

    pub async fn update_workflow_execution_options(
        &self,
        namespace: &Namespace,
        request: UpdateWorkflowExecutionOptionsRequest,
        _call: Call,
    ) -> Result<UpdateWorkflowExecutionOptionsResponse, Error> {
        let target = target(namespace, &request.workflow_execution)?;
        let paths = request.update_mask.map(|m| m.paths).unwrap_or_default();
        if paths.is_empty() {
            return Err(Error::invalid("UpdateMask is not set on request."));
        }
        let wanted = request.workflow_execution_options.unwrap_or_default();
        let done = self
            .core
            .shards
            .on_run(target, move |run, cx| {
                options::update(run, &paths, &wanted, &request.identity, cx)
            })
            .await?;
        Ok(UpdateWorkflowExecutionOptionsResponse {
            workflow_execution_options: Some(done.value),
            update_time: Some(now().proto()),
        })
    }
}
