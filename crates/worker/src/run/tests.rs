use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use tidemill_pipeline::data::{
    Artifact, CLAIM_CHECK_BYTES, Collection, Item, Manifest, Part, PartEntry,
};
use tidemill_pipeline::task::{Chunk, Input, Output, TaskInput};
use tidemill_stages::ErrorKind;

use super::Runner;
use crate::testing::{cached, failed, item, life, part, run, runner, task, value};

async fn put(runner: &Runner, parts: Vec<Part>) -> Collection {
    let mut manifest = Manifest {
        item: "toy".to_owned(),
        parts: Vec::new(),
    };
    for part in parts {
        manifest.parts.push(PartEntry {
            digest: runner.store.put_part(&part).await.unwrap(),
            count: part.items.len() as u64,
        });
    }
    runner.store.put_collection(manifest).await.unwrap()
}

fn chunk(collection: &Collection, index: u32, size: u32) -> Input {
    Input::Chunk(Chunk {
        collection: collection.clone(),
        index,
        size,
    })
}

fn ids(items: &[Item]) -> Vec<&str> {
    items.iter().map(|item| item.id.as_str()).collect()
}

#[tokio::test]
async fn a_call_sees_what_references_stand_for() {
    let (runner, _) = runner();
    let big = json!("x".repeat(CLAIM_CHECK_BYTES));
    let reference = runner.store.claim_check(big.clone()).await.unwrap();
    assert!(reference.get("$artifact").is_some());
    let image = runner.store.artifacts().put("png", "image/png").await;
    let image = json!(image.unwrap());
    let with = json!({
        "list": [{ "deep": reference }, 1],
        "image": image,
    });
    let output = value(&runner, "toy.call", &task(with, Input::Value(json!("in")))).await;
    // The result holds the large value again, so it is large itself.
    let artifact: Artifact = serde_json::from_value(output).unwrap();
    let output: Value = runner
        .store
        .artifacts()
        .get_json(&artifact.digest)
        .await
        .unwrap();
    assert_eq!(output["with"]["list"], json!([{ "deep": big }, 1]));
    assert_eq!(output["with"]["image"], image);
    assert_eq!(output["stage"], json!("here"));
}

#[tokio::test]
async fn errors_name_their_stage_and_keep_their_kind() {
    let (runner, _) = runner();
    for (what, kind, part) in [
        ("fail", ErrorKind::Failed, "stage here (toy.call): no good"),
        ("invalid", ErrorKind::Invalid, "wrong"),
        ("away", ErrorKind::Unavailable, "gone"),
        ("store", ErrorKind::ArtifactStoreUnavailable, "no disk"),
        (
            "panic",
            ErrorKind::Failed,
            "stage here (toy.call): it panicked: at",
        ),
    ] {
        let task = task(json!({ "do": what }), Input::Value(Value::Null));
        let error = run(&runner, "toy.call", &task).await.unwrap_err();
        assert_eq!(error.kind, kind);
        assert!(error.message.contains(part), "{}", error.message);
    }
    let task = task(json!({}), Input::Value(Value::Null));
    let error = run(&runner, "toy.other", &task).await.unwrap_err();
    assert!(error.kind.is_retryable() && error.message.contains("no stage type toy.other"));
    let error = runner
        .run("toy.call", "w", b"{}", life())
        .await
        .unwrap_err();
    assert!(
        error.message.contains("no field `run`"),
        "{}",
        error.message
    );
}

#[tokio::test]
async fn a_source_lays_its_items_into_parts() {
    let (runner, _) = runner();
    let with = json!({ "part": { "items": 3 } });
    let output = value(&runner, "toy.source", &task(with, Input::Value(json!(7)))).await;
    let made: Collection = serde_json::from_value(output).unwrap();
    assert_eq!((made.item.as_str(), made.count, made.parts), ("toy", 7, 3));
    let manifest = runner.store.manifest(&made.manifest).await.unwrap();
    let last = runner.store.part(&manifest.parts[2].digest).await.unwrap();
    assert_eq!(ids(&last.items), ["i6"]);
    assert_eq!(
        (last.failed[0].id.as_str(), last.failed[0].stage.as_str()),
        ("broken.pdf", "here")
    );

    let by_bytes = json!({ "part": { "bytes": 20 } });
    let output = value(
        &runner,
        "toy.source",
        &task(by_bytes, Input::Value(json!(4))),
    )
    .await;
    assert_eq!(output["parts"], json!(3));
    let none = json!({ "part": { "items": 0 } });
    let error = run(&runner, "toy.source", &task(none, Input::Value(json!(4)))).await;
    assert!(error.unwrap_err().message.contains("part.items is 0"));
}

