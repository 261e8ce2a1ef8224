//! The stage `vector.changed`.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tidemill_connect::vector::VectorStore;
use tidemill_pipeline::data::Part;
use tidemill_pipeline::stage::{Kind, StageType, Type};

use crate::records::sha256;
use crate::{Context, Error, Stage, ai, params, text};

const NAME: &str = "vector.changed";

/// What a document's hash is made of: another number means other rules, and other hashes.
const RULES: u32 = 1;

/// Keeps the documents that an index does not have as they are now.
///
/// The hash of a document that is let through stands for the document and for what makes vectors of
/// it, and comes to the index with its chunks. Only with both unchanged is a document dropped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changed;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct With {
    /// The index: its name, or `{qdrant: {...}}`, `{pgvector: {...}}`.
    index: Value,
    /// What the vectors are made with: when it changes, all documents count as changed. Unless
    /// given, the stages that follow up to `vector.upsert`, with their parameters. Give a text of
    /// your own, and change it, where the code of such a stage changes, or where a change of a
    /// parameter makes no difference.
    #[serde(default)]
    #[schemars(extend("x-following" = true))]
    version: Value,
}

/// A stage that follows, as the plan knows it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Following {
    uses: String,
    with: Value,
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
            batched: None,
        }
    }

    async fn items(&self, chunk: Part, with: Value, cx: &Context) -> Result<Part, Error> {
        let with: With = params::parse(NAME, with)?;
        let index = super::open(NAME, &with.index, cx).await?;
        let version = version(with.version, index.as_ref(), cx).await?;
        let ids: Vec<String> = chunk.items.iter().map(|item| item.id.clone()).collect();
        let known = index
            .processed(&ids)
            .await
            .map_err(|e| super::error(NAME, e))?;
        let mut changed = Part::default();
        for mut item in chunk.items {
            let hash = hash(&item.value, &version);
            if known.get(&item.id) == Some(&hash) {
                continue;
            }
            if let Value::Object(document) = &mut item.value {
                document.insert("hash".to_owned(), hash.into());
            }
            changed.items.push(item);
        }
        Ok(changed)
    }
}

fn hash(document: &Value, version: &Value) -> String {
    let mut all = json!([RULES, document, version]);
    all.sort_all_objects();
    sha256(all.to_string().as_bytes())
}

/// What the vectors are made with. The model is no part of it, since an index has one only; that it
/// is the one that follows is checked here, before anything is computed in vain.
async fn version(given: Value, index: &dyn VectorStore, cx: &Context) -> Result<Value, Error> {
    // What an author gave is taken as it is.
    let Ok(following) = serde_json::from_value::<Vec<Following>>(given.clone()) else {
        return Ok(given);
    };
    let mut version = Vec::new();
    for Following { uses, with } in following {
        match uses.as_str() {
            "vector.upsert" => break,
            "embed.text" => same_model(&with, index, cx).await?,
            "text.split" => {
                // Where its tokenizer is not there, another worker splits.
                let revision = text::Split::default().revision(&with, cx).await;
                let revision = revision.ok().flatten();
                version.push(json!({"uses": uses, "with": with, "revision": revision}));
            }
            _ => version.push(json!({"uses": uses, "with": with})),
        }
    }
    Ok(version.into())
}

/// Refuses a model whose vectors the index could not take.
async fn same_model(with: &Value, index: &dyn VectorStore, cx: &Context) -> Result<(), Error> {
    let there = index.model().await.map_err(|e| super::error(NAME, e))?;
    // A model that is not on this machine is on that of another worker, and `vector.upsert` looks
    // at what it has made.
    let (Some(there), Ok(follows)) = (there, ai::model_of(with, cx).await) else {
        return Ok(());
    };
    if (&there.model, &there.revision) == (&follows.name, &follows.revision) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{NAME}: the vector index holds vectors of {there}; embed.text makes those of model {} \
         (revision {}): use another index, or the model that it was made with",
        follows.name, follows.revision
    )))
}
