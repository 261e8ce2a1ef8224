//! Embedding models that are not computed here: behind an address (a server that the test scripts),
//! and the fake one.

mod support;

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use support::{Asked, Reply, Server};
use tidemill_connect::embed::{self, Call, Embedder, ErrorKind, OpenAiModel, Spec};

async fn open(model: Value) -> Arc<dyn Embedder> {
    let spec: Spec = serde_json::from_value(model).expect("a model");
    embed::open(&spec, Path::new("/nowhere"))
        .await
        .expect("opened")
}

/// A vector of two numbers for each text: its length, and 1.
fn lengths(asked: &Asked) -> Reply {
    let texts = asked.body["input"].as_array().expect("a list");
    let data = texts.iter().enumerate().map(|(index, text)| {
        let length = text.as_str().expect("a text").len();
        json!({"index": index, "embedding": [length, 1]})
    });
    // Servers need not keep the order.
    Reply::ok(json!({"data": data.rev().collect::<Vec<_>>()}))
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

#[tokio::test]
async fn texts_are_sent_in_batches_and_vectors_come_in_their_order() {
    let server = Server::start(|_, asked| lengths(asked)).await;
    let model = open(json!({"openai": {
        "url": server.url, "model": "m", "api_key_env": "CARGO_PKG_NAME", "dimensions": 2,
    }}))
    .await;
    let call = Call {
        batch: Some(2),
        ..Call::default()
    };
    let results = model
        .embed(texts(&["a", "", "ccc", "dd"]), &call)
        .await
        .expect("embedded");
    let expected = [
        Ok(vec![1.0, 1.0]),
        Err("the text is empty".to_owned()),
        Ok(vec![3.0, 1.0]),
        Ok(vec![2.0, 1.0]),
    ];
    assert_eq!(results, expected);
    assert_eq!((model.name(), model.revision()), ("m", "m"));
    let asked = server.asked();
    let bodies: Vec<_> = asked.iter().map(|asked| asked.body.clone()).collect();
    let expected = [
        json!({"model": "m", "input": ["a", "ccc"], "dimensions": 2}),
        json!({"model": "m", "input": ["dd"], "dimensions": 2}),
    ];
    assert_eq!(bodies, expected);
    assert_eq!(asked[0].path, "/v1/embeddings");
    // Cargo sets the variable for tests.
    assert_eq!(
        asked[0].header("authorization"),
        Some("Bearer tidemill-connect")
    );
}

#[tokio::test]
async fn a_text_that_the_server_refuses_fails_alone() {
    let server = Server::start(|_, asked| {
        if asked.body["input"].to_string().contains("poison") {
            return Reply::new(400, json!({"error": {"message": "no such text"}}));
        }
        lengths(asked)
    })
    .await;
    let model = open(json!({"openai": {"url": server.url, "model": "m"}})).await;
    let given = texts(&[
        "a",
        "bb",
        "poison",
        "dddd",
        "eeeee",
        "poison too",
        "ggggggg",
    ]);
    let results = model
        .embed(given.clone(), &Call::default())
        .await
        .expect("embedded");
    for (text, result) in given.iter().zip(&results) {
        match result {
            Ok(vector) => assert_eq!(*vector, [text.len() as f32, 1.0]),
            Err(reason) => {
                assert!(text.starts_with("poison"), "{text}: {reason}");
                assert!(reason.ends_with("no such text"), "{reason}");
            }
        }
    }
    assert_eq!(results.iter().filter(|result| result.is_err()).count(), 2);
    assert_eq!(model.dimension(), Some(2), "known after the first answer");
}

#[tokio::test]
async fn what_fails_for_every_text_is_asked_once() {
    let rows = [
        (401, json!({"error": {"message": "who?"}}), ErrorKind::Auth),
        (
            404,
            json!({"error": {"message": "no model"}}),
            ErrorKind::Misconfigured,
        ),
        (
            400,
            json!({"error": {"message": "not m", "param": "model"}}),
            ErrorKind::Misconfigured,
        ),
        (429, json!({"error": "slow down"}), ErrorKind::RateLimited),
        (503, json!({"detail": "loading"}), ErrorKind::Unavailable),
    ];
    for (status, body, kind) in rows {
        let server = Server::start(move |_, _| Reply::new(status, &body)).await;
        let model = open(json!({"openai": {"url": server.url, "model": "m"}})).await;
        let error = model
            .embed(texts(&["a", "b"]), &Call::default())
            .await
            .expect_err("refused");
        assert_eq!(error.kind, kind, "{status}: {error}");
        assert_eq!(server.asked().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn answers_that_do_not_fit_are_refused() {
    let base64 = |numbers: &[f32]| {
        let bytes: Vec<u8> = numbers
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect();
        STANDARD.encode(bytes)
    };
    let rows = [
        (
            json!({"data": [{"embedding": [1.0, 2.0]}]}),
            Ok(vec![1.0, 2.0]),
        ),
        (
            json!({"data": [{"embedding": base64(&[1.5, 2.0])}]}),
            Ok(vec![1.5, 2.0]),
        ),
        (
            json!({"data": [{"embedding": [1.0]}]}),
            Err("vector of 1 numbers where 2 were"),
        ),
        (json!({"data": [{"embedding": []}]}), Err("an empty vector")),
        (
            json!({"data": [{"embedding": base64(&[f32::NAN, 1.0])}]}),
            Err("not finite"),
        ),
        (
            json!({"data": [{"embedding": "AAAAAAA="}]}),
            Err("a vector of 5 bytes"),
        ),
        (json!({"data": []}), Err("0 vectors for 1 texts")),
        (json!({"hello": "world"}), Err("not OpenAI's API")),
    ];
    for (body, expected) in rows {
        let reply = body.clone();
        let server = Server::start(move |_, _| Reply::ok(reply.clone())).await;
        let model =
            open(json!({"openai": {"url": server.url, "model": "m", "dimensions": 2}})).await;
        let found = embed::embed_one(model.as_ref(), "text", None).await;
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{body}"),
            (Err(error), Err(expected)) => {
                assert!(error.message.contains(expected), "{body}: {error}");
            }
            (found, _) => panic!("{body}: {found:?}"),
        }
    }
}

#[tokio::test]
async fn the_fake_model_is_deterministic_and_puts_shared_words_near() {
    let model = open(json!("fake:64")).await;
    let given = [
        "The tide fills the mill pond.",
        "the TIDE fills the mill pond",
        "The tide leaves the pond.",
        "Quarterly revenue rose again.",
        "…!",
    ];
    let vectors: Vec<Vec<f32>> = model
        .embed(texts(&given), &Call::default())
        .await
        .expect("embedded")
        .into_iter()
        .map(|result| result.expect("a vector"))
        .collect();
    let cosine = |a: usize, b: usize| -> f32 {
        vectors[a].iter().zip(&vectors[b]).map(|(a, b)| a * b).sum()
    };
    assert_eq!(vectors[0], vectors[1], "case and punctuation do not matter");
    assert!(
        cosine(0, 2) > cosine(0, 3),
        "{} > {}",
        cosine(0, 2),
        cosine(0, 3)
    );
    for (index, vector) in vectors.iter().enumerate() {
        assert_eq!(vector.len(), 64);
        assert!((cosine(index, index) - 1.0).abs() < 1e-5);
    }
    assert_eq!(open(json!("fake")).await.dimension(), Some(384));
    for name in ["fake:0", "fake:x", "fake:99999"] {
        let spec = Spec::Name(name.to_owned());
        let error = embed::open(&spec, Path::new("/nowhere"))
            .await
            .err()
            .expect(name);
        assert!(
            error.message.contains("a number from 1 to 16384"),
            "{error}"
        );
    }
}

#[test]
fn a_model_is_written_as_a_name_or_as_openai() {
    let name: Spec = serde_json::from_value(json!("mini")).expect("a name");
    assert_eq!(name, Spec::Name("mini".to_owned()));
    let written = json!({"openai": {"url": "http://h/v1", "model": "m"}});
    let model: Spec = serde_json::from_value(written.clone()).expect("a model");
    let expected = OpenAiModel {
        url: "http://h/v1".to_owned(),
        model: "m".to_owned(),
        api_key_env: None,
        dimensions: None,
    };
    assert_eq!(model, Spec::OpenAi(expected));
    assert_eq!(serde_json::to_value(&model).expect("JSON"), written);
    for (wrong, expected) in [
        (
            json!({"opnai": {}}),
            "unknown field `opnai`, expected `openai` or `v2`",
        ),
        (
            json!({"openai": {"url": "u", "model": "m", "key": "k"}}),
            "unknown field `key`",
        ),
        (json!({"openai": {"url": "u"}}), "missing field `model`"),
        (
            json!({}),
            "the name of a model, {openai: {url, model}} or {v2: {url, model}}",
        ),
        (
            json!(3),
            "the name of a model, {openai: {url, model}} or {v2: {url, model}}",
        ),
    ] {
        let error = serde_json::from_value::<Spec>(wrong)
            .expect_err("wrong")
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
}
