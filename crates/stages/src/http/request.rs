//! The stage `http.request`.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::{Method, StatusCode, Url};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tidemill_pipeline::stage::{Kind, StageType, Type};

use super::client;
use crate::params::{self, Secret, Span};
use crate::{Context, Error, ErrorKind, Stage};

const NAME: &str = "http.request";

/// Bytes of an unwelcome answer's body that an error shows.
const SHOWN_BYTES: usize = 500;

/// Sends a request and gives the answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct With {
    /// The address, with `http://` or `https://`.
    url: String,
    /// `GET` by default, `POST` when there is a body.
    method: Option<String>,
    /// Added to the URL's query.
    #[serde(default)]
    query: BTreeMap<String, Scalar>,
    /// Header values; `{env: NAME}` takes one from the worker's environment, for secrets.
    #[serde(default)]
    headers: BTreeMap<String, Secret>,
    /// The body as text.
    body: Option<String>,
    /// The body as JSON.
    json: Option<Value>,
    /// Statuses that are a success: numbers, or classes such as `2xx`, the default.
    #[serde(default = "success")]
    expect: Vec<Expected>,
    /// How long the answer may take, such as `30s`, the default.
    timeout: Option<Span>,
    /// Largest body of an answer, in bytes; 16 MiB by default.
    #[serde(default = "max_bytes")]
    #[schemars(range(min = 1))]
    max_bytes: usize,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a text, a number or a boolean")]
enum Scalar {
    Text(String),
    Number(serde_json::Number),
    Boolean(bool),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a status or a class such as `2xx`")]
enum Expected {
    Status(u16),
    Class(String),
}

fn success() -> Vec<Expected> {
    vec![Expected::Class("2xx".to_owned())]
}

fn max_bytes() -> usize {
    16 * 1024 * 1024
}

impl Expected {
    fn check(&self) -> Result<(), Error> {
        match self {
            Expected::Status(100..600) => Ok(()),
            Expected::Class(class) if class_digit(class).is_some() => Ok(()),
            Expected::Status(status) => Err(params::wrong(
                NAME,
                "expect",
                format!("{status} is no HTTP status"),
            )),
            Expected::Class(class) => Err(params::wrong(
                NAME,
                "expect",
                format!("`{class}` is neither a status nor a class such as `2xx`"),
            )),
        }
    }

    fn allows(&self, status: StatusCode) -> bool {
        match self {
            Expected::Status(number) => *number == status.as_u16(),
            Expected::Class(class) => class_digit(class) == Some(status.as_u16() / 100),
        }
    }
}

fn class_digit(class: &str) -> Option<u16> {
    let digit = class
        .strip_suffix("xx")
        .or_else(|| class.strip_suffix("XX"))?;
    digit.parse().ok().filter(|digit| (1..=5).contains(digit))
}

#[async_trait]
impl Stage for Request {
    fn describe(&self) -> StageType {
        StageType {
            name: NAME.to_owned(),
            summary: "Sends an HTTP request; gives the answer's status, headers and body."
                .to_owned(),
            kind: Kind::Call,
            input: Type::Any,
            output: Type::Object,
            resource: "cpu".to_owned(),
            with: params::schema::<With>(),
            pure: false,
            batched: None,
        }
    }

