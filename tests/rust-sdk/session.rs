//! What every test does with the SDK: connect, work, replay.

use std::pin::pin;
use std::time::Duration;

use temporalio_client::{
    Client, ClientOptions, Connection, ConnectionOptions, Url, WorkflowHandle, WorkflowStartOptions,
};
use temporalio_common::{HasWorkflowDefinition, WorkflowDefinition};
use temporalio_sdk::workflow_replayer::{WorkflowReplayer, WorkflowReplayerOptions};
use temporalio_sdk::workflows::WorkflowImplementation;
use temporalio_sdk::{ActivityOptions, Runtime, Worker, WorkerOptions};

use tidemill_test_engine::Engine;

/// The queue that the worker under test polls.
pub(crate) const QUEUE: &str = "rust";

/// Only a guard against an engine that never answers; no test measures time with it.
const GUARD: Duration = Duration::from_secs(120);

pub(crate) async fn connect(engine: &Engine) -> Client {
    let url = Url::parse(&format!("http://{}", engine.address())).unwrap();
    let options = ConnectionOptions::new(url).build();
    let connection = Connection::connect(options).await.unwrap();
    Client::new(connection, ClientOptions::new("default").build()).unwrap()
}

/// Runs the test with a worker beside it, and lets the worker end when the test is through.
pub(crate) async fn with_worker<T>(
    client: &Client,
    options: WorkerOptions,
    test: impl Future<Output = T>,
) -> T {
    let runtime = Runtime::from_current_tokio(Default::default()).unwrap();
    let mut worker = Worker::new(&runtime, client.clone(), options).unwrap();
    let stop = worker.shutdown_handle();
    let mut run = pin!(worker.run());
    let outcome = tokio::select! {
        ended = &mut run => panic!("the worker ended by itself: {ended:?}"),
        outcome = tokio::time::timeout(GUARD, test) => outcome.expect("the engine answers"),
    };
    stop();
    run.await.unwrap();
    outcome
}

/// Workflows are named after their test's feature; every engine is a fresh one.
pub(crate) fn start_as(workflow_id: &str) -> WorkflowStartOptions {
    WorkflowStartOptions::new(QUEUE, workflow_id).build()
}

/// For activities that are not meant to time out.
pub(crate) fn unhurried() -> ActivityOptions {
    ActivityOptions::start_to_close_timeout(GUARD)
}

/// Checks that the workflow's code does again what the engine has recorded.
pub(crate) async fn replay<W>(handle: &WorkflowHandle<Client, W::Run>)
where
    W: WorkflowImplementation,
    W::Run: HasWorkflowDefinition,
    <W::Run as WorkflowDefinition>::Input: Send,
{
    let options = WorkflowReplayerOptions::new()
        .register_workflow::<W>()
        .unwrap()
        .build();
    let history = handle.fetch_history(Default::default());
    let replayer = WorkflowReplayer::new(options).unwrap();
    replayer.replay_workflow(history).await.unwrap();
}
