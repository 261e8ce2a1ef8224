//! DescribeWorkflowExecution (contract 7.3).

use tidemill_engine::Error;
use tidemill_proto::api::workflowservice::v1::{
    DescribeWorkflowExecutionRequest, DescribeWorkflowExecutionResponse,
};

use super::{Call, target};
use crate::Server;
use crate::core::now;
use crate::namespaces::Namespace;

impl Server {
    pub async fn describe_workflow_execution(
        &self,
        namespace: &Namespace,
        request: DescribeWorkflowExecutionRequest,
        _call: Call,
    ) -> Result<DescribeWorkflowExecutionResponse, Error> {
        let view = self
            .core
            .shards
            .read(target(namespace, &request.execution)?)
            .await?;
        Ok(tidemill_engine::describe::describe(
            &view.run,
            namespace,
            now(),
        ))
    }
}
