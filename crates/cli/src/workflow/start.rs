//! Starting a workflow.

use std::time::Duration;

use tidemill_proto::api::common::v1::WorkflowType;
use tidemill_proto::api::enums::v1::{WorkflowIdConflictPolicy, WorkflowIdReusePolicy};
use tidemill_proto::api::taskqueue::v1::TaskQueue;
use tidemill_proto::api::workflowservice::v1::StartWorkflowExecutionRequest;
use tidemill_proto::wkt;

use super::connection::{Connection, quick, refused};
use super::{json, payload};
use crate::exit::Failure;
use crate::output;
use crate::span;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Workflow's type.
    #[arg(long = "type", value_name = "TYPE")]
    workflow_type: String,
    #[arg(long, short)]
    task_queue: String,
    /// Its id; one is made up if it is left out.
    #[arg(long, short)]
    workflow_id: Option<String>,
    /// Argument, as JSON; repeat for more.
    #[arg(long, short, value_name = "JSON")]
    input: Vec<String>,
    /// How long the workflow may take, with retries and continuations.
    #[arg(long, value_parser = span::parse)]
    execution_timeout: Option<Duration>,
    /// How long one run may take.
    #[arg(long, value_parser = span::parse)]
    run_timeout: Option<Duration>,
    /// Wait so long before the first task.
    #[arg(long, value_parser = span::parse)]
    start_delay: Option<Duration>,
    /// Schedule on which it is run again.
    #[arg(long, default_value = "")]
    cron: String,
    /// What a closed workflow of this id means: AllowDuplicate, AllowDuplicateFailedOnly,
    /// RejectDuplicate.
    #[arg(long, value_parser = reuse_policy)]
    id_reuse_policy: Option<WorkflowIdReusePolicy>,
    /// What a running workflow of this id means: Fail, UseExisting, TerminateExisting.
    #[arg(long, value_parser = conflict_policy)]
    id_conflict_policy: Option<WorkflowIdConflictPolicy>,
}

fn reuse_policy(text: &str) -> Result<WorkflowIdReusePolicy, String> {
    use WorkflowIdReusePolicy::{AllowDuplicate, AllowDuplicateFailedOnly, RejectDuplicate};
    let known = [AllowDuplicate, AllowDuplicateFailedOnly, RejectDuplicate];
    let found = known
        .into_iter()
        .find(|policy| format!("{policy:?}") == text);
    found.ok_or_else(|| format!("one of {known:?} is wanted"))
}

fn conflict_policy(text: &str) -> Result<WorkflowIdConflictPolicy, String> {
    use WorkflowIdConflictPolicy::{Fail, TerminateExisting, UseExisting};
    let known = [Fail, UseExisting, TerminateExisting];
    let found = known
        .into_iter()
        .find(|policy| format!("{policy:?}") == text);
    found.ok_or_else(|| format!("one of {known:?} is wanted"))
}

pub(super) async fn run(connection: &mut Connection, arguments: Arguments) -> Result<(), Failure> {
    let workflow_id = arguments
        .workflow_id
        .unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let request = StartWorkflowExecutionRequest {
        namespace: connection.namespace.clone(),
        workflow_id: workflow_id.clone(),
        workflow_type: Some(WorkflowType {
            name: arguments.workflow_type,
        }),
        task_queue: Some(TaskQueue {
            name: arguments.task_queue,
            ..Default::default()
        }),
        input: payload::optional(&arguments.input)?,
        workflow_execution_timeout: arguments.execution_timeout.map(proto),
        workflow_run_timeout: arguments.run_timeout.map(proto),
        workflow_start_delay: arguments.start_delay.map(proto),
        cron_schedule: arguments.cron,
        workflow_id_reuse_policy: arguments.id_reuse_policy.unwrap_or_default() as i32,
        workflow_id_conflict_policy: arguments.id_conflict_policy.unwrap_or_default() as i32,
        identity: connection.identity.clone(),
        request_id: uuid::Uuid::new_v4().to_string(),
        ..Default::default()
    };
    let answer = connection
        .client
        .start_workflow_execution(quick(request))
        .await;
    let answer = answer.map_err(refused)?.into_inner();
    if connection.json {
        json::print(&serde_json::json!({
            "namespace": connection.namespace,
            "workflowId": workflow_id,
            "runId": answer.run_id,
            "started": answer.started,
        }));
    } else {
        output::line(format_args!(
            "Workflow id  {workflow_id}\nRun id       {}",
            answer.run_id
        ));
    }
    Ok(())
}

fn proto(span: Duration) -> wkt::Duration {
    wkt::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: span.subsec_nanos() as i32,
    }
}
