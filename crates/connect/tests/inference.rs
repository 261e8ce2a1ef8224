//! Chat completions: against a server that the test scripts, and the fake one.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{Reply, Server};
use tidemill_connect::inference::{
    self, Answer, ChatRequest, Endpoint, Error, ErrorKind, FAKE_URL, Finish, Message, Role, Usage,
};

fn request(prompt: &str) -> ChatRequest {
    ChatRequest {
        model: "m".to_owned(),
        messages: vec![
            Message::new(Role::System, "Be brief."),
            Message::new(Role::User, prompt),
        ],
        ..ChatRequest::default()
    }
}

fn answer(text: &str) -> Value {
    json!({
        "model": "m-2024",
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
    })
}

async fn ask(endpoint: Endpoint, request: &ChatRequest) -> Result<Answer, Error> {
    inference::openai(endpoint)?.chat(request).await
}

#[tokio::test]
async fn a_request_carries_what_was_asked_and_an_answer_what_was_used() {
    let server = Server::start(|_, _| Reply::ok(answer("four"))).await;
    let schema = json!({"type": "string"});
    let request = ChatRequest {
        temperature: Some(0.5),
        max_tokens: Some(9),
        schema: Some(schema.clone()),
        idempotency_key: Some("key-1".to_owned()),
        ..request("2 + 2?")
    };
    let endpoint = Endpoint {
        api_key_env: Some("CARGO_PKG_NAME".to_owned()),
        // A slash at the end is as good as none.
        ..Endpoint::new(format!("{}/", server.url))
    };
    let found = ask(endpoint, &request).await.expect("an answer");
    let expected = Answer {
        text: "four".to_owned(),
        model: "m-2024".to_owned(),
        usage: Usage {
            input_tokens: 7,
            output_tokens: 2,
        },
        finish: Finish::Stop,
    };
    assert_eq!(found, expected);
    let asked = &server.asked()[0];
    assert_eq!(asked.path, "/v1/chat/completions");
    assert_eq!(asked.header("idempotency-key"), Some("key-1"));
    assert_eq!(
        asked.header("authorization"),
        Some("Bearer tidemill-connect")
    );
    let body = json!({
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "2 + 2?"},
        ],
        "temperature": 0.5,
        "max_tokens": 9,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": false},
        },
    });
    assert_eq!(asked.body, body);
}

#[tokio::test]
async fn servers_that_know_other_fields_are_asked_in_their_way() {
    let server = Server::start(|_, asked| {
        let refuse = |message: &str| Reply::new(400, json!({"error": {"message": message}}));
        if asked.body.get("response_format").is_some() {
            return refuse("response_format is not supported");
        }
        if asked.body.get("max_tokens").is_some() {
            return refuse("use 'max_completion_tokens' instead");
        }
        Reply::ok(answer("yes"))
    })
    .await;
    let request = ChatRequest {
        max_tokens: Some(5),
        schema: Some(json!({})),
        ..request("?")
    };
    let found = ask(Endpoint::new(&server.url), &request)
        .await
        .expect("an answer");
    assert_eq!(found.text, "yes");
    let asked = server.asked();
    assert_eq!(asked.len(), 3);
    assert_eq!(asked[2].body["max_completion_tokens"], 5);
}

#[tokio::test]
async fn errors_say_whether_to_try_again() {
    use ErrorKind::{
        Auth, BatchTooLarge, Failed, Invalid, Misconfigured, OutOfMemory, RateLimited, TooLong,
        Unavailable,
    };
    let openai = |message: &str| json!({"error": {"message": message}}).to_string();
    let rows = [
        (400, openai("wrong role"), Invalid, "wrong role"),
        (400, openai("context too long"), TooLong, "context too long"),
        (
            400,
            json!({"error": {"message": "no", "code": "context_length_exceeded"}}).to_string(),
            TooLong,
            "no",
        ),
        (413, String::new(), BatchTooLarge, "413"),
        (
            500,
            json!({"error": "CUDA out of memory. Tried to allocate 2 GiB"}).to_string(),
            OutOfMemory,
            "Tried to allocate",
        ),
        (
            502,
            "<html>Bad gateway".to_owned(),
            Unavailable,
            "a page of HTML",
        ),
        (
            200,
            json!({"error": {"message": "slow", "code": 429}}).to_string(),
            RateLimited,
            "slow",
        ),
        (
            422,
            json!({"error": "bad", "error_type": "Validation"}).to_string(),
            Invalid,
            "422 Unprocessable Entity: bad",
        ),
        (
            400,
            json!({"object": "error", "message": "flat"}).to_string(),
            Invalid,
            ": flat",
        ),
        (
            401,
            openai("no key"),
            Auth,
            "environment variable CARGO_PKG_NAME",
        ),
        (
            403,
            openai("no"),
            Auth,
            "environment variable CARGO_PKG_NAME",
        ),
        (
            404,
            "not found".to_owned(),
            Misconfigured,
            "ends in its version like /v1, and the model \"m\"",
        ),
        (
            400,
            json!({"error": {"message": "no", "code": "model_not_found"}}).to_string(),
            Misconfigured,
            "no",
        ),
        (429, openai("slow"), RateLimited, "slow"),
        (
            429,
            json!({"error": {"message": "pay", "code": "insufficient_quota"}}).to_string(),
            Misconfigured,
            "no quota",
        ),
        (409, openai("same key"), Unavailable, "same key"),
        (500, String::new(), Unavailable, "(no message)"),
        (
            503,
            json!({"detail": "loading"}).to_string(),
            Unavailable,
            "loading",
        ),
        (200, "[]".to_owned(), Failed, "not OpenAI's API"),
        (
            200,
            "<!DOCTYPE html>".to_owned(),
            Misconfigured,
            "answered HTML, not JSON: is this the address of OpenAI's API? check the url",
        ),
        (
            200,
            json!({"choices": []}).to_string(),
            Failed,
            "no choices",
        ),
        (302, String::new(), Failed, "302"),
    ];
    for (status, body, kind, expected) in rows {
        let reply = body.clone();
        let server = Server::start(move |_, _| Reply::new(status, &reply)).await;
        let endpoint = Endpoint {
            api_key_env: Some("CARGO_PKG_NAME".to_owned()),
            ..Endpoint::new(&server.url)
        };
        let error = ask(endpoint, &request("?")).await.expect_err("an error");
        assert_eq!(error.kind, kind, "{status} {body}: {error}");
        assert!(error.message.contains(expected), "{status} {body}: {error}");
        assert!(
            error.message.contains(&server.url),
            "{status} {body}: {error}"
        );
    }
}

