//! Signals and cancel requests from outside (contract sections 5.1 and 5.2).

use tidemill_engine::cancel::{self, CancelRequest};
use tidemill_engine::signal::{self, Signal};
use tidemill_engine::{Error, Outcome};
use tidemill_proto::api::enums::v1::EventType;
use tidemill_proto::api::workflowservice::v1::{
    RequestCancelWorkflowExecutionRequest, RequestCancelWorkflowExecutionResponse,
    SignalWorkflowExecutionRequest, SignalWorkflowExecutionResponse,
};

use super::lifecycle::in_chain;
use super::{Call, request_link, target};
use crate::Server;
use crate::namespaces::Namespace;

impl Server {
    pub async fn signal_workflow_execution(
        &self,
        namespace: &Namespace,
        request: SignalWorkflowExecutionRequest,
        _call: Call,
    ) -> Result<SignalWorkflowExecutionResponse, Error> {
        let target = target(namespace, &request.workflow_execution)?;
        let request_id = request.request_id.clone();
        let sent = Signal {
            name: request.signal_name,
            input: request.input,
            header: request.header,
            identity: request.identity,
            request_id: request.request_id,
            links: request.links,
            external: None,
        };
        let done = self
            .core
            .shards
            .on_run(target, move |run, cx| signal::signal(run, sent, cx))
            .await?;
        let link = request_link(
            namespace,
            &done.view.run.id,
            &request_id,
            EventType::WorkflowExecutionSignaled,
        );
        Ok(SignalWorkflowExecutionResponse { link: Some(link) })
    }

    pub async fn request_cancel_workflow_execution(
        &self,
        namespace: &Namespace,
        request: RequestCancelWorkflowExecutionRequest,
        _call: Call,
    ) -> Result<RequestCancelWorkflowExecutionResponse, Error> {
        let mut target = target(namespace, &request.workflow_execution)?;
        let chain = request.first_execution_run_id;
        if !chain.is_empty() {
            target.run_id = None;
        }
        let asked = CancelRequest {
            reason: request.reason,
            identity: request.identity,
            links: request.links,
            external: None,
        };
        self.core
            .shards
            .on_run(target, move |run, cx| {
                in_chain(run, &chain)?;
                Ok::<Outcome<()>, Error>(cancel::request(run, asked, cx))
            })
            .await?;
        Ok(RequestCancelWorkflowExecutionResponse {})
    }
}
