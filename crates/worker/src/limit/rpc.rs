//! Updates of workflows: how limits are asked.

use std::time::Duration;

use temporalio_client::Connection;
use temporalio_client::tonic::{Code, Request, Status};
use temporalio_common::protos::temporal::api::common::v1::{Payload, Payloads, WorkflowExecution};
use temporalio_common::protos::temporal::api::enums::v1::UpdateWorkflowExecutionLifecycleStage;
use temporalio_common::protos::temporal::api::failure::v1::failure::FailureInfo;
use temporalio_common::protos::temporal::api::update::v1::{
    Input, Meta, Request as UpdateRequest, WaitPolicy, outcome,
};
use temporalio_common::protos::temporal::api::workflowservice::v1::UpdateWorkflowExecutionRequest;

/// Longest wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(20);
/// A failure's type when the workflow continued as new, or ended, before it came to the update.
const CLOSED: &str = "AcceptedUpdateCompletedWorkflow";

/// Who sends updates to whom.
#[derive(Clone)]
pub(crate) struct Updates {
    pub(crate) connection: Connection,
    pub(crate) namespace: String,
    pub(crate) identity: String,
}

/// Why an update has no result.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// There is no such workflow, or it has ended.
    NotFound,
    /// The workflow, or the engine, does not take it.
    Refused(String),
    /// It may be sent again, under the same id.
    NotNow(String),
}

impl Updates {
    /// Sends JSON to the workflow's update `name` and waits for its result, JSON. One that was taken
    /// already under the same id is not done again: its result is given.
    pub(super) async fn update(
        &self,
        workflow_id: &str,
        name: &str,
        update_id: &str,
        argument: Vec<u8>,
    ) -> Result<Vec<u8>, Failed> {
        let payload = Payload {
            metadata: [("encoding".to_owned(), b"json/plain".to_vec())].into(),
            data: argument,
            ..Default::default()
        };
        let mut request = Request::new(UpdateWorkflowExecutionRequest {
            namespace: self.namespace.clone(),
            workflow_execution: Some(WorkflowExecution {
                workflow_id: workflow_id.to_owned(),
                run_id: String::new(),
            }),
            wait_policy: Some(WaitPolicy {
                lifecycle_stage: UpdateWorkflowExecutionLifecycleStage::Completed.into(),
            }),
            request: Some(UpdateRequest {
                meta: Some(Meta {
                    update_id: update_id.to_owned(),
                    identity: self.identity.clone(),
                }),
                input: Some(Input {
                    header: None,
                    name: name.to_owned(),
                    args: Some(Payloads {
                        payloads: vec![payload],
                    }),
                }),
                ..Default::default()
            }),
            ..Default::default()
        });
        request.set_timeout(TIMEOUT);
        let mut service = self.connection.workflow_service();
        let response = service.update_workflow_execution(request).await;
        let outcome = response.map_err(|status| failed(&status))?.into_inner();
        match outcome.outcome.and_then(|outcome| outcome.value) {
            Some(outcome::Value::Success(mut payloads)) => Ok(payloads
                .payloads
                .pop()
                .map(|payload| payload.data)
                .unwrap_or_default()),
            Some(outcome::Value::Failure(failure)) => match failure.failure_info {
                Some(FailureInfo::ApplicationFailureInfo(info)) if info.r#type == CLOSED => {
                    Err(Failed::NotNow(failure.message))
                }
                _ => Err(Failed::Refused(failure.message)),
            },
            None => Err(Failed::NotNow(
                "no worker serves it: is there a `tidemill up` or `tidemill worker`?".to_owned(),
            )),
        }
    }
}

fn failed(status: &Status) -> Failed {
    let text = format!("{} ({:?})", status.message(), status.code());
    match status.code() {
        Code::NotFound => Failed::NotFound,
        Code::InvalidArgument | Code::Unimplemented | Code::PermissionDenied => {
            Failed::Refused(text)
        }
        _ => Failed::NotNow(text),
    }
}
