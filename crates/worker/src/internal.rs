//! The tasks by which the interpreter has collections made: it never reads one itself.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tidemill_pipeline::data::{Collection, FailedItem, Item, Manifest, Part, PartEntry};
use tidemill_pipeline::task::{
    Collect, Evaluate, FailChunk, FailedOnly, Keep, PartOutput, internal,
};
use tidemill_pipeline::template;
use tidemill_stages::{Error, Sink};

use crate::parts::{Limits, PartSink};
use crate::run::{not_json, part_output};
use crate::store::Store;

/// Characters of a value that is taken as its own id.
const ID_CHARS: usize = 200;

pub(crate) fn is_one(activity: &str) -> bool {
    matches!(
        activity,
        internal::COLLECT
            | internal::CHUNK
            | internal::FAILED_ONLY
            | internal::FAIL_CHUNK
            | internal::EVALUATE
            | internal::KEEP
    )
}

/// Runs one for the run that asked. Payload and result are what [`internal`] says, as JSON.
pub(crate) async fn run(
    store: &Store,
    activity: &str,
    run: &str,
    payload: &[u8],
) -> Result<Vec<u8>, Error> {
    let value: Value = serde_json::from_slice(payload)
        .map_err(|e| Error::invalid(format!("the task's payload is not JSON: {e}")))?;
    let store = &store.for_run(run);
    let collection = match activity {
        internal::COLLECT => collect(store, read(value)?).await?,
        internal::CHUNK => chunk(store, value).await?,
        internal::FAILED_ONLY => failed_only(store, read(value)?).await?,
        internal::EVALUATE => {
            let values = evaluate(store, read(value)?).await?;
            return serde_json::to_vec(&values).map_err(not_json);
        }
        internal::KEEP => {
            let Keep { run } = read(value)?;
            store.keep_run(&run).await?;
            return Ok(b"null".to_vec());
        }
        _ => {
            let part = fail_chunk(store, read(value)?).await?;
            return serde_json::to_vec(&part).map_err(not_json);
        }
    };
    serde_json::to_vec(&collection).map_err(not_json)
}

fn read<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
    serde_json::from_value(value).map_err(|e| Error::invalid(format!("the task's payload: {e}")))
}

async fn evaluate(store: &Store, evaluate: Evaluate) -> Result<Vec<Value>, Error> {
    let scope = store.resolve(evaluate.scope).await?;
    let mut values = Vec::with_capacity(evaluate.texts.len());
    for text in &evaluate.texts {
        let value = template::evaluate_text(text, &scope)
            .map_err(|error| Error::invalid(error.to_string()))?;
        values.push(store.claim_check(value).await?);
    }
    Ok(values)
}

async fn fail_chunk(store: &Store, lost: FailChunk) -> Result<PartOutput, Error> {
    let chunk = store.chunk(&lost.input).await?;
    let mut failed = chunk.failed;
    let failed_before = failed.len();
    failed.extend(chunk.items.into_iter().map(|item| FailedItem {
        id: item.id,
        source: item.source,
        stage: lost.stage.clone(),
        error: lost.error.clone(),
    }));
    let part = Part {
        items: Vec::new(),
        failed,
    };
    part_output(store, part, failed_before).await
}

async fn collect(store: &Store, collect: Collect) -> Result<Collection, Error> {
    let mut manifest = Manifest {
        item: collect.item,
        parts: Vec::new(),
    };
    if let Some(before) = &collect.before {
        let known = store.manifest(&before.manifest).await?;
        manifest.parts.extend_from_slice(&known.parts);
    }
    // A part without items may still hold failures.
    let filled = collect.parts.into_iter().filter(|p| p.count + p.failed > 0);
    manifest.parts.extend(filled.map(|part| PartEntry {
        digest: part.digest,
        count: part.count,
    }));
    store.put_collection(manifest).await
}

