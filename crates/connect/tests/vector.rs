//! What every vector index has to do: one suite over the embedded index, PostgreSQL and Qdrant.
//! Qdrant's side of the protocol is a small model of it in `qdrant/mod.rs`, not Qdrant itself.

mod postgres;
mod qdrant;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tidemill_connect::embed::{OpenAiModel, Spec};
use tidemill_connect::vector::{
    ChunkVector, DocumentChunks, Error, Filter, Model, Upserted, VectorStore, open,
};

struct Index {
    name: &'static str,
    store: Arc<dyn VectorStore>,
    _folder: tempfile::TempDir,
    _server: Option<qdrant::Server>,
}

async fn indexes() -> Vec<Index> {
    let mut all = Vec::new();
    for name in ["embedded", "qdrant", "pgvector"] {
        let folder = tempfile::tempdir().unwrap();
        let mut server = None;
        let at = match name {
            "embedded" => json!("notes"),
            "qdrant" => {
                let started = qdrant::Server::start().await;
                let at = json!({"qdrant": {"url": started.url, "collection": "notes"}});
                server = Some(started);
                at
            }
            _ => json!({"pgvector": {"url": postgres::url(), "table": postgres::table()}}),
        };
        all.push(Index {
            name,
            store: open(&at, folder.path()).await.unwrap(),
            _folder: folder,
            _server: server,
        });
    }
    all
}

fn model() -> Model {
    Model {
        model: "toy".to_owned(),
        revision: "1".to_owned(),
        dimension: 3,
        embedder: None,
    }
}

fn chunk(id: &str, index: u64, vector: [f32; 3], metadata: Value) -> ChunkVector {
    ChunkVector {
        id: id.to_owned(),
        index,
        text: format!("text of {id}"),
        metadata: metadata.as_object().cloned().unwrap_or_else(Map::new),
        vector: vector.to_vec(),
    }
}

fn document(id: &str, hash: &str, chunks: Vec<ChunkVector>) -> DocumentChunks {
    DocumentChunks {
        id: id.to_owned(),
        uri: format!("{id}.md"),
        hash: hash.to_owned(),
        chunks,
    }
}

/// Three documents whose chunks lie apart from each other.
fn library() -> Vec<DocumentChunks> {
    let fables = json!({"year": 1668, "lang": "fr", "tags": ["verse", "animals"], "read": true});
    let essays = json!({"year": 1580, "lang": "fr", "tags": ["prose"], "a.b": 1.5});
    let poems = json!({"year": "unknown", "lang": "en", "read": false});
    vec![
        document(
            "fables",
            "h1",
            vec![
                chunk("f0", 0, [1.0, 0.0, 0.0], fables.clone()),
                chunk("f1", 1, [0.8, 0.6, 0.0], fables),
            ],
        ),
        document(
            "essays",
            "h2",
            vec![chunk("e0", 0, [0.0, 2.0, 0.0], essays)],
        ),
        document("poems", "h3", vec![chunk("p0", 0, [-1.0, 0.0, 0.5], poems)]),
    ]
}

