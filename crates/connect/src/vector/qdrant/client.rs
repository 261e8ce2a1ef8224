//! Requests to Qdrant, and its refusals as our errors.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::super::Error;

/// For one request. An upsert of a batch waits for Qdrant's write-ahead log, nothing longer.
const TIMEOUT: Duration = Duration::from_secs(60);

pub(super) struct Client {
    http: reqwest::Client,
    /// Of the collection.
    url: String,
    name: String,
    key: Option<String>,
}

impl Client {
    pub(super) fn new(url: &str, collection: &str, key: Option<String>) -> Result<Self, Error> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if collection.is_empty() || !collection.chars().all(plain) {
            return Err(Error::Invalid(format!(
                "index: qdrant: `{collection}` is no name of a collection: use letters, digits, `-`, `_` and `.`"
            )));
        }
        let url = url.trim_end_matches('/');
        let name = format!("{collection} at {url}");
        let url = format!("{url}/collections/{collection}");
        match reqwest::Url::parse(&url) {
            Ok(parsed) if matches!(parsed.scheme(), "http" | "https") => {}
            _ => {
                return Err(Error::Invalid(format!(
                    "index: qdrant: url: `{url}` should be like http://localhost:6333"
                )));
            }
        }
        Ok(Self {
            http: crate::http::client(),
            url,
            name,
            key,
        })
    }

    /// For messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// `None` if the collection is not there.
    pub(super) async fn post(&self, path: &str, body: Value) -> Result<Option<Value>, Error> {
        let url = format!("{}/{path}", self.url);
        self.send(Method::POST, &url, body).await
    }

    pub(super) async fn put(&self, path: &str, body: Value) -> Result<(), Error> {
        let url = format!("{}/{path}", self.url);
        match self.send(Method::PUT, &url, body).await? {
            Some(_) => Ok(()),
            None => Err(self.unavailable("its collection was removed meanwhile")),
        }
    }

    /// Makes the collection, unless it is there.
    pub(super) async fn make(&self, body: Value) -> Result<(), Error> {
        let (status, answer) = self.ask(Method::PUT, &self.url, body).await?;
        // Older versions say 400 where newer ones say 409.
        if status == StatusCode::CONFLICT || error_in(&answer).contains("already exists") {
            return Ok(());
        }
        self.result(status, answer).map(|_| ())
    }

    async fn send(&self, method: Method, url: &str, body: Value) -> Result<Option<Value>, Error> {
        let (status, answer) = self.ask(method, url, body).await?;
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        self.result(status, answer).map(Some)
    }

    async fn ask(
        &self,
        method: Method,
        url: &str,
        body: Value,
    ) -> Result<(StatusCode, String), Error> {
        let mut request = self.http.request(method, url).timeout(TIMEOUT).json(&body);
        if let Some(key) = &self.key {
            request = request.header("api-key", key);
        }
        let failed = |e: reqwest::Error| self.unavailable(&chain(&e));
        let response = request.send().await.map_err(failed)?;
        let status = response.status();
        Ok((status, response.text().await.map_err(failed)?))
    }

    fn result(&self, status: StatusCode, answer: String) -> Result<Value, Error> {
        if status.is_success() {
            let mut answer: Value = serde_json::from_str(&answer).map_err(|e| self.strange(&e))?;
            return Ok(answer["result"].take());
        }
        let what = format!("Qdrant answered {status}: {}", error_in(&answer));
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Error::Invalid(format!(
                "the vector index {}: {what}. Check the variable that api_key_env names",
                self.name
            ))),
            // A timeout or too many requests is no fault of what was asked.
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Err(self.unavailable(&what))
            }
            _ if status.is_client_error() => Err(Error::Invalid(format!(
                "the vector index {}: {what}",
                self.name
            ))),
            _ => Err(self.unavailable(&what)),
        }
    }

    /// An answer that is none of Qdrant's.
    pub(super) fn strange(&self, error: &serde_json::Error) -> Error {
        self.unavailable(&format!("its answer is not understood: {error}"))
    }

    fn unavailable(&self, cause: &str) -> Error {
        Error::Unavailable {
            index: self.name.clone(),
            cause: cause.to_owned(),
        }
    }
}

/// What an answer says went wrong.
fn error_in(answer: &str) -> String {
    let parsed: Option<Value> = serde_json::from_str(answer).ok();
    let said = parsed.as_ref().and_then(|a| a["status"]["error"].as_str());
    said.unwrap_or(answer).chars().take(300).collect()
}

/// An error with its causes: reqwest's own text leaves out what is wrong.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
