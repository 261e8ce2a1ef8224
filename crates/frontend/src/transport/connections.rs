//! Accepting connections, and letting go of them when the server drains.

use std::future::Future;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tidemill_proto::api::enums::v1::NamespaceState;
use tidemill_proto::workflow_service;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::dispatch::Dispatch;
use super::socket::Socket;
use super::streams::{Arrivals, Served};
use crate::handler::Handler;
use crate::rpc::operator::erase;
use crate::validate::Limits;
use tidemill_server::Server;

/// Requests on one connection at a time. Long polls count, and SDKs put all of a process's
/// pollers on one connection.
const STREAMS_MAX: u32 = 100_000;
/// Bytes of one request's headers.
const HEADER_BYTES_MAX: u32 = 1024 * 1024;
/// Bytes that a client may send ahead on one stream and on a connection.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
/// Bytes of one frame that a client may send. A large message then comes in few pieces, of which each is looked
/// up, counted and copied; 16 KiB, the protocol's default, would be 64 for a megabyte.
const FRAME_BYTES_MAX: u32 = 256 * 1024;
/// Requests that a client may reset before they were looked at: workers that stop reset all
/// their polls at once.
const PENDING_RESETS_MAX: usize = 10_000;
/// A connection is asked for a sign of life so often, and closed when none comes in time, so
/// that polls of a machine that has gone do not take tasks.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// The pause after a failed accept, which means that file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How the gRPC face behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long requests in progress may take to end once the server drains.
    pub drain_max: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            drain_max: Duration::from_secs(10),
        }
    }
}

/// Serves gRPC until `drain` is done, then takes no more connections, tells clients to go
/// elsewhere, and returns when the requests in progress have ended or [`Options::drain_max`] has
/// passed. Ending long polls early is the server's part: see `Server::shutdown`.
pub async fn serve(
    listener: TcpListener,
    server: Server,
    options: Options,
    drain: impl Future<Output = ()> + Send,
) {
    let (drain_now, draining) = watch::channel(false);
    let health = HealthReporter::new();
    health
        .set_service_status(workflow_service::SERVICE_NAME, ServingStatus::Serving)
        .await;
    for namespace in server.namespaces().after(None, usize::MAX) {
        if namespace.state == NamespaceState::Deleted {
            tokio::spawn(erase(server.clone(), namespace));
        }
    }
    let dispatch = dispatch(server, draining.clone(), health.clone());
    let mut connections = JoinSet::new();
    let mut drain = std::pin::pin!(drain);
    loop {
        let accepted = tokio::select! {
            () = &mut drain => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Without it small answers wait for the acknowledgement of those before them.
                let _ = stream.set_nodelay(true);
                let ended = connection(stream, dispatch.clone(), draining.clone());
                connections.spawn(async move {
                    if let Err(error) = ended.await {
                        tracing::debug!(%peer, %error, "connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    for service in ["", workflow_service::SERVICE_NAME] {
        health
            .set_service_status(service, ServingStatus::NotServing)
            .await;
    }
    let _ = drain_now.send(true);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(options.drain_max, ended)
        .await
        .is_err()
    {
        tracing::warn!(
            open = connections.len(),
            "closing connections with requests in progress"
        );
    }
}

fn protocol(arrivals: Arrivals) -> http2::Builder<Arrivals> {
    let mut http = http2::Builder::new(arrivals);
    http.timer(TokioTimer::new())
        .auto_date_header(false)
        .max_concurrent_streams(STREAMS_MAX)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    http
}

/// Serves one connection, whatever carries it, until its client closes it: for clients in the same process.
pub async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    server: Server,
) {
    let (_never, draining) = watch::channel(false);
    let dispatch = dispatch(server, draining.clone(), HealthReporter::new());
    if let Err(error) = connection(stream, dispatch, draining).await {
        tracing::debug!(%error, "connection ended");
    }
}

fn dispatch(server: Server, draining: watch::Receiver<bool>, health: HealthReporter) -> Dispatch {
    let limits = Limits::from(server.limits());
    let handler = Handler {
        server,
        limits,
        draining,
    };
    Dispatch::new(handler, health)
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    dispatch: Dispatch,
    mut draining: watch::Receiver<bool>,
) -> hyper::Result<()> {
    let arrivals = Arrivals::default();
    let stream = TokioIo::new(Socket::new(stream));
    let connection = protocol(arrivals.clone()).serve_connection(stream, dispatch);
    let mut connection = Served::new(connection, arrivals);
    let ended = tokio::select! {
        ended = &mut connection => Some(ended),
        _ = draining.wait_for(|draining| *draining) => None,
    };
    match ended {
        Some(ended) => ended,
        None => {
            connection.graceful_shutdown();
            connection.await
        }
    }
}
