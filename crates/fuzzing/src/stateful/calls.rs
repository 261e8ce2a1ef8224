//! Requests as official SDKs send them.

use prost::Message as _;
use tidemill_proto::api::activity::v1::ActivityOptions;
use tidemill_proto::api::command::v1::command::Attributes as C;
use tidemill_proto::api::command::v1::*;
use tidemill_proto::api::common::v1::*;
use tidemill_proto::api::enums::v1::{CommandType, TaskQueueKind};
use tidemill_proto::api::query::v1::WorkflowQuery;
use tidemill_proto::api::taskqueue::v1::TaskQueue;
use tidemill_proto::api::update::v1::WaitPolicy;
use tidemill_proto::api::workflowservice::v1::execute_multi_operation_request as multi;
use tidemill_proto::api::workflowservice::v1::*;
use tidemill_proto::wkt;

use super::command;
use crate::engine::CUSTOM;

pub(crate) use tidemill_proto::wkt::FieldMask;

pub(crate) const NAMESPACE: &str = "default";

pub(crate) fn queue() -> TaskQueue {
    TaskQueue {
        name: "queue".into(),
        ..Default::default()
    }
}

pub(crate) fn sticky_queue() -> TaskQueue {
    TaskQueue {
        name: "sticky".into(),
        kind: TaskQueueKind::Sticky as i32,
        normal_name: "queue".into(),
    }
}

pub(crate) fn execution(id: &str, run_id: &str) -> Option<WorkflowExecution> {
    Some(WorkflowExecution {
        workflow_id: id.into(),
        run_id: run_id.into(),
    })
}

pub(crate) fn seconds(seconds: i64) -> Option<wkt::Duration> {
    Some(wkt::Duration { seconds, nanos: 0 })
}

pub(crate) fn start(id: &str) -> StartWorkflowExecutionRequest {
    StartWorkflowExecutionRequest {
        namespace: NAMESPACE.into(),
        workflow_id: id.into(),
        workflow_type: Some(WorkflowType {
            name: "Type".into(),
        }),
        task_queue: Some(queue()),
        ..Default::default()
    }
}

pub(crate) fn history(id: &str) -> GetWorkflowExecutionHistoryRequest {
    GetWorkflowExecutionHistoryRequest {
        namespace: NAMESPACE.into(),
        execution: execution(id, ""),
        ..Default::default()
    }
}

pub(crate) fn completion(token: &[u8]) -> RespondWorkflowTaskCompletedRequest {
    RespondWorkflowTaskCompletedRequest {
        namespace: NAMESPACE.into(),
        task_token: token.to_vec(),
        ..Default::default()
    }
}

pub(crate) fn command(kind: CommandType, attributes: C) -> Command {
    Command {
        command_type: kind as i32,
        attributes: Some(attributes),
        ..Default::default()
    }
}

pub(crate) fn schedule_activity(id: &str) -> Command {
    command(
        CommandType::ScheduleActivityTask,
        C::ScheduleActivityTaskCommandAttributes(ScheduleActivityTaskCommandAttributes {
            activity_id: id.into(),
            activity_type: Some(ActivityType {
                name: "Activity".into(),
            }),
            task_queue: Some(queue()),
            start_to_close_timeout: seconds(60),
            ..Default::default()
        }),
    )
}

pub(crate) fn multi_operation(
    start: StartWorkflowExecutionRequest,
    update: UpdateWorkflowExecutionRequest,
) -> ExecuteMultiOperationRequest {
    let operations = [
        multi::operation::Operation::StartWorkflow(start),
        multi::operation::Operation::UpdateWorkflow(update),
    ];
    ExecuteMultiOperationRequest {
        namespace: NAMESPACE.into(),
        operations: operations
            .into_iter()
            .map(|operation| multi::Operation {
                operation: Some(operation),
            })
            .collect(),
        ..Default::default()
    }
}

