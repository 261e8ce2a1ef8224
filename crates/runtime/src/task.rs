//! One task: an activity by the name of its stage type, JSON in and out, and what its failure means.

use std::pin::pin;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use temporalio_common::data_converters::RawValue;
use temporalio_common::error::IncomingError;
use temporalio_common::protos::temporal::api::common::v1::Payload;
use temporalio_common::{Priority, RetryPolicy, UntypedActivity};
use temporalio_sdk::workflows::select;
use temporalio_sdk::{
    ActivityCancellationType, ActivityCloseTimeouts, ActivityExecutionError, ActivityOptions,
    TimeoutType, TimerOptions, WaitConditionOptions,
};
use tidemill_pipeline::plan::{Retry, Timeouts};
use tidemill_pipeline::resource::CPU;

use crate::affinity::{self, Preferred};
use crate::context::Context;

/// The failure of a worker that cannot reach the artifact store. No attempt counts against it.
const STORE_UNAVAILABLE: &str = "ArtifactStoreUnavailable";
/// The failure of a task that would fail again.
pub(crate) const INVALID: &str = "Invalid";
/// The longest wait between two tries while the artifact store is away.
const STORE_WAIT_MAX: Duration = Duration::from_secs(60);

/// A task to be run.
#[derive(Clone)]
pub(crate) struct Task<'a> {
    /// The activity type.
    pub(crate) name: &'a str,
    pub(crate) queue: &'a str,
    /// The stage that it is for, as its author calls it.
    pub(crate) stage: &'a str,
    pub(crate) retry: Retry,
    pub(crate) timeouts: Timeouts,
    /// 1 is the most urgent, 5 the least.
    pub(crate) priority: Option<u8>,
    /// How long an attempt may wait for a worker, where that is bounded.
    pub(crate) start_within: Option<Duration>,
    /// Where it is put first.
    pub(crate) preferred: Option<Preferred>,
}

impl<'a> Task<'a> {
    /// A task of the interpreter itself, short and safe to repeat.
    pub(crate) fn internal(name: &'a str, stage: &'a str) -> Self {
        Self {
            name,
            queue: CPU,
            stage,
            retry: Retry {
                attempts: 10,
                ..Retry::default()
            },
            timeouts: Timeouts {
                attempt_ms: 10 * 60 * 1_000,
                ..Timeouts::default()
            },
            priority: None,
            start_within: None,
            preferred: None,
        }
    }
}

/// Why a task has no result.
#[derive(Debug)]
pub(crate) enum Fault {
    Canceled,
    /// It was not under way, and the run continues as new: begin it again there.
    Paused,
    Failed(Failure),
}

#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// The `type` of the application failure; empty for a timeout.
    pub(crate) kind: String,
    pub(crate) message: String,
}

impl Fault {
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Fault::Failed(Failure {
            kind: INVALID.to_owned(),
            message: message.into(),
        })
    }
}

/// Runs a task to its end, however often the artifact store has to be waited for.
pub(crate) async fn run<T: DeserializeOwned>(
    cx: &Context,
    task: &Task<'_>,
    input: &impl Serialize,
) -> Result<T, Fault> {
    let input = serde_json::to_vec(input)
        .map_err(|error| Fault::failed(format!("its input is not JSON: {error}")))?;
    let first_wait = Duration::from_millis(cx.limits.store_wait_ms.max(1));
    let mut wait = first_wait;
    loop {
        let failure = match affinity::execute(cx, task, &input).await {
            Ok(output) => {
                if wait != first_wait {
                    cx.update(|node| node.message = None);
                }
                return decode(task, &output);
            }
            Err(ActivityExecutionError::Cancelled(_)) => return Err(Fault::Canceled),
            Err(ActivityExecutionError::Failed(error)) => describe(task, error.cause()),
            Err(ActivityExecutionError::Serialization(error)) => {
                return Err(Fault::failed(format!("{}: {error}", task.name)));
            }
            Err(other) => return Err(Fault::failed(format!("{}: {other}", task.name))),
        };
        if cx.token.is_cancelled() {
            return Err(Fault::Canceled);
        }
        if failure.kind != STORE_UNAVAILABLE {
            return Err(Fault::Failed(failure));
        }
        cx.update(|node| {
            node.message = Some(format!(
                "waits for the artifact store: {} (tried again in {} s)",
                failure.message,
                wait.as_secs()
            ));
        });
        pause(cx, wait).await?;
        wait = (wait * 2).min(STORE_WAIT_MAX);
    }
}

/// Schedules a task as it is and waits for its end.
pub(crate) async fn execute(
    cx: &Context,
    task: &Task<'_>,
    input: &[u8],
) -> Result<RawValue, ActivityExecutionError> {
    let result = cx.workflow.execute_activity(
        UntypedActivity::new(task.name),
        RawValue::new(vec![json_payload(input.to_vec())]),
        options(cx, task),
    );
    result.await
}

