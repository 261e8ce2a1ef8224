//! Queries (engine contract 6.1).

use tidemill_engine::Error;
use tidemill_proto::api::enums::v1::QueryRejectCondition;
use tidemill_proto::api::workflowservice::v1::{QueryWorkflowRequest, QueryWorkflowResponse};

use crate::handler::Handler;
use tidemill_server::Call;

pub(crate) async fn query_workflow(
    handler: &Handler,
    mut request: QueryWorkflowRequest,
    call: Call,
) -> Result<QueryWorkflowResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    handler.limits.execution(&request.execution)?;
    let Some(query) = &request.query else {
        return Err(Error::invalid("WorkflowQuery is not set on request."));
    };
    handler.limits.required(&query.query_type, "QueryType")?;
    handler.limits.blob(&query.query_args, "QueryWorkflow")?;
    if request.query_reject_condition() == QueryRejectCondition::Unspecified {
        request.set_query_reject_condition(QueryRejectCondition::None);
    }
    handler
        .server
        .query_workflow(&namespace, request, call)
        .await
}
