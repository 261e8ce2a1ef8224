//! The inputs of a run against its plan, before anything runs.

use std::collections::BTreeMap;
use std::fmt;

use jsonschema::error::ValidationErrorKind;
use serde_json::{Map, Value};

use crate::plan::Plan;
use crate::suggest;

/// An input that the plan refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which value, such as `inputs.filter.tags[2]`.
    pub path: String,
    pub message: String,
    pub help: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)?;
        if let Some(help) = &self.help {
            write!(f, " ({help})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

/// The inputs of a run with defaults filled in. A value that is passed by reference is taken as it is.
///
/// # Errors
/// All that is missing, unknown or of the wrong type.
pub fn complete(
    plan: &Plan,
    inputs: &BTreeMap<String, Value>,
) -> Result<BTreeMap<String, Value>, Vec<Refusal>> {
    let none = Map::new();
    let properties = plan
        .inputs
        .get("properties")
        .and_then(Value::as_object)
        .unwrap_or(&none);
    let mut complete = inputs.clone();
    for (name, schema) in properties {
        if let Some(default) = schema.get("default") {
            complete
                .entry(name.clone())
                .or_insert_with(|| default.clone());
        }
    }
    let value = Value::Object(complete.clone().into_iter().collect());
    let validator = jsonschema::validator_for(&plan.inputs).map_err(|error| {
        vec![Refusal {
            path: "inputs".to_owned(),
            message: format!(
                "the plan's schema of inputs is not usable: {}",
                error.masked()
            ),
            help: Some("check the pipeline again with this version of Tidemill".to_owned()),
        }]
    })?;
    let mut refused: Vec<Refusal> = Vec::new();
    for error in validator.iter_errors(&value) {
        let path = path_of(&error.instance_path().to_string());
        if complete
            .iter()
            .any(|(name, value)| is_reference(value) && is_within(&path, name))
        {
            continue;
        }
        match error.kind() {
            ValidationErrorKind::Required { property } => {
                let name = property.as_str().unwrap_or_default();
                refused.push(Refusal {
                    help: properties.get(name).and_then(wanted),
                    message: "is missing and has no default".to_owned(),
                    path: format!("{path}.{name}"),
                });
            }
            ValidationErrorKind::AdditionalProperties { unexpected } => {
                let top = path == "inputs";
                refused.extend(unexpected.iter().map(|name| Refusal {
                    path: format!("{path}.{name}"),
                    message: "is not known".to_owned(),
                    help: top.then(|| {
                        suggest::among(name, properties.keys().map(String::as_str), "inputs")
                    }),
                }));
            }
            _ => refused.push(Refusal {
                path,
                message: shorten(&error.to_string()),
                help: None,
            }),
        }
    }
    if refused.is_empty() {
        Ok(complete)
    } else {
        refused.sort_by(|a, b| (&a.path, &a.message).cmp(&(&b.path, &b.message)));
        Err(refused)
    }
}

/// A value that lies in the artifact store: what it is cannot be seen from here.
fn is_reference(value: &Value) -> bool {
    ["$artifact", "$collection"]
        .iter()
        .any(|key| value.get(key).is_some_and(Value::is_string))
}

/// Whether a path is of an input or of something in it.
fn is_within(path: &str, input: &str) -> bool {
    path.strip_prefix("inputs.")
        .and_then(|rest| rest.strip_prefix(input))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn wanted(schema: &Value) -> Option<String> {
    let kind = schema.get("type").and_then(Value::as_str);
    let description = schema.get("description").and_then(Value::as_str);
    match (kind, description) {
        (Some(kind), Some(description)) => Some(format!("{kind}: {description}")),
        (Some(kind), None) => Some(format!("a value of type {kind}")),
        (None, description) => description.map(str::to_owned),
    }
}

/// `/filter/tags/2` as `inputs.filter.tags[2]`.
fn path_of(pointer: &str) -> String {
    let mut path = "inputs".to_owned();
    for part in pointer.split('/').skip(1) {
        if part.parse::<usize>().is_ok() {
            path.push_str(&format!("[{part}]"));
        } else {
            path.push('.');
            path.push_str(&part.replace("~1", "/").replace("~0", "~"));
        }
    }
    path
}

/// A refused value can be large, and stands in the validator's message.
fn shorten(message: &str) -> String {
    const LONGEST: usize = 300;
    match message.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &message[..at]),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::{NoFiles, check};

    fn run(inputs: Value) -> Result<Value, Vec<String>> {
        let text = "name: x\ninputs:\n  folder: { type: string, default: docs }\n  \
            filter: { type: object, properties: { tags: { type: array, items: { type: string } } } }\n\
            stages: [ { approve: '{{ inputs }}' } ]";
        let plan = check(text, "x", &crate::testing::catalog(), &NoFiles).expect("a plan");
        let inputs = serde_json::from_value(inputs).expect("a mapping");
        complete(&plan, &inputs)
            .map(|complete| json!(complete))
            .map_err(|refused| refused.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn defaults_are_filled_in() {
        assert_eq!(
            run(json!({ "filter": {} })),
            Ok(json!({ "folder": "docs", "filter": {} }))
        );
    }

    #[test]
    fn a_value_by_reference_is_taken_as_it_is() {
        let text =
            json!({ "$artifact": "sha256:00", "bytes": 99, "media_type": "application/json" });
        assert_eq!(
            run(json!({ "folder": text, "filter": {} })),
            Ok(json!({ "folder": text, "filter": {} }))
        );
        assert!(run(json!({ "folder": { "bytes": 99 }, "filter": {} })).is_err());
    }

    #[test]
    fn what_does_not_fit_is_told_by_its_path() {
        assert_eq!(
            run(json!({ "foldr": "a", "filter": { "tags": ["a", 2] } })),
            Err(vec![
                "inputs.filter.tags[1]: 2 is not of type \"string\"".to_owned(),
                "inputs.foldr: is not known (did you mean `folder`?)".to_owned(),
            ])
        );
        assert_eq!(
            run(json!({})),
            Err(vec![
                "inputs.filter: is missing and has no default (a value of type object)".to_owned()
            ])
        );
    }
}
