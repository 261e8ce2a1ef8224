//! The stages as a worker runs them, against a server that the test scripts.

#[path = "../../../connect/tests/support/mod.rs"]
pub(super) mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use support::{Asked, Reply, Server};
use tidemill_connect::artifacts::Artifacts;
use tidemill_connect::stream::Piece;
use tidemill_pipeline::data::{Item, Part};
use tidemill_pipeline::task::RunRef;
use tokio_util::sync::CancellationToken;

use super::{EmbedText, LlmGenerate};
use crate::{Context, Error, ErrorKind, Stage};

pub(super) fn context() -> Context {
    Context {
        run: RunRef {
            id: "run-1".to_owned(),
            pipeline: "p".to_owned(),
            plan: "sha256:0".to_owned(),
        },
        stage: "ask".to_owned(),
        artifacts: Artifacts::memory(),
        data: PathBuf::from("/nowhere"),
        cancelled: CancellationToken::new(),
        progress: Arc::new(|_| {}),
        devices: Vec::new(),
        item: String::new(),
        streams: Default::default(),
        limit: None,
    }
}

async fn generate(with: Value) -> Result<Value, Error> {
    LlmGenerate.call(Value::Null, with, &context()).await
}

fn answer(text: &str) -> Reply {
    Reply::ok(json!({
        "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 1},
    }))
}

fn last_message(asked: &Asked) -> String {
    let messages = asked.body["messages"].as_array().expect("messages");
    messages[messages.len() - 1]["content"]
        .as_str()
        .expect("text")
        .to_owned()
}

#[tokio::test]
async fn pieces_can_be_watched_and_the_result_is_the_whole() {
    let cx = context();
    let with = json!({
        "prompt": "The tide fills the pond.\nWhat fills the pond?", "model": "m", "url": "fake:",
        "stream": true,
    });
    let whole = LlmGenerate.call(Value::Null, with.clone(), &cx).await;
    let whole = whole.expect("an answer");
    assert_eq!(whole["text"], "The tide fills the pond.");
    let watched = async |cx: &Context, name: &str| {
        let pieces = cx.streams.read(name, 0).expect("a stream");
        futures::StreamExt::collect::<Vec<_>>(pieces).await
    };
    let (text, offset) = ("The tide fills the pond.".to_owned(), 24);
    let expected = [Piece::Text { offset, text }, Piece::Finished { offset }];
    assert_eq!(watched(&cx, "run-1/ask").await, expected);

    // An answer that is given up is told of; a call for an item has a stream of its own.
    let cx = Context {
        item: "doc 1".to_owned(),
        ..cx
    };
    let server = Server::start(|before, _| match before {
        0 => answer("not JSON"),
        _ => Reply::new(503, "gone"),
    })
    .await;
    let with =
        json!({"prompt": "?", "model": "m", "url": server.url, "stream": true, "schema": {}});
    let error = LlmGenerate.call(Value::Null, with, &cx).await;
    let reason = error.expect_err("no answer").message;
    assert_eq!(server.asked()[0].body["stream"], true);
    let found = watched(&cx, "run-1/ask/doc 1").await;
    assert_eq!(found, [Piece::Failed { offset: 9, reason }]);

    let unwatched = json!({"prompt": "?", "model": "m", "url": "fake:"});
    let cx = context();
    let done = LlmGenerate.call(Value::Null, unwatched, &cx).await;
    assert!(done.is_ok() && cx.streams.read("run-1/ask", 0).is_none());
}

