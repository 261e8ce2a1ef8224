//! `http.request` and `shell.run`.

#[expect(dead_code, reason = "other test files use the rest")]
mod support;

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use support::{answer, context, serve};
use tidemill_stages::http::Request;
use tidemill_stages::shell::Run;
use tidemill_stages::{Error, ErrorKind, Stage};

async fn request(with: Value) -> Result<Value, Error> {
    let (cx, _) = context(Path::new("unused"));
    Request.call(Value::Null, with, &cx).await
}

async fn shell(input: Value, with: Value) -> Result<Value, Error> {
    let (cx, _) = context(Path::new("unused"));
    Run.call(input, with, &cx).await
}

#[tokio::test]
async fn a_request_is_sent_as_described() {
    let url = serve(|request| {
        let body = json!({ "request": request }).to_string();
        answer(
            "201 Created",
            &["content-type: application/json"],
            body.as_bytes(),
        )
    })
    .await;
    let output = request(json!({
        "url": format!("{url}/a"),
        "query": {"q": "x y", "n": 1},
        // Set for every test by cargo.
        "headers": {"x-plain": "1", "x-env": {"env": "CARGO_PKG_NAME"}},
        "json": {"k": [1]},
    }))
    .await
    .unwrap();
    assert_eq!(output["status"], 201);
    assert_eq!(output["headers"]["content-type"], "application/json");
    let sent = output["json"]["request"].as_str().unwrap();
    assert!(sent.starts_with("POST /a?n=1&q=x+y HTTP/1.1\r\n"), "{sent}");
    assert!(sent.contains("x-plain: 1\r\n"), "{sent}");
    assert!(sent.contains("x-env: tidemill-stages\r\n"), "{sent}");
    assert!(
        sent.contains("content-type: application/json\r\n"),
        "{sent}"
    );
    assert!(sent.ends_with("{\"k\":[1]}"), "{sent}");
}

#[tokio::test]
async fn bodies_are_json_text_or_bytes() {
    let url = serve(|request| {
        let kind = ["content-type: application/json"];
        match request.split(' ').nth(1).unwrap() {
            "/json" => answer("200 OK", &kind, b"[1]"),
            "/broken" => answer("200 OK", &kind, b"[1"),
            "/text" => answer("200 OK", &[], b"[1]"),
            _ => answer("200 OK", &[], b"\xff\0"),
        }
    })
    .await;
    let cases = [
        ("json", "json", json!([1])),
        ("broken", "body", json!("[1")),
        ("text", "body", json!("[1]")),
        ("bytes", "body_base64", json!("/wA=")),
    ];
    for (path, field, expected) in cases {
        let output = request(json!({"url": format!("{url}/{path}")}))
            .await
            .unwrap();
        assert_eq!(output[field], expected, "{path}");
    }
    let with = json!({"url": format!("{url}/json"), "max_bytes": 2});
    let error = request(with).await.unwrap_err();
    assert!(
        error
            .message
            .ends_with("the answer is larger than max_bytes, 2"),
        "{error}"
    );
}

#[tokio::test]
async fn an_unwelcome_status_says_whether_to_try_again() {
    let url = serve(|request| {
        let status = request.split(['/', '?']).nth(1).unwrap();
        answer(status, &["retry-after: 7"], b"why not")
    })
    .await;
    let cases = [
        ("429", ErrorKind::RateLimited),
        ("503", ErrorKind::Unavailable),
        ("408", ErrorKind::Unavailable),
        ("404", ErrorKind::Invalid),
    ];
    for (status, kind) in cases {
        let with = json!({"url": format!("{url}/{status}?key=secret")});
        let error = request(with).await.unwrap_err();
        assert_eq!(error.kind, kind, "{status}");
        assert_eq!(error.retry_after, Some(Duration::from_secs(7)));
        assert!(error.message.contains(status) && error.message.contains("why not"));
        assert!(!error.message.contains("secret"), "{error}");
    }
    let with = json!({"url": format!("{url}/404?"), "expect": [404, "2xx"]});
    assert_eq!(request(with).await.unwrap()["status"], 404);
}

