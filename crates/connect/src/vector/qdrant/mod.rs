//! An index in Qdrant, over its REST API (1.10 or newer).
//!
//! Everything is a point of one collection: a chunk with its vector, a document without one, and
//! what made the vectors. Qdrant has no transactions, so a document is written in an order in which
//! a crash is mended: its record loses its hash, the new chunks come, the old ones go, the record
//! gets its new hash. In between a search may see chunks of both versions; the document counts as
//! not processed until all is done.

mod client;
mod filter;

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use self::client::Client;
use super::{DocumentChunks, Error, Filter, Info, Match, Model, Upserted, VectorStore};

/// The name of the chunks' vector. Named, so that points may lack it.
const VECTOR: &str = "chunk";
/// Points sent or read in one request.
const BATCH: usize = 256;

/// `{url, collection, api_key_env}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// Such as `http://localhost:6333`.
    url: String,
    collection: String,
    /// The environment variable that holds the API key.
    api_key_env: Option<String>,
}

pub(super) struct Qdrant {
    client: Client,
}

impl Qdrant {
    pub(super) fn open(settings: Settings) -> Result<Self, Error> {
        let key = super::secret("qdrant", "api_key_env", settings.api_key_env.as_deref())?;
        Ok(Self {
            client: Client::new(&settings.url, &settings.collection, key)?,
        })
    }

    /// What made the vectors; `None` if nothing was written.
    async fn model_there(&self) -> Result<Option<Model>, Error> {
        let points = self.points(&[model_point()]).await?;
        let Some(payload) = points.first() else {
            return Ok(None);
        };
        serde_json::from_value(payload["model"].clone())
            .map(Some)
            .map_err(|e| self.client.strange(&e))
    }

    /// The payloads of those of the points that are there.
    async fn points(&self, ids: &[String]) -> Result<Vec<Value>, Error> {
        let mut found = Vec::new();
        for ids in ids.chunks(BATCH) {
            let body = json!({"ids": ids, "with_payload": true, "with_vector": false});
            let Some(result) = self.client.post("points", body).await? else {
                return Ok(Vec::new());
            };
            for point in result.as_array().into_iter().flatten() {
                found.push(point["payload"].clone());
            }
        }
        Ok(found)
    }

    /// The payloads of all points that meet a filter.
    async fn scroll(&self, filter: Value, fields: &[&str]) -> Result<Vec<Value>, Error> {
        let mut found = Vec::new();
        let mut offset = Value::Null;
        loop {
            let body = json!({
                "filter": filter, "limit": BATCH, "offset": offset,
                "with_payload": fields, "with_vector": false,
            });
            let Some(mut result) = self.client.post("points/scroll", body).await? else {
                return Ok(found);
            };
            for point in result["points"].as_array().into_iter().flatten() {
                found.push(point["payload"].clone());
            }
            offset = result["next_page_offset"].take();
            if offset.is_null() {
                return Ok(found);
            }
        }
    }

    async fn count(&self, filter: Value) -> Result<u64, Error> {
        let body = json!({"filter": filter, "exact": true});
        let result = self.client.post("points/count", body).await?;
        Ok(result.and_then(|r| r["count"].as_u64()).unwrap_or(0))
    }

    async fn put(&self, points: Vec<Value>) -> Result<(), Error> {
        for points in points.chunks(BATCH) {
            let body = json!({ "points": points });
            self.client.put("points?wait=true", body).await?;
        }
        Ok(())
    }

    async fn remove(&self, filter: Value) -> Result<(), Error> {
        let body = json!({ "filter": filter });
        self.client.post("points/delete?wait=true", body).await?;
        Ok(())
    }

