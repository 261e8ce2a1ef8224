//! Small stages that compute nothing: `data.set` and `data.filter`.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tidemill_pipeline::data::Part;
use tidemill_pipeline::stage::{Kind, StageType, Type};

use crate::{Context, Error, Stage, params};

/// `data.set`: its parameters are its output.
#[derive(Clone, Copy, Debug, Default)]
pub struct Set;

#[async_trait]
impl Stage for Set {
    fn describe(&self) -> StageType {
        StageType {
            name: "data.set".to_owned(),
            summary: "Gives its parameters as its output: names for values that later stages use."
                .to_owned(),
            kind: Kind::Call,
            input: Type::Any,
            output: Type::Object,
            resource: "cpu".to_owned(),
            with: json!({
                "type": "object",
                "description": "Any names and values.",
                "additionalProperties": true,
            }),
            pure: true,
            batched: None,
        }
    }

    async fn call(&self, _input: Value, with: Value, _cx: &Context) -> Result<Value, Error> {
        Ok(with)
    }
}

/// `data.filter`: keeps the items of which a condition holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct With {
    /// Whether to keep an item, such as `{{ item.metadata.language == "en" }}`.
    keep: bool,
}

#[async_trait]
impl Stage for Filter {
    fn describe(&self) -> StageType {
        StageType {
            name: "data.filter".to_owned(),
            summary: "Keeps those items of a collection of which a condition holds.".to_owned(),
            kind: Kind::Items,
            input: Type::Any,
            output: Type::Any,
            resource: "cpu".to_owned(),
            with: params::schema::<With>(),
            pure: true,
            batched: None,
        }
    }

    // The worker evaluates the condition for each item and gives those of equal outcome together.
    async fn items(&self, chunk: Part, with: Value, _cx: &Context) -> Result<Part, Error> {
        let With { keep } = params::parse("data.filter", with)?;
        Ok(Part {
            items: if keep { chunk.items } else { Vec::new() },
            failed: Vec::new(),
        })
    }
}
