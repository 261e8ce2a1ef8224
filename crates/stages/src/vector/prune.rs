//! The stage `vector.prune`.

use std::collections::BTreeSet;

use async_trait::async_trait;
use futures::StreamExt;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tidemill_connect::artifacts;
use tidemill_pipeline::data::Collection;
use tidemill_pipeline::stage::{Kind, StageType, Type};

use crate::{Context, Error, ErrorKind, Stage, params};

const NAME: &str = "vector.prune";

/// Removes from an index the documents that are gone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Prune;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct With {
    /// The index: its name, or `{qdrant: {...}}`, `{pgvector: {...}}`.
    index: Value,
    /// Whether a collection without any document may empty the index. It is more often a wrong
    /// path, so by default it is refused.
    #[serde(default)]
    allow_empty: bool,
}

#[async_trait]
impl Stage for Prune {
    fn describe(&self) -> StageType {
        StageType {
            name: NAME.to_owned(),
            summary: "Removes the documents from a vector index that are not in a collection."
                .to_owned(),
            kind: Kind::Call,
            input: Type::collection(Type::record("document")),
            output: Type::Object,
            resource: "cpu".to_owned(),
            with: params::schema::<With>(),
            pure: false,
            batched: None,
        }
    }

    async fn call(&self, input: Value, with: Value, cx: &Context) -> Result<Value, Error> {
        let with: With = params::parse(NAME, with)?;
        let collection: Collection = serde_json::from_value(input).map_err(|_| {
            Error::invalid(format!(
                "{NAME}: the input is no collection: give the output of documents.load"
            ))
        })?;
        let there = Present::read(&collection, cx).await?;
        let failed = |e| super::error(NAME, e);
        let index = super::open(NAME, &with.index, cx).await?;
        let held = index.document_ids().await.map_err(failed)?;
        if there.is_empty() && !held.is_empty() && !with.allow_empty {
            return Err(Error::invalid(format!(
                "{NAME}: the collection has no document, so all {} of the index would be removed: \
                 check what was loaded, or set allow_empty",
                held.len()
            )));
        }
        let gone: Vec<String> = held.into_iter().filter(|id| !there.has(id)).collect();
        let removed = index.delete_documents(&gone).await.map_err(failed)?;
        Ok(json!({"documents": removed}))
    }
}

/// The documents of a collection, and what may be there but could not be read.
#[derive(Debug, Default)]
struct Present {
    ids: BTreeSet<String>,
    /// Files and folders of which something failed: what the index has of them is kept.
    unread: BTreeSet<String>,
}

impl Present {
    async fn read(collection: &Collection, cx: &Context) -> Result<Self, Error> {
        let mut present = Present::default();
        let mut parts = cx.artifacts.parts(collection);
        while let Some(part) = parts.next().await {
            let part = part.map_err(unreadable)?;
            for item in part.items {
                let text = item.value.get("text").and_then(Value::as_str);
                // Nothing of it will come to be in the index, so what is there is out of date.
                if text.is_none_or(|text| !text.trim().is_empty()) {
                    present.ids.insert(item.id);
                }
            }
            for failed in part.failed {
                // Of a row its file: rows have no reliable name before they are read.
                let file = failed.id.split('#').next().unwrap_or_default();
                present.unread.insert(file.to_owned());
            }
        }
        Ok(present)
    }

    fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.unread.is_empty()
    }

    fn has(&self, id: &str) -> bool {
        self.ids.contains(id)
            || self.unread.contains(id)
            || id
                .match_indices(['#', '/'])
                .any(|(at, _)| self.unread.contains(&id[..at]))
    }
}

fn unreadable(error: artifacts::Error) -> Error {
    let kind = match &error {
        artifacts::Error::Unavailable(_) => ErrorKind::ArtifactStoreUnavailable,
        _ => ErrorKind::Invalid,
    };
    Error::new(kind, format!("{NAME}: {error}"))
}
