//! The same request through every connector gives the same events.

mod support;

use std::sync::Arc;

use futures::StreamExt;
use serde_json::{Value, json};
use support::{Asked, Reply, Server};
use tidemill_connect::embed::Fake as FakeModel;
use tidemill_connect::inference::oip::{Oip, Protocol};
use tidemill_connect::inference::{
    ChatRequest, CompletionRequest, Connector, Delta, EmbeddingRequest, Endpoint, ErrorKind, Event,
    Fake, Finish, InProcess, Message, OpenAi, Request, Role, Usage,
};

const PROMPT: &str = "The tide fills the pond.\nWhat fills the pond?";
const ANSWER: &str = "The tide fills the pond.";

async fn events(connector: &dyn Connector, request: &Request) -> Vec<Event> {
    connector.start(request.clone()).collect().await
}

/// Text in one piece, whatever the pieces were; usage without its numbers, which not all servers
/// count; and the model as it was asked for.
fn normalised(events: Vec<Event>) -> Vec<Event> {
    let mut all: Vec<Event> = Vec::new();
    for event in events {
        match (all.last_mut(), event) {
            (Some(Event::Delta(Delta::Text(whole))), Event::Delta(Delta::Text(more))) => {
                whole.push_str(&more);
            }
            (_, Event::Usage(_)) => all.push(Event::Usage(Usage::default())),
            (_, Event::Started { .. }) => all.push(Event::Started {
                model: "m".to_owned(),
            }),
            (_, event) => all.push(event),
        }
    }
    all
}

/// A server of OpenAI's API that streams if it may, and answers whole otherwise.
fn openai(streams: bool) -> impl Fn(usize, &Asked) -> Reply {
    move |_, asked| {
        let usage = json!({"prompt_tokens": 9, "completion_tokens": 5});
        if asked.path == "/v1/embeddings" {
            let texts = asked.body["input"].as_array().expect("texts").iter();
            let texts: Vec<String> = texts
                .map(|one| one.as_str().expect("text").into())
                .collect();
            let data = vectors(&texts).into_iter().enumerate();
            let data = data.map(|(index, one)| json!({"index": index, "embedding": one}));
            return Reply::ok(json!({"data": data.collect::<Vec<_>>(), "usage": usage}));
        }
        let is_chat = asked.path == "/v1/chat/completions";
        if !streams || asked.body.get("stream").is_none() {
            let choice = match is_chat {
                true => json!({"message": {"content": ANSWER}, "finish_reason": "stop"}),
                false => json!({"text": ANSWER, "finish_reason": "stop"}),
            };
            return Reply::ok(json!({"model": "m", "choices": [choice], "usage": usage}));
        }
        assert_eq!(asked.body["stream_options"], json!({"include_usage": true}));
        let mut body = ": welcome\n\n".to_owned();
        let mut say = |value: Value| body.push_str(&format!("data: {value}\n\n"));
        if is_chat {
            say(json!({"model": "m", "choices": [{"delta": {"role": "assistant"}}]}));
        }
        for piece in ANSWER.split_inclusive(' ') {
            say(match is_chat {
                true => json!({"model": "m", "choices": [{"delta": {"content": piece}}]}),
                false => json!({"model": "m", "choices": [{"text": piece}]}),
            });
        }
        say(json!({"model": "m", "choices": [{"delta": {}, "finish_reason": "stop"}]}));
        say(json!({"model": "m", "choices": [], "usage": usage}));
        body.push_str("data: [DONE]\n\n");
        let mut reply = Reply::new(200, body);
        let kind = "text/event-stream; charset=utf-8".to_owned();
        reply.headers.push(("content-type", kind));
        reply
    }
}

/// A server of the Open Inference Protocol with one model that completes or embeds.
fn oip(_: usize, asked: &Asked) -> Reply {
    let is_vectors = asked.path.contains("/models/fake:8");
    if !asked.path.ends_with("/infer") {
        let output = match is_vectors {
            true => json!({"name": "v", "datatype": "FP32", "shape": [-1, 8]}),
            false => json!({"name": "text_output", "datatype": "BYTES", "shape": [-1, 1]}),
        };
        return Reply::ok(json!({
            "name": "m",
            "platform": "test",
            "inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [-1, 1]}],
            "outputs": [output],
        }));
    }
    let input = &asked.body["inputs"][0];
    assert_eq!(
        (&input["name"], &input["datatype"]),
        (&json!("text_input"), &json!("BYTES"))
    );
    let texts = input["data"].as_array().expect("data").iter();
    let texts: Vec<String> = texts
        .map(|one| one.as_str().expect("text").into())
        .collect();
    assert_eq!(input["shape"], json!([texts.len(), 1]));
    let output = match is_vectors {
        true => json!({"name": "v", "datatype": "FP32", "shape": [texts.len(), 8],
                       "data": vectors(&texts)}),
        false => json!({"name": "text_output", "datatype": "BYTES", "shape": [1, 1],
                        "data": [ANSWER]}),
    };
    Reply::ok(json!({"model_name": "m", "outputs": [output]}))
}

fn vectors(texts: &[String]) -> Vec<Vec<f32>> {
    texts
        .iter()
        .map(|text| FakeModel::new(8).vector(text).expect("a vector"))
        .collect()
}

/// Of the scripted server's `/v1`, the server itself.
fn root(server: &Server) -> String {
    server.url.trim_end_matches("/v1").to_owned()
}

