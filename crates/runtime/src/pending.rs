//! What the tasks of a run that are under way say of themselves: how far they are, or what they wait for.

use temporalio_client::tonic::IntoRequest;
use temporalio_common::protos::temporal::api::common::v1::{Payloads, WorkflowExecution};
use temporalio_common::protos::temporal::api::enums::v1::PendingActivityState;
use temporalio_common::protos::temporal::api::workflowservice::v1::DescribeWorkflowExecutionRequest;

use crate::client::{Error, Pipelines};

/// A task that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The stage type, or what the interpreter asked for.
    pub task: String,
    pub attempt: u32,
    /// Whether a worker has it now; otherwise it waits for one, or for its next attempt.
    pub started: bool,
    /// Its last sign of life: `120 of 256 items`, `waiting: needs 82 GiB, 30 GiB free on nvml:0`.
    pub said: Option<String>,
    /// Why the attempt before failed.
    pub failed: Option<String>,
}

impl Pipelines {
    /// The tasks of a run that are under way.
    ///
    /// # Errors
    /// There is no such run, or the engine is not reached.
    pub async fn pending(&self, run: &str) -> Result<Vec<Pending>, Error> {
        let mut service = self.client().connection().workflow_service();
        let request = DescribeWorkflowExecutionRequest {
            namespace: self.client().options().namespace.clone(),
            execution: Some(WorkflowExecution {
                workflow_id: run.to_owned(),
                run_id: String::new(),
            }),
        };
        let described = service.describe_workflow_execution(request.into_request());
        let described = described.await.map_err(|status| Error::Other {
            run: run.to_owned(),
            cause: status.message().to_owned(),
        })?;
        let pending = described.into_inner().pending_activities.into_iter();
        let pending = pending.map(|task| Pending {
            started: task.state() == PendingActivityState::Started,
            task: task.activity_type.unwrap_or_default().name,
            attempt: u32::try_from(task.attempt).unwrap_or(1),
            said: task.heartbeat_details.as_ref().and_then(line),
            failed: task.last_failure.map(|failure| failure.message),
        });
        Ok(pending.collect())
    }
}

/// Our workers give one line; what others say is theirs.
fn line(details: &Payloads) -> Option<String> {
    serde_json::from_slice(&details.payloads.first()?.data).ok()
}
