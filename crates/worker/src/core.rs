//! The protocol, as far as a worker needs it: the only module that knows `temporalio-sdk-core`.
//!
//! Core polls, limits what is polled by slots, sends heartbeats and turns their answers into
//! cancellations. Results are reported here and not by core, which gives up after ten seconds: an
//! engine that restarts must not cost the work of an hour.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use temporalio_client::errors::ClientConnectError;
use temporalio_client::tonic::{Code, Request, Status};
use temporalio_client::{Connection, ConnectionOptions, GrpcCompression, TlsOptions, Url};
use temporalio_common::protos::coresdk::activity_result::{
    ActivityExecutionResult, WillCompleteAsync, activity_execution_result,
};
use temporalio_common::protos::coresdk::activity_task::{ActivityCancelReason, activity_task};
use temporalio_common::protos::coresdk::{ActivityHeartbeat, ActivityTaskCompletion};
use temporalio_common::protos::temporal::api::common::v1::{Payload, Payloads};
use temporalio_common::protos::temporal::api::failure::v1::failure::FailureInfo;
use temporalio_common::protos::temporal::api::failure::v1::{ApplicationFailureInfo, Failure};
use temporalio_common::protos::temporal::api::worker::v1::PluginInfo;
use temporalio_common::protos::temporal::api::workflowservice::v1::{
    DescribeNamespaceRequest, RespondActivityTaskCanceledRequest,
    RespondActivityTaskCompletedRequest, RespondActivityTaskFailedRequest,
};
use temporalio_common::worker::WorkerTaskTypes;
use temporalio_sdk_core::{
    CoreRuntime, PollError, PollerBehavior, RuntimeOptions, Worker, WorkerConfig,
    WorkerVersioningStrategy, init_worker,
};
use tidemill_pipeline::device::Advertised;
use tracing::{debug, warn};

use crate::config::Config;
use crate::limit::Updates;
use crate::slots::ClassSlots;

/// Longest wait for the engine to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for one answer to a report.
const REPORT_TIMEOUT: Duration = Duration::from_secs(10);
const REPORT_AGAIN_FIRST: Duration = Duration::from_millis(100);
const REPORT_AGAIN_MOST: Duration = Duration::from_secs(5);
/// How often a worker says that it lives. Silent for two of them, it is taken for dead.
const WORKER_HEARTBEAT: Duration = Duration::from_secs(5);
/// Heartbeats are paced by the tasks; core is only kept from sending a burst of them.
const HEARTBEAT_APART: Duration = Duration::from_millis(100);
/// Polls of one class at most. Each keeps a stream of the shared connection open.
const POLLS_MAX: usize = 16;
/// Bytes of a failure's message that are sent: it goes into history.
const MESSAGE_BYTES: usize = 8 * 1024;

/// A connection to the engine, for the workers of all classes.
pub(crate) struct Engine {
    connection: Connection,
    runtime: CoreRuntime,
    namespace: String,
    identity: String,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// Waiting does not help.
    #[error("{0}")]
    Wrong(String),
    #[error("{0}")]
    NotNow(String),
}

impl Engine {
    /// Connects. The calling task's runtime will run core.
    pub(crate) async fn connect(config: &Config) -> Result<Self, ConnectError> {
        let url = url(&config.engine).map_err(ConnectError::Wrong)?;
        let compression = if is_loopback(&url) {
            GrpcCompression::None
        } else {
            GrpcCompression::Gzip
        };
        let tls = (url.scheme() == "https").then(|| TlsOptions::builder().build());
        let options = ConnectionOptions::new(url)
            .identity(config.identity.clone())
            .connect_timeout(CONNECT_TIMEOUT)
            .grpc_compression(compression)
            .maybe_tls_options(tls)
            .build();
        let connection = Connection::connect(options).await.map_err(|e| match e {
            ClientConnectError::InvalidUri(_)
            | ClientConnectError::InvalidHeaders(_)
            | ClientConnectError::InvalidConfig(_) => ConnectError::Wrong(e.to_string()),
            ClientConnectError::SystemInfoCallError(status) => {
                let what = status_text(&status);
                match status.code() {
                    Code::Unauthenticated | Code::PermissionDenied => ConnectError::Wrong(what),
                    _ => ConnectError::NotNow(what),
                }
            }
            other => ConnectError::NotNow(with_causes(&other)),
        })?;
        let options = RuntimeOptions::builder()
            .heartbeat_interval(Some(WORKER_HEARTBEAT))
            .build()
            .map_err(ConnectError::Wrong)?;
        let runtime = CoreRuntime::new_assume_tokio(options)
            .map_err(|e| ConnectError::Wrong(e.to_string()))?;
        Ok(Self {
            connection,
            runtime,
            namespace: config.namespace.clone(),
            identity: config.identity.clone(),
        })
    }

