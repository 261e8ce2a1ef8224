//! A filter in Qdrant's terms.

use serde_json::{Value, json};

use super::super::filter::{Condition, Test};
use super::super::{Error, Filter};
use super::kind;

/// The chunks that meet a filter.
pub(super) fn chunks(filter: &Filter) -> Result<Value, Error> {
    let mut must = vec![kind("chunk")];
    let mut must_not = Vec::new();
    for condition in &filter.conditions {
        let key = key(&condition.field);
        match &condition.test {
            Test::In(values) => {
                let any: Vec<Value> = values.iter().map(|value| equal(&key, value)).collect();
                // Without any value nothing meets it; an empty `should` would let all pass.
                must.push(match any.is_empty() {
                    true => json!({"has_id": []}),
                    false => json!({ "should": any }),
                });
            }
            Test::Compare("!=", value) => {
                must_not.push(json!({"is_empty": {"key": key}}));
                must_not.push(equal(&key, value));
            }
            Test::Compare(operator, value) if value.is_number() => {
                must.push(json!({"key": key, "range": {bound(operator): value}}));
            }
            Test::Compare(operator, value) => return Err(unordered(condition, operator, value)),
        }
    }
    Ok(json!({"must": must, "must_not": must_not}))
}

fn equal(key: &str, value: &Value) -> Value {
    match value {
        // `match` takes integers only, and finds no 2.0 for a 2.
        Value::Number(_) => json!({"key": key, "range": {"gte": value, "lte": value}}),
        _ => json!({"key": key, "match": {"value": value}}),
    }
}

fn bound(operator: &str) -> &'static str {
    match operator {
        "<" => "lt",
        "<=" => "lte",
        ">" => "gt",
        _ => "gte",
    }
}

fn unordered(condition: &Condition, operator: &str, value: &Value) -> Error {
    Error::Invalid(format!(
        "filter: `{}` {operator} {value}: Qdrant orders numbers only; keep a number in the metadata \
         to compare by, such as a year",
        condition.field
    ))
}

/// The path of a field in a chunk's payload. Quoted, a dot is a part of the name.
fn key(field: &str) -> String {
    match field {
        "id" | "document" | "uri" => field.to_owned(),
        _ => format!("metadata.\"{field}\""),
    }
}
