//! A stage that is one task.

use serde_json::Value;
use tidemill_pipeline::plan::{Cache, Step};
use tidemill_pipeline::task::{Input, Output, TaskInput};
use tidemill_pipeline::template;

use super::Outcome;
use crate::affinity::{self, Preferred};
use crate::context::Context;
use crate::evaluate;
use crate::task::{Fault, Task};

pub(super) async fn run(cx: &Context, step: &Step) -> Outcome {
    attempt(cx, step).await.unwrap_or_else(Outcome::from)
}

/// The message of a step that failed within a node of several.
pub(super) fn failed(step: &Step, message: &str) -> String {
    format!("stage `{}` ({}) failed: {message}", step.id, step.uses)
}

async fn attempt(cx: &Context, step: &Step) -> Result<Outcome, Fault> {
    let input = match &step.input {
        Some(template) => evaluate::text(cx, "its input", template).await?,
        None => Value::Null,
    };
    let with = evaluate::value(cx, "`with`", &step.with).await?;
    let task = of(step, &with);
    let input = TaskInput {
        run: (*cx.run).clone(),
        stage: step.id.clone(),
        with,
        input: Input::Value(input),
        scope: Value::Null,
        cache: cache(cx, step).await?,
        demands: step.demands.clone(),
    };
    let _long = cx.long_task();
    let output = affinity::run(cx, &task, &input).await?;
    match output.output {
        Output::Value(value) => Ok(Outcome::Done {
            output: value,
            kept: output.cached,
            fan_out: None,
        }),
        Output::Part(_) => Err(Fault::failed(format!(
            "the worker that serves `{}` gave a part although it was given no chunk",
            step.uses
        ))),
    }
}

/// The task that runs a step with these parameters.
pub(super) fn of<'a>(step: &'a Step, with: &Value) -> Task<'a> {
    Task {
        name: &step.uses,
        queue: &step.resource,
        stage: &step.id,
        retry: step.retry.clone(),
        timeouts: step.timeouts.clone(),
        priority: step.demands.priority,
        start_within: None,
        preferred: Preferred::of(step, with),
    }
}

/// The step's cache with its key evaluated; what speaks of an item is left to the worker.
pub(super) async fn cache(cx: &Context, step: &Step) -> Result<Option<Cache>, Fault> {
    let Some(cache) = &step.cache else {
        return Ok(None);
    };
    let mut cache = cache.clone();
    if let Some(key) = &cache.key
        && !template::speaks_of_item(key)
    {
        let key = evaluate::text(cx, "the key of its cache", key).await?;
        cache.key = Some(match key {
            Value::String(text) => text,
            other => other.to_string(),
        });
    }
    Ok(Some(cache))
}