    async fn call(&self, _input: Value, with: Value, cx: &Context) -> Result<Value, Error> {
        let with: With = params::parse(NAME, with)?;
        let request = build(&with)?;
        tokio::select! {
            answer = send(request, &with) => answer,
            () = cx.cancelled.cancelled() => Err(Error::cancelled()),
        }
    }
}

fn build(with: &With) -> Result<reqwest::Request, Error> {
    for expected in &with.expect {
        expected.check()?;
    }
    let mut url = Url::parse(&with.url)
        .map_err(|e| params::wrong(NAME, "url", format!("`{}`: {e}", with.url)))?;
    if !matches!(url.scheme(), "http" | "https") {
        let why = format!("`{}` is neither http: nor https:", with.url);
        return Err(params::wrong(NAME, "url", why));
    }
    if !with.query.is_empty() {
        let pairs = with.query.iter().map(|(name, value)| {
            let value = match value {
                Scalar::Text(text) => text.clone(),
                Scalar::Number(number) => number.to_string(),
                Scalar::Boolean(boolean) => boolean.to_string(),
            };
            (name, value)
        });
        url.query_pairs_mut().extend_pairs(pairs);
    }
    if with.body.is_some() && with.json.is_some() {
        return Err(params::wrong(NAME, "json", "give it or `body`, not both"));
    }
    let method = match &with.method {
        Some(method) => Method::from_bytes(method.to_ascii_uppercase().as_bytes())
            .map_err(|_| params::wrong(NAME, "method", format!("`{method}` is no method")))?,
        None if with.body.is_some() || with.json.is_some() => Method::POST,
        None => Method::GET,
    };
    let mut request = client::client().request(method, url);
    for (name, value) in &with.headers {
        let field = format!("headers.{name}");
        let value = value
            .get()
            .map_err(|why| params::wrong(NAME, &field, why))?;
        let value = reqwest::header::HeaderValue::from_str(&value)
            // The value may be a secret: it is not shown.
            .map_err(|_| params::wrong(NAME, &field, "the value cannot stand in a header"))?;
        request = request.header(name, value);
    }
    if let Some(json) = &with.json {
        request = request.json(json);
    } else if let Some(body) = &with.body {
        request = request.body(body.clone());
    }
    let timeout = with.timeout.map_or(Duration::from_secs(30), |span| span.0);
    request
        .timeout(timeout)
        .build()
        .map_err(|e| Error::invalid(format!("{NAME}: {}", client::explain(&e))))
}

async fn send(request: reqwest::Request, with: &With) -> Result<Value, Error> {
    let mut place = request.url().clone();
    // Keys are often in the query: errors do not show it.
    place.set_query(None);
    let place = format!("{NAME}: {} {place}", request.method());
    let lost = |e: reqwest::Error| {
        let why = client::explain(&e.without_url());
        Error::unavailable(format!("{place}: {why}"))
    };
    let mut response = client::client().execute(request).await.map_err(lost)?;
    let status = response.status();
    let headers = response.headers().clone();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(lost)? {
        body.extend_from_slice(&chunk);
        if body.len() > with.max_bytes {
            return Err(Error::invalid(format!(
                "{place}: the answer is larger than max_bytes, {}",
                with.max_bytes
            )));
        }
    }
    if !with.expect.iter().any(|expected| expected.allows(status)) {
        let shown = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES)]);
        let message = format!("{place}: the server answered {status}: {}", shown.trim());
        let kind = match status {
            StatusCode::TOO_MANY_REQUESTS => ErrorKind::RateLimited,
            status if client::may_pass(status) => ErrorKind::Unavailable,
            _ => ErrorKind::Invalid,
        };
        return Err(Error {
            retry_after: client::retry_after(&headers),
            ..Error::new(kind, message)
        });
    }
    let mut shown = Map::new();
    for name in headers.keys() {
        let values: Vec<_> = headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        shown.insert(name.to_string(), values.join(", ").into());
    }
    let mut output = json!({"status": status.as_u16(), "headers": shown});
    let is_json = headers
        .get(reqwest::header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map(|value| {
            value
                .split(';')
                .next()
                .unwrap_or_default()
                .trim()
                .to_owned()
        })
        .is_some_and(|kind| kind == "application/json" || kind.ends_with("+json"));
    let parsed = is_json
        .then(|| serde_json::from_slice::<Value>(&body).ok())
        .flatten();
    match (parsed, String::from_utf8(body)) {
        (Some(value), _) => output["json"] = value,
        (None, Ok(text)) => output["body"] = text.into(),
        (None, Err(e)) => output["body_base64"] = BASE64_STANDARD.encode(e.into_bytes()).into(),
    }
    Ok(output)
}
