//! A server over a store that can be made to fail, and the calls of a client and of a worker.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tidemill_engine::Error;
use tidemill_proto::api::command::v1::command::Attributes as C;
use tidemill_proto::api::command::v1::*;
use tidemill_proto::api::common::v1::*;
use tidemill_proto::api::enums::v1::*;
use tidemill_proto::api::history::v1::HistoryEvent;
use tidemill_proto::api::protocol::v1::Message;
use tidemill_proto::api::query::v1::WorkflowQuery;
use tidemill_proto::api::taskqueue::v1::TaskQueue;
use tidemill_proto::api::update::v1 as update;
use tidemill_proto::api::workflowservice::v1::*;
use tidemill_proto::wkt;
use tidemill_server::namespaces::{DEFAULT, Namespace, Registration};
use tidemill_server::{Call, Config, Server};
use tidemill_store::Committer;
use tidemill_store::sqlite::{Durability, Options, SqliteStore};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::faulty::Faulty;

pub(crate) const QUEUE: &str = "queue";
/// Kept until they are due by tests that move the clock.
pub(crate) const RETENTION: Duration = Duration::from_secs(86_400);

pub(crate) struct Rig {
    pub(crate) server: Server,
    pub(crate) store: Arc<Faulty>,
    pub(crate) namespace: Namespace,
    pub(crate) config: Config,
    open: watch::Receiver<()>,
    folder: TempDir,
}

pub(crate) fn config() -> Config {
    let namespace = Registration {
        name: DEFAULT.to_owned(),
        retention: RETENTION,
        ..Default::default()
    };
    Config {
        namespaces: vec![namespace],
        // What fails in one run is felt by all.
        shards: 1,
        ..Default::default()
    }
}

fn open(folder: &TempDir) -> SqliteStore {
    // Processes do not crash here, and power does not fail.
    let options = Options {
        durability: Durability::Relaxed,
    };
    SqliteStore::open(&folder.path().join("data.db"), options).expect("the data file opens")
}

impl Rig {
    /// Over a store in memory.
    pub(crate) async fn memory() -> Self {
        Self::with(config()).await
    }

    /// Over a store in memory.
    pub(crate) async fn with(config: Config) -> Self {
        let folder = TempDir::new().expect("there is room for a folder");
        let (store, open) = Faulty::new(SqliteStore::memory().expect("memory opens"));
        Self::over(store, open, folder, config).await
    }

    /// Over a store in memory, and told of commits by a thread: that goes on while no task has its turn.
    pub(crate) async fn told_by_a_thread() -> Self {
        let folder = TempDir::new().expect("there is room for a folder");
        let (store, open) = Faulty::new(SqliteStore::memory().expect("memory opens"));
        let committer = Arc::new(Committer::start(store.clone()));
        let server = Server::start_with(store.clone(), committer, config()).await;
        Self::of(
            server.expect("the server starts"),
            store,
            open,
            folder,
            config(),
        )
    }

    /// Over a data file, which can be opened again.
    pub(crate) async fn file() -> Self {
        let folder = TempDir::new().expect("there is room for a folder");
        Self::open(folder, config()).await
    }

    pub(crate) async fn open(folder: TempDir, config: Config) -> Self {
        Self::open_with(folder, config, |_| {}).await
    }

    /// Opens a data file, with a store that is prepared before the server sees it.
    pub(crate) async fn open_with(
        folder: TempDir,
        config: Config,
        prepare: impl FnOnce(&Faulty),
    ) -> Self {
        let (store, is_open) = Faulty::new(open(&folder));
        prepare(&store);
        Self::over(store, is_open, folder, config).await
    }

    async fn over(
        store: Arc<Faulty>,
        open: watch::Receiver<()>,
        folder: TempDir,
        config: Config,
    ) -> Self {
        let server = Server::start(store.clone(), config.clone()).await;
        Self::of(
            server.expect("the server starts"),
            store,
            open,
            folder,
            config,
        )
    }

