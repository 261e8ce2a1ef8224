//! ResetWorkflowExecution (contract 5.5).

use std::sync::Arc;

use tidemill_engine::reset::{self, Exclude, LaterRun};
use tidemill_engine::{DecodedBatch, Error, Outcome};
use tidemill_proto::api::workflow::v1::post_reset_operation::Variant;
use tidemill_proto::api::workflowservice::v1::{
    ResetWorkflowExecutionRequest, ResetWorkflowExecutionResponse,
};

use super::{Call, target};
use crate::Server;
use crate::namespaces::Namespace;
use crate::shard::{Target, View};

/// Runs of one chain whose histories are read for a reset.
const CHAIN_MAX: usize = 1000;

impl Server {
    pub async fn reset_workflow_execution(
        &self,
        namespace: &Namespace,
        request: ResetWorkflowExecutionRequest,
        _call: Call,
    ) -> Result<ResetWorkflowExecutionResponse, Error> {
        let target = target(namespace, &request.workflow_execution)?;
        let wanted = wanted(request)?;
        // The histories are read before the shard is asked; if the base grew meanwhile, again.
        loop {
            let base = self.core.shards.read(target.clone()).await?;
            let history = self.core.all_batches(&base).await?;
            let later = self.later_runs(namespace, &history).await?;
            let request = wanted.clone();
            let done = self
                .core
                .shards
                .on_workflow(namespace, &target.workflow_id, move |current, cx| {
                    let is_current = current.is_some_and(|run| run.id.no == base.run.id.no);
                    let run = if is_current {
                        current.unwrap_or(&base.run)
                    } else {
                        &base.run
                    };
                    if run.core.next_event_id != base.run.core.next_event_id {
                        return Ok(Outcome::unchanged(None));
                    }
                    let later: Vec<_> = later
                        .iter()
                        .map(|(run_id, history)| LaterRun { run_id, history })
                        .collect();
                    Ok(reset::reset(run, &history, &later, current, request, cx)?.map(Some))
                })
                .await?;
            if let Some(run_id) = done.value {
                return Ok(ResetWorkflowExecutionResponse { run_id });
            }
        }
    }

    /// The runs that a history goes on in by continue-as-new, as far as they are still there.
    async fn later_runs(
        &self,
        namespace: &Namespace,
        history: &[Arc<DecodedBatch>],
    ) -> Result<Vec<(String, Vec<Arc<DecodedBatch>>)>, Error> {
        let mut later: Vec<(String, Vec<Arc<DecodedBatch>>)> = Vec::new();
        let workflow_id = match history.first().and_then(|b| b.events.first()).and_then(|e| e.attributes.as_ref()) {
            Some(tidemill_proto::api::history::v1::history_event::Attributes::WorkflowExecutionStartedEventAttributes(a)) => {
                a.workflow_id.clone()
            }
            _ => return Ok(later),
        };
        while later.len() < CHAIN_MAX {
            let last = later.last().map_or(history, |(_, h)| &h[..]);
            let Some(next) = reset::continued_in(last).map(str::to_owned) else {
                break;
            };
            let view: View = match self
                .core
                .shards
                .read(Target::new(namespace, &workflow_id, &next)?)
                .await
            {
                Ok(view) => view,
                Err(Error::NotFound(_)) => break,
                Err(error) => return Err(error),
            };
            let history = self.core.all_batches(&view).await?;
            later.push((next, history));
        }
        Ok(later)
    }
}

fn wanted(request: ResetWorkflowExecutionRequest) -> Result<reset::Request, Error> {
    let exclude = Exclude::of(
        &request.reset_reapply_exclude_types,
        request.reset_reapply_type(),
    );
    let mut options = Vec::new();
    for operation in request.post_reset_operations {
        match operation.variant {
            Some(Variant::UpdateWorkflowOptions(update)) => {
                let paths = update.update_mask.map(|m| m.paths).unwrap_or_default();
                options.push((paths, update.workflow_execution_options.unwrap_or_default()));
            }
            Some(Variant::SignalWorkflow(_)) | None => {
                return Err(Error::invalid("unsupported post reset operation"));
            }
        }
    }
    Ok(reset::Request {
        finish_event_id: request.workflow_task_finish_event_id,
        reason: request.reason,
        request_id: request.request_id,
        exclude,
        options,
        identity: request.identity,
    })
}