/// A legal request of each of the RPCs that say much.
pub(crate) fn legal() -> Vec<(&'static str, Vec<u8>)> {
    let namespace = || NAMESPACE.to_owned();
    let w0 = || execution("w0", "");
    let update = UpdateWorkflowExecutionRequest {
        namespace: namespace(),
        workflow_execution: w0(),
        wait_policy: Some(WaitPolicy { lifecycle_stage: 2 }),
        request: Some(command::update_request("u0")),
        ..Default::default()
    };
    let full_start = StartWorkflowExecutionRequest {
        request_id: "r0".into(),
        workflow_run_timeout: seconds(60),
        cron_schedule: "@every 1h".into(),
        memo: Some(Memo {
            fields: [("k".to_owned(), json("1"))].into(),
        }),
        search_attributes: Some(SearchAttributes {
            indexed_fields: [(CUSTOM.to_owned(), json("\"v\""))].into(),
        }),
        retry_policy: Some(RetryPolicy {
            maximum_attempts: 3,
            ..Default::default()
        }),
        ..start("w1")
    };
    let completed = RespondWorkflowTaskCompletedRequest {
        commands: vec![schedule_activity("a0")],
        ..completion(b"token")
    };
    vec![
        ("StartWorkflowExecution", full_start.encode_to_vec()),
        (
            "SignalWorkflowExecution",
            SignalWorkflowExecutionRequest {
                namespace: namespace(),
                workflow_execution: w0(),
                signal_name: "signal".into(),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "SignalWithStartWorkflowExecution",
            SignalWithStartWorkflowExecutionRequest {
                namespace: namespace(),
                workflow_id: "w2".into(),
                workflow_type: start("").workflow_type,
                task_queue: Some(queue()),
                signal_name: "signal".into(),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "ExecuteMultiOperation",
            multi_operation(start("w0"), update.clone()).encode_to_vec(),
        ),
        ("UpdateWorkflowExecution", update.encode_to_vec()),
        (
            "QueryWorkflow",
            QueryWorkflowRequest {
                namespace: namespace(),
                execution: w0(),
                query: Some(WorkflowQuery {
                    query_type: "state".into(),
                    ..Default::default()
                }),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "PollWorkflowTaskQueue",
            PollWorkflowTaskQueueRequest {
                namespace: namespace(),
                task_queue: Some(queue()),
                identity: "worker".into(),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "PollActivityTaskQueue",
            PollActivityTaskQueueRequest {
                namespace: namespace(),
                task_queue: Some(queue()),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        ("RespondWorkflowTaskCompleted", completed.encode_to_vec()),
        ("GetWorkflowExecutionHistory", history("w0").encode_to_vec()),
        (
            "DescribeWorkflowExecution",
            DescribeWorkflowExecutionRequest {
                namespace: namespace(),
                execution: w0(),
            }
            .encode_to_vec(),
        ),
        (
            "ResetWorkflowExecution",
            ResetWorkflowExecutionRequest {
                namespace: namespace(),
                workflow_execution: w0(),
                workflow_task_finish_event_id: 3,
                request_id: "r0".into(),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "ListWorkflowExecutions",
            ListWorkflowExecutionsRequest {
                namespace: namespace(),
                query: "WorkflowType = 'Type' AND ExecutionStatus = 'Running'".into(),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "CountWorkflowExecutions",
            CountWorkflowExecutionsRequest {
                namespace: namespace(),
                query: "GROUP BY ExecutionStatus".into(),
            }
            .encode_to_vec(),
        ),
        (
            "DescribeTaskQueue",
            DescribeTaskQueueRequest {
                namespace: namespace(),
                task_queue: Some(queue()),
                report_stats: true,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "RegisterNamespace",
            RegisterNamespaceRequest {
                namespace: "another".into(),
                workflow_execution_retention_period: seconds(86_400),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "UpdateActivityOptions",
            UpdateActivityOptionsRequest {
                namespace: namespace(),
                execution: w0(),
                activity: Some(update_activity_options_request::Activity::Id("a0".into())),
                activity_options: Some(ActivityOptions {
                    start_to_close_timeout: seconds(60),
                    ..Default::default()
                }),
                update_mask: Some(FieldMask {
                    paths: vec!["start_to_close_timeout".into()],
                }),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
    ]
}

pub(crate) fn json(text: &str) -> Payload {
    Payload {
        metadata: [("encoding".to_owned(), b"json/plain".to_vec())].into(),
        data: text.into(),
        ..Default::default()
    }
}
