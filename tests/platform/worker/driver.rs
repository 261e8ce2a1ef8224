//! Plays a workflow of one activity by hand: polls its workflow tasks and answers them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use temporalio_client::tonic::Request;
use temporalio_client::{Connection, ConnectionOptions, Url};
use temporalio_common::protos::temporal::api::command::v1::{
    Command, CompleteWorkflowExecutionCommandAttributes,
    RequestCancelActivityTaskCommandAttributes, ScheduleActivityTaskCommandAttributes,
    command::Attributes as CommandAttributes,
};
use temporalio_common::protos::temporal::api::common::v1::{
    ActivityType, Payload, Payloads, RetryPolicy, WorkflowExecution, WorkflowType,
};
use temporalio_common::protos::temporal::api::enums::v1::CommandType;
use temporalio_common::protos::temporal::api::failure::v1::{Failure, failure::FailureInfo};
use temporalio_common::protos::temporal::api::history::v1::HistoryEvent;
use temporalio_common::protos::temporal::api::history::v1::history_event::Attributes;
use temporalio_common::protos::temporal::api::taskqueue::v1::TaskQueue;
use temporalio_common::protos::temporal::api::workflowservice::v1::{
    DescribeWorkflowExecutionRequest, GetWorkflowExecutionHistoryRequest,
    PollWorkflowTaskQueueRequest, PollWorkflowTaskQueueResponse,
    RespondWorkflowTaskCompletedRequest, SignalWorkflowExecutionRequest,
    StartWorkflowExecutionRequest,
};

const NAMESPACE: &str = "default";
/// Only a guard: nothing is expected to take this long.
const LONG: Duration = Duration::from_secs(60);
/// Short, so that cancellations, which heartbeats bring, arrive soon.
const HEARTBEAT: Duration = Duration::from_secs(3);

pub(crate) struct Driver {
    connection: Connection,
    started: AtomicUsize,
    last: Mutex<String>,
}

/// A workflow with its activity scheduled.
pub(crate) struct Run<'a> {
    driver: &'a Driver,
    id: String,
}

/// How the activity ended.
#[derive(Debug)]
pub(crate) enum Ended {
    Completed(Value),
    Failed(Failed),
    Canceled,
}

#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) kind: String,
    pub(crate) message: String,
    pub(crate) non_retryable: bool,
    pub(crate) next_retry: Option<Duration>,
}

