//! Sequences of legal and illegal calls of clients, workers and operators, on an engine in memory.
//!
//! Names are drawn from few, so that calls meet; task tokens are kept and used again, so that they
//! are late and double. Whatever happens, no answer tells of a defect, and what must hold does hold.

pub(crate) mod calls;
pub(crate) mod check;
mod command;

use std::time::Duration;

use tidemill_proto::api::common::v1::*;
use tidemill_proto::api::query::v1::WorkflowQuery;
use tidemill_proto::api::update::v1 as update;
use tidemill_proto::api::workflowservice::v1::*;
use tidemill_proto::wkt;

use crate::engine::{Engine, Outcome, brief, with_engine};
use crate::input::Input;

const STEPS_MAX: usize = 60;
/// For calls that a commit answers.
const PATIENCE: Duration = Duration::from_secs(5);
/// For those that may wait for a worker: there is none but this sequence.
const IMPATIENCE: Duration = Duration::from_millis(3);
const WORKFLOWS: [&str; 3] = ["w0", "w1", "w2"];
const ACTIVITIES: [&str; 3] = ["a0", "a1", "a2"];
const UPDATES: [&str; 2] = ["u0", "u1"];
const REQUESTS: [&str; 2] = ["r0", "r1"];

/// What this client and worker remember.
#[derive(Default)]
pub(crate) struct Memory {
    runs: Vec<String>,
    /// What polls brought, the last one first in line.
    tasks: Vec<PollWorkflowTaskQueueResponse>,
    activities: Vec<Vec<u8>>,
    next_event: i64,
    pages: Vec<Vec<u8>>,
    signals: usize,
    /// Workflow and name of each signal that was acknowledged.
    acknowledged: Vec<(String, String)>,
    any_deleted: bool,
}

/// A byte or more for each step.
pub fn stateful(data: &[u8]) {
    with_engine(async |engine| {
        let mut input = Input(data);
        let mut memory = Memory::default();
        for _ in 0..STEPS_MAX {
            if input.is_empty() {
                break;
            }
            step(&engine, &mut memory, &mut input).await;
        }
        let runs = check::all(&engine).await;
        check::signals(&memory.acknowledged, memory.any_deleted, &runs);
        engine
    });
}

fn name<'a>(input: &mut Input, from: &[&'a str]) -> &'a str {
    // Now and then none.
    if input.one_in(64) {
        return "";
    }
    input.pick(from).copied().unwrap_or_default()
}

impl Memory {
    fn execution(&self, input: &mut Input) -> Option<WorkflowExecution> {
        let id = name(input, &WORKFLOWS);
        let run = match input.below(4) {
            0 => input.pick(&self.runs).cloned().unwrap_or_default(),
            _ => String::new(),
        };
        calls::execution(id, &run)
    }

    fn started(&mut self, run_id: String) {
        if !run_id.is_empty() && !self.runs.contains(&run_id) {
            self.runs.push(run_id);
        }
    }

    /// The last one mostly.
    fn task(&self, input: &mut Input) -> PollWorkflowTaskQueueResponse {
        let back = input.below(6).saturating_sub(3);
        self.tasks
            .iter()
            .rev()
            .nth(back)
            .cloned()
            .unwrap_or_default()
    }

    fn activity(&self, input: &mut Input) -> Vec<u8> {
        let back = input.below(6).saturating_sub(3);
        let token = self.activities.iter().rev().nth(back);
        token.cloned().unwrap_or_default()
    }
}

fn payloads(input: &mut Input) -> Option<Payloads> {
    let len = usize::from(input.byte()) % 40;
    (len > 0).then(|| Payloads {
        payloads: vec![Payload {
            data: vec![b'x'; len * len],
            ..Default::default()
        }],
    })
}

fn span(input: &mut Input) -> Option<wkt::Duration> {
    let nanos = match input.below(6) {
        0 => 1_000_000,
        1 => 5_000_000,
        2 => -1,
        3 => {
            return Some(wkt::Duration {
                seconds: 3_600,
                nanos: 0,
            });
        }
        _ => return None,
    };
    Some(wkt::Duration { seconds: 0, nanos })
}

