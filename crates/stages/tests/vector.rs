//! The stages over vector indexes, on the embedded store: documents through split and embed into
//! an index, and back out of it.

#[expect(dead_code, reason = "other test files use the rest")]
mod support;

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use support::{answer, context, serve};
use tidemill_pipeline::data::{FailedItem, Item, Manifest, Part, PartEntry};
use tidemill_stages::ai::EmbedText;
use tidemill_stages::records::Document;
use tidemill_stages::text::Split;
use tidemill_stages::vector::{Changed, Delete, Prune, Search, Upsert};
use tidemill_stages::{Context, Error, ErrorKind, Stage};

/// An index in a folder of its own, and the stages around it.
struct Index {
    cx: Context,
    _data: tempfile::TempDir,
}

impl Index {
    fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        Self {
            cx: context(data.path()).0,
            _data: data,
        }
    }

    /// The documents that are let through, as they come out.
    async fn changed(&self, documents: &[Item]) -> Vec<Item> {
        self.changed_with(documents, json!(null)).await.unwrap()
    }

    async fn changed_with(&self, documents: &[Item], version: Value) -> Result<Vec<Item>, Error> {
        let chunk = Part {
            items: documents.to_vec(),
            failed: Vec::new(),
        };
        let with = json!({"index": "docs", "version": version});
        Ok(Changed.items(chunk, with, &self.cx).await?.items)
    }

    /// The vectors of documents, as they come to `vector.upsert`.
    async fn vectors(&self, documents: &[Item], model: &str) -> Part {
        self.vectors_by(documents, json!(model)).await
    }

    async fn vectors_by(&self, documents: &[Item], model: Value) -> Part {
        let chunk = Part {
            items: documents.to_vec(),
            failed: Vec::new(),
        };
        let with = json!({"size": 20});
        let chunks = Split::default().items(chunk, with, &self.cx).await.unwrap();
        let with = json!({ "model": model });
        EmbedText.items(chunks, with, &self.cx).await.unwrap()
    }

    async fn upsert(&self, vectors: Part) -> Result<Part, Error> {
        Upsert
            .items(vectors, json!({"index": "docs"}), &self.cx)
            .await
    }

    /// Texts nearest to a query, with the documents they are from.
    async fn search(&self, with: Value) -> Result<Vec<(String, String)>, Error> {
        let mut all = json!({"index": "docs", "model": "fake:16", "k": 100});
        all.as_object_mut()
            .unwrap()
            .extend(with.as_object().unwrap().clone());
        let found = Search.call(Value::Null, all, &self.cx).await?;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let matches = found["matches"].as_array().unwrap().iter();
        Ok(matches
            .map(|m| (text(&m["document"]), text(&m["text"])))
            .collect())
    }

    /// Ids of the documents that the index has.
    async fn held(&self) -> Vec<String> {
        let mut held: Vec<String> = self
            .search(json!({"query": "any"}))
            .await
            .unwrap()
            .into_iter()
            .map(|(document, _)| document)
            .collect();
        held.sort();
        held.dedup();
        held
    }

    async fn prune(&self, part: Part, with: Value) -> Result<Value, Error> {
        let artifacts = &self.cx.artifacts;
        let manifest = Manifest {
            item: "document".into(),
            parts: vec![PartEntry {
                digest: artifacts.put_part(&part).await.unwrap().digest,
                count: part.items.len() as u64,
            }],
        };
        let collection = artifacts.put_collection(manifest).await.unwrap();
        let mut all = json!({"index": "docs"});
        all.as_object_mut()
            .unwrap()
            .extend(with.as_object().unwrap().clone());
        let input = serde_json::to_value(collection).unwrap();
        Prune.call(input, all, &self.cx).await
    }
}

fn document(id: &str, text: &str) -> Item {
    let metadata = json!({"folder": id.split('/').next()});
    let value = Document {
        uri: id.into(),
        text: text.into(),
        title: None,
        hash: format!("hash of {text}"),
        media_type: "text/plain".into(),
        metadata: metadata.as_object().unwrap().clone(),
    };
    Item {
        id: id.into(),
        source: String::new(),
        value: serde_json::to_value(value).unwrap(),
    }
}

fn ids(items: &[Item]) -> Vec<&str> {
    items.iter().map(|item| item.id.as_str()).collect()
}