#[tokio::test]
async fn a_wrong_request_is_named() {
    let cases = [
        (json!({}), "http.request: with: missing field `url`"),
        (
            json!({"url": "x"}),
            "http.request: with.url: `x`: relative URL without a base",
        ),
        (
            json!({"url": "ftp://x"}),
            "http.request: with.url: `ftp://x` is neither",
        ),
        (
            json!({"url": "http://x", "body": "a", "json": 1}),
            "http.request: with.json: give it or `body`, not both",
        ),
        (
            json!({"url": "http://x", "expect": ["ok"]}),
            "http.request: with.expect: `ok` is neither a status",
        ),
        (
            json!({"url": "http://x", "headers": {"a": {"env": "TIDEMILL_NOT_SET"}}}),
            "http.request: with.headers.a: the environment variable TIDEMILL_NOT_SET is not set",
        ),
        (
            json!({"url": "http://x", "timeout": "soon"}),
            "http.request: with.timeout: ",
        ),
    ];
    for (with, expected) in cases {
        let error = request(with).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.message.starts_with(expected), "{error}");
    }
    let error = request(json!({"url": "http://127.0.0.1:1/?key=secret"}))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(!error.message.contains("secret"), "{error}");
}

#[tokio::test]
async fn a_command_reads_its_input_and_gives_its_output() {
    let cases = [
        (
            json!({"a": 1}),
            json!({"command": "cat; echo note >&2"}),
            json!({"code": 0, "stdout": "{\"a\":1}", "stderr": "note\n", "json": {"a": 1}}),
        ),
        (
            json!(null),
            json!({"command": ["printf", "%s", "a b"]}),
            json!({"code": 0, "stdout": "a b", "stderr": ""}),
        ),
        (
            json!("in"),
            json!({"command": "cat; echo $X $TIDEMILL_STAGE; exit 3", "stdin": "text ",
                "env": {"X": "y"}, "allow": [3]}),
            json!({"code": 3, "stdout": "text y it\n", "stderr": ""}),
        ),
    ];
    for (input, with, expected) in cases {
        assert_eq!(shell(input, with).await.unwrap(), expected);
    }
}

#[tokio::test]
async fn a_command_that_fails_says_why() {
    let cases = [
        (
            json!({"command": "echo broken pipe >&2; exit 2"}),
            ErrorKind::Failed,
            "shell.run: the command ended with exit status: 2: broken pipe",
        ),
        (
            json!({"command": ["no-such-program"]}),
            ErrorKind::Invalid,
            "shell.run: with.command: cannot start `no-such-program`: ",
        ),
        (
            json!({"command": []}),
            ErrorKind::Invalid,
            "shell.run: with.command: the list is empty",
        ),
        (
            json!({"command": "true", "cwd": "/no/such"}),
            ErrorKind::Invalid,
            "shell.run: with.cwd: there is no folder /no/such",
        ),
        (
            json!({"command": "yes", "max_bytes": 1000}),
            ErrorKind::Invalid,
            "shell.run: stdout is larger than max_bytes, 1000",
        ),
        (
            json!({"command": "sleep 60", "timeout": "10ms"}),
            ErrorKind::Failed,
            "shell.run: the command took longer than 0.01 s",
        ),
    ];
    for (with, kind, expected) in cases {
        let error = shell(Value::Null, with).await.unwrap_err();
        assert!(error.message.starts_with(expected), "{error}");
        assert_eq!(error.kind, kind);
    }
}

/// Waits until the process is gone, or has ended and only waits to be reaped.
async fn gone(pid: &str) {
    loop {
        match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) if !stat.contains(") Z ") => tokio::task::yield_now().await,
            _ => return,
        }
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_cancelled_command_takes_all_it_started_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("pid");
    // The grandchild ignores the polite signal.
    let script = format!(
        "mkfifo {0}; (trap '' TERM; exec sleep 600) & echo $! > {0}; wait",
        fifo.display()
    );
    let (cx, _) = context(folder.path());
    let cancelled = cx.cancelled.clone();
    let task =
        tokio::spawn(async move { Run.call(Value::Null, json!({"command": script}), &cx).await });
    while !fifo.exists() {
        tokio::task::yield_now().await;
    }
    let pid = tokio::fs::read_to_string(&fifo).await.unwrap();
    cancelled.cancel();
    let error = task.await.unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Cancelled);
    gone(pid.trim()).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_a_command_leaves_running_ends_with_it() {
    let with = json!({"command": "sleep 600 & echo $!"});
    let output = shell(Value::Null, with).await.unwrap();
    gone(output["stdout"].as_str().unwrap().trim()).await;
}
