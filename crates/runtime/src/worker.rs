//! The worker that serves interpreters.

use std::thread;
use std::time::Duration;

use temporalio_client::grpc::WorkflowService;
use temporalio_client::tonic::IntoRequest;
use temporalio_client::{
    Client, ClientOptions, Connection, ConnectionOptions, GrpcCompression, Url,
};
use temporalio_common::protos::temporal::api::enums::v1::TaskQueueType;
use temporalio_common::protos::temporal::api::workflowservice::v1::ShutdownWorkerRequest;
use temporalio_sdk::runtime::{PollerBehavior, RuntimeOptions};
use temporalio_sdk::{Runtime, Worker, WorkerOptions};
use tidemill_pipeline::run::TASK_QUEUE;
use tokio::sync::oneshot;

use crate::Interpreter;
use crate::limit::LimitWorkflow;

/// Runs that are kept in memory between their tasks. One that is not is replayed from its history.
const CACHED_RUNS: usize = 200;
const POLLERS: usize = 4;
/// How long a task waits for the worker that has its run in memory: a run stands still for as long when
/// that worker was killed.
const STICKY_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the worker says that it lives. Silent for two of them, it is taken for dead.
const WORKER_HEARTBEAT: Duration = Duration::from_secs(5);
/// How long a worker that stops waits for the engine to end its polls.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// For tasks that were handed out just before that: from the connection into core.
const ON_THEIR_WAY: Duration = Duration::from_millis(100);
/// Between two tries to reach the engine: from the first to the last.
const CONNECT_WAIT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Where the engine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    /// `host:port`, or a URL.
    pub address: String,
    pub namespace: String,
}

/// Why interpreters are not served, or an engine is not reached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{address}` is no address of an engine: {cause}; write it as host:port")]
    Address { address: String, cause: String },
    #[error("the engine at {address} is not reached: {cause}; is it running?")]
    Connect { address: String, cause: String },
    #[error("namespace `{namespace}` at {address}: {cause}")]
    Client {
        address: String,
        namespace: String,
        cause: String,
    },
    #[error("pipelines can no longer be served: {0}")]
    Worker(String),
}

/// Serves interpreters until `stop` is ready; what is under way then goes on elsewhere, or when
/// pipelines are served again. An engine that is not there yet is waited for.
///
/// Workflows run on a thread of their own, all on the same one.
///
/// # Errors
/// A bad address or namespace, or a worker that ended by itself.
pub async fn serve(
    engine: Engine,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let (done, ended) = oneshot::channel();
    let thread = thread::Builder::new().name("pipelines".to_owned());
    let spawned = thread.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let result = match runtime {
            Ok(runtime) => runtime.block_on(work(&engine, stop)),
            Err(error) => Err(Error::Worker(error.to_string())),
        };
        // Nobody listens any more when the caller was dropped.
        let _ = done.send(result);
    });
    spawned.map_err(|error| Error::Worker(error.to_string()))?;
    ended
        .await
        .unwrap_or_else(|_| Err(Error::Worker("its thread panicked".to_owned())))
}

async fn work(engine: &Engine, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let mut stop = std::pin::pin!(stop);
    let client = tokio::select! {
        () = &mut stop => return Ok(()),
        client = connect_patiently(engine) => client?,
    };
    let failed = |error: &dyn std::fmt::Display| Error::Worker(error.to_string());
    let options = WorkerOptions::new(TASK_QUEUE)
        .register_workflow::<Interpreter>()
        .and_then(|options| options.register_workflow::<LimitWorkflow>())
        .map_err(|error| failed(&error))?
        .max_cached_workflows(CACHED_RUNS)
        .sticky_queue_schedule_to_start_timeout(STICKY_TIMEOUT)
        .workflow_task_poller_behavior(PollerBehavior::SimpleMaximum(POLLERS))
        .build();
    let settings = RuntimeOptions::builder()
        .heartbeat_interval(Some(WORKER_HEARTBEAT))
        .build()
        .map_err(|error| failed(&error))?;
    let runtime = Runtime::from_current_tokio(settings).map_err(|e| failed(&e))?;
    let leave = Leave::of(&client);
    let mut worker = Worker::new(&runtime, client, options).map_err(|error| failed(&error))?;
    let instance = worker.worker_instance_key().to_string();
    let shut_down = worker.shutdown_handle();
    let mut run = std::pin::pin!(worker.run());
    let told = async {
        stop.await;
        leave.end_polls(instance).await;
    };
    tokio::select! {
        ended = &mut run => return ended.map_err(|error| failed(&error)),
        () = told => {}
    }
    shut_down();
    run.await.map_err(|error| failed(&error))
}

