//! Where a server is and how to be let in.

use std::fmt;
use std::time::Duration;

use reqwest::Url;

use super::Error;

/// Answers of large models take minutes.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);

/// An address that speaks OpenAI's API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Up to and including the version: `https://api.openai.com/v1`.
    pub url: String,
    /// The environment variable that holds the API key. The key itself is never in a plan.
    pub api_key_env: Option<String>,
    /// Of one request.
    pub timeout: Duration,
}

impl Endpoint {
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            api_key_env: None,
            timeout: DEFAULT_TIMEOUT,
        }
    }

    /// The address of an operation, such as `chat/completions`.
    pub(super) fn operation(&self, path: &str) -> Result<Url, Error> {
        let url =
            Url::parse(&format!("{}/{path}", self.url.trim_end_matches('/'))).map_err(|error| {
                Error::misconfigured(format!(
                    "url {:?} is not an address ({error}): write it like http://127.0.0.1:8000/v1",
                    self.url
                ))
            })?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Error::misconfigured(format!(
                "url {:?} must begin with http:// or https://",
                self.url
            )));
        }
        Ok(url)
    }

    /// The API key, read at each call so that a worker sees a key that was put in place later.
    pub(super) fn api_key(&self) -> Result<Option<String>, Error> {
        let Some(name) = &self.api_key_env else {
            return Ok(None);
        };
        match std::env::var(name) {
            Ok(key) if !key.trim().is_empty() => Ok(Some(key.trim().to_owned())),
            _ => Err(Error::misconfigured(format!(
                "the environment variable {name} (api_key_env) is not set for this worker: set it \
                 to the API key of {self} and start the worker again"
            ))),
        }
    }
}

impl fmt::Display for Endpoint {
    /// The address without credentials that someone may have put into it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Url::parse(&self.url) {
            Ok(mut url) => {
                // Fails for addresses without a host, which hold no credentials.
                let _ = url.set_password(None);
                let _ = url.set_username("");
                url.set_query(None);
                f.write_str(url.as_str())
            }
            Err(_) => f.write_str(&self.url),
        }
    }
}