#[tokio::test]
async fn failures_are_carried_on_and_counted_by_source() {
    let (runner, _) = runner();
    let given = Part {
        items: vec![
            Item {
                source: "doc1".into(),
                ..item("c1", json!("fine"))
            },
            Item {
                source: "doc1".into(),
                ..item("c2", json!("fail"))
            },
            Item {
                source: "doc2".into(),
                ..item("c3", json!("fail"))
            },
        ],
        failed: vec![failed("c0", "doc1")],
    };
    let collection = put(&runner, vec![given]).await;
    let task = task(json!({}), chunk(&collection, 0, 0));
    let (output, made) = part(&runner, "toy.items", &task).await;
    assert_eq!(
        (output.count, output.failed, output.failed_sources),
        (1, 3, 2)
    );
    // Whoever ran before has told of its own.
    assert_eq!(output.first_error.as_deref(), Some("c2: no good"));
    assert_eq!(
        (ids(&made.items), made.items[0].source.as_str()),
        (vec!["c1"], "doc1")
    );
    let places: Vec<_> = made
        .failed
        .iter()
        .map(|f| (&*f.id, &*f.source, &*f.stage))
        .collect();
    assert_eq!(
        places,
        [
            ("c0", "doc1", "before"),
            ("c2", "doc1", "here"),
            ("c3", "doc2", "here"),
        ]
    );
}

#[tokio::test]
async fn parameters_may_speak_of_the_item() {
    let (runner, toy) = runner();
    let items = [
        ("a", json!({"n": 1})),
        ("b", json!({"n": 2})),
        ("c", json!({"n": 1})),
    ];
    let items: Vec<_> = items
        .into_iter()
        .map(|(id, value)| item(id, value))
        .collect();
    let odd = item("d", json!(5));
    let given = Part {
        items: [items, vec![odd]].concat(),
        failed: Vec::new(),
    };
    let collection = put(&runner, vec![given]).await;
    let task = TaskInput {
        scope: json!({ "inputs": { "base": 10 } }),
        ..task(
            json!({ "n": "{{ item.n + inputs.base }}", "from": "a {{ document }}" }),
            chunk(&collection, 0, 0),
        )
    };
    for activity in ["toy.items", "toy.call"] {
        let (output, made) = part(&runner, activity, &task).await;
        let with = |id: &str| {
            let item = made.items.iter().find(|item| item.id == id).unwrap();
            item.value["with"].clone()
        };
        // What only looks like a template came from a document.
        assert_eq!(with("a"), json!({ "n": 11, "from": "a {{ document }}" }));
        assert_eq!(with("b")["n"], json!(12));
        assert_eq!(with("c")["n"], json!(11));
        assert_eq!((output.count, output.failed), (3, 1), "{activity}");
        assert_eq!(made.failed[0].id, "d");
    }
    assert_eq!(
        toy.calls.load(Ordering::Relaxed),
        6,
        "two questions for each call"
    );
}

#[tokio::test]
async fn a_call_over_items_fails_by_item() {
    let (runner, _) = runner();
    let values = ["fine", "fail", "invalid", "shaky", "panic"];
    let over = async |values: &[&str]| {
        let items = values.iter().map(|v| item(v, json!(v))).collect();
        let collection = put(
            &runner,
            vec![Part {
                items,
                failed: Vec::new(),
            }],
        )
        .await;
        task(json!({}), chunk(&collection, 0, 0))
    };
    let (output, made) = part(&runner, "toy.call", &over(&values[..3]).await).await;
    assert_eq!((output.count, output.failed), (1, 2));
    assert_eq!(made.items[0].value["input"], json!("fine"));
    // When nothing can be done at all it is the task that fails, to be tried later.
    let (output, _) = part(&runner, "toy.call", &over(&["away", "fine"]).await).await;
    assert_eq!((output.count, output.failed), (1, 1));
    let error = run(&runner, "toy.call", &over(&["away"]).await)
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    let error = run(&runner, "toy.call", &over(&["fine", "store"]).await)
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::ArtifactStoreUnavailable);
    let error = run(&runner, "toy.call", &over(&values[4..]).await)
        .await
        .unwrap_err();
    assert!(error.message.contains("it panicked"));
}

#[tokio::test]
async fn an_item_that_was_refused_is_tried_again() {
    let (runner, toy) = runner();
    let items = vec![item("a", json!("shaky"))];
    let collection = put(
        &runner,
        vec![Part {
            items,
            failed: Vec::new(),
        }],
    )
    .await;
    let task = task(json!({}), chunk(&collection, 0, 0));
    let (output, _) = part(&runner, "toy.call", &task).await;
    assert_eq!((output.count, output.failed), (1, 0));
    assert_eq!(
        toy.calls.load(Ordering::Relaxed),
        4,
        "two questions for each of two calls"
    );
}

