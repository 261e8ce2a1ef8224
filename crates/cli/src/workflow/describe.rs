//! One workflow's state.

use tidemill_proto::api::workflowservice::v1::{
    DescribeWorkflowExecutionRequest, DescribeWorkflowExecutionResponse,
};

use super::connection::{Connection, quick, refused};
use super::list::{status, time};
use super::{Execution, json, payload};
use crate::exit::Failure;
use crate::output;
use crate::table;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    execution: Execution,
}

pub(super) async fn run(connection: &mut Connection, arguments: Arguments) -> Result<(), Failure> {
    let request = DescribeWorkflowExecutionRequest {
        namespace: connection.namespace.clone(),
        execution: Some(arguments.execution.proto()),
    };
    let answer = connection
        .client
        .describe_workflow_execution(quick(request))
        .await;
    let answer = answer.map_err(refused)?.into_inner();
    if connection.json {
        json::print(&json::readable(&answer)?);
    } else {
        output::write(&text(&answer));
    }
    Ok(())
}

fn text(answer: &DescribeWorkflowExecutionResponse) -> String {
    let info = answer.workflow_execution_info.clone().unwrap_or_default();
    let execution = info.execution.clone().unwrap_or_default();
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        if !value.is_empty() && value != "-" {
            out += &format!("{name:<16}{value}\n");
        }
    };
    line("Workflow id", execution.workflow_id);
    line("Run id", execution.run_id);
    line("Type", info.r#type.clone().unwrap_or_default().name);
    line("Status", status(info.status()));
    line("Task queue", info.task_queue.clone());
    line("Started", time(&info.start_time));
    line("Closed", time(&info.close_time));
    line("Events", info.history_length.to_string());
    line("History bytes", info.history_size_bytes.to_string());
    if let Some(parent) = &info.parent_execution {
        line(
            "Parent",
            format!("{} {}", parent.workflow_id, parent.run_id),
        );
    }
    for (name, value) in info.memo.iter().flat_map(|memo| &memo.fields) {
        line("Memo", format!("{name} = {}", payload::text(value)));
    }
    for (name, value) in info
        .search_attributes
        .iter()
        .flat_map(|sa| &sa.indexed_fields)
    {
        line("Attribute", format!("{name} = {}", payload::text(value)));
    }
    if let Some(task) = &answer.pending_workflow_task {
        line(
            "Workflow task",
            format!("{:?}, attempt {}", task.state(), task.attempt),
        );
    }
    out + &activities(answer) + &children(answer)
}

fn activities(answer: &DescribeWorkflowExecutionResponse) -> String {
    if answer.pending_activities.is_empty() {
        return String::new();
    }
    let rows: Vec<_> = answer
        .pending_activities
        .iter()
        .map(|activity| {
            let failure = activity
                .last_failure
                .as_ref()
                .map(|failure| failure.message.clone());
            vec![
                activity.activity_id.clone(),
                activity.activity_type.clone().unwrap_or_default().name,
                format!("{:?}", activity.state()),
                activity.attempt.to_string(),
                failure.unwrap_or_default(),
            ]
        })
        .collect();
    let header = ["ACTIVITY", "TYPE", "STATE", "ATTEMPT", "LAST FAILURE"];
    format!("\n{}", table::render(&header, &rows))
}

fn children(answer: &DescribeWorkflowExecutionResponse) -> String {
    if answer.pending_children.is_empty() {
        return String::new();
    }
    let rows: Vec<_> = answer
        .pending_children
        .iter()
        .map(|child| {
            vec![
                child.workflow_id.clone(),
                child.run_id.clone(),
                child.workflow_type_name.clone(),
            ]
        })
        .collect();
    format!("\n{}", table::render(&["CHILD", "RUN ID", "TYPE"], &rows))
}
