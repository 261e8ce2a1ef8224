//! A pipeline within the pipeline: a child workflow of the same type.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use temporalio_common::error::IncomingError;
use temporalio_sdk::{
    ChildWorkflowExecutionError, ChildWorkflowOptions, ChildWorkflowStartError, ParentClosePolicy,
};
use tidemill_pipeline::inputs;
use tidemill_pipeline::plan::Call;
use tidemill_pipeline::run::{RunInput, RunResult};

use super::Outcome;
use crate::context::Context;
use crate::evaluate;
use crate::interpreter::Interpreter;

pub(super) async fn run(cx: &Context, call: &Call) -> Outcome {
    let mut inputs = BTreeMap::new();
    for (name, value) in &call.inputs {
        let what = format!("input `{name}` of the call");
        match evaluate::value(cx, &what, value).await {
            Ok(value) => inputs.insert(name.clone(), value),
            Err(fault) => return fault.into(),
        };
    }
    let inputs = match inputs::complete(&call.plan, &inputs) {
        Ok(inputs) => inputs,
        Err(refused) => {
            let refused: Vec<String> = refused.iter().map(ToString::to_string).collect();
            return Outcome::failed(format!(
                "pipeline `{}` was not called: {}",
                call.plan.name,
                refused.join("; ")
            ));
        }
    };
    let input = json!(RunInput {
        plan: (*call.plan).clone(),
        inputs,
        keep: BTreeMap::new(),
        kept_fan_outs: BTreeMap::new(),
        failed_items: BTreeMap::new(),
        earlier: None,
        carry: None,
    });
    let id = format!("{}/{}", cx.run.id, cx.node.id);
    let options = ChildWorkflowOptions::builder()
        .workflow_id(id.clone())
        // A parent that ends otherwise than by cancellation leaves the child its `finally`.
        .parent_close_policy(ParentClosePolicy::RequestCancel)
        .cancellation_token(cx.token.clone())
        .static_summary(call.plan.name.clone())
        .build();
    let _long = cx.long_task();
    let child = cx
        .workflow
        .start_child_workflow(Interpreter::run, input, options);
    let child = match child.await {
        Ok(child) => child,
        Err(ChildWorkflowStartError::Cancelled(_)) => return Outcome::Canceled,
        Err(error) => {
            return Outcome::failed(format!("pipeline `{}` as {id}: {error}", call.plan.name));
        }
    };
    cx.update(|node| node.child = Some(id.clone()));
    let cause = match child.result().await {
        Ok(result) => return done(result),
        Err(ChildWorkflowExecutionError::Failed(failure)) => match failure.cause() {
            Some(IncomingError::Cancelled(_)) if cx.token.is_cancelled() => {
                return Outcome::Canceled;
            }
            Some(IncomingError::Cancelled(_)) => "it was cancelled".to_owned(),
            Some(IncomingError::Terminated(_)) => "it was terminated".to_owned(),
            Some(cause) => cause.to_string(),
            None => failure.to_string(),
        },
        Err(error) => error.to_string(),
    };
    Outcome::failed(format!("pipeline `{}` as {id}: {cause}", call.plan.name))
}

fn done(result: Value) -> Outcome {
    match serde_json::from_value::<RunResult>(result) {
        Ok(result) => Outcome::done(result.outputs),
        Err(error) => Outcome::failed(format!("its result is not a run's: {error}")),
    }
}
