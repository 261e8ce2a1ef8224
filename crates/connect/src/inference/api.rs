//! An HTTP API that is asked in JSON: what all requests to it have in common.

use futures::StreamExt;
use futures::stream::BoxStream;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::api_error::{from_response, from_transport};
use super::{Endpoint, Error, ErrorKind, classify};

/// An API at an [`Endpoint`].
#[derive(Clone, Debug)]
pub(super) struct Api {
    pub(super) endpoint: Endpoint,
    /// Whose API it is, as "OpenAI's API".
    pub(super) name: &'static str,
    /// What to look at when the address seems to be another's.
    pub(super) hint: &'static str,
    http: reqwest::Client,
}

/// A body that was answered whole.
pub(super) struct Body {
    pub(super) headers: HeaderMap,
    pub(super) bytes: bytes::Bytes,
}

/// What a request that asks for a stream was answered.
pub(super) enum Answered {
    Streamed(BoxStream<'static, Result<bytes::Bytes, Error>>),
    Whole(Body),
}

impl Api {
    pub(super) fn new(endpoint: Endpoint, name: &'static str, hint: &'static str) -> Self {
        Self {
            endpoint,
            name,
            hint,
            http: crate::http::client(),
        }
    }

    /// A request with the key of this API and of the call.
    pub(super) fn request(
        &self,
        method: Method,
        url: Url,
        idempotency_key: Option<&str>,
    ) -> Result<RequestBuilder, Error> {
        let mut request = self.http.request(method, url);
        if let Some(key) = self.endpoint.api_key()? {
            request = request.bearer_auth(key);
        }
        if let Some(key) = idempotency_key.and_then(|key| HeaderValue::from_str(key).ok()) {
            request = request.header("Idempotency-Key", key);
        }
        Ok(request)
    }

    /// Sends it and waits for the whole answer, which is a success and no page for people.
    pub(super) async fn whole(&self, request: RequestBuilder, model: &str) -> Result<Body, Error> {
        let transport = |error| from_transport(&self.endpoint, error);
        let request = request.timeout(self.endpoint.timeout);
        let response = request.send().await.map_err(transport)?;
        self.body(response, model).await
    }

    /// Whether the answer is a success: false for a server that says that it is not ready.
    pub(super) async fn says_yes(
        &self,
        request: RequestBuilder,
        model: &str,
    ) -> Result<bool, Error> {
        let request = request.timeout(self.endpoint.timeout).send().await;
        let response = request.map_err(|error| from_transport(&self.endpoint, error))?;
        let status = response.status();
        // Triton says 400, others 503.
        if status == StatusCode::BAD_REQUEST || status.is_server_error() {
            return Ok(false);
        }
        self.body(response, model).await.map(|_| true)
    }

    /// Sends it; waits for the whole answer unless that is a stream of events. The endpoint's timeout is then
    /// that of each piece.
    pub(super) async fn streamed(
        &self,
        request: RequestBuilder,
        model: &str,
    ) -> Result<Answered, Error> {
        let timeout = self.endpoint.timeout;
        let transport = |error| from_transport(&self.endpoint, error);
        let sent = tokio::time::timeout(timeout, request.send()).await;
        let response = sent.map_err(|_| self.slow())?.map_err(transport)?;
        let is_stream = content_type(response.headers()).starts_with("text/event-stream");
        if !response.status().is_success() || !is_stream {
            let body = tokio::time::timeout(timeout, self.body(response, model)).await;
            return Ok(Answered::Whole(body.map_err(|_| self.slow())??));
        }
        let api = self.clone();
        let pieces = Box::pin(response.bytes_stream());
        let pieces = futures::stream::unfold(Some((api, pieces)), move |state| async move {
            let (api, mut pieces) = state?;
            match tokio::time::timeout(timeout, pieces.next()).await {
                Ok(Some(Ok(piece))) => Some((Ok(piece), Some((api, pieces)))),
                Ok(Some(Err(error))) => Some((Err(from_transport(&api.endpoint, error)), None)),
                Ok(None) => None,
                Err(_) => Some((Err(api.slow()), None)),
            }
        });
        Ok(Answered::Streamed(pieces.boxed()))
    }

    async fn body(&self, response: Response, model: &str) -> Result<Body, Error> {
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await;
        let bytes = bytes.map_err(|error| from_transport(&self.endpoint, error))?;
        if !status.is_success() {
            return Err(from_response(self, model, status, &headers, &bytes));
        }
        if classify::is_html(content_type(&headers), &bytes) {
            return Err(Error::misconfigured(format!(
                "{} answered HTML, not JSON: is this the address of {}? {}",
                self.endpoint, self.name, self.hint
            )));
        }
        Ok(Body { headers, bytes })
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        url: Url,
        model: &str,
        body: &Value,
        idempotency_key: Option<&str>,
    ) -> Result<T, Error> {
        let request = self.request(Method::POST, url, idempotency_key)?;
        let body = self.whole(request.json(body), model).await?;
        self.read(&body.bytes)
    }

    pub(super) fn read<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(bytes).map_err(|error| self.unexpected(error))
    }

    /// It answered something that is not of this API.
    pub(super) fn unexpected(&self, cause: impl std::fmt::Display) -> Error {
        Error::new(
            ErrorKind::Failed,
            format!(
                "{} answered something that is not {}: {cause}; {}",
                self.endpoint, self.name, self.hint
            ),
        )
    }

    fn slow(&self) -> Error {
        Error::new(
            ErrorKind::Unavailable,
            format!(
                "{} is not reachable: no answer in {} s",
                self.endpoint,
                self.endpoint.timeout.as_secs_f64()
            ),
        )
    }
}

pub(super) fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE);
    value.and_then(|value| value.to_str().ok()).unwrap_or("")
}
