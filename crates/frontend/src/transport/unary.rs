//! A unary RPC's messages on the wire: one request, and one answer or one status.
//!
//! Every RPC of Temporal's services is unary. Tonic's server reads and writes streams of messages,
//! with buffers of their own on both ways; here a message is decoded from where it arrived and
//! encoded to where it leaves from.

use std::io::Read;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, Incoming};
use prost::Message;
use tonic::Status;

const GRPC_STATUS: &str = "grpc-status";
const GRPC_ENCODING: &str = "grpc-encoding";
const GRPC_ACCEPT_ENCODING: &str = "grpc-accept-encoding";
/// A message begins with a flag (0 as it is, 1 compressed) and its length in four bytes.
const PREFIX_BYTES: usize = 5;
/// Bytes of one answer: histories are paged well below it, but the pages have no exact bound.
pub(super) const ANSWER_BYTES_MAX: usize = 128 * 1024 * 1024;

/// The body of an answer.
pub(crate) enum Body {
    /// A message with its prefix, then the trailers of a success.
    Message(Bytes),
    Trailers,
    /// A status, which is in the headers; or what tonic serves.
    Tonic(tonic::body::Body),
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = match &mut *self {
            Body::Tonic(body) => return Pin::new(body).poll_frame(cx),
            Body::Message(message) => {
                let message = std::mem::take(message);
                *self = Body::Trailers;
                Frame::data(message)
            }
            Body::Trailers => {
                *self = Body::Tonic(tonic::body::Body::empty());
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
                Frame::trailers(trailers)
            }
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Tonic(body) => body.is_end_stream(),
            Body::Message(_) | Body::Trailers => false,
        }
    }
}

/// Reads the one message of a request, which is at most `limit` bytes long, compressed or not.
pub(crate) async fn read<M: Message + Default>(
    headers: &HeaderMap,
    body: Incoming,
    limit: usize,
) -> Result<M, Status> {
    let encoding = headers.get(GRPC_ENCODING).map(HeaderValue::as_bytes);
    let (compressed, message) = unframe(body, limit).await?;
    let decoded = match (compressed, encoding) {
        (false, _) => M::decode(message),
        (true, Some(b"gzip")) => M::decode(&*inflate(&message, limit)?),
        (true, None | Some(b"identity")) => {
            return Err(Status::internal(
                "the message is flagged as compressed, and grpc-encoding does not say how",
            ));
        }
        (true, Some(other)) => return Err(unknown_encoding(other)),
    };
    decoded.map_err(|fault| Status::internal(fault.to_string()))
}

/// Collects a body that is one message: whether it is compressed, and its bytes.
async fn unframe(mut body: Incoming, limit: usize) -> Result<(bool, Bytes), Status> {
    let mut read = Bytes::new();
    // Small messages come in one piece and stay where they are.
    while read.len() < PREFIX_BYTES {
        match next(&mut body).await? {
            Some(piece) if read.is_empty() => read = piece,
            Some(piece) => read = [read, piece].concat().into(),
            None if read.is_empty() => return Err(Status::internal("Missing request message.")),
            None => return Err(cut_short()),
        }
    }
    let flag = read.get_u8();
    let length = read.get_u32() as usize;
    if flag > 1 {
        let text = format!("a message begins with flag {flag}; 0 and 1 are known");
        return Err(Status::internal(text));
    }
    if length > limit {
        return Err(too_long(length, limit));
    }
    if read.len() < length {
        let mut whole = BytesMut::with_capacity(length);
        whole.put(read);
        while whole.len() < length {
            whole.put(next(&mut body).await?.ok_or_else(cut_short)?);
        }
        read = whole.freeze();
    }
    if read.len() > length || next(&mut body).await?.is_some() {
        return Err(Status::internal("more than one message in a unary request"));
    }
    Ok((flag == 1, read))
}

/// The next bytes of a body, none of which are empty; `None` at its end.
async fn next(body: &mut Incoming) -> Result<Option<Bytes>, Status> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|fault| Status::cancelled(fault.to_string()))?;
        match frame.into_data() {
            Ok(data) if !data.is_empty() => return Ok(Some(data)),
            _ => {}
        }
    }
    Ok(None)
}

fn inflate(message: &[u8], limit: usize) -> Result<Vec<u8>, Status> {
    let mut inflated = Vec::new();
    MultiGzDecoder::new(message)
        .take(limit as u64 + 1)
        .read_to_end(&mut inflated)
        .map_err(|fault| Status::internal(format!("the message is no gzip: {fault}")))?;
    if inflated.len() > limit {
        let text = format!("grpc: received message after decompression larger than max {limit}");
        return Err(Status::resource_exhausted(text));
    }
    Ok(inflated)
}

fn cut_short() -> Status {
    Status::internal("the request ends within its message")
}

/// The answer to a message that is too large. Clients know it by its text: with any other they
/// send the same message again, for ever (engine contract 12.3).
fn too_long(length: usize, limit: usize) -> Status {
    let text = format!("grpc: received message larger than max ({length} vs. {limit})");
    Status::resource_exhausted(text)
}

fn unknown_encoding(encoding: &[u8]) -> Status {
    let encoding = String::from_utf8_lossy(encoding);
    let text = format!("messages compressed with {encoding} are not understood; gzip is");
    let mut status = Status::unimplemented(text);
    let understood = "gzip,identity".parse().expect("a header's value");
    status
        .metadata_mut()
        .insert(GRPC_ACCEPT_ENCODING, understood);
    status
}

/// The answer of an RPC. Answers are not compressed: it costs more CPU than a local network
/// saves, and a client that asks for it has said only that it could read it.
pub(crate) fn answer<M: Message>(result: Result<M, Status>) -> Response<Body> {
    let message = match result.and_then(|message| frame(&message)) {
        Ok(message) => message,
        Err(status) => return refuse(status),
    };
    let mut response = Response::new(Body::Message(message));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, grpc);
    response
}

/// The answer that is only a status.
pub(crate) fn refuse(status: Status) -> Response<Body> {
    status.into_http().map(Body::Tonic)
}

fn frame(message: &impl Message) -> Result<Bytes, Status> {
    let length = message.encoded_len();
    let prefix = match u32::try_from(length) {
        Ok(prefix) if length <= ANSWER_BYTES_MAX => prefix,
        _ => {
            let text = format!("the answer of {length} bytes is larger than {ANSWER_BYTES_MAX}");
            return Err(Status::out_of_range(text));
        }
    };
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + length);
    framed.put_u8(0);
    framed.put_u32(prefix);
    message.encode_raw(&mut framed);
    Ok(framed.freeze())
}