impl Ended {
    pub(crate) fn completed(self) -> Value {
        match self {
            Ended::Completed(value) => value,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn failed(self) -> Failed {
        match self {
            Ended::Failed(failed) => failed,
            other => panic!("{other:?}"),
        }
    }
}

impl Driver {
    pub(crate) async fn connect(address: &str) -> Self {
        let url = Url::parse(&format!("http://{address}")).unwrap();
        let options = ConnectionOptions::new(url).identity("driver").build();
        Self {
            connection: Connection::connect(options).await.unwrap(),
            started: AtomicUsize::new(0),
            last: Mutex::default(),
        }
    }

    /// Runs one activity to its end. It is tried once, unless the worker is shut down.
    pub(crate) async fn run(&self, queue: &str, activity: &str, input: &Value) -> Ended {
        self.start(queue, activity, input).await.end().await
    }

    pub(crate) async fn start(&self, queue: &str, activity: &str, input: &Value) -> Run<'_> {
        let id = format!("run-{}", self.started.fetch_add(1, Ordering::Relaxed));
        self.last.lock().unwrap().clone_from(&id);
        let request = StartWorkflowExecutionRequest {
            namespace: NAMESPACE.to_owned(),
            workflow_id: id.clone(),
            workflow_type: Some(WorkflowType {
                name: "driven".to_owned(),
            }),
            // A queue for each workflow: its tasks cannot be mistaken for another's.
            task_queue: Some(task_queue(&id)),
            request_id: id.clone(),
            ..Default::default()
        };
        let mut service = self.connection.workflow_service();
        let started = service.start_workflow_execution(Request::new(request));
        started.await.unwrap();
        let run = Run { driver: self, id };
        let task = run.task().await;
        let retry = RetryPolicy {
            initial_interval: Duration::from_secs(3600).try_into().ok(),
            backoff_coefficient: 1.0,
            maximum_attempts: 2,
            non_retryable_error_types: ["Failed", "RateLimited", "ArtifactStoreUnavailable"]
                .map(str::to_owned)
                .into(),
            ..Default::default()
        };
        let schedule = ScheduleActivityTaskCommandAttributes {
            activity_id: "1".to_owned(),
            activity_type: Some(ActivityType {
                name: activity.to_owned(),
            }),
            task_queue: Some(task_queue(queue)),
            input: Some(Payloads {
                payloads: vec![Payload {
                    metadata: [("encoding".to_owned(), b"json/plain".to_vec())].into(),
                    data: input.to_string().into_bytes(),
                    ..Default::default()
                }],
            }),
            start_to_close_timeout: LONG.try_into().ok(),
            heartbeat_timeout: HEARTBEAT.try_into().ok(),
            retry_policy: Some(retry),
            ..Default::default()
        };
        let attributes = CommandAttributes::ScheduleActivityTaskCommandAttributes(schedule);
        let commands = vec![command(CommandType::ScheduleActivityTask, attributes)];
        run.answer(task, commands).await;
        run
    }

    /// Bytes of the history of the workflow that was started last.
    pub(crate) async fn history_bytes(&self) -> i64 {
        let id = self.last.lock().unwrap().clone();
        let request = DescribeWorkflowExecutionRequest {
            namespace: NAMESPACE.to_owned(),
            execution: Some(execution(&id)),
        };
        let mut service = self.connection.workflow_service();
        let described = service.describe_workflow_execution(Request::new(request));
        let info = described
            .await
            .unwrap()
            .into_inner()
            .workflow_execution_info;
        info.unwrap().history_size_bytes
    }
}

impl Run<'_> {
    /// Asks for the activity's cancellation, as a workflow does.
    pub(crate) async fn cancel(&self) {
        let mut service = self.driver.connection.workflow_service();
        let signal = SignalWorkflowExecutionRequest {
            namespace: NAMESPACE.to_owned(),
            workflow_execution: Some(execution(&self.id)),
            signal_name: "cancel".to_owned(),
            request_id: format!("{}-cancel", self.id),
            ..Default::default()
        };
        let signalled = service.signal_workflow_execution(Request::new(signal));
        signalled.await.unwrap();
        let task = self.task().await;
        let scheduled_event_id = self
            .events()
            .await
            .into_iter()
            .find(|event| {
                matches!(
                    event.attributes,
                    Some(Attributes::ActivityTaskScheduledEventAttributes(_))
                )
            })
            .unwrap()
            .event_id;
        let attributes = CommandAttributes::RequestCancelActivityTaskCommandAttributes(
            RequestCancelActivityTaskCommandAttributes { scheduled_event_id },
        );
        let commands = vec![command(CommandType::RequestCancelActivityTask, attributes)];
        self.answer(task, commands).await;
    }

