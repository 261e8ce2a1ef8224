//! Tokens that clients hand back: of tasks, of pages of history and of lists. Real ones that were
//! changed, and any bytes.

use std::time::Duration;

use tidemill_proto::api::query::v1::WorkflowQuery;
use tidemill_proto::api::workflowservice::v1::*;

use crate::engine::{Engine, Outcome, brief, with_engine};
use crate::input::Input;
use crate::stateful::{calls, check};

const PATIENCE: Duration = Duration::from_millis(100);
const TOKENS_MAX: usize = 12;

/// The tokens that a client of one workflow has been given.
async fn given(engine: &Engine) -> Vec<Vec<u8>> {
    let mut tokens = Vec::new();
    for id in ["w0", "w1", "w2"] {
        let _: Outcome<StartWorkflowExecutionResponse> = engine
            .call("StartWorkflowExecution", &calls::start(id), PATIENCE)
            .await;
    }
    let first = poll(engine).await;
    let commands = vec![calls::schedule_activity("a0")];
    let respond = RespondWorkflowTaskCompletedRequest {
        commands,
        ..calls::completion(&first)
    };
    tokens.push(first);
    let _: Outcome<RespondWorkflowTaskCompletedResponse> = engine
        .call("RespondWorkflowTaskCompleted", &respond, PATIENCE)
        .await;
    tokens.push(poll(engine).await);
    let activity = PollActivityTaskQueueRequest {
        task_queue: Some(calls::queue()),
        ..Default::default()
    };
    let activity = engine
        .server
        .poll_activity_task_queue(&engine.namespace, activity, brief(PATIENCE))
        .await;
    tokens.push(activity.map(|task| task.task_token).unwrap_or_default());
    for wait_new_event in [false, true] {
        let request = GetWorkflowExecutionHistoryRequest {
            maximum_page_size: 1,
            wait_new_event,
            ..calls::history("w0")
        };
        let page: Outcome<GetWorkflowExecutionHistoryResponse> = engine
            .call("GetWorkflowExecutionHistory", &request, PATIENCE)
            .await;
        tokens.push(page.map(|page| page.next_page_token).unwrap_or_default());
    }
    let request = GetWorkflowExecutionHistoryReverseRequest {
        namespace: calls::NAMESPACE.into(),
        execution: calls::execution("w0", ""),
        maximum_page_size: 1,
        ..Default::default()
    };
    let page: Outcome<GetWorkflowExecutionHistoryReverseResponse> = engine
        .call("GetWorkflowExecutionHistoryReverse", &request, PATIENCE)
        .await;
    tokens.push(page.map(|page| page.next_page_token).unwrap_or_default());
    let request = ListWorkflowExecutionsRequest {
        namespace: calls::NAMESPACE.into(),
        page_size: 1,
        ..Default::default()
    };
    let page: Outcome<ListWorkflowExecutionsResponse> = engine
        .call("ListWorkflowExecutions", &request, PATIENCE)
        .await;
    tokens.push(page.map(|page| page.next_page_token).unwrap_or_default());
    tokens
}

async fn poll(engine: &Engine) -> Vec<u8> {
    let request = PollWorkflowTaskQueueRequest {
        task_queue: Some(calls::queue()),
        ..Default::default()
    };
    let task = engine
        .server
        .poll_workflow_task_queue(&engine.namespace, request, brief(PATIENCE))
        .await;
    task.map(|task| task.answer.task_token).unwrap_or_default()
}

/// Tokens one after the other, each to an RPC that takes one.
pub fn tokens(data: &[u8]) {
    with_engine(async |engine| {
        let given = given(&engine).await;
        let mut input = Input(data);
        for _ in 0..TOKENS_MAX {
            if input.is_empty() {
                break;
            }
            let rpc = input.below(14);
            let token = match input.below(4) {
                0 => {
                    let len = input.below(80);
                    input.take(len).to_vec()
                }
                _ => {
                    let original = input.pick(&given).cloned().unwrap_or_default();
                    input.changed(&original)
                }
            };
            hand_back(&engine, rpc, token).await;
        }
        check::all(&engine).await;
        engine
    });
}

async fn hand_back(engine: &Engine, rpc: usize, token: Vec<u8>) {
    let namespace = || calls::NAMESPACE.to_owned();
    macro_rules! send {
        ($name:literal, $response:ty, $request:expr) => {{
            let request = $request;
            // Its outcome was looked at.
            let _: Outcome<$response> = engine.call($name, &request, PATIENCE).await;
        }};
    }
    match rpc {
        0 => send!(
            "RespondWorkflowTaskCompleted",
            RespondWorkflowTaskCompletedResponse,
            calls::completion(&token)
        ),
        1 => send!(
            "RespondWorkflowTaskFailed",
            RespondWorkflowTaskFailedResponse,
            RespondWorkflowTaskFailedRequest {
                task_token: token,
                ..Default::default()
            }
        ),
        2 => send!(
            "RespondQueryTaskCompleted",
            RespondQueryTaskCompletedResponse,
            RespondQueryTaskCompletedRequest {
                namespace: namespace(),
                task_token: token,
                completed_type: 1,
                ..Default::default()
            }
        ),
        3 => send!(
            "RespondActivityTaskCompleted",
            RespondActivityTaskCompletedResponse,
            RespondActivityTaskCompletedRequest {
                task_token: token,
                ..Default::default()
            }
        ),
        4 => send!(
            "RespondActivityTaskFailed",
            RespondActivityTaskFailedResponse,
            RespondActivityTaskFailedRequest {
                namespace: namespace(),
                task_token: token,
                ..Default::default()
            }
        ),
        5 => send!(
            "RespondActivityTaskCanceled",
            RespondActivityTaskCanceledResponse,
            RespondActivityTaskCanceledRequest {
                task_token: token,
                ..Default::default()
            }
        ),
        6 => send!(
            "RecordActivityTaskHeartbeat",
            RecordActivityTaskHeartbeatResponse,
            RecordActivityTaskHeartbeatRequest {
                task_token: token,
                ..Default::default()
            }
        ),
        7 | 8 => send!(
            "GetWorkflowExecutionHistory",
            GetWorkflowExecutionHistoryResponse,
            GetWorkflowExecutionHistoryRequest {
                next_page_token: token,
                wait_new_event: rpc == 8,
                ..calls::history("w0")
            }
        ),
        9 => send!(
            "GetWorkflowExecutionHistoryReverse",
            GetWorkflowExecutionHistoryReverseResponse,
            GetWorkflowExecutionHistoryReverseRequest {
                namespace: namespace(),
                execution: calls::execution("w0", ""),
                next_page_token: token,
                ..Default::default()
            }
        ),
        10 => send!(
            "ListWorkflowExecutions",
            ListWorkflowExecutionsResponse,
            ListWorkflowExecutionsRequest {
                namespace: namespace(),
                next_page_token: token,
                ..Default::default()
            }
        ),
        11 => send!(
            "ListNamespaces",
            ListNamespacesResponse,
            ListNamespacesRequest {
                next_page_token: token,
                ..Default::default()
            }
        ),
        12 => send!(
            "ListWorkers",
            ListWorkersResponse,
            ListWorkersRequest {
                namespace: namespace(),
                next_page_token: token,
                ..Default::default()
            }
        ),
        _ => send!(
            "QueryWorkflow",
            QueryWorkflowResponse,
            QueryWorkflowRequest {
                namespace: namespace(),
                execution: calls::execution("w0", &String::from_utf8_lossy(&token)),
                query: Some(WorkflowQuery::default()),
                ..Default::default()
            }
        ),
    }
}
