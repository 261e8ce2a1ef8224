//! Tasks go where their model is loaded, if a worker takes them there in time.
//!
//! A worker that has a model loaded polls the model's queue beside that of its class. A task whose
//! step has an affinity is put there first. When no worker takes it in time it spills: it is
//! scheduled again, on the queue of its class, and whoever takes it loads the model. From then on the
//! run holds the model's queue for cold, and its tasks go to their class straight away, until one
//! comes back from a worker that says that the queue is warm. So a model that nobody has costs a run
//! one wait, not one for each task.
//!
//! Attempts, delays and timeouts come out as if there was one queue. On the model's queue a task has
//! one attempt: how many it had there by the time it is not taken any more, the engine would not
//! tell. Its other attempts, on the queue of its class, may well meet another worker.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use temporalio_common::data_converters::RawValue;
use temporalio_common::error::{ActivityFailureError, IncomingError};
use temporalio_sdk::{ActivityExecutionError, RetryState, TimeoutType, TimerOptions};
use tidemill_pipeline::plan::{Retry, Step};
use tidemill_pipeline::resource::model_queue;
use tidemill_pipeline::task::TaskOutput;
use tidemill_pipeline::template;

use crate::context::Context;
use crate::task::{self, Fault, Task};

/// Where a task is put before it is put where its class is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Preferred {
    pub(crate) queue: String,
    wait: Duration,
}

impl Preferred {
    /// Where the tasks of a step with these parameters are put first.
    pub(crate) fn of(step: &Step, with: &Value) -> Option<Self> {
        let affinity = step.affinity.as_ref().filter(|a| a.wait_ms > 0)?;
        let model = with.get(&affinity.parameter)?.as_str()?;
        if model.is_empty() || template::speaks_of_item(model) {
            return None;
        }
        Some(Self {
            queue: model_queue(&step.resource, model),
            wait: Duration::from_millis(affinity.wait_ms),
        })
    }
}

/// Runs a task of a stage, and learns from its output where its model is.
pub(crate) async fn run(
    cx: &Context,
    task: &Task<'_>,
    input: &impl Serialize,
) -> Result<TaskOutput, Fault> {
    let output: TaskOutput = task::run(cx, task, input).await?;
    if let Some(preferred) = &task.preferred
        && output.warm.as_ref() == Some(&preferred.queue)
    {
        cx.workflow
            .state_mut(|run| run.cold.remove(&preferred.queue));
    }
    Ok(output)
}

/// Schedules a task where it is preferred, and where its class is served when that came to nothing.
pub(crate) async fn execute(
    cx: &Context,
    task: &Task<'_>,
    input: &[u8],
) -> Result<RawValue, ActivityExecutionError> {
    let is_cold = |queue: &str| cx.workflow.state(|run| run.cold.contains(queue));
    let Some(preferred) = task.preferred.as_ref().filter(|p| !is_cold(&p.queue)) else {
        return task::execute(cx, task, input).await;
    };
    let begun_ms = cx.now_ms();
    let there = Task {
        queue: &preferred.queue,
        start_within: Some(preferred.wait),
        retry: Retry {
            attempts: 1,
            ..task.retry.clone()
        },
        ..task.clone()
    };
    let error = match task::execute(cx, &there, input).await {
        Err(ActivityExecutionError::Failed(error)) => error,
        ended => return ended,
    };
    let (retry, delay) = match next(&task.retry, &error) {
        Next::Spill => {
            cx.workflow
                .state_mut(|run| run.cold.insert(preferred.queue.clone()));
            (task.retry.clone(), Duration::ZERO)
        }
        Next::Again(retry, delay) => (retry, delay),
        Next::Over => return Err(ActivityExecutionError::Failed(error)),
    };
    let mut here = Task {
        retry,
        ..task.clone()
    };
    if let Some(total_ms) = &mut here.timeouts.total_ms {
        let used_ms = u64::try_from(cx.now_ms() - begun_ms).unwrap_or_default();
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        *total_ms = total_ms.saturating_sub(used_ms.saturating_add(delay_ms));
        if *total_ms == 0 {
            return Err(ActivityExecutionError::Failed(error));
        }
    }
    if !delay.is_zero() {
        let timer = TimerOptions::builder(delay).cancellation_token(cx.token.clone());
        cx.workflow.timer(timer.build()).await;
        if cx.token.is_cancelled() {
            return Err(ActivityExecutionError::Failed(error));
        }
    }
    task::execute(cx, &here, input).await
}

