//! What a response that is not a success means.

use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use reqwest::header::{DATE, HeaderMap};
use serde_json::Value;

use super::api::{Api, content_type};
use super::{Endpoint, Error, ErrorKind, classify};

/// Characters of a server's message that are shown.
const SHOWN_CHARS: usize = 500;

/// Longer waits are not believed: the engine's own back-off is better then.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Request fields that are the same for every input: a refusal of one of them hits all requests.
const FIELDS_OF_ALL: [&str; 3] = ["model", "dimensions", "encoding_format"];

/// Classifies a response. Servers differ in the body; what is read of it: OpenAI's
/// `{"error": {"message", "param", "code"}}`, the flat form of vLLM, `{"error": "text"}` of
/// Ollama and text-embeddings-inference, `{"detail": …}` of FastAPI, and plain text.
pub(super) fn from_response(
    api: &Api,
    model: &str,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
) -> Error {
    let endpoint = &api.endpoint;
    let details = if classify::is_html(content_type(headers), body) {
        Details::of_page()
    } else {
        Details::read(body)
    };
    let said = format!("{endpoint} answered {status}: {}", details.message);
    let code = details.code.as_str();
    let (kind, message) = match status.as_u16() {
        401 | 403 => (
            ErrorKind::Auth,
            match &endpoint.api_key_env {
                Some(name) => {
                    format!("{said}; check the API key in the environment variable {name}")
                }
                None => format!(
                    "{said}; set api_key_env to the name of the environment variable that holds \
                     the API key"
                ),
            },
        ),
        404 | 405 | 410 => (
            ErrorKind::Misconfigured,
            format!("{said}; {}, and the model {model:?}", api.hint),
        ),
        429 if code == "insufficient_quota" => (
            ErrorKind::Misconfigured,
            format!("{said}; the account has no quota left"),
        ),
        429 => (ErrorKind::RateLimited, said),
        // 409: the same idempotency key is being worked on at this moment.
        408 | 409 | 425 => (ErrorKind::Unavailable, said),
        413 => (details.cause().unwrap_or(ErrorKind::BatchTooLarge), said),
        400..=499 => {
            let of_all = details
                .param
                .as_deref()
                .is_some_and(|param| FIELDS_OF_ALL.contains(&param))
                || matches!(code, "model_not_found" | "invalid_api_key");
            let kind = if of_all {
                ErrorKind::Misconfigured
            } else {
                details.cause().unwrap_or(ErrorKind::Invalid)
            };
            (kind, said)
        }
        500..=599 => (details.cause().unwrap_or(ErrorKind::Unavailable), said),
        _ => (ErrorKind::Failed, said),
    };
    Error {
        kind,
        message,
        retry_after: retry_after(headers),
        param: details.param,
    }
}

/// Classifies an error that a server told where the answer should have been, after it had said 200.
pub(super) fn from_body(api: &Api, body: &[u8]) -> Error {
    let details = Details::read(body);
    let kind = details.cause().unwrap_or(match details.code.as_str() {
        "rate_limit_exceeded" | "429" => ErrorKind::RateLimited,
        _ => ErrorKind::Unavailable,
    });
    Error {
        param: details.param,
        ..Error::new(
            kind,
            format!("{} broke off: {}", api.endpoint, details.message),
        )
    }
}

/// Classifies a request that got no response.
pub(super) fn from_transport(endpoint: &Endpoint, error: reqwest::Error) -> Error {
    let cause = if error.is_timeout() && !error.is_connect() {
        format!("no answer in {} s", endpoint.timeout.as_secs_f64())
    } else {
        innermost(&error)
    };
    Error::new(
        ErrorKind::Unavailable,
        format!("{endpoint} is not reachable: {cause}"),
    )
}

/// The last cause: "connection refused" says more than "error sending request".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// `Retry-After` in seconds or as a date, or OpenAI's `retry-after-ms`.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let number = |name: &str| {
        let number = text(name)?.parse::<f64>().ok();
        number.filter(|number| number.is_finite() && *number >= 0.0)
    };
    let date = || {
        let until = httpdate::parse_http_date(text("retry-after")?).ok()?;
        // By the server's own clock if it told, since the two may differ.
        let now = text(DATE.as_str()).and_then(|date| httpdate::parse_http_date(date).ok());
        let wait = until.duration_since(now.unwrap_or_else(SystemTime::now));
        Some(wait.unwrap_or_default().as_secs_f64())
    };
    let seconds = number("retry-after-ms")
        .map(|ms| ms / 1000.0)
        .or_else(|| number("retry-after"))
        .or_else(date)?;
    Some(Duration::from_secs_f64(
        seconds.min(RETRY_AFTER_MAX.as_secs_f64()),
    ))
}

struct Details {
    message: String,
    param: Option<String>,
    code: String,
}

impl Details {
    /// Of a proxy or another server: its text is for people who look at it in a browser.
    fn of_page() -> Self {
        Self {
            message: "a page of HTML".to_owned(),
            param: None,
            code: String::new(),
        }
    }

    /// What the words tell of the cause.
    fn cause(&self) -> Option<ErrorKind> {
        classify::kind(&format!("{} {}", self.code, self.message))
    }

    fn read(body: &[u8]) -> Self {
        let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let error = match value.get("error") {
            Some(error @ Value::Object(_)) => error,
            _ => &value,
        };
        let text = |name: &str| Some(error.get(name)?.as_str()?.to_owned());
        let message = text("message")
            .or_else(|| text("error"))
            .or_else(|| text("detail"))
            .unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
        let message = match message.char_indices().nth(SHOWN_CHARS) {
            Some((end, _)) => format!("{}…", &message[..end]),
            None if message.is_empty() => "(no message)".to_owned(),
            None => message,
        };
        Self {
            message,
            param: text("param"),
            code: match error.get("code") {
                Some(Value::String(code)) => code.clone(),
                Some(Value::Number(code)) => code.to_string(),
                _ => String::new(),
            },
        }
    }
}