#[tokio::test]
async fn texts_come_in_the_same_events_from_every_connector() {
    let streaming = Server::start(openai(true)).await;
    let whole = Server::start(openai(false)).await;
    let v2 = Server::start(oip).await;
    let connectors: [(&str, Box<dyn Connector>); 4] = [
        ("in process", Box::new(Fake)),
        (
            "streaming",
            Box::new(OpenAi::new(Endpoint::new(&streaming.url)).expect("a url")),
        ),
        (
            "whole",
            Box::new(OpenAi::new(Endpoint::new(&whole.url)).expect("a url")),
        ),
        (
            "v2",
            Box::new(Oip::new(Endpoint::new(root(&v2)), Protocol::Http).expect("a url")),
        ),
    ];
    let complete = Request::Complete(CompletionRequest {
        model: "m".to_owned(),
        prompt: PROMPT.to_owned(),
        stream: true,
        ..CompletionRequest::default()
    });
    let chat = Request::Chat(ChatRequest {
        model: "m".to_owned(),
        messages: vec![Message::new(Role::User, PROMPT)],
        stream: true,
        ..ChatRequest::default()
    });
    let expected = [
        Event::Started {
            model: "m".to_owned(),
        },
        Event::Delta(Delta::Text(ANSWER.to_owned())),
        Event::Usage(Usage::default()),
        Event::Finished(Finish::Stop),
    ];
    for (name, connector) in &connectors {
        for request in [&complete, &chat] {
            let found = events(connector.as_ref(), request).await;
            if (*name, request) == ("v2", &chat) {
                assert!(
                    matches!(&found[..], [Event::Failed(e)] if e.kind == ErrorKind::Misconfigured)
                );
                continue;
            }
            let pieces = found
                .iter()
                .filter(|event| matches!(event, Event::Delta(_)))
                .count();
            assert_eq!(
                pieces > 1,
                ["in process", "streaming"].contains(name),
                "{name}"
            );
            if *name == "streaming" {
                let usage = Usage {
                    input_tokens: 9,
                    output_tokens: 5,
                };
                assert!(found.contains(&Event::Usage(usage)), "{found:?}");
            }
            assert_eq!(normalised(found), expected, "{name}");
        }
    }
}

#[tokio::test]
async fn vectors_come_in_the_same_events_from_every_connector() {
    let openai = Server::start(openai(true)).await;
    let v2 = Server::start(oip).await;
    let connectors: [(&str, Box<dyn Connector>); 4] = [
        (
            "in process",
            Box::new(InProcess(Arc::new(FakeModel::new(8)))),
        ),
        ("fake", Box::new(Fake)),
        (
            "openai",
            Box::new(OpenAi::new(Endpoint::new(&openai.url)).expect("a url")),
        ),
        (
            "v2",
            Box::new(Oip::new(Endpoint::new(root(&v2)), Protocol::Http).expect("a url")),
        ),
    ];
    let request = Request::Embed(EmbeddingRequest {
        model: "fake:8".to_owned(),
        texts: vec!["tide".to_owned(), "mill pond".to_owned()],
        idempotency_key: Some("key-1".to_owned()),
        ..EmbeddingRequest::default()
    });
    let mut seen = Vec::new();
    for (name, connector) in &connectors {
        let found = normalised(events(connector.as_ref(), &request).await);
        assert_eq!(found.len(), 4, "{name}: {found:?}");
        seen.push(found);
    }
    assert!(seen.windows(2).all(|two| two[0] == two[1]), "{seen:?}");
    for server in [&openai, &v2] {
        let asked = server.asked();
        let last = asked.last().expect("asked");
        assert_eq!(last.header("idempotency-key"), Some("key-1"));
    }
    assert_eq!(v2.asked()[1].body["id"], "key-1");
}

#[tokio::test]
async fn a_stream_that_breaks_off_fails_and_servers_without_streams_are_asked_again() {
    let piece = r#"data: {"choices": [{"delta": {"content": "The "}}]}"#;
    let rows = [
        (
            format!("{piece}\n\n"),
            ErrorKind::Unavailable,
            "broke off in the middle",
        ),
        (
            format!("{piece}\n\ndata: {{\"error\": {{\"message\": \"CUDA out of memory\"}}}}\n\n"),
            ErrorKind::OutOfMemory,
            "broke off: CUDA",
        ),
        (
            format!("{piece}\n\ndata: nonsense\n\n"),
            ErrorKind::Failed,
            "not OpenAI's API",
        ),
    ];
    let request = Request::Chat(ChatRequest {
        model: "m".to_owned(),
        messages: vec![Message::new(Role::User, PROMPT)],
        stream: true,
        ..ChatRequest::default()
    });
    for (body, kind, expected) in rows {
        let server = Server::start(move |_, _| {
            let mut reply = Reply::new(200, &body);
            reply
                .headers
                .push(("content-type", "text/event-stream".to_owned()));
            reply
        })
        .await;
        let connector = OpenAi::new(Endpoint::new(&server.url)).expect("a url");
        let found = events(&connector, &request).await;
        assert_eq!(found.len(), 3, "started, a delta, failed: {found:?}");
        let Some(Event::Failed(error)) = found.last() else {
            panic!("{found:?}");
        };
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.message.contains(expected), "{error}");
    }
    for field in ["stream_options", "stream"] {
        let answer = openai(true);
        let server = Server::start(move |n, asked| {
            let message = format!("unknown field {field}");
            let mut plain = asked.clone();
            match asked.body.get(field) {
                Some(_) => Reply::new(400, json!({"error": {"message": message}})),
                None if field == "stream" => answer(n, asked),
                None => {
                    plain.body["stream_options"] = json!({"include_usage": true});
                    answer(n, &plain)
                }
            }
        })
        .await;
        let connector = OpenAi::new(Endpoint::new(&server.url)).expect("a url");
        let found = normalised(events(&connector, &request).await);
        assert_eq!(found.len(), 4, "{field}: {found:?}");
    }
}