/// What follows the failure of the only attempt that a task has on its model's queue.
#[derive(Debug, PartialEq)]
enum Next {
    /// There was no attempt: nobody took it.
    Spill,
    /// What is left of its attempts, after a delay.
    Again(Retry, Duration),
    Over,
}

fn next(retry: &Retry, error: &ActivityFailureError) -> Next {
    let delay_ms = match error.cause() {
        Some(IncomingError::Timeout(timeout))
            if timeout.timeout_type() == TimeoutType::ScheduleToStart =>
        {
            return Next::Spill;
        }
        Some(IncomingError::Application(failure)) => failure
            .next_retry_delay()
            .map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
        _ => None,
    };
    let more = retry.attempts != 1;
    if !more || error.retry_state() != RetryState::MaximumAttemptsReached {
        return Next::Over;
    }
    let (delay, retry) = after_one(retry);
    Next::Again(retry, Duration::from_millis(delay_ms.unwrap_or(delay)))
}

/// The delay after a first attempt that failed, and what is left then.
fn after_one(retry: &Retry) -> (u64, Retry) {
    let first = retry.first_delay_ms;
    let most = retry.max_delay_ms.max(first);
    let left = Retry {
        // 0 is without a bound, and stays so.
        attempts: retry.attempts.saturating_sub(1),
        first_delay_ms: ((first as f64 * retry.backoff.max(1.0)) as u64).min(most),
        max_delay_ms: most,
        ..retry.clone()
    };
    (first.max(1), left)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidemill_pipeline::plan::{Affinity, Demands, Timeouts};

    use super::*;

    fn step(resource: &str, wait_ms: u64) -> Step {
        Step {
            id: "embed".to_owned(),
            uses: "embed.text".to_owned(),
            resource: resource.to_owned(),
            input: None,
            with: json!({}),
            retry: Retry::default(),
            timeouts: Timeouts::default(),
            cache: None,
            demands: Demands::default(),
            affinity: Some(Affinity {
                parameter: "model".to_owned(),
                wait_ms,
            }),
        }
    }

    #[test]
    fn a_task_prefers_the_queue_of_the_model_that_its_parameter_names() {
        let queue = |resource, wait, with: Value| {
            Preferred::of(&step(resource, wait), &with).map(|preferred| preferred.queue)
        };
        let minilm = json!({"model": "minilm"});
        assert_eq!(
            queue("accelerator", 1, minilm.clone()).as_deref(),
            Some("accelerator/minilm")
        );
        assert_eq!(
            queue("gpu", 1, minilm.clone()).as_deref(),
            Some("gpu/minilm")
        );
        assert_eq!(queue("gpu", 0, minilm), None);
        for with in [
            json!({}),
            json!({"model": ""}),
            json!({"model": {"openai": {"model": "m"}}}),
            json!({"model": "{{ item.model }}"}),
        ] {
            assert_eq!(queue("gpu", 1, with.clone()), None, "{with}");
        }
        let none = Step {
            affinity: None,
            ..step("gpu", 1)
        };
        assert_eq!(Preferred::of(&none, &json!({"model": "minilm"})), None);
    }

    #[test]
    fn what_is_left_after_one_attempt_goes_on_as_its_retry_would() {
        let retry = |attempts, first_delay_ms, max_delay_ms| Retry {
            attempts,
            first_delay_ms,
            backoff: 2.0,
            max_delay_ms,
        };
        for (before, delay, left) in [
            (retry(5, 1_000, 60_000), 1_000, retry(4, 2_000, 60_000)),
            (retry(2, 40, 60), 40, retry(1, 60, 60)),
            (retry(0, 7, 60), 7, retry(0, 14, 60)),
            (retry(3, 0, 0), 1, retry(2, 0, 0)),
        ] {
            assert_eq!(after_one(&before), (delay, left), "{before:?}");
        }
    }
}