    fn of(
        server: Server,
        store: Arc<Faulty>,
        open: watch::Receiver<()>,
        folder: TempDir,
        config: Config,
    ) -> Self {
        let namespace = server
            .namespaces()
            .by_name(DEFAULT)
            .expect("it was registered");
        Self {
            server,
            store,
            namespace,
            config,
            open,
            folder,
        }
    }

    /// Stops the server and returns when the store is closed, which it is only when nothing runs in
    /// the background any more.
    pub(crate) async fn close(self) -> (TempDir, Config) {
        let Self {
            server,
            store,
            config,
            mut open,
            folder,
            ..
        } = self;
        server.shutdown().await;
        drop((server, store));
        in_time(async { while open.changed().await.is_ok() {} }).await;
        (folder, config)
    }

    /// Opens the same data file again, with a store that is sound.
    pub(crate) async fn restart(self) -> Self {
        let (folder, config) = self.close().await;
        Self::open(folder, config).await
    }

    // ---- a client ----

    pub(crate) async fn start(&self, id: &str) -> String {
        let started = self
            .server
            .start_workflow_execution(&self.namespace, start(id), call());
        started.await.expect("the workflow starts").run_id
    }

    pub(crate) async fn describe(
        &self,
        id: &str,
    ) -> Result<DescribeWorkflowExecutionResponse, Error> {
        let request = DescribeWorkflowExecutionRequest {
            execution: execution(id),
            ..Default::default()
        };
        self.server
            .describe_workflow_execution(&self.namespace, request, call())
            .await
    }

    /// Returns when the shard has done all that it was asked before, by means of a run that is
    /// durable as it is: its answer waits for no commit.
    pub(crate) async fn shard_is_here(&self, idle: &str) {
        self.describe(idle).await.expect("the run is there");
    }

    pub(crate) async fn status(&self, id: &str) -> WorkflowExecutionStatus {
        let described = patiently(|| self.describe(id)).await;
        described
            .expect("the run is there")
            .workflow_execution_info
            .expect("it has an info")
            .status()
    }

    pub(crate) async fn signal(&self, id: &str, name: &str) -> Result<(), Error> {
        self.signal_run(id, "", name).await
    }

    /// Signals a run of the workflow; the current one when it is not named.
    pub(crate) async fn signal_run(&self, id: &str, run_id: &str, name: &str) -> Result<(), Error> {
        let request = SignalWorkflowExecutionRequest {
            workflow_execution: Some(WorkflowExecution {
                workflow_id: id.into(),
                run_id: run_id.into(),
            }),
            signal_name: name.into(),
            request_id: uuid::Uuid::new_v4().to_string(),
            ..Default::default()
        };
        let sent = self
            .server
            .signal_workflow_execution(&self.namespace, request, call());
        sent.await.map(|_| ())
    }

    pub(crate) async fn delete(&self, id: &str) -> Result<(), Error> {
        let request = DeleteWorkflowExecutionRequest {
            workflow_execution: execution(id),
            ..Default::default()
        };
        let deleted = self
            .server
            .delete_workflow_execution(&self.namespace, request, call());
        deleted.await.map(|_| ())
    }

    pub(crate) async fn history(&self, id: &str) -> Vec<HistoryEvent> {
        let request = GetWorkflowExecutionHistoryRequest {
            execution: execution(id),
            ..Default::default()
        };
        // Without the events that are not written yet.
        let call = Call {
            client_name: "temporal-cli".into(),
            ..call()
        };
        let read = || {
            let (request, call) = (request.clone(), call.clone());
            self.server
                .get_workflow_execution_history(&self.namespace, request, call)
        };
        let page = patiently(read).await.expect("the history is there");
        let page = page.decoded().expect("it decodes");
        page.history.unwrap_or_default().events
    }

    pub(crate) async fn events(&self, id: &str) -> Vec<EventType> {
        let events = self.history(id).await;
        events.iter().map(HistoryEvent::event_type).collect()
    }

