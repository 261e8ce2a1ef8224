//! The stage `vector.upsert`.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tidemill_connect::embed::Spec;
use tidemill_connect::vector::{ChunkVector, DocumentChunks, Model};
use tidemill_pipeline::data::{FailedItem, Item, Part};
use tidemill_pipeline::stage::{Kind, StageType, Type};

use crate::{Context, Error, Stage, params};

const NAME: &str = "vector.upsert";

/// Writes vectors into an index.
#[derive(Clone, Copy, Debug, Default)]
pub struct Upsert;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct With {
    /// The index: its name, or `{qdrant: {...}}`, `{pgvector: {...}}`.
    index: Value,
}

/// What is read of an item.
#[derive(Debug, Deserialize)]
struct Record {
    document: String,
    uri: String,
    hash: String,
    index: u64,
    text: String,
    #[serde(default)]
    headings: Vec<String>,
    #[serde(default)]
    metadata: Map<String, Value>,
    vector: String,
    dimension: usize,
    model: String,
    revision: String,
    #[serde(default)]
    embedder: Option<Spec>,
}

#[async_trait]
impl Stage for Upsert {
    fn describe(&self) -> StageType {
        StageType {
            name: NAME.to_owned(),
            summary: "Writes vectors into an index, each document as a whole.".to_owned(),
            kind: Kind::Items,
            input: Type::record("vector"),
            output: Type::Object,
            resource: "cpu".to_owned(),
            with: params::schema::<With>(),
            pure: false,
            batched: None,
        }
    }

    async fn items(&self, chunk: Part, with: Value, cx: &Context) -> Result<Part, Error> {
        let with: With = params::parse(NAME, with)?;
        let mut out = Part::default();
        // Documents of which something failed: written now, they would count as processed.
        let mut incomplete: BTreeSet<String> = chunk
            .failed
            .iter()
            .map(|failed| match failed.source.as_str() {
                "" => failed.id.clone(),
                source => source.to_owned(),
            })
            .collect();
        let mut model: Option<Model> = None;
        let mut documents: BTreeMap<String, (String, DocumentChunks)> = BTreeMap::new();
        for Item { id, source, value } in chunk.items {
            match read(&id, value, &mut model) {
                Ok((document, chunk)) => {
                    let of = documents
                        .entry(document.id.clone())
                        .or_insert_with(|| (source, document));
                    of.1.chunks.push(chunk);
                }
                Err((document, error)) => {
                    incomplete.extend(document);
                    incomplete.extend((!source.is_empty()).then(|| source.clone()));
                    out.failed.push(FailedItem {
                        id,
                        source,
                        stage: cx.stage.clone(),
                        error,
                    });
                }
            }
        }
        documents
            .retain(|id, (source, _)| !incomplete.contains(id) && !incomplete.contains(source));
        let Some(model) = model.filter(|_| !documents.is_empty()) else {
            return Ok(out);
        };
        for (id, (source, document)) in &documents {
            out.items.push(Item {
                id: id.clone(),
                source: if source == id {
                    String::new()
                } else {
                    source.clone()
                },
                value: json!({
                    "document": id,
                    "uri": document.uri,
                    "chunks": document.chunks.len(),
                }),
            });
        }
        let index = super::open(NAME, &with.index, cx).await?;
        let documents = documents
            .into_values()
            .map(|(_, document)| document)
            .collect();
        index
            .upsert(&model, documents)
            .await
            .map_err(|e| super::error(NAME, e))?;
        Ok(out)
    }
}

/// Reads an item; the error comes with its document, if that is known. All items have the model of
/// the first.
fn read(
    id: &str,
    value: Value,
    model: &mut Option<Model>,
) -> Result<(DocumentChunks, ChunkVector), (Option<String>, String)> {
    let document = value
        .get("document")
        .and_then(Value::as_str)
        .map(str::to_owned);
    let wrong = |why: String| (document.clone(), format!("{NAME} takes vectors: {why}"));
    let record: Record = serde_json::from_value(value).map_err(|e| wrong(e.to_string()))?;
    let vector = floats(&record.vector)
        .ok_or_else(|| wrong("`vector` is not base64 of finite 32-bit floats".to_owned()))?;
    if vector.len() != record.dimension || vector.is_empty() {
        let (numbers, dimension) = (vector.len(), record.dimension);
        return Err(wrong(format!(
            "{numbers} numbers where `dimension` is {dimension}"
        )));
    }
    let own = Model {
        model: record.model,
        revision: record.revision,
        dimension: record.dimension,
        embedder: record.embedder,
    };
    let first = model.get_or_insert_with(|| own.clone());
    if !first.goes_with(&own) {
        return Err(wrong(format!("made by {own}, others by {first}")));
    }
    let mut metadata = record.metadata;
    if !record.headings.is_empty() {
        metadata.insert("headings".to_owned(), record.headings.into());
    }
    let chunk = ChunkVector {
        id: id.to_owned(),
        index: record.index,
        text: record.text,
        metadata,
        vector,
    };
    let document = DocumentChunks {
        id: record.document,
        uri: record.uri,
        hash: record.hash,
        chunks: Vec::new(),
    };
    Ok((document, chunk))
}

/// Little-endian floats in base64; `None` if it is anything else.
fn floats(base64: &str) -> Option<Vec<f32>> {
    let bytes = BASE64_STANDARD.decode(base64).ok()?;
    let (floats, []) = bytes.as_chunks::<4>() else {
        return None;
    };
    let floats: Vec<f32> = floats
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    floats
        .iter()
        .all(|float| float.is_finite())
        .then_some(floats)
}
