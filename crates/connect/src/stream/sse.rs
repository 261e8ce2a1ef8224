//! Streams as server-sent events, for whatever HTTP server a worker has.
//!
//! `GET /v1/streams/{run}/{stage}?offset=N`, or `/v1/streams/{run}/{stage}/{item}` for a call that a
//! fan-out makes for one item. Each event has as its `id` the offset where to read on, so that a
//! browser that reconnects sends it as `Last-Event-ID` and misses nothing.
//!
//! | event | data | |
//! | --- | --- | --- |
//! | `delta` | `{"text": …}` | |
//! | `restarted` | `{"offset": …}` | throw away what came before |
//! | `skipped` | `{"offset": …}` | what lies before is not kept any more |
//! | `finished` | `{}` | the last event |
//! | `failed` | `{"reason": …}` | the last event |

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use serde_json::json;

use super::{Piece, Streams};

/// What a request's path begins with.
const PREFIX: &str = "/v1/streams/";

/// While nothing is said, a comment this often: proxies close connections that are silent.
const ALIVE_EVERY: Duration = Duration::from_secs(15);

/// A request to watch a stream, as an HTTP server has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch<'a> {
    pub path: &'a str,
    /// Without its question mark.
    pub query: Option<&'a str>,
    /// The header `Last-Event-ID`; it counts more than the query.
    pub last_event_id: Option<&'a str>,
}

/// Why there is nothing to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Of HTTP.
    pub status: u16,
    pub message: String,
}

impl Watch<'_> {
    /// Whether the path is that of a stream.
    pub fn is_one(path: &str) -> bool {
        path.starts_with(PREFIX)
    }

    /// The body of the answer, whose content type is `text/event-stream`.
    pub fn body(&self, streams: &Streams) -> Result<BoxStream<'static, Bytes>, Refusal> {
        let refuse = |status: u16, message: String| Refusal { status, message };
        let name = self.path.strip_prefix(PREFIX).and_then(decoded);
        let name = name.filter(|name| name.contains('/'));
        let name = name.ok_or_else(|| {
            refuse(
                404,
                "a stream's address is /v1/streams/{run}/{stage}".to_owned(),
            )
        })?;
        let query = self.query.unwrap_or_default().split('&');
        let query = query
            .filter_map(|one| one.strip_prefix("offset="))
            .next_back();
        let offset = self.last_event_id.filter(|id| !id.trim().is_empty());
        let offset = offset.or(query).unwrap_or("0").trim();
        let offset: u64 = offset.parse().map_err(|_| {
            refuse(
                400,
                format!("offset {offset:?} is no number of bytes: give the id of an event"),
            )
        })?;
        let pieces = streams.read(&name, offset).ok_or_else(|| {
            refuse(
                404,
                format!(
                    "no stream {name} on this worker: it has not begun, ended long ago, is another \
                     worker's, or its stage does not stream"
                ),
            )
        })?;
        Ok(with_signs_of_life(
            pieces.map(|piece| event(&piece)).boxed(),
        ))
    }
}

fn with_signs_of_life(events: BoxStream<'static, Bytes>) -> BoxStream<'static, Bytes> {
    stream::unfold(events, |mut events| async move {
        match tokio::time::timeout(ALIVE_EVERY, events.next()).await {
            Ok(event) => event.map(|event| (event, events)),
            Err(_) => Some((Bytes::from_static(b": waiting\n\n"), events)),
        }
    })
    .boxed()
}

fn event(piece: &Piece) -> Bytes {
    let (name, offset, data) = match piece {
        Piece::Text { offset, text } => ("delta", offset, json!({ "text": text })),
        Piece::Restarted { offset } => ("restarted", offset, json!({ "offset": offset })),
        Piece::Skipped { offset } => ("skipped", offset, json!({ "offset": offset })),
        Piece::Finished { offset } => ("finished", offset, json!({})),
        Piece::Failed { offset, reason } => ("failed", offset, json!({ "reason": reason })),
    };
    format!("id: {offset}\nevent: {name}\ndata: {data}\n\n").into()
}

/// A path without its percent signs; `None` when it is no text.
fn decoded(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}