/// How a worker takes its leave before the SDK's core shuts down.
///
/// Core ends its stream of workflow tasks as soon as it has none, while its polls are still open: what
/// they bring is dropped, and comes back with a timeout of its run only. So the engine ends the polls
/// first, and what they bring is in core's hands when it begins to shut down.
struct Leave {
    service: Box<dyn WorkflowService>,
    namespace: String,
}

impl Leave {
    fn of(client: &Client) -> Self {
        Leave {
            service: client.connection().workflow_service(),
            namespace: client.options().namespace.clone(),
        }
    }

    async fn end_polls(mut self, instance: String) {
        let request = ShutdownWorkerRequest {
            namespace: self.namespace,
            task_queue: TASK_QUEUE.to_owned(),
            task_queue_types: vec![TaskQueueType::Workflow.into()],
            reason: "graceful shutdown".to_owned(),
            worker_instance_key: instance,
            ..ShutdownWorkerRequest::default()
        };
        let asked = self.service.shutdown_worker(request.into_request());
        match tokio::time::timeout(LEAVE_TIMEOUT, asked).await {
            Ok(Ok(_)) => tokio::time::sleep(ON_THEIR_WAY).await,
            // An engine that is gone, or knows no such call: core says it again.
            Ok(Err(status)) => tracing::debug!(%status, "polls are not ended"),
            Err(_) => tracing::debug!("polls are not ended: the engine does not answer"),
        }
    }
}

async fn connect_patiently(engine: &Engine) -> Result<Client, Error> {
    let mut wait = CONNECT_WAIT.0;
    loop {
        match connect(engine).await {
            Err(error @ Error::Connect { .. }) => {
                tracing::warn!(%error, "waiting for the engine");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(CONNECT_WAIT.1);
            }
            result => return result,
        }
    }
}

/// A client of an engine. Requests are compressed unless they stay on this machine, where it costs
/// more than it saves.
///
/// # Errors
/// A bad address, an engine that is not reached, a bad namespace.
pub async fn connect(engine: &Engine) -> Result<Client, Error> {
    let Engine { address, namespace } = engine;
    let url = if address.contains("://") {
        Url::parse(address)
    } else {
        Url::parse(&format!("http://{address}"))
    };
    let url = url.map_err(|error| Error::Address {
        address: address.clone(),
        cause: error.to_string(),
    })?;
    let compression = if is_loopback(&url) {
        GrpcCompression::None
    } else {
        GrpcCompression::Gzip
    };
    let options = ConnectionOptions::new(url)
        .grpc_compression(compression)
        .build();
    let connection = Connection::connect(options);
    let connection = connection.await.map_err(|error| Error::Connect {
        address: address.clone(),
        cause: error.to_string(),
    })?;
    let options = ClientOptions::new(namespace.clone()).build();
    Client::new(connection, options).map_err(|error| Error::Client {
        address: address.clone(),
        namespace: namespace.clone(),
        cause: error.to_string(),
    })
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let parsed = host.parse::<std::net::IpAddr>();
    host == "localhost" || parsed.is_ok_and(|address| address.is_loopback())
}
