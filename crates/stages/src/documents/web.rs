//! Documents over HTTP.

use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use tokio_util::sync::CancellationToken;

use super::format::Format;
use super::read::Response;
use crate::http::client;

/// Tries of one URL.
const TRIES: u32 = 3;

/// Why a URL gave nothing.
#[derive(Debug)]
pub(crate) struct Unfetched {
    pub(crate) why: String,
    /// It may work later.
    pub(crate) for_now: bool,
}

/// Fetches a URL; what may pass is tried again.
pub(crate) async fn fetch(
    url: &str,
    max_bytes: u64,
    cancelled: &CancellationToken,
) -> Result<Response, Unfetched> {
    let mut pause = Duration::from_millis(500);
    for tried in 1.. {
        let (unfetched, after) = match try_fetch(url, max_bytes).await {
            Ok(response) => return Ok(response),
            Err(failed) => failed,
        };
        if !unfetched.for_now || tried == TRIES {
            return Err(unfetched);
        }
        let wait = after.unwrap_or(pause).min(Duration::from_secs(30));
        pause *= 2;
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = cancelled.cancelled() => return Err(unfetched),
        }
    }
    unreachable!("the loop returns")
}

async fn try_fetch(url: &str, max_bytes: u64) -> Result<Response, (Unfetched, Option<Duration>)> {
    let fail = |why: String, for_now| (Unfetched { why, for_now }, None);
    let mut response = client::client()
        .get(url)
        .timeout(Duration::from_secs(60))
        .send()
        .await
        .map_err(|e| fail(client::explain(&e), !e.is_builder() && !e.is_redirect()))?;
    let status = response.status();
    if !status.is_success() {
        let unfetched = Unfetched {
            why: format!("the server answered {status}"),
            for_now: client::may_pass(status),
        };
        return Err((unfetched, client::retry_after(response.headers())));
    }
    let declared = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_ascii_lowercase();
    let mut bytes = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(e) => return Err(fail(client::explain(&e), true)),
        }
        if bytes.len() as u64 > max_bytes {
            return Err(fail(
                format!("is larger than max_bytes, {max_bytes} bytes"),
                false,
            ));
        }
    }
    let (media_type, parameters) = declared.split_once(';').unwrap_or((&declared, ""));
    Ok(Response {
        bytes,
        format: Format::of_media_type(media_type.trim()),
        charset: parameters
            .split(';')
            .find_map(|parameter| parameter.trim().strip_prefix("charset="))
            .map(|label| label.trim_matches('"').to_owned()),
    })
}
