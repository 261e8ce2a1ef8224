//! The stage `vector.delete`.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tidemill_connect::vector::Filter;
use tidemill_pipeline::stage::{Kind, StageType, Type};

use crate::{Context, Error, Stage, params};

const NAME: &str = "vector.delete";

/// Removes from an index.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delete;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct With {
    /// The index: its name, or `{qdrant: {...}}`, `{pgvector: {...}}`.
    index: Value,
    /// Documents to remove with all their chunks.
    #[serde(default)]
    documents: Vec<String>,
    /// Removes the chunks that meet it, such as `{language: fr}` or `{year: {"<": 1990}}`.
    #[serde(default)]
    filter: Value,
}

#[async_trait]
impl Stage for Delete {
    fn describe(&self) -> StageType {
        StageType {
            name: NAME.to_owned(),
            summary: "Removes documents, or the chunks that meet a filter, from a vector index."
                .to_owned(),
            kind: Kind::Call,
            input: Type::Any,
            output: Type::Object,
            resource: "cpu".to_owned(),
            with: params::schema::<With>(),
            pure: false,
            batched: None,
        }
    }

    async fn call(&self, _input: Value, with: Value, cx: &Context) -> Result<Value, Error> {
        let with: With = params::parse(NAME, with)?;
        let failed = |e| super::error(NAME, e);
        let filter = Filter::from_json(&with.filter).map_err(failed)?;
        if with.documents.is_empty() && filter.is_empty() {
            return Err(Error::invalid(format!(
                "{NAME}: with: say what to remove, by `documents` or `filter`"
            )));
        }
        let index = super::open(NAME, &with.index, cx).await?;
        let mut output = json!({"documents": 0, "chunks": 0});
        if !with.documents.is_empty() {
            let removed = index.delete_documents(&with.documents).await;
            output["documents"] = removed.map_err(failed)?.into();
        }
        if !filter.is_empty() {
            output["chunks"] = index.delete(&filter).await.map_err(failed)?.into();
        }
        Ok(output)
    }
}