fn start(input: &mut Input) -> StartWorkflowExecutionRequest {
    StartWorkflowExecutionRequest {
        request_id: name(input, &["r0", "r1", "", ""]).into(),
        workflow_id_reuse_policy: input.below(6) as i32,
        workflow_id_conflict_policy: input.below(5) as i32,
        workflow_run_timeout: span(input),
        workflow_task_timeout: span(input),
        workflow_start_delay: if input.one_in(8) { span(input) } else { None },
        cron_schedule: if input.one_in(8) {
            name(input, &["@every 1s", "* * * * *", "wrong"]).into()
        } else {
            String::new()
        },
        retry_policy: input.one_in(6).then(|| RetryPolicy {
            initial_interval: span(input),
            backoff_coefficient: f64::from(input.byte()),
            maximum_attempts: input.below(4) as i32 - 1,
            ..Default::default()
        }),
        request_eager_execution: input.one_in(6),
        search_attributes: input.one_in(6).then(|| command::search_attributes(input)),
        input: payloads(input),
        ..calls::start(name(input, &WORKFLOWS))
    }
}

async fn step(engine: &Engine, memory: &mut Memory, input: &mut Input<'_>) {
    let namespace = || calls::NAMESPACE.to_owned();
    macro_rules! send {
        ($name:literal, $response:ty, $patience:expr, $request:expr) => {{
            let request = $request;
            let outcome: Outcome<$response> = engine.call($name, &request, $patience).await;
            outcome.ok()
        }};
    }
    match input.below(32) {
        0..=2 => {
            let request = start(input);
            if let Some(started) = send!(
                "StartWorkflowExecution",
                StartWorkflowExecutionResponse,
                PATIENCE,
                request
            ) {
                memory.started(started.run_id);
                memory.tasks.extend(started.eager_workflow_task);
            }
        }
        3 => {
            let start = start(input);
            let request = SignalWithStartWorkflowExecutionRequest {
                namespace: start.namespace,
                workflow_id: start.workflow_id,
                workflow_type: start.workflow_type,
                task_queue: start.task_queue,
                workflow_id_reuse_policy: start.workflow_id_reuse_policy,
                workflow_id_conflict_policy: start.workflow_id_conflict_policy,
                request_id: start.request_id,
                signal_name: "signal".into(),
                cron_schedule: start.cron_schedule,
                workflow_run_timeout: start.workflow_run_timeout,
                ..Default::default()
            };
            if let Some(started) = send!(
                "SignalWithStartWorkflowExecution",
                SignalWithStartWorkflowExecutionResponse,
                PATIENCE,
                request
            ) {
                memory.started(started.run_id);
            }
        }
        4 | 5 => {
            // Some are sent again.
            memory.signals += usize::from(!input.one_in(4));
            let id = format!("{}{}", check::SIGNAL, memory.signals);
            let execution = memory.execution(input);
            let request = SignalWorkflowExecutionRequest {
                namespace: namespace(),
                workflow_execution: execution.clone(),
                signal_name: id.clone(),
                input: payloads(input),
                request_id: id.clone(),
                ..Default::default()
            };
            let sent = send!(
                "SignalWorkflowExecution",
                SignalWorkflowExecutionResponse,
                PATIENCE,
                request
            );
            if sent.is_some() {
                let workflow_id = execution.unwrap_or_default().workflow_id;
                memory.acknowledged.push((workflow_id, id));
            }
        }
        6..=10 => poll(engine, memory, input).await,
        11..=16 => {
            let task = memory.task(input);
            let request = command::completion(&task, memory, input);
            if let Some(done) = send!(
                "RespondWorkflowTaskCompleted",
                RespondWorkflowTaskCompletedResponse,
                PATIENCE,
                request
            ) {
                memory.tasks.extend(done.workflow_task);
                let eager = done.activity_tasks.into_iter().map(|task| task.task_token);
                memory.activities.extend(eager);
            }
        }
        17 => {
            let request = RespondWorkflowTaskFailedRequest {
                task_token: memory.task(input).task_token,
                cause: input.below(40) as i32,
                ..Default::default()
            };
            send!(
                "RespondWorkflowTaskFailed",
                RespondWorkflowTaskFailedResponse,
                PATIENCE,
                request
            );
        }
        18 | 19 => poll_activity(engine, memory, input).await,
        20 | 21 => respond_activity(engine, memory, input).await,
        22 => control_activity(engine, memory, input).await,
        23 => {
            let request = UpdateWorkflowExecutionRequest {
                namespace: namespace(),
                workflow_execution: memory.execution(input),
                wait_policy: Some(update::WaitPolicy {
                    lifecycle_stage: input.below(4) as i32,
                }),
                request: Some(command::update_request(name(input, &UPDATES))),
                ..Default::default()
            };
            send!(
                "UpdateWorkflowExecution",
                UpdateWorkflowExecutionResponse,
                IMPATIENCE,
                request
            );
        }
        24 => {
            let request = QueryWorkflowRequest {
                namespace: namespace(),
                execution: memory.execution(input),
                query: Some(WorkflowQuery {
                    query_type: "state".into(),
                    ..Default::default()
                }),
                query_reject_condition: input.below(4) as i32,
            };
            send!("QueryWorkflow", QueryWorkflowResponse, IMPATIENCE, request);
        }
        25 => {
            let request = RequestCancelWorkflowExecutionRequest {
                namespace: namespace(),
                workflow_execution: memory.execution(input),
                request_id: name(input, &REQUESTS).into(),
                ..Default::default()
            };
            send!(
                "RequestCancelWorkflowExecution",
                RequestCancelWorkflowExecutionResponse,
                PATIENCE,
                request
            );
        }
        26 => {
            let request = TerminateWorkflowExecutionRequest {
                namespace: namespace(),
                workflow_execution: memory.execution(input),
                ..Default::default()
            };
            send!(
                "TerminateWorkflowExecution",
                TerminateWorkflowExecutionResponse,
                PATIENCE,
                request
            );
        }
        27 => {
            let request = ResetWorkflowExecutionRequest {
                namespace: namespace(),
                workflow_execution: memory.execution(input),
                workflow_task_finish_event_id: input.below(24) as i64,
                request_id: name(input, &REQUESTS).into(),
                reset_reapply_type: input.below(5) as i32,
                ..Default::default()
            };
            if let Some(reset) = send!(
                "ResetWorkflowExecution",
                ResetWorkflowExecutionResponse,
                PATIENCE,
                request
            ) {
                memory.started(reset.run_id);
            }
        }
        28 => {
            let request = GetWorkflowExecutionHistoryRequest {
                execution: memory.execution(input),
                maximum_page_size: input.below(8) as i32,
                wait_new_event: input.one_in(2),
                history_event_filter_type: input.below(3) as i32,
                next_page_token: match input.below(2) {
                    0 => input.pick(&memory.pages).cloned().unwrap_or_default(),
                    _ => Vec::new(),
                },
                ..calls::history("")
            };
            if let Some(page) = send!(
                "GetWorkflowExecutionHistory",
                GetWorkflowExecutionHistoryResponse,
                IMPATIENCE,
                request
            ) {
                memory.pages.push(page.next_page_token);
            }
        }
        29 => {
            let request = DeleteWorkflowExecutionRequest {
                namespace: namespace(),
                workflow_execution: memory.execution(input),
            };
            let deleted = send!(
                "DeleteWorkflowExecution",
                DeleteWorkflowExecutionResponse,
                PATIENCE,
                request
            );
            memory.any_deleted |= deleted.is_some();
        }
        30 => {
            let request = calls::multi_operation(
                start(input),
                UpdateWorkflowExecutionRequest {
                    namespace: namespace(),
                    workflow_execution: memory.execution(input),
                    wait_policy: Some(update::WaitPolicy { lifecycle_stage: 2 }),
                    request: Some(command::update_request(name(input, &UPDATES))),
                    ..Default::default()
                },
            );
            send!(
                "ExecuteMultiOperation",
                ExecuteMultiOperationResponse,
                IMPATIENCE,
                request
            );
        }
        _ if input.one_in(2) => {
            // The engine's clock is the system's.
            std::thread::sleep(Duration::from_millis(2));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        _ => {
            let request = ListWorkflowExecutionsRequest {
                namespace: namespace(),
                page_size: input.below(4) as i32,
                query: name(input, &["", "ExecutionStatus='Running'", "WorkflowId='w0'"]).into(),
                ..Default::default()
            };
            send!(
                "ListWorkflowExecutions",
                ListWorkflowExecutionsResponse,
                PATIENCE,
                request
            );
        }
    }
}

async fn poll(engine: &Engine, memory: &mut Memory, input: &mut Input<'_>) {
    let queue = match input.below(8) {
        0 => calls::sticky_queue(),
        _ => calls::queue(),
    };
    let request = PollWorkflowTaskQueueRequest {
        task_queue: Some(queue),
        identity: "worker".into(),
        ..Default::default()
    };
    let polled = engine
        .server
        .poll_workflow_task_queue(&engine.namespace, request, brief(IMPATIENCE))
        .await;
    match polled {
        Ok(task) if !task.answer.task_token.is_empty() => {
            let task = task.decoded().expect("a stored history can be decoded");
            check::task(&task);
            memory.next_event = task.started_event_id + 1;
            memory.tasks.push(task);
        }
        Ok(_) => {}
        Err(error) => check::no_defect(&error),
    }
}

async fn poll_activity(engine: &Engine, memory: &mut Memory, _: &mut Input<'_>) {
    let request = PollActivityTaskQueueRequest {
        task_queue: Some(calls::queue()),
        identity: "worker".into(),
        ..Default::default()
    };
    let polled = engine
        .server
        .poll_activity_task_queue(&engine.namespace, request, brief(IMPATIENCE))
        .await;
    match polled {
        Ok(task) if !task.task_token.is_empty() => memory.activities.push(task.task_token),
        Ok(_) => {}
        Err(error) => check::no_defect(&error),
    }
}

async fn respond_activity(engine: &Engine, memory: &mut Memory, input: &mut Input<'_>) {
    let token = memory.activity(input);
    macro_rules! send {
        ($name:literal, $response:ty, $request:expr) => {{
            let request = $request;
            let _: Outcome<$response> = engine.call($name, &request, PATIENCE).await;
        }};
    }
    match input.below(5) {
        0 => send!(
            "RespondActivityTaskCompleted",
            RespondActivityTaskCompletedResponse,
            RespondActivityTaskCompletedRequest {
                task_token: token,
                result: payloads(input),
                ..Default::default()
            }
        ),
        1 => send!(
            "RespondActivityTaskFailed",
            RespondActivityTaskFailedResponse,
            RespondActivityTaskFailedRequest {
                task_token: token,
                failure: Some(command::failure(input)),
                ..Default::default()
            }
        ),
        2 => send!(
            "RespondActivityTaskCanceled",
            RespondActivityTaskCanceledResponse,
            RespondActivityTaskCanceledRequest {
                task_token: token,
                ..Default::default()
            }
        ),
        3 => send!(
            "RecordActivityTaskHeartbeat",
            RecordActivityTaskHeartbeatResponse,
            RecordActivityTaskHeartbeatRequest {
                task_token: token,
                details: payloads(input),
                ..Default::default()
            }
        ),
        _ => send!(
            "RespondActivityTaskCompletedById",
            RespondActivityTaskCompletedByIdResponse,
            RespondActivityTaskCompletedByIdRequest {
                namespace: calls::NAMESPACE.into(),
                workflow_id: name(input, &WORKFLOWS).into(),
                activity_id: name(input, &ACTIVITIES).into(),
                ..Default::default()
            }
        ),
    }
}

async fn control_activity(engine: &Engine, memory: &mut Memory, input: &mut Input<'_>) {
    let namespace = calls::NAMESPACE.to_owned();
    let execution = memory.execution(input);
    let id = name(input, &ACTIVITIES).to_owned();
    macro_rules! send {
        ($name:literal, $response:ty, $request:expr) => {{
            let request = $request;
            let _: Outcome<$response> = engine.call($name, &request, PATIENCE).await;
        }};
    }
    match input.below(4) {
        0 => send!(
            "PauseActivity",
            PauseActivityResponse,
            PauseActivityRequest {
                namespace,
                execution,
                activity: Some(pause_activity_request::Activity::Id(id)),
                ..Default::default()
            }
        ),
        1 => send!(
            "UnpauseActivity",
            UnpauseActivityResponse,
            UnpauseActivityRequest {
                namespace,
                execution,
                activity: Some(unpause_activity_request::Activity::Id(id)),
                reset_attempts: input.one_in(2),
                ..Default::default()
            }
        ),
        2 => send!(
            "ResetActivity",
            ResetActivityResponse,
            ResetActivityRequest {
                namespace,
                execution,
                activity: Some(reset_activity_request::Activity::Id(id)),
                keep_paused: input.one_in(2),
                ..Default::default()
            }
        ),
        _ => send!(
            "UpdateActivityOptions",
            UpdateActivityOptionsResponse,
            UpdateActivityOptionsRequest {
                namespace,
                execution,
                activity: Some(update_activity_options_request::Activity::Id(id)),
                activity_options: Some(command::activity_options(input)),
                update_mask: Some(wkt_mask(input)),
                ..Default::default()
            }
        ),
    }
}

fn wkt_mask(input: &mut Input) -> calls::FieldMask {
    let paths = [
        "start_to_close_timeout",
        "retry_policy.maximum_attempts",
        "task_queue.name",
        "wrong",
    ];
    calls::FieldMask {
        paths: vec![name(input, &paths).to_owned()],
    }
}