#[tokio::test]
async fn after_bad_json_twice_the_fallback_answers() {
    let server = Server::start(|_, asked| match asked.body["model"].as_str() {
        Some("small") => answer(r#"{"label": "maybe"}"#),
        _ => answer("```json\n{\"label\": \"spam\"}\n```"),
    })
    .await;
    let found = generate(json!({
        "prompt": "Is this spam?",
        "model": "small",
        "url": server.url,
        "system": "You sort mail.",
        "schema": {
            "type": "object",
            "properties": {"label": {"enum": ["spam", "ham"]}},
            "required": ["label"],
        },
        "repair": 1,
        "fallback": ["large"],
    }))
    .await
    .expect("the fallback answers");
    let expected = json!({
        "json": {"label": "spam"},
        "model": "large",
        "usage": {"input_tokens": 30, "output_tokens": 3},
        "attempts": 3,
    });
    assert_eq!(found, expected);

    let asked = server.asked();
    let models: Vec<_> = asked
        .iter()
        .map(|asked| asked.body["model"].clone())
        .collect();
    assert_eq!(models, ["small", "small", "large"]);
    assert!(
        asked
            .iter()
            .all(|asked| asked.path == "/v1/chat/completions")
    );
    let told = last_message(&asked[1]);
    assert!(
        told.contains("at /label: \"maybe\" is not one of"),
        "{told}"
    );
    assert_eq!(
        last_message(&asked[2]),
        "Is this spam?",
        "the fallback begins anew"
    );
    let system = asked[0].body["messages"][0]["content"]
        .as_str()
        .expect("text");
    assert!(
        system.starts_with("You sort mail.\n\nAnswer with one JSON value"),
        "{system}"
    );
    let keys: BTreeSet<_> = asked
        .iter()
        .map(|asked| asked.header("idempotency-key"))
        .collect();
    assert_eq!(keys.len(), 3, "each request is another");
    assert!(!keys.contains(&None));
}

#[tokio::test]
async fn a_mended_answer_counts_and_a_repeated_task_has_the_same_key() {
    let server = Server::start(|before, _| match before % 2 {
        0 => answer("not JSON"),
        _ => answer("7"),
    })
    .await;
    let with = json!({
        "prompt": "A number.", "model": "m", "url": server.url, "schema": {"type": "integer"},
    });
    for _ in 0..2 {
        let found = generate(with.clone()).await.expect("mended");
        assert_eq!((&found["json"], &found["attempts"]), (&json!(7), &json!(2)));
    }
    let asked = server.asked();
    let key = |index: usize| {
        asked[index]
            .header("idempotency-key")
            .expect("a key")
            .to_owned()
    };
    assert_eq!([key(0), key(1)], [key(2), key(3)]);
}

#[tokio::test]
async fn a_fallback_takes_over_when_the_first_cannot_be_asked() {
    let down = Server::start(|_, _| Reply::new(503, "down")).await;
    let up = Server::start(|_, _| answer("yes")).await;
    let found = generate(json!({
        "messages": [{"role": "user", "content": "?"}],
        "model": "a",
        "url": down.url,
        "api_key_env": "CARGO_PKG_NAME",
        "fallback": [{"model": "b", "url": up.url}],
    }))
    .await
    .expect("an answer");
    assert_eq!(
        (&found["text"], &found["model"]),
        (&json!("yes"), &json!("b"))
    );
    assert_eq!(found["attempts"], 2);
    assert!(down.asked()[0].header("authorization").is_some());
    let sent = up.asked()[0].header("authorization").map(str::to_owned);
    assert_eq!(sent, None, "a key is for one server");
}

#[tokio::test]
async fn when_no_model_answers_the_error_is_one_that_may_pass() {
    let server = Server::start(|_, asked| match asked.body["model"].as_str() {
        Some("wrong") => Reply::new(404, r#"{"error": {"message": "no such model"}}"#),
        _ => {
            let mut reply = Reply::new(429, r#"{"error": {"message": "slow down"}}"#);
            reply.headers.push(("retry-after", "3".to_owned()));
            reply
        }
    })
    .await;
    let ask = |model: &str, fallback: Value| {
        generate(json!({"prompt": "?", "model": model, "url": server.url, "fallback": fallback}))
    };
    let error = ask("wrong", json!(["busy"]))
        .await
        .expect_err("none answers");
    assert_eq!(error.kind, ErrorKind::RateLimited);
    assert_eq!(error.retry_after, Some(Duration::from_secs(3)));
    for part in ["wrong: ", "no such model", "busy: ", "slow down"] {
        assert!(error.message.contains(part), "{error}");
    }
    let error = ask("wrong", json!([])).await.expect_err("no such model");
    assert_eq!(error.kind, ErrorKind::Invalid);

    let server = Server::start(|_, _| answer("no")).await;
    let with =
        json!({"prompt": "?", "model": "m", "url": server.url, "schema": false, "repair": 0});
    let error = generate(with).await.expect_err("nothing is valid");
    assert_eq!(error.kind, ErrorKind::Failed);
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn wrong_parameters_are_named() {
    let rows = [
        (
            json!({"model": "m", "url": "fake:"}),
            "with.prompt: nothing is asked",
        ),
        (
            json!({"model": "m", "url": "fake:", "prompt": "", "messages": []}),
            "with.messages: give this or `prompt`",
        ),
        (
            json!({"model": "m", "url": "fake:", "prompt": "?", "schema": {"type": 3}}),
            "with.schema is not a JSON Schema",
        ),
        (
            json!({"model": "m", "url": "fake:", "prompt": "?", "temperature": -1}),
            "with.temperature",
        ),
        (
            json!({"model": "m", "url": "fake:", "prompt": "?", "fallback": [{"mdoel": "x"}]}),
            "with.fallback[0]: expected a model's name or {model, url, api_key_env}",
        ),
        (
            json!({"model": "m", "url": "ftp://h/", "prompt": "?"}),
            "http:// or https://",
        ),
        (json!({"prompt": "?"}), "missing field `model`"),
    ];
    for (with, expected) in rows {
        let error = generate(with.clone()).await.expect_err("wrong");
        assert_eq!(error.kind, ErrorKind::Invalid, "{with}");
        assert!(
            error.message.starts_with("llm.generate: "),
            "{with}: {error}"
        );
        assert!(error.message.contains(expected), "{with}: {error}");
    }
}

#[tokio::test]
async fn a_cancelled_question_is_not_waited_for() {
    let cx = context();
    let stop = cx.cancelled.clone();
    // Cancelled by the request itself: from then on the answer is not needed.
    let server = Server::start(move |_, _| {
        stop.cancel();
        Reply::new(503, "too late")
    })
    .await;
    let with = json!({"prompt": "?", "model": "m", "url": server.url, "fallback": ["n"]});
    let error = LlmGenerate
        .call(Value::Null, with, &cx)
        .await
        .expect_err("cancelled");
    assert_eq!(error.kind, ErrorKind::Cancelled);
    assert_eq!(server.asked().len(), 1, "the fallback is not asked");
}

fn chunk(id: &str, value: Value) -> Item {
    Item {
        id: id.to_owned(),
        source: "doc".to_owned(),
        value,
    }
}

#[tokio::test]
async fn items_get_their_vector_and_what_made_it() {
    let part = Part {
        items: vec![
            chunk("a", json!({"text": "one text", "index": 0})),
            chunk("b", json!({"title": "no text"})),
            chunk("c", json!({"text": "another", "index": 1})),
            chunk("d", json!("a string")),
        ],
        failed: Vec::new(),
    };
    let said = Arc::new(Mutex::new(Vec::new()));
    let lines = said.clone();
    let cx = Context {
        progress: Arc::new(move |line| lines.lock().expect("lines").push(line)),
        ..context()
    };
    let out = EmbedText
        .items(part, json!({"model": "fake:8"}), &cx)
        .await
        .expect("embedded");
    let ids: Vec<_> = out.items.iter().map(|item| item.id.as_str()).collect();
    assert_eq!(ids, ["a", "c"]);
    for item in &out.items {
        assert_eq!(item.source, "doc");
        let value = &item.value;
        assert!(
            value["text"].is_string() && value["index"].is_number(),
            "{value}"
        );
        assert_eq!(
            (&value["dimension"], &value["model"]),
            (&json!(8), &json!("fake:8"))
        );
        assert_eq!(value["revision"], "fake-1");
        let bytes = STANDARD
            .decode(value["vector"].as_str().expect("base64"))
            .expect("base64");
        let (numbers, _) = bytes.as_chunks::<4>();
        let squares = numbers.iter().map(|four| f32::from_le_bytes(*four).powi(2));
        assert!((squares.sum::<f32>() - 1.0).abs() < 1e-5);
    }
    assert_eq!(out.failed.len(), 2);
    for (failed, id) in out.failed.iter().zip(["b", "d"]) {
        assert_eq!((failed.id.as_str(), failed.source.as_str()), (id, "doc"));
        assert_eq!(failed.stage, "ask");
        assert_eq!(failed.error, "embed.text: the item has no `text` to embed");
    }
    assert_eq!(*said.lock().expect("lines"), ["2 of 2 embedded"]);
}

#[tokio::test]
async fn a_poison_item_fails_alone_and_a_missing_model_fails_the_task() {
    let server = Server::start(|_, asked| {
        let texts = asked.body["input"].as_array().expect("texts");
        if texts.contains(&json!("poison")) {
            return Reply::new(400, json!({"error": {"message": "refused"}}));
        }
        let data: Vec<_> = texts.iter().map(|_| json!({"embedding": [1.0]})).collect();
        Reply::ok(json!({"data": data}))
    })
    .await;
    let part = Part {
        items: ["fine", "poison", "good"]
            .iter()
            .map(|text| chunk(text, json!({"text": text})))
            .collect(),
        failed: Vec::new(),
    };
    let with = json!({"model": {"openai": {"url": server.url, "model": "m"}}});
    let out = EmbedText
        .items(part.clone(), with, &context())
        .await
        .expect("embedded");
    let ids: Vec<_> = out.items.iter().map(|item| item.id.as_str()).collect();
    assert_eq!(ids, ["fine", "good"]);
    assert_eq!(out.failed[0].id, "poison");
    assert!(
        out.failed[0].error.ends_with("refused"),
        "{}",
        out.failed[0].error
    );

    let missing = EmbedText
        .items(part, json!({"model": "no-such"}), &context())
        .await;
    let error = missing.expect_err("no such model");
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(error.message.contains("/nowhere/models/no-such"), "{error}");
}

/// A model's folder; only its files count here.
fn model_folder(data: &Path) -> PathBuf {
    let folder = data.join("models/toy");
    std::fs::create_dir_all(&folder).expect("a folder");
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::write(folder.join(file), file).expect("written");
    }
    folder
}

#[tokio::test]
async fn the_revision_of_a_local_model_is_that_of_its_files() {
    let data = tempfile::tempdir().expect("a folder");
    let folder = model_folder(data.path());
    let cx = Context {
        data: data.path().to_owned(),
        ..context()
    };
    let revision = async || {
        let with = json!({"model": "toy", "batch": 2});
        let revision = EmbedText.revision(&with, &cx).await;
        revision.expect("read").expect("a model has one")
    };
    let before = revision().await;
    assert!(before.starts_with("toy sha256:"), "{before}");
    assert_eq!(revision().await, before);
    let mut seen = BTreeSet::from([before.clone()]);
    for file in [
        "tokenizer.json",
        "config.json",
        "model.safetensors",
        // Says how long texts may be, and need not be there.
        "sentence_bert_config.json",
    ] {
        std::fs::write(folder.join(file), "something else than before").expect("written");
        assert!(seen.insert(revision().await), "{file} changes nothing");
    }
    model_folder(data.path());
    std::fs::remove_file(folder.join("sentence_bert_config.json")).expect("removed");
    assert_eq!(
        revision().await,
        before,
        "the same files are the same model"
    );
    std::fs::remove_dir_all(folder).expect("removed");
    let error = EmbedText.revision(&json!({"model": "toy"}), &cx).await;
    assert_eq!(error.expect_err("gone").kind, ErrorKind::Invalid);
}