    /// Waits for history to have an event of this kind.
    pub(crate) async fn until_event(&self, id: &str, kind: EventType) -> Vec<EventType> {
        in_time(self.read_until(id, kind)).await
    }

    async fn read_until(&self, id: &str, kind: EventType) -> Vec<EventType> {
        let mut request = GetWorkflowExecutionHistoryRequest {
            execution: execution(id),
            wait_new_event: true,
            ..Default::default()
        };
        let mut seen = Vec::new();
        while !seen.contains(&kind) {
            let read = || {
                self.server
                    .get_workflow_execution_history(&self.namespace, request.clone(), call())
            };
            let page = patiently(read).await;
            let page = page.expect("the history is there").decoded();
            let page = page.expect("it decodes");
            let events = page.history.unwrap_or_default().events;
            seen.extend(events.iter().map(HistoryEvent::event_type));
            request.next_page_token = page.next_page_token;
            assert!(
                seen.contains(&kind) || !request.next_page_token.is_empty(),
                "{id} closed: {seen:?}"
            );
        }
        seen
    }

    pub(crate) async fn listed(&self) -> usize {
        let request = ListWorkflowExecutionsRequest::default();
        let listed = self
            .server
            .list_workflow_executions(&self.namespace, request, call());
        listed.await.expect("lists").executions.len()
    }