    /// Makes the collection for this model, or refuses another.
    async fn prepare(&self, given: &Model) -> Result<(), Error> {
        let before = self.model_there().await?;
        if before.is_none() {
            let vector = json!({"size": given.dimension, "distance": "Cosine"});
            self.client
                .make(json!({"vectors": {VECTOR: vector}}))
                .await?;
            for field in ["kind", "document"] {
                let body = json!({"field_name": field, "field_schema": "keyword"});
                self.client.put("index?wait=true", body).await?;
            }
        }
        let news = match &before {
            None => true,
            Some(there) => given.goes_with(there) && given.supersedes(there),
        };
        if news {
            let payload = json!({"kind": "model", "model": given});
            let point = json!({"id": model_point(), "vector": {}, "payload": payload});
            self.put(vec![point]).await?;
        }
        // Another writer may have been faster, so what is there counts.
        let there = match before {
            Some(there) if !news => Some(there),
            _ => self.model_there().await?,
        };
        match there {
            Some(there) if !there.goes_with(given) => Err(Error::Mismatch {
                index: self.client.name().to_owned(),
                there: Box::new(there),
                given: Box::new(given.clone()),
            }),
            _ => Ok(()),
        }
    }

    /// Takes the hashes from documents: they are not processed from then on.
    async fn forget_hashes(&self, documents: &[String]) -> Result<(), Error> {
        let points: Vec<String> = documents.iter().map(|id| document_point(id)).collect();
        for points in points.chunks(BATCH) {
            let body = json!({"keys": ["hash"], "points": points});
            self.client
                .post("points/payload/delete?wait=true", body)
                .await?;
        }
        Ok(())
    }
}

#[async_trait]
impl VectorStore for Qdrant {
    async fn upsert(
        &self,
        model: &Model,
        documents: Vec<DocumentChunks>,
    ) -> Result<Upserted, Error> {
        super::check(model, &documents)?;
        if documents.is_empty() {
            return Ok(Upserted::default());
        }
        self.prepare(model).await?;
        let ids: Vec<&String> = documents.iter().map(|document| &document.id).collect();
        let mut chunks = Vec::new();
        let mut chunk_points = Vec::new();
        for document in &documents {
            for chunk in &document.chunks {
                let id = chunk_point(&document.id, &chunk.id);
                let payload = json!({
                    "kind": "chunk", "id": chunk.id, "document": document.id, "uri": document.uri,
                    "index": chunk.index, "text": chunk.text, "metadata": chunk.metadata,
                });
                let vector = json!({VECTOR: chunk.vector});
                chunks.push(json!({"id": id, "vector": vector, "payload": payload}));
                chunk_points.push(id);
            }
        }
        let records = |hash: bool| {
            let record = |document: &DocumentChunks| {
                let mut payload = json!({
                    "kind": "document", "document": document.id, "uri": document.uri,
                });
                if hash {
                    payload["hash"] = document.hash.as_str().into();
                }
                json!({"id": document_point(&document.id), "vector": {}, "payload": payload})
            };
            documents.iter().map(record).collect()
        };
        let of_these = json!([kind("chunk"), {"key": "document", "match": {"any": ids}}]);
        let before = self.count(json!({ "must": of_these })).await?;
        let done = Upserted {
            documents: documents.len() as u64,
            chunks: chunks.len() as u64,
            removed: before,
        };
        self.put(records(false)).await?;
        self.put(chunks).await?;
        let others = json!([{"has_id": chunk_points}]);
        self.remove(json!({"must": of_these, "must_not": others}))
            .await?;
        self.put(records(true)).await?;
        Ok(done)
    }

    async fn processed(&self, ids: &[String]) -> Result<BTreeMap<String, String>, Error> {
        let points: Vec<String> = ids.iter().map(|id| document_point(id)).collect();
        let payloads = self.points(&points).await?;
        let known = payloads.iter().filter_map(|payload| {
            let id = payload["document"].as_str()?;
            Some((id.to_owned(), payload["hash"].as_str()?.to_owned()))
        });
        Ok(known.collect())
    }

    async fn document_ids(&self) -> Result<BTreeSet<String>, Error> {
        let payloads = self.scroll(all_of("document"), &["document"]).await?;
        let ids = payloads.iter().filter_map(|p| p["document"].as_str());
        Ok(ids.map(str::to_owned).collect())
    }