/// Waits, or stops waiting because the run is cancelled or continues as new.
async fn pause(cx: &Context, duration: Duration) -> Result<(), Fault> {
    let timer = TimerOptions::builder(duration).cancellation_token(cx.token.clone());
    let mut timer = pin!(cx.workflow.timer(timer.build()));
    let draining = WaitConditionOptions::builder().cancellation_token(cx.token.clone());
    let draining = cx
        .workflow
        .wait_condition_with_options(|run| run.draining, draining.build());
    let mut draining = pin!(draining);
    select! {
        _ = timer => {}
        _ = draining => {}
    }
    if cx.token.is_cancelled() {
        Err(Fault::Canceled)
    } else if cx.draining() {
        Err(Fault::Paused)
    } else {
        Ok(())
    }
}

fn options(cx: &Context, task: &Task<'_>) -> ActivityOptions {
    let start_to_close = Duration::from_millis(task.timeouts.attempt_ms.max(1));
    let close = match task.timeouts.total_ms {
        Some(total) => ActivityCloseTimeouts::ScheduleAndStartToClose {
            start_to_close,
            schedule_to_close: Duration::from_millis(total.max(1)),
        },
        None => ActivityCloseTimeouts::StartToClose(start_to_close),
    };
    let heartbeat = task.timeouts.heartbeat_ms;
    let retry = RetryPolicy::builder()
        .initial_interval(Duration::from_millis(task.retry.first_delay_ms.max(1)))
        .backoff_coefficient(task.retry.backoff.max(1.0))
        .maximum_interval(Duration::from_millis(
            task.retry
                .max_delay_ms
                .max(task.retry.first_delay_ms)
                .max(1),
        ))
        .maximum_attempts(task.retry.attempts)
        // The server must not count attempts while the store is away: the workflow waits itself.
        .non_retryable_error_types([STORE_UNAVAILABLE, INVALID])
        .build();
    ActivityOptions::with_close_timeouts(close)
        .task_queue(task.queue)
        .maybe_schedule_to_start_timeout(task.start_within)
        .maybe_priority(task.priority.map(|priority| {
            let key = u32::from(priority);
            Priority::builder().priority_key(key).build()
        }))
        .maybe_heartbeat_timeout((heartbeat > 0).then(|| Duration::from_millis(heartbeat)))
        .cancellation_type(ActivityCancellationType::WaitCancellationCompleted)
        .cancellation_token(cx.token.clone())
        .retry_policy(retry)
        .summary(task.stage)
        .build()
}

pub(crate) fn json_payload(data: Vec<u8>) -> Payload {
    Payload {
        metadata: [("encoding".to_owned(), b"json/plain".to_vec())].into(),
        data,
        ..Default::default()
    }
}

fn decode<T: DeserializeOwned>(task: &Task<'_>, output: &RawValue) -> Result<T, Fault> {
    // SDKs write null as no bytes at all.
    let data = match output.payloads.first() {
        Some(payload) if !payload.data.is_empty() => &payload.data[..],
        _ => b"null",
    };
    serde_json::from_slice(data).map_err(|error| {
        Fault::failed(format!(
            "the worker that serves `{}` on queue `{}` gave a result that is not one: {error}",
            task.name, task.queue
        ))
    })
}

/// A worker's message without the stage's name before it: the run's own message begins with that.
fn without_place(task: &Task<'_>, message: String) -> String {
    let places = [
        format!("stage {} ({}): ", task.stage, task.name),
        format!("stage {}: ", task.stage),
    ];
    let rest = places.iter().find_map(|place| message.strip_prefix(place));
    rest.map(str::to_owned).unwrap_or(message)
}

/// What made an activity fail, in words.
fn describe(task: &Task<'_>, cause: Option<&IncomingError>) -> Failure {
    let timeouts = &task.timeouts;
    match cause {
        Some(IncomingError::Application(error)) => Failure {
            kind: error.type_name().unwrap_or_default().to_owned(),
            message: without_place(task, error.to_string()),
        },
        Some(IncomingError::Timeout(error)) => {
            let mut message = match error.timeout_type() {
                TimeoutType::StartToClose => {
                    format!("an attempt took longer than {} ms", timeouts.attempt_ms)
                }
                TimeoutType::Heartbeat => format!(
                    "its worker was silent for longer than {} ms",
                    timeouts.heartbeat_ms
                ),
                _ => format!(
                    "it did not succeed within {} ms; is there a worker for queue `{}`?",
                    timeouts.total_ms.unwrap_or_default(),
                    task.queue
                ),
            };
            if let Some(IncomingError::Application(last)) = error.cause() {
                message.push_str(&format!("; the last attempt failed: {last}"));
            }
            Failure {
                kind: String::new(),
                message,
            }
        }
        Some(other) => Failure {
            kind: String::new(),
            message: other.to_string(),
        },
        None => Failure {
            kind: String::new(),
            message: "it failed without saying why".to_owned(),
        },
    }
}
