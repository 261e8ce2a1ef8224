//! Running a workflow again from an earlier point.

use clap::ValueEnum;
use tidemill_proto::api::enums::v1::EventType;
use tidemill_proto::api::history::v1::HistoryEvent;
use tidemill_proto::api::workflowservice::v1::ResetWorkflowExecutionRequest;

use super::connection::{Connection, quick, refused};
use super::{Execution, history, json};
use crate::exit::Failure;
use crate::output;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    execution: Execution,
    /// Event to go back to: that of a workflow task's completion.
    #[arg(long, short, conflicts_with = "to", required_unless_present = "to")]
    event_id: Option<i64>,
    /// Point to go back to.
    #[arg(long, value_enum)]
    to: Option<Point>,
    #[arg(long, default_value = "reset from the command line")]
    reason: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Point {
    FirstWorkflowTask,
    LastWorkflowTask,
}

pub(super) async fn run(connection: &mut Connection, arguments: Arguments) -> Result<(), Failure> {
    let workflow_task_finish_event_id = match (arguments.event_id, arguments.to) {
        (Some(event_id), _) => event_id,
        (None, to) => {
            let events = history::read(connection, &arguments.execution).await?;
            find(&events, to.unwrap_or(Point::LastWorkflowTask)).ok_or_else(|| {
                Failure::general("the workflow has completed no workflow task to go back to")
            })?
        }
    };
    let request = ResetWorkflowExecutionRequest {
        namespace: connection.namespace.clone(),
        workflow_execution: Some(arguments.execution.proto()),
        reason: arguments.reason,
        workflow_task_finish_event_id,
        request_id: uuid::Uuid::new_v4().to_string(),
        identity: connection.identity.clone(),
        ..Default::default()
    };
    let answer = connection
        .client
        .reset_workflow_execution(quick(request))
        .await;
    let answer = answer.map_err(refused)?.into_inner();
    if connection.json {
        json::print(&serde_json::json!({ "runId": answer.run_id }));
    } else {
        output::line(format_args!("Run id       {}", answer.run_id));
    }
    Ok(())
}

fn find(events: &[HistoryEvent], point: Point) -> Option<i64> {
    let mut completed = events
        .iter()
        .filter(|event| event.event_type() == EventType::WorkflowTaskCompleted);
    let event = match point {
        Point::FirstWorkflowTask => completed.next(),
        Point::LastWorkflowTask => completed.next_back(),
    };
    event.map(|event| event.event_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points() {
        let types = [
            EventType::WorkflowExecutionStarted,
            EventType::WorkflowTaskScheduled,
            EventType::WorkflowTaskStarted,
            EventType::WorkflowTaskCompleted,
            EventType::WorkflowExecutionSignaled,
            EventType::WorkflowTaskScheduled,
            EventType::WorkflowTaskStarted,
            EventType::WorkflowTaskCompleted,
        ];
        let event = |(i, ty): (usize, EventType)| HistoryEvent {
            event_id: i as i64 + 1,
            event_type: ty as i32,
            ..Default::default()
        };
        let events: Vec<_> = types.into_iter().enumerate().map(event).collect();
        assert_eq!(find(&events, Point::FirstWorkflowTask), Some(4));
        assert_eq!(find(&events, Point::LastWorkflowTask), Some(8));
        assert_eq!(find(&events[..3], Point::LastWorkflowTask), None);
    }
}
