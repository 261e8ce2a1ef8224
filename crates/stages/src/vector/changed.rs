//! The stage `vector.changed`.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use tidemill_pipeline::data::{Item, Part};
use tidemill_pipeline::stage::{Kind, StageType, Type};

use crate::{Context, Error, Stage, params};

const NAME: &str = "vector.changed";

/// Keeps the documents that an index does not have as they are now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changed;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct With {
    /// The index: its name, or `{qdrant: {...}}`, `{pgvector: {...}}`.
    index: Value,
}

#[async_trait]
impl Stage for Changed {
    fn describe(&self) -> StageType {
        StageType {
            name: NAME.to_owned(),
            summary: "Drops documents that a vector index already has unchanged.".to_owned(),
            kind: Kind::Items,
            input: Type::record("document"),
            output: Type::record("document"),
            resource: "cpu".to_owned(),
            with: params::schema::<With>(),
            // The index changes.
            pure: false,
        }
    }

    async fn items(&self, chunk: Part, with: Value, cx: &Context) -> Result<Part, Error> {
        let with: With = params::parse(NAME, with)?;
        let index = super::open(NAME, &with.index, cx).await?;
        let ids: Vec<String> = chunk.items.iter().map(|item| item.id.clone()).collect();
        let known = index
            .processed(&ids)
            .await
            .map_err(|e| super::error(NAME, e))?;
        let changed = |item: &Item| {
            let hash = item.value.get("hash").and_then(Value::as_str);
            hash.is_none() || known.get(&item.id).map(String::as_str) != hash
        };
        Ok(Part {
            items: chunk.items.into_iter().filter(changed).collect(),
            failed: Vec::new(),
        })
    }
}
