//! A wait for a person. It holds no worker: an answer is a signal or an update.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use serde_json::{Value, json};
use temporalio_sdk::workflows::select;
use temporalio_sdk::{TimerOptions, TimerResult, WaitConditionOptions};
use tidemill_pipeline::inputs;
use tidemill_pipeline::plan::{Approve, FORMAT, Plan};
use tidemill_pipeline::run::{Answer, RunState, Status};

use super::{Left, Outcome, Paused};
use crate::context::Context;
use crate::evaluate;

/// The choice that fails the run unless the pipeline says where it leads.
const REJECT: &str = "reject";

pub(super) async fn run(cx: &Context, approve: &Approve, left: Left) -> Outcome {
    let deadline = if left.asks {
        left.deadline
    } else {
        let message = match evaluate::text(cx, "its message", &approve.message).await {
            Ok(Value::String(text)) => text,
            Ok(other) => other.to_string(),
            Err(fault) => return fault.into(),
        };
        cx.update(|node| {
            node.status = Status::Asking;
            node.message = Some(message);
            node.choices = approve.choices.clone();
        });
        approve
            .timeout_ms
            .map(|timeout| cx.now_ms().saturating_add_unsigned(timeout))
    };

    let id = cx.node.id.clone();
    let options = WaitConditionOptions::builder().cancellation_token(cx.token.clone());
    let moved = cx.workflow.wait_condition_with_options(
        |run| run.answers.contains_key(&id) || run.draining,
        options.build(),
    );
    let mut moved = pin!(moved);
    let timed_out = match deadline {
        None => {
            // A cancellation is looked for below.
            let _ = moved.await;
            false
        }
        Some(deadline) => {
            let wait = u64::try_from(deadline - cx.now_ms()).unwrap_or(0);
            let timer = TimerOptions::builder(Duration::from_millis(wait.max(1)))
                .cancellation_token(cx.token.clone());
            let mut timer = pin!(cx.workflow.timer(timer.build()));
            // An answer that comes together with the timeout counts.
            select! {
                _ = moved => false,
                fired = timer => fired == TimerResult::Fired,
            }
        }
    };
    let answer = cx.workflow.state(|run| run.answers.get(&id).cloned());
    if let Some(answer) = answer {
        return end(approve, answer, false);
    }
    if cx.token.is_cancelled() {
        return Outcome::Canceled;
    }
    if !timed_out {
        return Outcome::Paused(Paused::Approve(deadline));
    }
    match &approve.default {
        Some(choice) => {
            let answer = Answer {
                node: cx.node.id.clone(),
                choice: choice.clone(),
                form: Value::Null,
                by: String::new(),
                comment: String::new(),
            };
            end(approve, answer, true)
        }
        None => Outcome::failed(format!(
            "nobody answered within {} ms, and there is no default",
            approve.timeout_ms.unwrap_or_default()
        )),
    }
}

/// The output: the answer, and whether it is the default that the timeout took.
fn end(approve: &Approve, answer: Answer, timed_out: bool) -> Outcome {
    if answer.choice == REJECT && !approve.routed {
        let by = match (timed_out, answer.by.as_str()) {
            (true, _) => " by its default, as nobody answered in time".to_owned(),
            (false, "") => String::new(),
            (false, by) => format!(" by {by}"),
        };
        let comment = match answer.comment.as_str() {
            "" => String::new(),
            comment => format!(": {comment}"),
        };
        return Outcome::failed(format!("it was rejected{by}{comment}"));
    }
    let mut output = json!(answer);
    output["timed_out"] = json!(timed_out);
    Outcome::done(output)
}

/// Whether a node asks and may be answered so.
///
/// # Errors
/// What is wrong with the answer, and what would be right.
pub(crate) fn check(
    state: &RunState,
    answered: impl Fn(&str) -> bool,
    form: impl Fn(&str) -> Option<Value>,
    answer: &Answer,
) -> Result<(), String> {
    let name = &answer.node;
    let Some(node) = state.nodes.iter().find(|node| node.id == *name) else {
        let asking = asking(state);
        return Err(format!("there is no stage `{name}`; {asking}"));
    };
    if answered(name) {
        return Err(format!("stage `{name}` has been answered already"));
    }
    if node.status != Status::Asking {
        let asking = asking(state);
        return Err(format!("stage `{name}` asks nothing now; {asking}"));
    }
    if !node.choices.contains(&answer.choice) {
        return Err(format!(
            "`{}` is no choice of stage `{name}`: choose one of {}",
            answer.choice,
            node.choices.join(", ")
        ));
    }
    match form(name) {
        Some(schema) => check_form(name, schema, &answer.form),
        None => Ok(()),
    }
}

/// Checks a form as a plan's inputs are: that is what it is to the stages that come after.
fn check_form(node: &str, schema: Value, form: &Value) -> Result<(), String> {
    let fields = match form {
        Value::Null => BTreeMap::new(),
        Value::Object(fields) => fields.clone().into_iter().collect(),
        _ => return Err(format!("the form of stage `{node}` is an object of fields")),
    };
    let plan = Plan {
        format: FORMAT,
        name: String::new(),
        description: String::new(),
        inputs: schema,
        nodes: Vec::new(),
        finally: Vec::new(),
        outputs: Value::Null,
    };
    inputs::complete(&plan, &fields)
        .map(drop)
        .map_err(|refused| {
            let refused: Vec<String> = refused
                .into_iter()
                .map(|mut refusal| {
                    refusal.path = refusal.path.replacen("inputs", "form", 1);
                    refusal.to_string()
                })
                .collect();
            format!("the form of stage `{node}`: {}", refused.join("; "))
        })
}

fn asking(state: &RunState) -> String {
    let asking: Vec<&str> = state
        .nodes
        .iter()
        .filter(|node| node.status == Status::Asking)
        .map(|node| node.id.as_str())
        .collect();
    if asking.is_empty() {
        "nothing is asked at the moment".to_owned()
    } else {
        format!("asked at the moment: {}", asking.join(", "))
    }
}