#[tokio::test]
async fn documents_are_found_once_written_and_unchanged_ones_are_dropped() {
    let index = Index::new();
    let documents = [
        document("a/1", "The tide rises.\n\nThe gate shuts."),
        document("b/2", "The wheel turns."),
    ];
    let changed = index.changed(&documents).await;
    assert_eq!(ids(&changed), ["a/1", "b/2"]);
    let done = index
        .upsert(index.vectors(&changed, "fake:16").await)
        .await
        .unwrap();
    let done: Vec<&Value> = done.items.iter().map(|item| &item.value).collect();
    assert_eq!(
        done,
        [
            &json!({"document": "a/1", "uri": "a/1", "chunks": 2}),
            &json!({"document": "b/2", "uri": "b/2", "chunks": 1}),
        ]
    );
    assert!(index.changed(&documents).await.is_empty());
    let found = index
        .search(json!({"query": "The gate shuts.", "k": 1}))
        .await
        .unwrap();
    assert_eq!(found, [("a/1".to_owned(), "The gate shuts.".to_owned())]);
    let with = json!({"query": "The gate shuts.", "filter": {"folder": "b"}});
    let found = index.search(with).await.unwrap();
    assert_eq!(found, [("b/2".to_owned(), "The wheel turns.".to_owned())]);

    // Without a model the index's own is taken.
    let with = json!({"query": "The gate shuts.", "k": 1, "model": null});
    assert_eq!(index.search(with).await.unwrap()[0].1, "The gate shuts.");

    // A document that changed is replaced, not added to.
    let edited = [document("a/1", "The tide falls."), documents[1].clone()];
    let changed = index.changed(&edited).await;
    assert_eq!(ids(&changed), ["a/1"]);
    for _ in 0..2 {
        // A task that is run again leaves the same.
        index
            .upsert(index.vectors(&changed, "fake:16").await)
            .await
            .unwrap();
    }
    let found = index
        .search(json!({"query": "The gate shuts."}))
        .await
        .unwrap();
    let mut texts: Vec<&str> = found.iter().map(|(_, text)| text.as_str()).collect();
    texts.sort_unstable();
    assert_eq!(texts, ["The tide falls.", "The wheel turns."]);
}

#[tokio::test]
async fn a_document_with_a_failed_chunk_stays_pending() {
    let index = Index::new();
    let documents = [
        document("a", "One part.\n\nAnother part."),
        document("b", "Whole."),
    ];
    // One chunk of `a` failed at an earlier stage.
    let changed = index.changed(&documents).await;
    let mut vectors = index.vectors(&changed, "fake:16").await;
    let lost = vectors.items.remove(0);
    vectors.failed.push(FailedItem {
        id: lost.id,
        source: lost.source,
        stage: "embed".into(),
        error: "no".into(),
    });
    let done = index.upsert(vectors).await.unwrap();
    assert_eq!(ids(&done.items), ["b"]);
    assert_eq!(ids(&index.changed(&documents).await), ["a"]);

    // One vector is damaged.
    let mut vectors = index.vectors(&documents[..1], "fake:16").await;
    vectors.items[1].value["vector"] = "AAAA".into();
    let done = index.upsert(vectors).await.unwrap();
    assert!(done.items.is_empty());
    assert_eq!(done.failed.len(), 1);
    assert!(
        done.failed[0].error.contains("`vector` is not base64"),
        "{:?}",
        done.failed
    );
    assert_eq!(index.held().await, ["b"]);
}

/// What the plan tells of the stages that follow.
fn following(size: usize, more: Value) -> Value {
    let mut steps = vec![
        json!({"uses": "text.split", "with": {"size": size}}),
        json!({"uses": "embed.text", "with": {"model": "fake:16"}}),
        json!({"uses": "vector.upsert", "with": {"index": "docs"}}),
    ];
    steps.splice(1..1, more.as_array().unwrap().iter().cloned());
    steps.into()
}