    /// What the activity's next heartbeat says.
    pub(crate) async fn heartbeat(&self) -> Value {
        let mut service = self.driver.connection.workflow_service();
        loop {
            let request = DescribeWorkflowExecutionRequest {
                namespace: NAMESPACE.to_owned(),
                execution: Some(execution(&self.id)),
            };
            let described = service.describe_workflow_execution(Request::new(request));
            let described = described.await.unwrap().into_inner();
            let details = described
                .pending_activities
                .first()
                .and_then(|activity| activity.heartbeat_details.clone());
            if let Some(details) = details {
                return json(&details);
            }
            // The protocol has no way to wait for a heartbeat.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits for the activity to end, and ends the workflow.
    pub(crate) async fn end(&self) -> Ended {
        let task = self.task().await;
        let ended = self.events().await.into_iter().find_map(ended).unwrap();
        let attributes = CommandAttributes::CompleteWorkflowExecutionCommandAttributes(
            CompleteWorkflowExecutionCommandAttributes::default(),
        );
        let commands = vec![command(CommandType::CompleteWorkflowExecution, attributes)];
        self.answer(task, commands).await;
        ended
    }

    async fn task(&self) -> PollWorkflowTaskQueueResponse {
        let mut service = self.driver.connection.workflow_service();
        let poll = async {
            loop {
                let mut request = Request::new(PollWorkflowTaskQueueRequest {
                    namespace: NAMESPACE.to_owned(),
                    task_queue: Some(task_queue(&self.id)),
                    identity: "driver".to_owned(),
                    ..Default::default()
                });
                request.set_timeout(LONG);
                match service.poll_workflow_task_queue(request).await {
                    Ok(task) if !task.get_ref().task_token.is_empty() => return task.into_inner(),
                    Ok(_) => {}
                    // The engine may be away for a moment.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        };
        tokio::time::timeout(LONG, poll)
            .await
            .expect("a workflow task")
    }

    async fn answer(&self, task: PollWorkflowTaskQueueResponse, commands: Vec<Command>) {
        let mut service = self.driver.connection.workflow_service();
        let request = RespondWorkflowTaskCompletedRequest {
            namespace: NAMESPACE.to_owned(),
            task_token: task.task_token,
            commands,
            identity: "driver".to_owned(),
            ..Default::default()
        };
        let answered = service.respond_workflow_task_completed(Request::new(request));
        answered.await.unwrap();
    }

    async fn events(&self) -> Vec<HistoryEvent> {
        let mut service = self.driver.connection.workflow_service();
        let request = GetWorkflowExecutionHistoryRequest {
            namespace: NAMESPACE.to_owned(),
            execution: Some(execution(&self.id)),
            ..Default::default()
        };
        let history = service.get_workflow_execution_history(Request::new(request));
        history.await.unwrap().into_inner().history.unwrap().events
    }
}

fn ended(event: HistoryEvent) -> Option<Ended> {
    Some(match event.attributes? {
        Attributes::ActivityTaskCompletedEventAttributes(a) => Ended::Completed(json(&a.result?)),
        Attributes::ActivityTaskFailedEventAttributes(a) => Ended::Failed(failed(a.failure?)),
        Attributes::ActivityTaskCanceledEventAttributes(_) => Ended::Canceled,
        Attributes::ActivityTaskTimedOutEventAttributes(a) => panic!("{a:?}"),
        _ => return None,
    })
}

fn failed(failure: Failure) -> Failed {
    let Some(FailureInfo::ApplicationFailureInfo(info)) = failure.failure_info else {
        panic!("{failure:?}");
    };
    Failed {
        kind: info.r#type,
        message: failure.message,
        non_retryable: info.non_retryable,
        next_retry: info
            .next_retry_delay
            .and_then(|delay| delay.try_into().ok()),
    }
}

fn json(payloads: &Payloads) -> Value {
    let payload = &payloads.payloads[0];
    assert_eq!(payload.metadata["encoding"], b"json/plain");
    serde_json::from_slice(&payload.data).unwrap()
}

fn command(kind: CommandType, attributes: CommandAttributes) -> Command {
    Command {
        command_type: kind.into(),
        attributes: Some(attributes),
        ..Default::default()
    }
}

fn execution(id: &str) -> WorkflowExecution {
    WorkflowExecution {
        workflow_id: id.to_owned(),
        run_id: String::new(),
    }
}

fn task_queue(name: &str) -> TaskQueue {
    TaskQueue {
        name: name.to_owned(),
        ..Default::default()
    }
}