    pub(crate) async fn update(
        &self,
        id: &str,
        update_id: &str,
        until: UpdateWorkflowExecutionLifecycleStage,
    ) -> Result<UpdateWorkflowExecutionResponse, Error> {
        let request = UpdateWorkflowExecutionRequest {
            workflow_execution: execution(id),
            wait_policy: Some(update::WaitPolicy {
                lifecycle_stage: until as i32,
            }),
            request: Some(update::Request {
                meta: Some(update::Meta {
                    update_id: update_id.into(),
                    ..Default::default()
                }),
                input: Some(update::Input {
                    name: "change".into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        self.server
            .update_workflow_execution(&self.namespace, request, call())
            .await
    }

    pub(crate) async fn query(&self, id: &str) -> Result<QueryWorkflowResponse, Error> {
        let request = QueryWorkflowRequest {
            execution: execution(id),
            query: Some(WorkflowQuery {
                query_type: "state".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        self.server
            .query_workflow(&self.namespace, request, call())
            .await
    }

    // ---- a worker ----

    /// A task of the queue; an empty answer when there is none until the call's deadline.
    pub(crate) async fn poll_at(
        &self,
        queue: &str,
        call: Call,
    ) -> Result<PollWorkflowTaskQueueResponse, Error> {
        let request = PollWorkflowTaskQueueRequest {
            task_queue: Some(task_queue(queue)),
            identity: "worker".into(),
            ..Default::default()
        };
        self.server
            .poll_workflow_task_queue(&self.namespace, request, call)
            .await
            .map(|task| task.decoded().expect("it decodes"))
    }

    /// The next workflow task.
    pub(crate) async fn poll(&self) -> PollWorkflowTaskQueueResponse {
        let task = self.poll_at(QUEUE, call()).await.expect("the poll is good");
        assert!(!task.task_token.is_empty(), "no task came");
        task
    }

    /// Whether nothing is handed out for a moment.
    pub(crate) async fn is_quiet(&self) -> bool {
        let task = self.poll_at(QUEUE, call_for(Duration::from_millis(200)));
        task.await.expect("the poll is good").task_token.is_empty()
    }

    pub(crate) async fn respond(
        &self,
        request: RespondWorkflowTaskCompletedRequest,
    ) -> Result<RespondWorkflowTaskCompletedResponse, Error> {
        self.server
            .respond_workflow_task_completed(&self.namespace, request, call())
            .await
    }

    pub(crate) async fn complete(
        &self,
        task: &PollWorkflowTaskQueueResponse,
        commands: Vec<C>,
    ) -> Result<(), Error> {
        self.respond(completion(task, commands)).await.map(|_| ())
    }

    /// Takes the next workflow task and completes it.
    pub(crate) async fn work(&self, commands: Vec<C>) -> PollWorkflowTaskQueueResponse {
        let task = self.poll().await;
        self.complete(&task, commands).await.expect("it completes");
        task
    }

    pub(crate) async fn poll_activity(&self) -> PollActivityTaskQueueResponse {
        let request = PollActivityTaskQueueRequest {
            task_queue: Some(task_queue(QUEUE)),
            identity: "worker".into(),
            ..Default::default()
        };
        let poll = self
            .server
            .poll_activity_task_queue(&self.namespace, request, call());
        let task = poll.await.expect("the poll is good");
        assert!(!task.task_token.is_empty(), "no task came");
        task
    }

    pub(crate) async fn complete_activity(
        &self,
        task: &PollActivityTaskQueueResponse,
    ) -> Result<(), Error> {
        let request = RespondActivityTaskCompletedRequest {
            task_token: task.task_token.clone(),
            ..Default::default()
        };
        let completed =
            self.server
                .respond_activity_task_completed(&self.namespace, request, call());
        completed.await.map(|_| ())
    }
}

/// As clients do: what is unavailable is asked for again.
async fn patiently<T, F: Future<Output = Result<T, Error>>>(
    ask: impl Fn() -> F,
) -> Result<T, Error> {
    loop {
        match ask().await {
            Err(Error::Unavailable(_)) => tokio::task::yield_now().await,
            answer => return answer,
        }
    }
}

/// How long anything is waited for that has to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Fails when this does not come.
pub(crate) async fn in_time<T>(awaited: impl Future<Output = T>) -> T {
    let awaited = tokio::time::timeout(PATIENCE, awaited);
    awaited.await.expect("what was waited for did not come")
}

pub(crate) fn call() -> Call {
    call_for(PATIENCE)
}

/// A call whose caller gives up after so long.
pub(crate) fn call_for(time: Duration) -> Call {
    Call {
        deadline: Some(Instant::now() + time),
        ..Default::default()
    }
}

pub(crate) fn start(id: &str) -> StartWorkflowExecutionRequest {
    StartWorkflowExecutionRequest {
        workflow_id: id.into(),
        workflow_type: Some(WorkflowType {
            name: "Type".into(),
        }),
        task_queue: Some(task_queue(QUEUE)),
        request_id: uuid::Uuid::new_v4().to_string(),
        ..Default::default()
    }
}

pub(crate) fn execution(id: &str) -> Option<WorkflowExecution> {
    Some(WorkflowExecution {
        workflow_id: id.into(),
        run_id: String::new(),
    })
}

pub(crate) fn task_queue(name: &str) -> TaskQueue {
    TaskQueue {
        name: name.into(),
        kind: TaskQueueKind::Normal as i32,
        ..Default::default()
    }
}

pub(crate) fn millis(ms: i64) -> Option<wkt::Duration> {
    Some(wkt::Duration {
        seconds: ms / 1000,
        nanos: (ms % 1000 * 1_000_000) as i32,
    })
}

/// As it stands on a worker's completion.
pub(crate) fn completion(
    task: &PollWorkflowTaskQueueResponse,
    commands: Vec<C>,
) -> RespondWorkflowTaskCompletedRequest {
    RespondWorkflowTaskCompletedRequest {
        task_token: task.task_token.clone(),
        commands: commands.into_iter().map(command).collect(),
        identity: "worker".into(),
        ..Default::default()
    }
}

fn command(attributes: C) -> Command {
    let kind = match &attributes {
        C::CompleteWorkflowExecutionCommandAttributes(_) => CommandType::CompleteWorkflowExecution,
        C::ScheduleActivityTaskCommandAttributes(_) => CommandType::ScheduleActivityTask,
        C::StartTimerCommandAttributes(_) => CommandType::StartTimer,
        C::ContinueAsNewWorkflowExecutionCommandAttributes(_) => {
            CommandType::ContinueAsNewWorkflowExecution
        }
        C::StartChildWorkflowExecutionCommandAttributes(_) => {
            CommandType::StartChildWorkflowExecution
        }
        C::SignalExternalWorkflowExecutionCommandAttributes(_) => {
            CommandType::SignalExternalWorkflowExecution
        }
        C::ProtocolMessageCommandAttributes(_) => CommandType::ProtocolMessage,
        other => panic!("no test has used {other:?}"),
    };
    Command {
        command_type: kind as i32,
        attributes: Some(attributes),
        ..Default::default()
    }
}

pub(crate) fn finish() -> C {
    C::CompleteWorkflowExecutionCommandAttributes(Default::default())
}

pub(crate) fn activity(id: &str) -> C {
    C::ScheduleActivityTaskCommandAttributes(ScheduleActivityTaskCommandAttributes {
        activity_id: id.into(),
        activity_type: Some(ActivityType {
            name: "Step".into(),
        }),
        task_queue: Some(task_queue(QUEUE)),
        start_to_close_timeout: millis(60_000),
        ..Default::default()
    })
}

pub(crate) fn timer(id: &str, ms: i64) -> C {
    C::StartTimerCommandAttributes(StartTimerCommandAttributes {
        timer_id: id.into(),
        start_to_fire_timeout: millis(ms),
    })
}

pub(crate) fn child(id: &str, policy: ParentClosePolicy) -> C {
    C::StartChildWorkflowExecutionCommandAttributes(StartChildWorkflowExecutionCommandAttributes {
        workflow_id: id.into(),
        workflow_type: Some(WorkflowType {
            name: "Child".into(),
        }),
        task_queue: Some(task_queue(QUEUE)),
        parent_close_policy: policy as i32,
        ..Default::default()
    })
}

pub(crate) fn signal_external(id: &str, name: &str) -> C {
    C::SignalExternalWorkflowExecutionCommandAttributes(
        SignalExternalWorkflowExecutionCommandAttributes {
            execution: execution(id),
            signal_name: name.into(),
            ..Default::default()
        },
    )
}

/// The run continues as a new one.
pub(crate) fn continue_as_new() -> C {
    C::ContinueAsNewWorkflowExecutionCommandAttributes(Default::default())
}

/// The completion of a workflow task that accepts and completes the update it came with.
pub(crate) fn with_update_done(
    task: &PollWorkflowTaskQueueResponse,
) -> RespondWorkflowTaskCompletedRequest {
    let request = task.messages.first().expect("an update came with the task");
    let update_id = &request.protocol_instance_id;
    let accepted = update::Acceptance {
        accepted_request_message_id: request.id.clone(),
        ..Default::default()
    };
    let done = update::Response {
        meta: Some(update::Meta {
            update_id: update_id.clone(),
            ..Default::default()
        }),
        outcome: Some(update::Outcome {
            value: Some(update::outcome::Value::Success(Payloads::default())),
        }),
    };
    let message = |name: &str, value: Vec<u8>| Message {
        id: format!("{update_id}/{name}"),
        protocol_instance_id: update_id.clone(),
        body: Some(wkt::Any {
            type_url: format!("type.googleapis.com/temporal.api.update.v1.{name}"),
            value,
        }),
        ..Default::default()
    };
    let messages = vec![
        message("Acceptance", prost::Message::encode_to_vec(&accepted)),
        message("Response", prost::Message::encode_to_vec(&done)),
    ];
    let commands = messages.iter().map(|message| {
        C::ProtocolMessageCommandAttributes(ProtocolMessageCommandAttributes {
            message_id: message.id.clone(),
        })
    });
    RespondWorkflowTaskCompletedRequest {
        messages: messages.clone(),
        ..completion(task, commands.collect())
    }
}