#[tokio::test]
async fn a_document_is_unchanged_only_if_what_follows_is() {
    let index = Index::new();
    let documents = [document("a", "One part."), document("b", "Another part.")];
    let before = following(20, json!([]));
    let changed = index.changed_with(&documents, before.clone()).await;
    let vectors = index.vectors(&changed.unwrap(), "fake:16").await;
    index.upsert(vectors).await.unwrap();

    let mut retitled = documents.clone();
    retitled[1].value["title"] = "Other metadata, equal bytes".into();
    let mut elsewhere = before.clone();
    elsewhere[1]["with"]["batch"] = 7.into();
    elsewhere[2]["with"]["index"] = "docs".into();
    elsewhere
        .as_array_mut()
        .unwrap()
        .push(json!({"uses": "llm.generate", "with": {"prompt": "Report."}}));
    let python = json!([{"uses": "clean", "with": {}}]);
    let rows: [(&str, &[Item], Value, &[&str]); 6] = [
        ("nothing", &documents, before.clone(), &[]),
        ("a batch size, a later stage", &documents, elsewhere, &[]),
        (
            "how it is split",
            &documents,
            following(21, json!([])),
            &["a", "b"],
        ),
        (
            "a stage more",
            &documents,
            following(20, python),
            &["a", "b"],
        ),
        (
            "a version by the author",
            &documents,
            json!("2"),
            &["a", "b"],
        ),
        ("how it was loaded", &retitled, before.clone(), &["b"]),
    ];
    for (what, documents, version, expected) in rows {
        let changed = index.changed_with(documents, version).await.unwrap();
        assert_eq!(ids(&changed), expected, "{what}");
    }

    // What has gone through once with the new settings is unchanged under them, and under no others.
    let changed = index
        .changed_with(&documents[..1], json!("2"))
        .await
        .unwrap();
    let vectors = index.vectors(&changed, "fake:16").await;
    index.upsert(vectors).await.unwrap();
    for (version, expected) in [(json!("2"), ["b"]), (before, ["a"])] {
        let changed = index.changed_with(&documents, version).await.unwrap();
        assert_eq!(ids(&changed), expected);
    }
}

#[tokio::test]
async fn a_model_that_the_index_cannot_take_is_refused_before_it_computes() {
    let index = Index::new();
    let documents = [document("a", "One part.")];
    let with_model = |model: &str| {
        let mut steps = following(20, json!([]));
        steps[1]["with"]["model"] = model.into();
        steps
    };
    // An index that is not there yet takes any.
    let new = index.changed_with(&documents, with_model("fake:16")).await;
    let vectors = index.vectors(&new.unwrap(), "fake:16").await;
    index.upsert(vectors).await.unwrap();
    let error = index
        .changed_with(&documents, with_model("fake:8"))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    for part in ["vector.changed: ", "model fake:16 ", "model fake:8 "] {
        assert!(error.message.contains(part), "{error}");
    }
    // One that is on another machine is none of this stage's business.
    let elsewhere = index.changed_with(&documents, with_model("not-here"));
    assert_eq!(ids(&elsewhere.await.unwrap()), [""; 0]);
}

/// An endpoint that gives each text the same vector, and the keys that it was sent.
async fn endpoint() -> (String, Arc<Mutex<Vec<String>>>) {
    let keys = Arc::new(Mutex::new(Vec::new()));
    let seen = keys.clone();
    let url = serve(move |request| {
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let head = head.to_ascii_lowercase();
        let key = head
            .lines()
            .find_map(|line| line.strip_prefix("authorization: bearer "));
        seen.lock()
            .unwrap()
            .push(key.unwrap_or_default().to_owned());
        let texts = serde_json::from_str::<Value>(body).unwrap()["input"]
            .as_array()
            .unwrap()
            .len();
        let data = vec![json!({"embedding": [0.6, 0.8]}); texts];
        let headers = ["content-type: application/json"];
        answer(
            "200 OK",
            &headers,
            json!({ "data": data }).to_string().as_bytes(),
        )
    })
    .await;
    (url, keys)
}

#[tokio::test]
async fn an_index_made_through_an_endpoint_embeds_queries_there() {
    let (url, keys) = endpoint().await;
    let index = Index::new();
    // A variable that is there wherever this runs; its value is no secret.
    let secret = std::env::var("CARGO_PKG_NAME").unwrap();
    let model = |key: &str| {
        json!({"openai": {
            "url": url.replace("//", "//user:password@"), "model": "m", "api_key_env": key,
        }})
    };
    let documents = [document("a", "One part.")];
    let vectors = index.vectors_by(&documents, model("CARGO_PKG_NAME")).await;
    let recorded = vectors.items[0].value["embedder"].to_string();
    assert!(
        recorded.contains(&url) && !recorded.contains("password"),
        "{recorded}"
    );
    index.upsert(vectors).await.unwrap();
    let query = json!({"query": "any", "model": null});
    let found = index.search(query.clone()).await.unwrap();
    assert_eq!(found, [("a".to_owned(), "One part.".to_owned())]);
    assert_eq!(*keys.lock().unwrap(), [secret.clone(), secret]);

    // The key is looked for under the name that was used last.
    let mut vectors = index.vectors_by(&documents, model("CARGO_PKG_NAME")).await;
    vectors.items[0].value["embedder"] = model("NO_SUCH_VARIABLE_");
    index.upsert(vectors).await.unwrap();
    let error = index.search(query).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    for part in ["made with", "NO_SUCH_VARIABLE_", "is not set", "`model`"] {
        assert!(error.message.contains(part), "{error}");
    }
}

