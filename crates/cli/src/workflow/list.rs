//! Lists and counts.

use tidemill_proto::api::common::v1::Payload;
use tidemill_proto::api::enums::v1::WorkflowExecutionStatus;
use tidemill_proto::api::workflow::v1::WorkflowExecutionInfo;
use tidemill_proto::api::workflowservice::v1::{
    CountWorkflowExecutionsRequest, ListWorkflowExecutionsRequest,
};
use tidemill_proto::wkt::Timestamp;

use super::connection::{Connection, quick, refused};
use super::{json, payload};
use crate::exit::Failure;
use crate::output;
use crate::table;

const PAGE: usize = 500;

#[derive(clap::Args)]
pub(super) struct List {
    /// Filter, such as: WorkflowType = 'Embed' AND ExecutionStatus = 'Running'
    #[arg(long, short, default_value = "")]
    query: String,
    /// The most workflows to show.
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

#[derive(clap::Args)]
pub(super) struct Count {
    /// Filter, which may end in: GROUP BY ExecutionStatus
    #[arg(long, short, default_value = "")]
    query: String,
}

pub(super) async fn list(connection: &mut Connection, arguments: List) -> Result<(), Failure> {
    let mut found: Vec<WorkflowExecutionInfo> = Vec::new();
    let mut next_page_token = Vec::new();
    while found.len() < arguments.limit {
        let request = ListWorkflowExecutionsRequest {
            namespace: connection.namespace.clone(),
            page_size: (arguments.limit - found.len()).min(PAGE) as i32,
            next_page_token,
            query: arguments.query.clone(),
        };
        let page = connection
            .client
            .list_workflow_executions(quick(request))
            .await;
        let page = page.map_err(refused)?.into_inner();
        found.extend(page.executions);
        next_page_token = page.next_page_token;
        if next_page_token.is_empty() {
            break;
        }
    }
    if connection.json {
        let found: Result<Vec<_>, _> = found.iter().map(json::readable).collect();
        json::print(&found?.into());
        return Ok(());
    }
    let rows: Vec<_> = found.iter().map(row).collect();
    output::write(&table::render(
        &["STATUS", "WORKFLOW ID", "RUN ID", "TYPE", "STARTED"],
        &rows,
    ));
    Ok(())
}

fn row(info: &WorkflowExecutionInfo) -> Vec<String> {
    let execution = info.execution.clone().unwrap_or_default();
    let ty = info.r#type.as_ref().map_or("", |ty| ty.name.as_str());
    vec![
        status(info.status()),
        execution.workflow_id,
        execution.run_id,
        ty.to_owned(),
        time(&info.start_time),
    ]
}

pub(super) async fn count(connection: &mut Connection, arguments: Count) -> Result<(), Failure> {
    let request = CountWorkflowExecutionsRequest {
        namespace: connection.namespace.clone(),
        query: arguments.query,
    };
    let answer = connection
        .client
        .count_workflow_executions(quick(request))
        .await;
    let answer = answer.map_err(refused)?.into_inner();
    if connection.json {
        json::print(&json::readable(&answer)?);
        return Ok(());
    }
    output::line(answer.count);
    let text = |value: &Payload| payload::text(value).trim_matches('"').to_owned();
    for group in &answer.groups {
        let values: Vec<_> = group.group_values.iter().map(text).collect();
        output::line(format_args!("{}  {}", group.count, values.join(", ")));
    }
    Ok(())
}

/// A status as filters write it.
pub(super) fn status(status: WorkflowExecutionStatus) -> String {
    match status {
        WorkflowExecutionStatus::Unspecified => "-".to_owned(),
        status => format!("{status:?}"),
    }
}

/// A point in time, to the second.
pub(super) fn time(time: &Option<Timestamp>) -> String {
    let known = time
        .as_ref()
        .and_then(|time| jiff::Timestamp::new(time.seconds, 0).ok());
    known.map_or_else(|| "-".to_owned(), |time| time.to_string())
}
