//! Signals, queries, cancellation, termination.

use std::time::Duration;

use tidemill_proto::api::query::v1::WorkflowQuery;
use tidemill_proto::api::workflowservice::v1::{
    QueryWorkflowRequest, RequestCancelWorkflowExecutionRequest, SignalWorkflowExecutionRequest,
    TerminateWorkflowExecutionRequest,
};

use super::connection::{Connection, quick, refused, waiting};
use super::list::status;
use super::{Execution, json, payload};
use crate::exit::Failure;
use crate::output;

/// A query waits for a worker.
const QUERY_WAIT: Duration = Duration::from_secs(20);

#[derive(clap::Args)]
pub(super) struct Signal {
    #[command(flatten)]
    execution: Execution,
    /// Signal's name.
    #[arg(long)]
    name: String,
    /// Argument, as JSON; repeat for more.
    #[arg(long, short, value_name = "JSON")]
    input: Vec<String>,
}

#[derive(clap::Args)]
pub(super) struct Query {
    #[command(flatten)]
    execution: Execution,
    /// Query's name.
    #[arg(long = "type", alias = "name", value_name = "TYPE")]
    query_type: String,
    /// Argument, as JSON; repeat for more.
    #[arg(long, short, value_name = "JSON")]
    input: Vec<String>,
}

#[derive(clap::Args)]
pub(super) struct Cancel {
    #[command(flatten)]
    execution: Execution,
    #[arg(long, default_value = "")]
    reason: String,
}

#[derive(clap::Args)]
pub(super) struct Terminate {
    #[command(flatten)]
    execution: Execution,
    #[arg(long, default_value = "")]
    reason: String,
}

pub(super) async fn signal(connection: &mut Connection, arguments: Signal) -> Result<(), Failure> {
    let request = SignalWorkflowExecutionRequest {
        namespace: connection.namespace.clone(),
        workflow_execution: Some(arguments.execution.proto()),
        signal_name: arguments.name,
        input: payload::optional(&arguments.input)?,
        identity: connection.identity.clone(),
        request_id: uuid::Uuid::new_v4().to_string(),
        ..Default::default()
    };
    connection
        .client
        .signal_workflow_execution(quick(request))
        .await
        .map_err(refused)?;
    done(connection, "signalled");
    Ok(())
}

pub(super) async fn query(connection: &mut Connection, arguments: Query) -> Result<(), Failure> {
    let query = WorkflowQuery {
        query_type: arguments.query_type,
        query_args: payload::optional(&arguments.input)?,
        ..Default::default()
    };
    let request = QueryWorkflowRequest {
        namespace: connection.namespace.clone(),
        execution: Some(arguments.execution.proto()),
        query: Some(query),
        ..Default::default()
    };
    let answer = connection
        .client
        .query_workflow(waiting(request, QUERY_WAIT))
        .await;
    let answer = answer.map_err(refused)?.into_inner();
    if let Some(rejected) = &answer.query_rejected {
        let status = status(rejected.status());
        return Err(Failure::General(format!(
            "the query was rejected: the workflow is {status}"
        )));
    }
    if connection.json {
        json::print(&json::readable(&answer)?);
    } else {
        output::line(payload::lines(&answer.query_result));
    }
    Ok(())
}

pub(super) async fn cancel(connection: &mut Connection, arguments: Cancel) -> Result<(), Failure> {
    let request = RequestCancelWorkflowExecutionRequest {
        namespace: connection.namespace.clone(),
        workflow_execution: Some(arguments.execution.proto()),
        reason: arguments.reason,
        identity: connection.identity.clone(),
        request_id: uuid::Uuid::new_v4().to_string(),
        ..Default::default()
    };
    connection
        .client
        .request_cancel_workflow_execution(quick(request))
        .await
        .map_err(refused)?;
    done(connection, "cancellation requested");
    Ok(())
}

pub(super) async fn terminate(
    connection: &mut Connection,
    arguments: Terminate,
) -> Result<(), Failure> {
    let request = TerminateWorkflowExecutionRequest {
        namespace: connection.namespace.clone(),
        workflow_execution: Some(arguments.execution.proto()),
        reason: arguments.reason,
        identity: connection.identity.clone(),
        ..Default::default()
    };
    connection
        .client
        .terminate_workflow_execution(quick(request))
        .await
        .map_err(refused)?;
    done(connection, "terminated");
    Ok(())
}

fn done(connection: &Connection, what: &str) {
    match connection.json {
        true => json::print(&serde_json::json!({})),
        false => output::line(what),
    }
}