    /// What sends updates to workflows.
    pub(crate) fn updates(&self) -> Updates {
        Updates {
            connection: self.connection.clone(),
            namespace: self.namespace.clone(),
            identity: self.identity.clone(),
        }
    }

    /// Whether the engine knows the namespace.
    pub(crate) async fn check(&self) -> Result<(), CheckError> {
        let request = request(DescribeNamespaceRequest {
            namespace: self.namespace.clone(),
            ..Default::default()
        });
        let mut service = self.connection.workflow_service();
        match service.describe_namespace(request).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::NotFound => Err(CheckError::NoNamespace),
            Err(status) => Err(CheckError::Other(status_text(&status))),
        }
    }

    /// A worker for one task queue of a class. It polls nothing before [`Queue::next`] is called.
    pub(crate) fn queue(&self, name: &str, class: &Serving<'_>) -> Result<Queue, String> {
        let polls_max = class.slots.slots().min(POLLS_MAX);
        let plugins = class.devices.iter().map(|device| {
            let (name, version) = device.to_plugin();
            PluginInfo { name, version }
        });
        let config = WorkerConfig::builder()
            .namespace(self.namespace.clone())
            .task_queue(name.to_owned())
            .client_identity_override(self.identity.clone())
            .task_types(WorkerTaskTypes::activity_only())
            .versioning_strategy(WorkerVersioningStrategy::default())
            .tuner(class.slots.tuner())
            .plugins(plugins.collect())
            // Several queues of one namespace in one process are meant.
            .skip_client_worker_set_check(true)
            .activity_task_poller_behavior(PollerBehavior::Autoscaling {
                minimum: 1,
                maximum: polls_max,
                initial: class.polls_first.min(polls_max),
            })
            .max_heartbeat_throttle_interval(HEARTBEAT_APART)
            .graceful_shutdown_period(class.grace)
            .build()?;
        let worker = init_worker(&self.runtime, config, self.connection.clone())
            .map_err(|e| format!("{e:#}"))?;
        Ok(Queue {
            worker,
            connection: self.connection.clone(),
            namespace: self.namespace.clone(),
            identity: self.identity.clone(),
        })
    }
}

/// What the queues of a class have in common.
pub(crate) struct Serving<'a> {
    pub(crate) slots: &'a Arc<ClassSlots>,
    /// As submitters are told of them.
    pub(crate) devices: &'a [Advertised],
    /// Polls to begin with.
    pub(crate) polls_first: usize,
    pub(crate) grace: Duration,
}

/// The tasks of one task queue.
pub(crate) struct Queue {
    worker: Worker,
    connection: Connection,
    namespace: String,
    identity: String,
}

pub(crate) enum Event {
    Start(Start),
    Cancel { token: Vec<u8>, why: Cancel },
}

/// One attempt of a task.
pub(crate) struct Start {
    pub(crate) token: Vec<u8>,
    /// The activity type.
    pub(crate) activity: String,
    pub(crate) payloads: Vec<Vec<u8>>,
    pub(crate) workflow_id: String,
    pub(crate) attempt: u32,
    /// Zero when the task has none.
    pub(crate) heartbeat_timeout: Duration,
    /// When the engine put this attempt into its queue.
    pub(crate) scheduled: Option<SystemTime>,
}

/// Why a task should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cancel {
    /// Its run asked for it.
    Requested,
    /// Nobody waits for it any more: its run has ended or its attempt has timed out.
    Pointless,
    /// This worker stops.
    Shutdown,
    /// It was paused or reset: another attempt follows.
    Held,
}