    async fn delete_documents(&self, ids: &[String]) -> Result<u64, Error> {
        let mut deleted = 0;
        for ids in ids.chunks(BATCH) {
            let any = json!({"key": "document", "match": {"any": ids}});
            deleted += self.count(json!({"must": [kind("document"), any]})).await?;
            self.forget_hashes(ids).await?;
            self.remove(json!({"must": [kind("chunk"), any]})).await?;
            self.remove(json!({"must": [kind("document"), any]}))
                .await?;
        }
        Ok(deleted)
    }

    async fn delete(&self, filter: &Filter) -> Result<u64, Error> {
        let filter = filter::chunks(filter)?;
        let payloads = self.scroll(filter.clone(), &["document"]).await?;
        let of: BTreeSet<&str> = payloads
            .iter()
            .filter_map(|p| p["document"].as_str())
            .collect();
        let of: Vec<String> = of.into_iter().map(str::to_owned).collect();
        self.forget_hashes(&of).await?;
        self.remove(filter).await?;
        Ok(payloads.len() as u64)
    }

    async fn search(
        &self,
        vector: Vec<f32>,
        k: usize,
        filter: &Filter,
    ) -> Result<Vec<Match>, Error> {
        let filter = filter::chunks(filter)?;
        let Some(there) = self.model_there().await? else {
            return Ok(Vec::new());
        };
        super::check_query(self.client.name(), &there, &vector)?;
        let body = json!({
            "query": vector, "using": VECTOR, "limit": k, "filter": filter, "with_payload": true,
        });
        let Some(mut result) = self.client.post("points/query", body).await? else {
            return Ok(Vec::new());
        };
        let points: Vec<Found> =
            serde_json::from_value(result["points"].take()).map_err(|e| self.client.strange(&e))?;
        Ok(points.into_iter().map(Match::from).collect())
    }

    async fn model(&self) -> Result<Option<Model>, Error> {
        self.model_there().await
    }

    async fn info(&self) -> Result<Info, Error> {
        let Some(model) = self.model_there().await? else {
            return Ok(Info::default());
        };
        let processed =
            json!({"must": [kind("document")], "must_not": [{"is_empty": {"key": "hash"}}]});
        Ok(Info {
            documents: self.count(processed).await?,
            chunks: self.count(all_of("chunk")).await?,
            model: Some(model),
        })
    }
}

/// A point that a search found.
#[derive(Deserialize)]
struct Found {
    score: f64,
    payload: Payload,
}

#[derive(Deserialize)]
struct Payload {
    id: String,
    document: String,
    uri: String,
    index: u64,
    text: String,
    #[serde(default)]
    metadata: Map<String, Value>,
}

impl From<Found> for Match {
    fn from(found: Found) -> Self {
        let payload = found.payload;
        Match {
            score: found.score,
            id: payload.id,
            document: payload.document,
            uri: payload.uri,
            index: payload.index,
            text: payload.text,
            metadata: payload.metadata,
        }
    }
}

fn kind(kind: &str) -> Value {
    json!({"key": "kind", "match": {"value": kind}})
}

fn all_of(name: &str) -> Value {
    json!({"must": [kind(name)]})
}

fn model_point() -> String {
    uuid(&["model"])
}

fn document_point(document: &str) -> String {
    uuid(&["document", document])
}

fn chunk_point(document: &str, chunk: &str) -> String {
    uuid(&["chunk", document, chunk])
}

/// Points have UUIDs for names: these are made of ours (version 8), so that a point that is written
/// twice is one point.
fn uuid(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        // Lengths, so that no two lists look alike.
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let hash = hash.finalize();
    let mut text = String::with_capacity(36);
    for (at, byte) in hash[..16].iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let byte = match at {
            6 => byte & 0x0f | 0x80,
            8 => byte & 0x3f | 0x80,
            _ => *byte,
        };
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