async fn chunk(store: &Store, value: Value) -> Result<Collection, Error> {
    let values = match store.resolve(value).await? {
        Value::Array(values) => values,
        other => {
            return Err(Error::invalid(format!(
                "`map` goes over a list or a collection, not over {}",
                kind(&other)
            )));
        }
    };
    let mut sink = PartSink::new(store, internal::CHUNK, Limits::default());
    for item in items(values) {
        let bytes = item.value.to_string().len();
        sink.item(item, bytes).await?;
    }
    sink.finish("any").await
}

/// Items of the values of a list. The id is what people will look for, where a value has such a
/// thing: a short text is its own, an object has a `uri` or an `id`. Otherwise it is the hash of
/// the value. Equal ones are numbered, so the same list gives the same ids again.
pub(crate) fn items(values: Vec<Value>) -> Vec<Item> {
    let mut times: HashMap<String, u32> = HashMap::new();
    let mut used: HashSet<String> = HashSet::new();
    let item = |value: Value| {
        let name = name(&value).unwrap_or_else(|| hash(&value));
        let times = times.entry(name.clone()).or_default();
        let mut id = name.clone();
        while !used.insert(id.clone()) {
            *times += 1;
            id = format!("{name}#{}", *times + 1);
        }
        Item {
            id,
            source: String::new(),
            value,
        }
    };
    values.into_iter().map(item).collect()
}

fn name(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text,
        Value::Object(fields) => ["uri", "id"]
            .iter()
            .find_map(|field| fields.get(*field)?.as_str())?,
        Value::Number(number) => return Some(number.to_string()),
        _ => return None,
    };
    let fits = !text.is_empty() && text.chars().nth(ID_CHARS).is_none();
    let printable = !text.chars().any(char::is_control);
    (fits && printable).then(|| text.to_owned())
}