/// What is reported of a task.
pub(crate) enum Answer {
    /// JSON.
    Completed(Vec<u8>),
    Failed {
        /// The failure's type.
        kind: &'static str,
        message: String,
        retryable: bool,
        retry_after: Option<Duration>,
    },
    Cancelled,
}

/// Why the namespace cannot be served.
pub(crate) enum CheckError {
    NoNamespace,
    Other(String),
}

impl Queue {
    /// Has core learn what the namespace allows, by which it chooses how to poll. Without it, it
    /// polls as a worker of an old server would.
    pub(crate) async fn prepare(&self) {
        if let Err(e) = self.worker.validate().await {
            warn!("{e}");
        }
    }

    /// The next thing to do; `None` when the queue was stopped and all its tasks have been reported.
    /// After an error it goes on until then. Not to be called twice at the same time.
    pub(crate) async fn next(&self) -> Option<Result<Event, String>> {
        loop {
            let task = match self.worker.poll_activity_task().await {
                Ok(task) => task,
                Err(PollError::ShutDown) => return None,
                Err(PollError::TonicError(status)) => return Some(Err(status_text(&status))),
            };
            let token = task.task_token;
            return Some(Ok(match task.variant {
                Some(activity_task::Variant::Start(start)) => Event::Start(Start {
                    token,
                    activity: start.activity_type,
                    payloads: start.input.into_iter().map(|p| p.data).collect(),
                    workflow_id: start.workflow_execution.unwrap_or_default().workflow_id,
                    attempt: start.attempt,
                    heartbeat_timeout: start
                        .heartbeat_timeout
                        .and_then(|d| d.try_into().ok())
                        .unwrap_or_default(),
                    scheduled: start
                        .current_attempt_scheduled_time
                        .and_then(|time| time.try_into().ok()),
                }),
                Some(activity_task::Variant::Cancel(cancel)) => Event::Cancel {
                    token,
                    why: match cancel.reason() {
                        ActivityCancelReason::Cancelled => Cancel::Requested,
                        ActivityCancelReason::NotFound | ActivityCancelReason::TimedOut => {
                            Cancel::Pointless
                        }
                        ActivityCancelReason::WorkerShutdown => Cancel::Shutdown,
                        ActivityCancelReason::Paused | ActivityCancelReason::Reset => Cancel::Held,
                    },
                },
                None => continue,
            }));
        }
    }

    /// Says that a task is alive, and how far it is.
    pub(crate) fn heartbeat(&self, token: &[u8], line: Option<&str>) {
        let details = line.map(|line| payload(serde_json::Value::from(line).to_string().into()));
        self.worker.record_activity_heartbeat(ActivityHeartbeat {
            task_token: token.to_vec(),
            details: details.into_iter().collect(),
        });
    }

    /// Reports a task, again and again while the engine is away, and ends with the task's slot free.
    /// `give_up` ends it without success. Heartbeats may go on until it returns.
    pub(crate) async fn report(
        &self,
        token: &[u8],
        answer: Answer,
        give_up: impl Future<Output = ()>,
    ) {
        tokio::select! {
            () = self.tell(token, &answer) => {}
            () = give_up => {}
        }
        let status = activity_execution_result::Status::WillCompleteAsync(WillCompleteAsync {});
        let completion = ActivityTaskCompletion {
            task_token: token.to_vec(),
            result: Some(ActivityExecutionResult {
                status: Some(status),
            }),
        };
        if let Err(e) = self.worker.complete_activity_task(completion).await {
            warn!("core does not take the end of a task: {e}");
        }
    }

    async fn tell(&self, token: &[u8], answer: &Answer) {
        let mut wait = REPORT_AGAIN_FIRST;
        loop {
            let status = match self.tell_once(token, answer).await {
                Ok(()) => return,
                Err(status) => status,
            };
            match status.code() {
                Code::NotFound => {
                    debug!("nobody waits for a task's result: {}", status.message());
                    return;
                }
                // The call was understood and refused; it will be refused again.
                Code::InvalidArgument
                | Code::FailedPrecondition
                | Code::PermissionDenied
                | Code::Unauthenticated
                | Code::Unimplemented => {
                    warn!(
                        "the engine refuses a task's result: {}",
                        status_text(&status)
                    );
                    return;
                }
                _ => {}
            }
            warn!(
                "cannot report a task's result: {}; again in {wait:?}",
                status_text(&status)
            );
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(REPORT_AGAIN_MOST);
        }
    }

