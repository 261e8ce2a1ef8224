//! `with:` of a stage: one struct gives its JSON Schema and reads it.

use std::borrow::Cow;
use std::time::Duration;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::Error;

/// The JSON Schema of a stage's parameters; doc comments become descriptions.
pub fn schema<T: JsonSchema>() -> Value {
    // In one piece: it becomes a part of the schema of pipelines, where references would lead nowhere.
    let settings = SchemaSettings::default().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    // The name of a Rust type means nothing to who writes a pipeline.
    schema.remove("title");
    schema.remove("$schema");
    schema.to_value()
}

/// Reads a stage's parameters. The error names the stage type and the parameter.
pub fn parse<T: DeserializeOwned>(stage: &str, with: Value) -> Result<T, Error> {
    let with = match with {
        Value::Null => Value::Object(serde_json::Map::new()),
        with => with,
    };
    serde_path_to_error::deserialize(with).map_err(|e| {
        let path = e.path().to_string();
        let at = if path == "." {
            "with".to_owned()
        } else {
            format!("with.{path}")
        };
        Error::invalid(format!("{stage}: {at}: {}", e.into_inner()))
    })
}

/// A wrong parameter that the types alone do not catch.
pub fn wrong(stage: &str, field: &str, why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("{stage}: with.{field}: {why}"))
}

/// One value, or a list of them.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
pub(crate) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub(crate) fn into_vec(self) -> Vec<String> {
        match self {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        }
    }
}

/// A value, or the environment variable of the worker that has it: secrets do not belong in
/// pipelines.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a text or `{env: NAME}`")]
pub(crate) enum Secret {
    Value(String),
    Env(Env),
}

#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Env {
    /// Name of the environment variable.
    env: String,
}

// By hand, so that a value is not shown by accident.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Secret::Value(_) => f.write_str("Value"),
            Secret::Env(Env { env }) => write!(f, "Env({env})"),
        }
    }
}

impl Secret {
    /// # Errors
    /// Names the variable that is not set.
    pub(crate) fn get(&self) -> Result<String, String> {
        match self {
            Secret::Value(value) => Ok(value.clone()),
            Secret::Env(Env { env }) => std::env::var(env).map_err(|_| {
                format!("the environment variable {env} is not set where the worker runs")
            }),
        }
    }
}

/// A span of time as pipelines write it: `30s`, `5m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let ms = tidemill_pipeline::duration::parse_ms(&text).map_err(D::Error::custom)?;
        Ok(Span(Duration::from_millis(ms)))
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^[0-9]",
            "description": "A span of time, such as `30s` or `5m`.",
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read by serde")]
    struct With {
        /// How many.
        size: u32,
        inner: Option<Inner>,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read by serde")]
    struct Inner {
        names: Vec<String>,
    }

    #[test]
    fn an_error_names_stage_and_parameter() {
        let message = |with| parse::<With>("a.b", with).unwrap_err().message;
        let rows = [
            (
                json!({"size": "x"}),
                "a.b: with.size: invalid type: string \"x\", expected u32",
            ),
            (
                json!({"size": 1, "inner": {"names": [1]}}),
                "a.b: with.inner.names[0]: invalid type: integer `1`, expected a string",
            ),
            (
                json!({"size": 1, "sise": 2}),
                "a.b: with.sise: unknown field `sise`, expected `size` or `inner`",
            ),
            (Value::Null, "a.b: with: missing field `size`"),
        ];
        for (with, expected) in rows {
            assert_eq!(message(with), expected);
        }
    }

    #[test]
    fn docs_become_descriptions() {
        let schema = schema::<With>();
        assert_eq!(schema["properties"]["size"]["description"], "How many.");
        assert_eq!(schema["additionalProperties"], false);
    }
}
