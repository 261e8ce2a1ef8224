//! Templates of a node. The interpreter evaluates them itself, but for those that look into a value kept
//! as an artifact: a worker does that, since the interpreter reads none.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use tidemill_pipeline::task::{Evaluate, internal};
use tidemill_pipeline::template;

use crate::context::Context;
use crate::task::{self, Fault, Task};

/// Evaluates the templates in the strings of a value, but for those that mention `item`: they are
/// evaluated for each item. `what` begins the message of a failure.
pub(crate) async fn around_items(cx: &Context, what: &str, value: &Value) -> Result<Value, Fault> {
    within(cx, what, value, &|text| !template::speaks_of_item(text)).await
}

/// Evaluates the templates in the strings of a value.
pub(crate) async fn value(cx: &Context, what: &str, value: &Value) -> Result<Value, Fault> {
    within(cx, what, value, &|_| true).await
}

/// Evaluates one string.
pub(crate) async fn text(cx: &Context, what: &str, text: &str) -> Result<Value, Fault> {
    value(cx, what, &Value::from(text)).await
}

async fn within(
    cx: &Context,
    what: &str,
    value: &Value,
    chosen: &impl Fn(&str) -> bool,
) -> Result<Value, Fault> {
    let scope = cx.scope();
    let mut known = BTreeMap::new();
    let mut late = BTreeSet::new();
    each_text(value, &mut |text| {
        if !chosen(text) {
            return Ok(());
        }
        match template::evaluate_text(text, &scope) {
            Ok(value) => {
                known.insert(text.to_owned(), value);
            }
            Err(_) if template::touches_artifact(text, &scope) => {
                late.insert(text.to_owned());
            }
            Err(error) => return Err(Fault::failed(format!("{what}: {error}"))),
        }
        Ok(())
    })?;
    if !late.is_empty() {
        let values = by_worker(cx, what, &late, &scope).await?;
        known.extend(late.into_iter().zip(values));
    }
    Ok(replaced(value, &known))
}

/// Has a worker evaluate texts with what they name of the scope.
async fn by_worker(
    cx: &Context,
    what: &str,
    texts: &BTreeSet<String>,
    scope: &Value,
) -> Result<Vec<Value>, Fault> {
    let names = texts.iter().filter_map(|text| template::roots(text).ok());
    let named: Map<String, Value> = names
        .flatten()
        .filter_map(|name| Some((name.clone(), scope.get(&name)?.clone())))
        .collect();
    let input = Evaluate {
        texts: texts.iter().cloned().collect(),
        scope: Value::Object(named),
    };
    let task = Task::internal(internal::EVALUATE, &cx.node.id);
    let values: Vec<Value> = match task::run(cx, &task, &input).await {
        Err(Fault::Failed(mut failure)) => {
            failure.message = format!("{what}: {}", failure.message);
            return Err(Fault::Failed(failure));
        }
        done => done?,
    };
    if values.len() != texts.len() {
        return Err(Fault::failed(format!(
            "{what}: the worker evaluated {} of {} templates",
            values.len(),
            texts.len()
        )));
    }
    Ok(values)
}

fn each_text(value: &Value, see: &mut impl FnMut(&str) -> Result<(), Fault>) -> Result<(), Fault> {
    match value {
        Value::String(text) => see(text),
        Value::Array(values) => values.iter().try_for_each(|value| each_text(value, see)),
        Value::Object(fields) => fields.values().try_for_each(|value| each_text(value, see)),
        _ => Ok(()),
    }
}

fn replaced(value: &Value, known: &BTreeMap<String, Value>) -> Value {
    match value {
        Value::String(text) => known.get(text).unwrap_or(value).clone(),
        Value::Array(values) => values.iter().map(|value| replaced(value, known)).collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (key.clone(), replaced(value, known)))
            .collect::<Map<_, _>>()
            .into(),
        other => other.clone(),
    }
}