async fn found(store: &Arc<dyn VectorStore>, filter: Value) -> Vec<String> {
    let filter = Filter::from_json(&filter).unwrap();
    let found = store
        .search(vec![1.0, 0.0, 0.0], 10, &filter)
        .await
        .unwrap();
    found.into_iter().map(|found| found.id).collect()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn a_new_index_is_empty() {
    for Index { name, store, .. } in indexes().await {
        assert_eq!(found(&store, json!(null)).await, [""; 0], "{name}");
        assert_eq!(
            store.processed(&names(&["a"])).await.unwrap(),
            BTreeMap::new()
        );
        assert_eq!(store.document_ids().await.unwrap(), BTreeSet::new());
        assert_eq!(store.delete_documents(&names(&["a"])).await.unwrap(), 0);
        let any = Filter::from_json(&json!({"a": 1})).unwrap();
        assert_eq!(store.delete(&any).await.unwrap(), 0);
        let info = store.info().await.unwrap();
        assert_eq!(
            (info.documents, info.chunks, info.model),
            (0, 0, None),
            "{name}"
        );
    }
}

#[tokio::test]
async fn the_nearest_chunks_come_first_with_what_was_stored() {
    for Index { name, store, .. } in indexes().await {
        store.upsert(&model(), library()).await.unwrap();
        let matches = store
            .search(vec![2.0, 0.0, 0.0], 3, &Filter::default())
            .await
            .unwrap();
        let scores: Vec<(&str, f64)> = matches
            .iter()
            .map(|m| (m.id.as_str(), (m.score * 1e4).round() / 1e4))
            .collect();
        assert_eq!(scores, [("f0", 1.0), ("f1", 0.8), ("e0", 0.0)], "{name}");
        let second = &matches[1];
        assert_eq!(
            (second.document.as_str(), second.uri.as_str()),
            ("fables", "fables.md")
        );
        assert_eq!((second.index, second.text.as_str()), (1, "text of f1"));
        assert_eq!(second.metadata["tags"], json!(["verse", "animals"]));
        let info = store.info().await.unwrap();
        assert_eq!(
            (info.documents, info.chunks, info.model),
            (3, 4, Some(model())),
            "{name}"
        );
    }
}

#[tokio::test]
async fn an_upsert_replaces_documents_whole_and_may_be_repeated() {
    for Index { name, store, .. } in indexes().await {
        store.upsert(&model(), library()).await.unwrap();
        let new = || {
            vec![document(
                "fables",
                "h9",
                vec![
                    chunk("f1", 0, [0.0, 0.0, 1.0], json!({})),
                    chunk("f2", 1, [1.0, 0.0, 0.0], json!({})),
                    chunk("f3", 2, [0.0, 1.0, 0.0], json!({})),
                ],
            )]
        };
        let done = store.upsert(&model(), new()).await.unwrap();
        assert_eq!(
            done,
            Upserted {
                documents: 1,
                chunks: 3,
                removed: 2
            },
            "{name}"
        );
        let fables = json!({"document": "fables"});
        let first: BTreeSet<String> = found(&store, fables.clone()).await.into_iter().collect();
        assert_eq!(
            first,
            names(&["f1", "f2", "f3"]).into_iter().collect(),
            "{name}"
        );
        store.upsert(&model(), new()).await.unwrap();
        assert_eq!(found(&store, fables).await.len(), 3, "{name}");
        let info = store.info().await.unwrap();
        assert_eq!((info.documents, info.chunks), (3, 5), "{name}");
        let hashes = store
            .processed(&names(&["fables", "essays", "none"]))
            .await
            .unwrap();
        let wanted = [("essays", "h2"), ("fables", "h9")];
        assert_eq!(
            hashes,
            wanted.map(|(a, b)| (a.to_owned(), b.to_owned())).into(),
            "{name}"
        );
    }
}

#[tokio::test]
async fn equal_chunk_ids_in_two_documents_are_two_chunks() {
    for Index { name, store, .. } in indexes().await {
        let documents =
            ["a", "b"].map(|id| document(id, "h", vec![chunk("0", 0, [1.0, 0.0, 0.0], json!({}))]));
        store.upsert(&model(), documents.into()).await.unwrap();
        assert_eq!(
            found(&store, json!({"id": "0"})).await,
            ["0", "0"],
            "{name}"
        );
    }
}

#[tokio::test]
async fn another_model_is_refused_before_anything_is_written() {
    for Index { name, store, .. } in indexes().await {
        store.upsert(&model(), library()).await.unwrap();
        let other = |of: &str, revision: &str, dimension| Model {
            model: of.to_owned(),
            revision: revision.to_owned(),
            dimension,
            embedder: None,
        };
        for given in [
            other("toy2", "1", 3),
            other("toy", "2", 3),
            other("toy", "1", 2),
        ] {
            let mut new = chunk("new", 0, [1.0, 0.0, 0.0], json!({}));
            new.vector.truncate(given.dimension);
            let documents = vec![document("essays", "h8", vec![new])];
            let refused = store.upsert(&given, documents).await.unwrap_err();
            let text = refused.to_string();
            assert!(matches!(refused, Error::Mismatch { .. }), "{name}: {text}");
            for part in [model().to_string(), given.to_string()] {
                assert!(text.contains(&part), "{name}: {text}");
            }
        }
        assert_eq!(
            found(&store, json!({"document": "essays"})).await,
            ["e0"],
            "{name}"
        );
        let hashes = store.processed(&names(&["essays"])).await.unwrap();
        assert_eq!(hashes["essays"], "h2", "{name}");
        let query = store.search(vec![1.0, 0.0], 1, &Filter::default()).await;
        assert!(matches!(query, Err(Error::Invalid(_))), "{name}: {query:?}");
    }
}

#[tokio::test]
async fn how_to_open_the_model_is_kept_and_may_change() {
    let at = |url: &str| Model {
        embedder: Some(Spec::OpenAi(OpenAiModel {
            url: url.to_owned(),
            model: "toy".to_owned(),
            api_key_env: Some("TOY_KEY".to_owned()),
            dimensions: None,
        })),
        ..model()
    };
    for Index { name, store, .. } in indexes().await {
        assert_eq!(store.model().await.unwrap(), None, "{name}");
        let (first, moved) = (at("http://one/v1"), at("http://two/v1"));
        // Another address is no other model; one that says nothing of it takes nothing away.
        for (given, kept) in [(&first, &first), (&moved, &moved), (&model(), &moved)] {
            store.upsert(given, library()).await.unwrap();
            assert_eq!(store.model().await.unwrap().as_ref(), Some(kept), "{name}");
        }
        assert_eq!(moved.spec(), moved.embedder.clone().unwrap());
        let other = Model {
            revision: "2".to_owned(),
            ..at("http://three/v1")
        };
        let refused = store.upsert(&other, library()).await;
        assert!(matches!(refused, Err(Error::Mismatch { .. })), "{name}");
        assert_eq!(store.model().await.unwrap(), Some(moved), "{name}");
    }
    assert_eq!(model().spec(), Spec::Name("toy".to_owned()));
}

#[tokio::test]
async fn what_no_index_can_hold_is_refused() {
    for Index { name, store, .. } in indexes().await {
        let one = |vector: Vec<f32>| ChunkVector {
            vector,
            ..chunk("c", 0, [0.0; 3], json!({}))
        };
        let wrong = [
            vec![document("a", "h", vec![one(vec![1.0])])],
            vec![document("a", "h", vec![one(vec![1.0, f32::NAN, 0.0])])],
            vec![document(
                "a",
                "h",
                vec![one(vec![1.0; 3]), one(vec![1.0; 3])],
            )],
            vec![document("a", "h", vec![]), document("a", "h", vec![])],
        ];
        for documents in wrong {
            let refused = store.upsert(&model(), documents.clone()).await;
            assert!(
                matches!(refused, Err(Error::Invalid(_))),
                "{name}: {documents:?}"
            );
        }
        store.upsert(&model(), library()).await.unwrap();
        for query in [vec![0.0; 3], vec![f32::INFINITY, 0.0, 0.0]] {
            let refused = store.search(query, 1, &Filter::default()).await;
            assert!(
                matches!(refused, Err(Error::Invalid(_))),
                "{name}: {refused:?}"
            );
        }
    }
}

#[tokio::test]
async fn filters_choose_by_metadata_and_source() {
    let rows: &[(Value, &[&str])] = &[
        (json!({}), &["f0", "f1", "e0", "p0"]),
        (json!({"lang": "fr"}), &["f0", "f1", "e0"]),
        (json!({"lang": {"in": ["en", "de"]}}), &["p0"]),
        (json!({"lang": {"in": []}}), &[]),
        (json!({"lang": {"!=": "fr"}}), &["p0"]),
        (json!({"year": 1580}), &["e0"]),
        (json!({"year": 1580.0}), &["e0"]),
        (json!({"year": {">=": 1668}}), &["f0", "f1"]),
        (json!({"year": {">": 1580, "<": 1668}}), &[]),
        (
            json!({"year": {"<=": 1668}, "lang": "fr"}),
            &["f0", "f1", "e0"],
        ),
        (json!({"year": "unknown"}), &["p0"]),
        (json!({"tags": "animals"}), &["f0", "f1"]),
        (json!({"tags": {"!=": "animals"}}), &["e0"]),
        (json!({"read": true}), &["f0", "f1"]),
        (json!({"read": false}), &["p0"]),
        (json!({"a.b": {">": 1}}), &["e0"]),
        (json!({"document": "poems"}), &["p0"]),
        (
            json!({"uri": {"in": ["poems.md", "essays.md"]}}),
            &["e0", "p0"],
        ),
        (json!({"id": "f1"}), &["f1"]),
        (json!({"absent": 1}), &[]),
    ];
    for Index { name, store, .. } in indexes().await {
        store.upsert(&model(), library()).await.unwrap();
        for (filter, wanted) in rows {
            assert_eq!(
                found(&store, filter.clone()).await,
                *wanted,
                "{name}: {filter}"
            );
        }
    }
}

#[test]
fn filters_that_are_not_understood_say_where() {
    let rows = [
        (json!("fr"), "no object"),
        (json!({"lang": ["fr"]}), "use \"in\""),
        (json!({"lang": null}), "`lang`"),
        (json!({"lang": {"like": "f%"}}), "`like`"),
        (json!({"lang": {"in": "fr"}}), "needs a list"),
        (json!({"year": {">=": [1]}}), "a text or a number"),
        (json!({"read": {">": true}}), "a text or a number"),
        (json!({"lang": {}}), "no condition"),
        (json!({"a\"b": 1}), "no name of a field"),
    ];
    for (filter, said) in rows {
        let error = Filter::from_json(&filter).unwrap_err().to_string();
        assert!(error.contains(said), "{filter}: {error}");
    }
}

#[tokio::test]
async fn removed_documents_and_chunks_are_gone() {
    for Index { name, store, .. } in indexes().await {
        store.upsert(&model(), library()).await.unwrap();
        let removed = store
            .delete_documents(&names(&["essays", "none"]))
            .await
            .unwrap();
        assert_eq!(removed, 1, "{name}");
        let verse = Filter::from_json(&json!({"id": "f1"})).unwrap();
        assert_eq!(store.delete(&verse).await.unwrap(), 1, "{name}");
        assert_eq!(found(&store, json!(null)).await, ["f0", "p0"], "{name}");
        // A document that lost a chunk is there, but no longer processed: its next run mends it.
        let ids = store.document_ids().await.unwrap();
        assert_eq!(
            ids,
            names(&["fables", "poems"]).into_iter().collect(),
            "{name}"
        );
        let hashes = store.processed(&names(&["fables", "poems"])).await.unwrap();
        assert_eq!(hashes.keys().collect::<Vec<_>>(), ["poems"], "{name}");
        store.upsert(&model(), library()).await.unwrap();
        let info = store.info().await.unwrap();
        assert_eq!((info.documents, info.chunks), (3, 4), "{name}");
    }
}

#[tokio::test]
async fn a_document_without_chunks_is_processed() {
    for Index { name, store, .. } in indexes().await {
        store.upsert(&model(), library()).await.unwrap();
        store
            .upsert(&model(), vec![document("essays", "h7", vec![])])
            .await
            .unwrap();
        assert_eq!(
            store.processed(&names(&["essays"])).await.unwrap()["essays"],
            "h7",
            "{name}"
        );
        assert_eq!(
            found(&store, json!({"document": "essays"})).await,
            [""; 0],
            "{name}"
        );
    }
}

#[tokio::test]
async fn more_than_a_page_of_documents_comes_back_whole() {
    for Index { name, store, .. } in indexes().await {
        let many: Vec<DocumentChunks> = (0..600)
            .map(|i| {
                document(
                    &format!("d{i}"),
                    "h",
                    vec![chunk("c", 0, [1.0, 0.0, 0.0], json!({}))],
                )
            })
            .collect();
        let ids: BTreeSet<String> = many.iter().map(|document| document.id.clone()).collect();
        store.upsert(&model(), many).await.unwrap();
        assert_eq!(store.document_ids().await.unwrap(), ids, "{name}");
        let all: Vec<String> = ids.into_iter().collect();
        assert_eq!(store.processed(&all).await.unwrap().len(), 600, "{name}");
        assert_eq!(store.delete_documents(&all).await.unwrap(), 600, "{name}");
        assert_eq!(store.info().await.unwrap().chunks, 0, "{name}");
    }
}

/// Qdrant has no transactions. Whatever request fails, the document is either as it was or counts as
/// not processed, and the next upsert makes it whole.
#[tokio::test]
async fn an_upsert_into_qdrant_that_breaks_off_is_seen_and_mended() {
    let folder = tempfile::tempdir().unwrap();
    let new = || {
        let chunks = vec![chunk("n0", 0, [1.0, 0.0, 0.0], json!({}))];
        vec![document("fables", "new", chunks)]
    };
    for fail_at in 0.. {
        let server = qdrant::Server::start().await;
        let at = json!({"qdrant": {"url": server.url, "collection": "notes"}});
        let store = open(&at, folder.path()).await.unwrap();
        store.upsert(&model(), library()).await.unwrap();
        server.fail_at(fail_at);
        let broken = store.upsert(&model(), new()).await;
        server.fail_at(usize::MAX);
        let hash = store
            .processed(&names(&["fables"]))
            .await
            .unwrap()
            .remove("fables");
        let chunks = found(&store, json!({"document": "fables"})).await;
        if broken.is_ok() {
            assert_eq!((hash.as_deref(), chunks), (Some("new"), names(&["n0"])));
            assert_eq!(fail_at, 6, "a failure of each request was tried");
            break;
        }
        assert!(
            matches!(broken, Err(Error::Unavailable { .. })),
            "{broken:?}"
        );
        assert!(
            hash.is_none() || (hash.as_deref(), &chunks) == (Some("h1"), &names(&["f0", "f1"])),
            "{fail_at}: {hash:?} {chunks:?}"
        );
        store.upsert(&model(), new()).await.unwrap();
        assert_eq!(
            found(&store, json!({"document": "fables"})).await,
            ["n0"],
            "{fail_at}"
        );
    }
}

#[tokio::test]
async fn qdrant_gets_the_key_and_its_refusals_are_errors_of_the_right_kind() {
    let folder = tempfile::tempdir().unwrap();
    let server = qdrant::Server::start().await;
    // A variable that is there wherever this runs.
    let (variable, value) = std::env::vars()
        .find(|(_, value)| !value.is_empty() && value.is_ascii())
        .unwrap();
    server.want_key(&value);
    let at = |settings: Value| json!({"qdrant": settings});
    let without = json!({"url": server.url, "collection": "c"});
    let store = open(&at(without), folder.path()).await.unwrap();
    let refused = store.info().await;
    assert!(
        matches!(&refused, Err(Error::Invalid(said)) if said.contains("api_key_env")),
        "{refused:?}"
    );
    let with = json!({"url": server.url, "collection": "c", "api_key_env": variable});
    open(&at(with), folder.path())
        .await
        .unwrap()
        .info()
        .await
        .unwrap();

    let gone = json!({"url": "http://127.0.0.1:1", "collection": "c"});
    let store = open(&at(gone), folder.path()).await.unwrap();
    let failed = store.info().await;
    assert!(
        matches!(failed, Err(Error::Unavailable { .. })),
        "{failed:?}"
    );
}

#[tokio::test]
async fn descriptions_that_are_no_index_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = [
        json!(1),
        json!(""),
        json!("../x"),
        json!(".hidden"),
        json!({}),
        json!({"pinecone": {}}),
        json!({"qdrant": {"url": "http://localhost"}}),
        json!({"qdrant": {"url": "localhost:6333", "collection": "c"}}),
        json!({"qdrant": {"url": "http://localhost", "collection": "a/b"}}),
        json!({"qdrant": {"url": "http://localhost", "collection": "c", "key": "k"}}),
        json!({"qdrant": {"url": "http://h", "collection": "c", "api_key_env": "NO_SUCH_VARIABLE_"}}),
        json!({"pgvector": {"url": "mysql://h", "table": "t"}}),
        json!({"pgvector": {"url": "postgres://u:secret@h/d", "table": "t; DROP TABLE x"}}),
    ];
    for index in wrong {
        let error = open(&index, folder.path()).await.err();
        assert!(matches!(error, Some(Error::Invalid(_))), "{index}");
        assert!(!error.unwrap().to_string().contains("secret"));
    }
}
