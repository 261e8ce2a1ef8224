//! Structured answers: JSON found in what a model wrote, checked against a schema.

use jsonschema::Validator;
use serde_json::Value;

use crate::Error;

/// Violations that are told to the model: the first ones say enough to mend the answer.
const TOLD: usize = 8;

/// The shape that an answer must have.
pub(super) struct Shape {
    pub(super) schema: Value,
    validator: Validator,
}

impl Shape {
    pub(super) fn new(stage: &str, schema: Value) -> Result<Self, Error> {
        let validator = jsonschema::validator_for(&schema).map_err(|error| {
            Error::invalid(format!(
                "{stage}: with.schema is not a JSON Schema: {error}"
            ))
        })?;
        Ok(Self { schema, validator })
    }

    /// What is said to the model before it answers; some servers ignore a schema sent with the
    /// request.
    pub(super) fn instruction(&self) -> String {
        format!(
            "Answer with one JSON value and nothing else. It must be valid against this JSON \
             Schema:\n{}",
            self.schema
        )
    }

    /// The value that `text` holds, or what is wrong with it, in words for the model.
    pub(super) fn read(&self, text: &str) -> Result<Value, String> {
        let value = find_json(text)?;
        let mut errors = self.validator.iter_errors(&value);
        let told: Vec<String> = errors
            .by_ref()
            .take(TOLD)
            .map(|error| {
                let path = error.instance_path().to_string();
                if path.is_empty() {
                    error.to_string()
                } else {
                    format!("at {path}: {error}")
                }
            })
            .collect();
        let more = errors.count();
        match (told.is_empty(), more) {
            (true, _) => Ok(value),
            (false, 0) => Err(told.join("; ")),
            (false, more) => Err(format!("{}; and {more} more", told.join("; "))),
        }
    }
}

/// The JSON of an answer: the whole text, or what stands in it from the first bracket to the last,
/// since models like to put words or a code fence around it.
fn find_json(text: &str) -> Result<Value, String> {
    let whole = text.trim();
    let error = match serde_json::from_str(whole) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let inner = whole
        .find(['{', '['])
        .zip(whole.rfind(['}', ']']))
        .filter(|(first, last)| first < last)
        .map(|(first, last)| &whole[first..=last]);
    match inner.map(serde_json::from_str) {
        Some(Ok(value)) => Ok(value),
        Some(Err(error)) => Err(format!("not valid JSON: {error}")),
        None if whole.is_empty() => Err("the answer was empty".to_owned()),
        None => Err(format!("not valid JSON: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_is_found_in_an_answer_and_checked() {
        let shape = Shape::new(
            "s",
            json!({
                "type": "object",
                "properties": {"label": {"enum": ["a", "b"]}, "score": {"type": "number"}},
                "required": ["label"],
            }),
        )
        .unwrap();
        let good = json!({"label": "a"});
        for text in [
            r#"{"label": "a"}"#,
            "```json\n{\"label\": \"a\"}\n```",
            "Here you are: {\"label\": \"a\"}. Anything else?",
        ] {
            assert_eq!(shape.read(text), Ok(good.clone()), "{text}");
        }
        for (text, expected) in [
            ("", "the answer was empty"),
            ("a, I think", "not valid JSON"),
            ("{\"label\": ", "not valid JSON"),
            ("} {", "not valid JSON"),
            (r#"{"label": "c"}"#, "at /label: \"c\" is not one of"),
            (r#"{"score": 1}"#, "\"label\" is a required property"),
            (r#"{"label": "a", "score": "x"}"#, "at /score"),
        ] {
            let error = shape.read(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_schema_that_is_none_is_refused() {
        let error = Shape::new("llm.generate", json!({"type": "objekt"}))
            .err()
            .expect("refused");
        assert!(
            error
                .message
                .starts_with("llm.generate: with.schema is not a JSON Schema:"),
            "{}",
            error.message
        );
    }
}
