//! Results of pure stages, used again where everything that went into them is the same.

use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tidemill_pipeline::task::{Input, Output, TaskInput};
use tidemill_stages::{Context, Error};

use crate::registry::Entry;
use crate::run;
use crate::store::Store;

/// The rules by which keys are made: others give other keys.
const RULES: u32 = 1;

pub(crate) struct Key {
    /// SHA-256 in hexadecimal.
    hash: String,
    ttl: Duration,
}

/// The key of a task whose result may be used again; `None` for one whose may not.
pub(crate) async fn key(
    entry: &Entry,
    task: &TaskInput,
    store: &Store,
    cx: &Context,
) -> Result<Option<Key>, Error> {
    let Some(cache) = task.cache.as_ref().filter(|_| entry.of.pure) else {
        return Ok(None);
    };
    let revision = entry.stage.revision(&task.with, cx).await?;
    // References stand for content: equal ones are equal values.
    let input = match &task.input {
        Input::Value(value) => json!({ "value": value }),
        // Part by part, so that what was added elsewhere in the collection changes nothing here.
        Input::Chunk(chunk) if chunk.size == 0 => {
            let manifest = store.manifest(&chunk.collection.manifest).await?;
            match manifest.parts.get(chunk.index as usize) {
                Some(part) => json!({ "part": part.digest }),
                None => return Ok(None),
            }
        }
        Input::Chunk(chunk) => json!({
            "collection": chunk.collection.manifest, "index": chunk.index, "size": chunk.size,
        }),
        Input::Part(digest) => json!({ "part": digest }),
    };
    // Keys of objects are sorted, so the text is the same for the same values.
    let parts = Value::from(vec![
        json!(RULES),
        json!(entry.of.name),
        json!(entry.version),
        task.with.clone(),
        task.scope.clone(),
        input,
        json!(revision),
        json!(cache.key),
    ]);
    let hash = Sha256::digest(parts.to_string());
    Ok(Some(Key {
        hash: hash.iter().map(|byte| format!("{byte:02x}")).collect(),
        ttl: Duration::from_millis(cache.ttl_ms),
    }))
}

/// An earlier result, kept for this run too.
pub(crate) async fn get(store: &Store, key: &Key) -> Result<Option<Output>, Error> {
    let Some(value) = store.cached(&key.hash, key.ttl).await? else {
        return Ok(None);
    };
    // An entry that a version with other messages wrote is as good as none.
    Ok(serde_json::from_value(value).ok())
}

pub(crate) async fn put(store: &Store, key: &Key, output: &Output) -> Result<(), Error> {
    let value = run::json(output)?;
    store.put_cached(&key.hash, value, key.ttl).await
}