#[tokio::test]
async fn a_rate_limit_says_how_long() {
    let rows = [
        (Some(("retry-after", "7")), Some(Duration::from_secs(7))),
        (
            Some(("retry-after-ms", "250")),
            Some(Duration::from_millis(250)),
        ),
        (
            Some(("retry-after", "999999999")),
            Some(Duration::from_secs(3600)),
        ),
        (Some(("retry-after", "-1")), None),
        (Some(("retry-after", "soon")), None),
        (
            Some(("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")),
            Some(Duration::ZERO),
        ),
        (None, None),
    ];
    for (header, expected) in rows {
        let server = Server::start(move |_, _| {
            let mut reply = Reply::new(429, "{}");
            reply
                .headers
                .extend(header.map(|(name, value)| (name, value.to_owned())));
            reply
        })
        .await;
        let error = ask(Endpoint::new(&server.url), &request("?"))
            .await
            .expect_err("limited");
        assert_eq!(error.kind, ErrorKind::RateLimited);
        assert_eq!(error.retry_after, expected, "{header:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_asked_says_why() {
    // Bound and closed again: nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port")
        .port();
    let key = |name: &str| Endpoint {
        api_key_env: Some(name.to_owned()),
        ..Endpoint::new("http://127.0.0.1:1/v1")
    };
    let rows = [
        (
            Endpoint::new(format!("http://user:secret@127.0.0.1:{port}/v1")),
            ErrorKind::Unavailable,
            "Connection refused",
        ),
        (
            key("TIDEMILL_TEST_NOT_SET"),
            ErrorKind::Misconfigured,
            "environment variable TIDEMILL_TEST_NOT_SET (api_key_env) is not set",
        ),
        (
            Endpoint::new("localhost:80"),
            ErrorKind::Misconfigured,
            "http:// or https://",
        ),
        (
            Endpoint::new("nonsense"),
            ErrorKind::Misconfigured,
            "is not an address",
        ),
    ];
    for (endpoint, kind, expected) in rows {
        let error = ask(endpoint, &request("?")).await.expect_err("an error");
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.message.contains(expected), "{error}");
        assert!(!error.message.contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn the_fake_server_quotes_or_makes_the_smallest_value() {
    let prompt = "Context:\nTide mills grind at low tide.\nWindmills need wind.\n\n\
                  Question: what do windmills need?";
    let rows = [
        (None, "Windmills need wind.".to_owned()),
        (
            Some(json!({"type": "string", "maxLength": 9})),
            json!("Windmills").to_string(),
        ),
        (
            Some(json!({
                "$defs": {"kind": {"enum": ["tide", "windmills"]}},
                "type": "object",
                "properties": {
                    "kind": {"$ref": "#/$defs/kind"},
                    "score": {"type": "number", "minimum": 0.5},
                    "tags": {"type": "array", "items": {"const": 1}, "minItems": 2},
                    "sure": {"type": ["boolean", "null"]},
                },
            })),
            json!({"kind": "windmills", "score": 0.5, "sure": false, "tags": [1, 1]}).to_string(),
        ),
        // Contains itself: ends somewhere.
        (Some(json!({"$ref": "#"})), "null".to_owned()),
    ];
    for (schema, expected) in rows {
        let request = ChatRequest {
            schema: schema.clone(),
            ..request(prompt)
        };
        for _ in 0..2 {
            let found = ask(Endpoint::new(FAKE_URL), &request)
                .await
                .expect("an answer");
            assert_eq!(found.text, expected, "{schema:?}");
        }
    }
}