fn hash(value: &Value) -> String {
    let digest = Sha256::digest(value.to_string());
    digest[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

async fn failed_only(store: &Store, wanted: FailedOnly) -> Result<Collection, Error> {
    let mut failed = BTreeSet::new();
    for entry in &store.manifest(&wanted.results.manifest).await?.parts {
        for failure in store.part(&entry.digest).await?.failed {
            failed.insert(if failure.source.is_empty() {
                failure.id
            } else {
                failure.source
            });
        }
    }
    let over = store.manifest(&wanted.over.manifest).await?;
    let mut sink = PartSink::new(store, internal::FAILED_ONLY, Limits::default());
    for entry in &over.parts {
        // What failed before the fan-out began is not in it and cannot be run again by it.
        for item in store.part(&entry.digest).await?.items {
            if failed.contains(&item.id) {
                let bytes = item.value.to_string().len();
                sink.item(item, bytes).await?;
            }
        }
    }
    sink.finish(&over.item).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Runner;
    use crate::testing::{failed, item, life, runner};
    use serde_json::json;

    async fn ask(runner: &Runner, activity: &str, payload: Value) -> Result<Value, Error> {
        let payload = payload.to_string();
        let done = runner
            .run(activity, "run-1", payload.as_bytes(), life())
            .await?;
        Ok(serde_json::from_slice(&done).unwrap())
    }

    async fn items_of(runner: &Runner, collection: &Value) -> Vec<Item> {
        let digest = collection["$collection"].as_str().unwrap();
        let manifest = runner.store.manifest(digest).await.unwrap();
        let mut items = Vec::new();
        for entry in &manifest.parts {
            items.extend(runner.store.part(&entry.digest).await.unwrap().items);
        }
        items
    }

    #[tokio::test]
    async fn a_list_becomes_a_collection() {
        let (runner, _) = runner();
        let list = json!(["a", "a", {"uri": "u"}, {"id": "i"}, 5, {"x": 1}, {"x": 1}, "a#2"]);
        let reference = runner
            .store
            .claim_check(json!(vec!["x"; 40_000]))
            .await
            .unwrap();
        let made = ask(&runner, internal::CHUNK, list.clone()).await.unwrap();
        let items = items_of(&runner, &made).await;
        let ids: Vec<_> = items.iter().map(|item| item.id.as_str()).collect();
        let hash = ids[5];
        assert_eq!(hash.len(), 32);
        let second = format!("{hash}#2");
        assert_eq!(ids, ["a", "a#2", "u", "i", "5", hash, &second, "a#2#2"]);
        assert_eq!(
            json!(items.iter().map(|i| &i.value).collect::<Vec<_>>()),
            list
        );

        let made = ask(&runner, internal::CHUNK, reference).await.unwrap();
        assert_eq!(
            (&made["count"], &made["parts"]),
            (&json!(40_000), &json!(625))
        );
        let error = ask(&runner, internal::CHUNK, json!({"a": 1}))
            .await
            .unwrap_err();
        assert!(
            error.message.contains("not over an object"),
            "{}",
            error.message
        );
        assert!(!error.kind.is_retryable());
    }

    #[tokio::test]
    async fn the_items_of_a_lost_chunk_have_all_failed() {
        let (runner, _) = runner();
        let given = Part {
            items: vec![item("a", json!(1)), item("b", json!(2))],
            failed: vec![failed("x", "b")],
        };
        let digest = runner.store.put_part(&given).await.unwrap();
        let lost = json!({ "input": { "part": digest }, "stage": "embed", "error": "no memory" });
        let output = ask(&runner, internal::FAIL_CHUNK, lost).await.unwrap();
        let output: PartOutput = serde_json::from_value(output).unwrap();
        assert_eq!(
            (output.count, output.failed, output.failed_sources),
            (0, 3, 2)
        );
        let part = runner.store.part(&output.digest).await.unwrap();
        let last = part.failed.last().unwrap();
        assert_eq!(
            (&*last.id, &*last.stage, &*last.error),
            ("b", "embed", "no memory")
        );
    }

    #[tokio::test]
    async fn results_are_joined_and_their_failures_found_again() {
        let (runner, _) = runner();
        let list = json!(["a", "b", "c", "d"]);
        let over = ask(&runner, internal::CHUNK, list).await.unwrap();
        let part = async |items: &[&str], bad: Vec<_>| {
            let items = items
                .iter()
                .map(|id| item(id, json!(1)))
                .collect::<Vec<_>>();
            let (count, failed) = (items.len() as u64, bad.len() as u64);
            let part = Part { items, failed: bad };
            let digest = runner.store.put_part(&part).await.unwrap();
            json!(PartOutput {
                digest,
                count,
                failed,
                failed_sources: 0,
                first_error: None
            })
        };
        let first = json!({ "item": "toy", "parts": [
            part(&["a"], vec![failed("b", "")]).await,
            part(&[], vec![]).await,
        ]});
        let first = ask(&runner, internal::COLLECT, first).await.unwrap();
        assert_eq!((&first["count"], &first["parts"]), (&json!(1), &json!(1)));
        let both = json!({ "item": "toy", "before": first, "parts": [
            part(&[], vec![failed("d/1", "d"), failed("gone", "")]).await,
            part(&["c"], vec![]).await,
        ]});
        let both = ask(&runner, internal::COLLECT, both).await.unwrap();
        assert_eq!((&both["count"], &both["parts"]), (&json!(2), &json!(3)));

        let wanted = json!({ "over": over, "results": both });
        let again = ask(&runner, internal::FAILED_ONLY, wanted).await.unwrap();
        let ids: Vec<_> = items_of(&runner, &again)
            .await
            .into_iter()
            .map(|i| i.id)
            .collect();
        assert_eq!(ids, ["b", "d"]);
        let error = ask(&runner, internal::FAILED_ONLY, json!({"over": 1}))
            .await
            .unwrap_err();
        assert!(
            error.message.contains("the task's payload: "),
            "{}",
            error.message
        );
    }
}
