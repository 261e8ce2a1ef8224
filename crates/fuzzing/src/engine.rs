//! An engine in this process, over a store in memory, behind its gRPC face.
//!
//! All of it is on one thread, and tokio's clock is paused: who waits for nothing but time waits no time.
//! The engine's clock is the system's, so its timers fire when a step takes time.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tidemill_frontend::serve_connection;
use tidemill_proto::METHODS;
use tidemill_server::namespaces::{DEFAULT, Namespace, Registration};
use tidemill_server::{Call, Config, Server};
use tidemill_store::sqlite::SqliteStore;
use tidemill_store::{AttributeType, Committer, Store};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio::time::Instant;

/// The search attribute that users may set.
pub(crate) const CUSTOM: &str = "CustomKeywordField";
const INTERNAL: i32 = 13;
/// Codes that tell of a defect: UNKNOWN, INTERNAL, DATA_LOSS.
const DEFECTS: [i32; 3] = [2, INTERNAL, 15];
/// What is INTERNAL too, by the protocol: a message that is none.
const NO_MESSAGE: &str = "failed to decode Protobuf message";
/// The deadline that callers name. None waits so long.
const DEADLINE: &str = "10S";
/// What stands before a message on the wire: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

pub(crate) struct Engine {
    pub(crate) server: Server,
    pub(crate) namespace: Namespace,
    requests: SendRequest<Full<Bytes>>,
}

/// What a call brought: the answer, or the code and the text of its error. `Err(None)`: nothing until
/// its client went away.
pub(crate) type Outcome<T> = Result<T, Option<(i32, String)>>;

fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("the system has a thread")
}

impl Engine {
    async fn start() -> Self {
        let default = Registration {
            name: DEFAULT.to_owned(),
            retention: Duration::from_secs(86_400),
            custom_search_attributes: [(CUSTOM.to_owned(), AttributeType::Keyword)].into(),
            ..Default::default()
        };
        let config = Config {
            namespaces: vec![default],
            shards: 1,
            deadline_margin: Duration::from_millis(1),
            ..Default::default()
        };
        let store: Arc<dyn Store> = Arc::new(SqliteStore::memory().expect("memory opens"));
        let server = Server::start_with(store.clone(), committer(store), config)
            .await
            .expect("the server starts");
        let namespace = server
            .namespaces()
            .by_name(DEFAULT)
            .expect("it was registered");
        let (near, far) = tokio::io::duplex(64 * 1024);
        tokio::spawn(serve_connection(far, server.clone()));
        let (requests, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(near))
            .await
            .expect("the server speaks HTTP/2");
        tokio::spawn(connection);
        Engine {
            server,
            namespace,
            requests,
        }
    }

    /// Sends bytes to an RPC, and goes away if nothing comes within `patience`.
    pub(crate) async fn send(
        &self,
        path: &str,
        message: &[u8],
        patience: Duration,
    ) -> Outcome<Bytes> {
        let Ok(answer) = tokio::time::timeout(patience, self.exchange(path, message)).await else {
            return Err(None);
        };
        let (code, text, body) = answer;
        let refused = code == INTERNAL && text.starts_with(NO_MESSAGE);
        assert!(refused || !DEFECTS.contains(&code), "{path}: {code} {text}");
        if code == 0 {
            Ok(body)
        } else {
            Err(Some((code, text)))
        }
    }

    /// The status of an answer, and its message.
    async fn exchange(&self, path: &str, message: &[u8]) -> (i32, String, Bytes) {
        let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
        framed.put_u8(0);
        framed.put_u32(message.len() as u32);
        framed.put_slice(message);
        let request = Request::post(format!("http://engine{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("grpc-timeout", DEADLINE)
            .body(Full::from(framed.freeze()))
            .expect("a path is part of an address");
        let response = self.requests.clone().send_request(request).await;
        let response = response.unwrap_or_else(|fault| panic!("{path}: no answer: {fault}"));
        read(path, response).await
    }

    /// Calls an RPC by its name.
    pub(crate) async fn call<R: Message + Default>(
        &self,
        name: &str,
        request: &impl Message,
        patience: Duration,
    ) -> Outcome<R> {
        let body = self
            .send(path(name), &request.encode_to_vec(), patience)
            .await?;
        Ok(R::decode(body).expect("an answer can be decoded"))
    }
}

/// One whose work is done by a task.
fn committer(store: Arc<dyn Store>) -> Arc<Committer> {
    let submitted = Arc::new(Notify::new());
    let wake = submitted.clone();
    let committer = Arc::new(Committer::stepped(
        store,
        move || wake.notify_one(),
        || false,
    ));
    let stepped = committer.clone();
    tokio::spawn(async move {
        loop {
            submitted.notified().await;
            while let Some(finished) = stepped.step() {
                finished.call_back();
            }
        }
    });
    committer
}

async fn read(path: &str, response: Response<Incoming>) -> (i32, String, Bytes) {
    let (head, body) = response.into_parts();
    let collected = body.collect().await;
    let collected = collected.unwrap_or_else(|fault| panic!("{path}: half an answer: {fault}"));
    let text = |headers: &HeaderMap, name| {
        let value = headers.get(name)?.to_str().ok()?;
        Some(value.to_owned())
    };
    let either = |name| {
        let trailers = collected.trailers();
        text(&head.headers, name).or_else(|| trailers.and_then(|trailers| text(trailers, name)))
    };
    let code = either("grpc-status").and_then(|code| code.parse().ok());
    let code = code.unwrap_or_else(|| panic!("{path}: an answer without a status"));
    let text = either("grpc-message").unwrap_or_default();
    // The text is percent-encoded; what is looked for in it has spaces.
    let text = text.replace("%20", " ");
    let mut body = collected.to_bytes();
    (code, text, body.split_off(PREFIX_BYTES.min(body.len())))
}

pub(crate) fn path(name: &str) -> &'static str {
    let found = METHODS.iter().find(|(_, method)| *method == name);
    found.expect("the RPC is there").0
}

/// A call of the server itself, whose caller gives up soon: the protocol's polls last two seconds or more.
pub(crate) fn brief(time: Duration) -> Call {
    Call {
        deadline: Some(Instant::now() + time),
        ..Default::default()
    }
}

/// Runs `f` on an engine of its own.
pub(crate) fn with_engine(f: impl AsyncFnOnce(Engine) -> Engine) {
    runtime().block_on(async {
        let engine = f(Engine::start().await).await;
        engine.server.shutdown().await;
    });
}