#[tokio::test]
async fn another_model_is_refused_by_name() {
    let index = Index::new();
    let documents = [document("a", "Text.")];
    index
        .upsert(index.vectors(&documents, "fake:16").await)
        .await
        .unwrap();
    let error = index
        .upsert(index.vectors(&documents, "fake:8").await)
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(
        error.message.contains("16") && error.message.contains("8"),
        "{error}"
    );
    let with = json!({"query": "Text.", "model": "fake:8"});
    let error = index.search(with).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(
        error.message.starts_with("vector.search: with.model: "),
        "{error}"
    );
    assert_eq!(index.held().await, ["a"]);
}

#[tokio::test]
async fn what_is_gone_is_pruned_and_what_could_not_be_read_is_kept() {
    let index = Index::new();
    let names = [
        "a.txt",
        "b.txt",
        "c.txt",
        "empty.txt",
        "rows.csv#1",
        "sub/d.txt",
    ];
    let documents = names.map(|name| document(name, &format!("In {name}.")));
    index
        .upsert(index.vectors(&documents, "fake:16").await)
        .await
        .unwrap();
    assert_eq!(index.held().await, names);

    let failed = |id: &str| FailedItem {
        id: id.into(),
        source: String::new(),
        stage: "load".into(),
        error: "cannot be read".into(),
    };
    let now = Part {
        items: vec![documents[0].clone(), document("empty.txt", " ")],
        failed: vec![failed("c.txt"), failed("rows.csv"), failed("sub")],
    };
    let output = index.prune(now, json!({})).await.unwrap();
    assert_eq!(output, json!({"documents": 2}));
    assert_eq!(
        index.held().await,
        ["a.txt", "c.txt", "rows.csv#1", "sub/d.txt"]
    );

    let error = index.prune(Part::default(), json!({})).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(error.message.contains("all 4 of the index"), "{error}");
    let output = index
        .prune(Part::default(), json!({"allow_empty": true}))
        .await
        .unwrap();
    assert_eq!(output, json!({"documents": 4}));
    assert!(index.held().await.is_empty());
}

#[tokio::test]
async fn documents_and_chunks_are_deleted() {
    let index = Index::new();
    let documents = ["a/1", "a/2", "b/3"].map(|name| document(name, &format!("In {name}.")));
    index
        .upsert(index.vectors(&documents, "fake:16").await)
        .await
        .unwrap();
    let delete = async |with: Value| Delete.call(Value::Null, with, &index.cx).await;
    let output = delete(json!({"index": "docs", "documents": ["b/3", "none"]})).await;
    assert_eq!(output.unwrap(), json!({"documents": 1, "chunks": 0}));
    let output = delete(json!({"index": "docs", "filter": {"folder": "a"}})).await;
    assert_eq!(output.unwrap(), json!({"documents": 0, "chunks": 2}));
    // Their documents are embedded again when they come by.
    assert_eq!(index.changed(&documents).await.len(), 3);
    let error = delete(json!({"index": "docs"})).await.unwrap_err();
    assert!(error.message.contains("say what to remove"), "{error}");
}

#[tokio::test]
async fn a_wrong_search_is_named() {
    let index = Index::new();
    // Nothing is near to anything in an empty index.
    let with = json!({"query": "a", "model": null});
    assert!(index.search(with).await.unwrap().is_empty());
    let cases = [
        (
            json!({}),
            "vector.search: with.query: there is nothing to look for",
        ),
        (
            json!({"query": "a", "vector": [1.0]}),
            "vector.search: with.vector: give it or",
        ),
        (
            json!({"query": "a", "k": 0}),
            "vector.search: with.k: it is from 1 to 1000",
        ),
        (
            json!({"query": "a", "filter": 1}),
            "vector.search: filter: ",
        ),
        (
            json!({"query": "a", "index": "../x"}),
            "vector.search: `../x` is no name",
        ),
        (
            json!({"query": "a", "modle": 1}),
            "vector.search: with.modle: unknown field",
        ),
    ];
    for (with, expected) in cases {
        let error = index.search(with).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.message.starts_with(expected), "{error}");
    }
}