    async fn tell_once(&self, token: &[u8], answer: &Answer) -> Result<(), Status> {
        let mut service = self.connection.workflow_service();
        let (task_token, namespace, identity) = (
            token.to_vec(),
            self.namespace.clone(),
            self.identity.clone(),
        );
        match answer {
            Answer::Completed(json) => {
                let request = request(RespondActivityTaskCompletedRequest {
                    task_token,
                    result: Some(Payloads {
                        payloads: vec![payload(json.clone())],
                    }),
                    identity,
                    namespace,
                    ..Default::default()
                });
                service.respond_activity_task_completed(request).await?;
            }
            Answer::Failed {
                kind,
                message,
                retryable,
                retry_after,
            } => {
                let info = ApplicationFailureInfo {
                    r#type: (*kind).to_owned(),
                    non_retryable: !retryable,
                    next_retry_delay: retry_after.and_then(|delay| delay.try_into().ok()),
                    ..Default::default()
                };
                let request = request(RespondActivityTaskFailedRequest {
                    task_token,
                    failure: Some(Failure {
                        message: clipped(message).to_owned(),
                        source: "tidemill".to_owned(),
                        failure_info: Some(FailureInfo::ApplicationFailureInfo(info)),
                        ..Default::default()
                    }),
                    identity,
                    namespace,
                    ..Default::default()
                });
                service.respond_activity_task_failed(request).await?;
            }
            Answer::Cancelled => {
                let request = request(RespondActivityTaskCanceledRequest {
                    task_token,
                    identity,
                    namespace,
                    ..Default::default()
                });
                service.respond_activity_task_canceled(request).await?;
            }
        }
        Ok(())
    }

    /// Takes no more tasks. Those that run are cancelled after the grace.
    pub(crate) fn stop(&self) {
        self.worker.initiate_shutdown();
    }

    /// Frees everything. To be called after [`Queue::next`] has returned `None`.
    pub(crate) async fn end(self) {
        self.worker.finalize_shutdown().await;
    }
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(REPORT_TIMEOUT);
    request
}

fn payload(json: Vec<u8>) -> Payload {
    Payload {
        metadata: [("encoding".to_owned(), b"json/plain".to_vec())].into(),
        data: json,
        ..Default::default()
    }
}

fn clipped(message: &str) -> &str {
    &message[..message.floor_char_boundary(MESSAGE_BYTES)]
}

fn url(address: &str) -> Result<Url, String> {
    let text = if address.contains("://") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    let wrong = |why: &str| {
        format!("engine address `{address}`: {why}; write it as host:port, such as 127.0.0.1:7233")
    };
    let url = Url::parse(&text).map_err(|e| wrong(&e.to_string()))?;
    match url.scheme() {
        "http" | "https" if url.host().is_some() => Ok(url),
        "http" | "https" => Err(wrong("it names no host")),
        other => Err(wrong(&format!("`{other}` is not http or https"))),
    }
}

fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else {
        return false;
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn status_text(status: &Status) -> String {
    format!("{} ({:?})", status.message(), status.code())
}

/// An error with its causes: the outer one of a failed connection says only that it failed.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (address, loopback) in [
            ("127.0.0.1:7233", true),
            ("localhost:7233", true),
            ("http://[::1]:7233", true),
            ("engine:7233", false),
            ("https://engine.example", false),
        ] {
            assert_eq!(is_loopback(&url(address).unwrap()), loopback, "{address}");
        }
        for address in ["", "ftp://x", "http://", "a b"] {
            let error = url(address).unwrap_err();
            assert!(error.contains("write it as host:port"), "{error}");
        }
    }

    #[test]
    fn long_messages_are_clipped_between_characters() {
        let long = "ä".repeat(MESSAGE_BYTES);
        assert_eq!(clipped(&long).len(), MESSAGE_BYTES);
        assert_eq!(clipped("short"), "short");
    }
}