#[tokio::test]
async fn chunks_of_a_size_cut_across_parts() {
    let (runner, _) = runner();
    let make = |from: u32, to: u32, bad: &str| Part {
        items: (from..to).map(|n| item(&n.to_string(), json!(n))).collect(),
        failed: vec![failed(bad, "")],
    };
    let parts = vec![
        make(0, 3, "x"),
        make(3, 3, "y"),
        make(3, 7, "z"),
        make(7, 7, "end"),
    ];
    let collection = put(&runner, parts).await;
    let mut seen = Vec::new();
    for index in 0..4 {
        let task = task(json!({}), chunk(&collection, index, 2));
        let (_, made) = part(&runner, "toy.items", &task).await;
        let bad: Vec<_> = made.failed.iter().map(|f| f.id.clone()).collect();
        seen.push((ids(&made.items).join(""), bad.join(" ")));
    }
    let seen: Vec<_> = seen.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    assert_eq!(seen, [("01", "x"), ("23", "y z"), ("45", ""), ("6", "end")]);
    let beyond = task(json!({}), chunk(&collection, 4, 2));
    let error = run(&runner, "toy.items", &beyond).await.unwrap_err();
    assert!(error.message.contains("it has 4"), "{}", error.message);
    let beyond = task(json!({}), chunk(&collection, 4, 0));
    assert!(run(&runner, "toy.items", &beyond).await.is_err());
}

#[tokio::test]
async fn items_without_a_collection() {
    let (runner, _) = runner();
    let list = task(json!({}), Input::Value(json!(["a", "b"])));
    let output = value(&runner, "toy.items", &list).await;
    assert_eq!(output[1]["value"], json!("b"));
    let one = task(json!({}), Input::Value(json!("a")));
    assert_eq!(value(&runner, "toy.items", &one).await["value"], json!("a"));
    let bad = task(json!({}), Input::Value(json!(["a", "fail"])));
    let error = run(&runner, "toy.items", &bad).await.unwrap_err();
    assert!(
        error.message.contains("item fail: no good"),
        "{}",
        error.message
    );
}

#[tokio::test]
async fn a_result_is_used_again_when_all_is_the_same() {
    let (runner, toy) = runner();
    let again = async |runner: &Runner, task: &TaskInput| {
        run(runner, "toy.call", task).await.unwrap().cached
    };
    let base = cached(
        task(json!({"a": 1, "b": 2}), Input::Value(json!("in"))),
        Some("k"),
    );
    assert!(!again(&runner, &base).await);
    assert!(again(&runner, &base).await);
    let other_run = TaskInput {
        stage: "elsewhere".to_owned(),
        run: tidemill_pipeline::task::RunRef {
            id: "run-2".into(),
            ..base.run.clone()
        },
        ..base.clone()
    };
    assert!(again(&runner, &other_run).await);
    for different in [
        cached(
            task(json!({"a": 1, "b": 3}), Input::Value(json!("in"))),
            Some("k"),
        ),
        cached(
            task(json!({"a": 1, "b": 2}), Input::Value(json!("out"))),
            Some("k"),
        ),
        cached(
            task(json!({"a": 1, "b": 2}), Input::Value(json!("in"))),
            Some("l"),
        ),
        cached(
            task(json!({"a": 1, "b": 2}), Input::Value(json!("in"))),
            None,
        ),
    ] {
        assert!(!again(&runner, &different).await, "{different:?}");
        assert!(again(&runner, &different).await);
    }
    assert!(
        !again(
            &runner,
            &TaskInput {
                cache: None,
                ..base.clone()
            }
        )
        .await
    );
    *toy.revision.lock() = Some("model 2".to_owned());
    assert!(!again(&runner, &base).await);
    let mut newer = Runner {
        registry: runner.registry.clone(),
        store: runner.store.clone(),
        data: runner.data.clone(),
        streams: Default::default(),
        limits: crate::limit::Limits::new("test"),
    };
    newer.registry.add(toy.clone(), "2");
    assert!(!again(&newer, &base).await);
    assert!(again(&newer, &base).await);
    for _ in 0..2 {
        assert!(!run(&runner, "toy.impure", &base).await.unwrap().cached);
    }
}

#[tokio::test]
async fn cached_chunks_go_by_part_and_only_when_nothing_failed() {
    let (runner, _) = runner();
    let of = |id: &str, bad: Vec<_>| Part {
        items: vec![item(id, json!(id))],
        failed: bad,
    };
    let old = put(
        &runner,
        vec![of("a", vec![failed("x", "")]), of("fail", vec![])],
    )
    .await;
    let new = put(
        &runner,
        vec![of("b", vec![]), of("a", vec![failed("x", "")])],
    )
    .await;
    let again = async |collection: &Collection, index| {
        let task = cached(task(json!({}), chunk(collection, index, 0)), None);
        let output = run(&runner, "toy.items", &task).await.unwrap();
        assert!(matches!(output.output, Output::Part(_)));
        output.cached
    };
    assert!(!again(&old, 0).await);
    assert!(again(&new, 1).await, "the same part of another collection");
    assert!(!again(&new, 0).await);
    assert!(!again(&old, 1).await);
    assert!(!again(&old, 1).await, "an item failed");
}
