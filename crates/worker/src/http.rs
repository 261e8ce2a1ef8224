//! What a worker answers over HTTP: routes that others mount, on a listener of its own. There is no
//! authentication, and nothing but `GET`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tidemill_connect::stream::{Streams, Watch};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// What answers consist of: all at once or, as events, over time.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;
/// Answers a request; its body, if it had one, is not read.
pub type Handler = Arc<dyn Fn(Request<()>) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

/// A client has so long to send a request's headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Of the text format of metrics.
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Paths and who answers them.
#[derive(Clone)]
pub struct Routes(Vec<(String, Handler)>);

impl Default for Routes {
    fn default() -> Self {
        Self::new()
    }
}

impl Routes {
    /// With `/healthz`, which answers for as long as the process can.
    pub fn new() -> Self {
        Self(Vec::new()).get("/healthz", |_| async {
            text(StatusCode::OK, "text/plain; charset=utf-8", "ok\n")
        })
    }

    /// Mounts a handler at a path, or at all below it when it ends in a slash. Where more than one
    /// fits, the longest path is meant.
    #[must_use]
    pub fn get<F, A>(mut self, path: impl Into<String>, handler: F) -> Self
    where
        F: Fn(Request<()>) -> A + Send + Sync + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |request| Box::pin(handler(request)));
        self.0.push((path.into(), handler));
        self.0
            .sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        self
    }

    /// Mounts `/metrics`; texts are joined to one exposition.
    #[must_use]
    pub fn metrics<F, A>(self, encode: F) -> Self
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = Vec<String>> + Send + 'static,
    {
        self.get("/metrics", move |_| {
            let encoded = encode();
            async move { text(StatusCode::OK, METRICS, join(encoded.await)) }
        })
    }

    /// Mounts the token streams of this worker's tasks.
    #[must_use]
    pub fn streams(self, streams: Streams) -> Self {
        self.get("/v1/streams/", move |request| {
            let streams = streams.clone();
            async move { stream(&request, &streams) }
        })
    }

    async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        let (parts, _) = request.into_parts();
        if parts.method != Method::GET {
            let what = "only GET is answered here\n";
            return text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", what);
        }
        let path = parts.uri.path();
        let fits = |mounted: &str| match mounted.strip_suffix('/') {
            Some(_) => path.starts_with(mounted),
            None => path == mounted,
        };
        match self.0.iter().find(|(mounted, _)| fits(mounted)) {
            Some((_, handler)) => handler(Request::from_parts(parts, ())).await,
            None => {
                let mut paths: Vec<&str> = self.0.iter().map(|(path, _)| path.as_str()).collect();
                paths.sort_unstable();
                let what = format!("there is no {path} here, only {}\n", paths.join(", "));
                text(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", what)
            }
        }
    }
}

fn stream(request: &Request<()>, streams: &Streams) -> Response<Body> {
    let header = request.headers().get("last-event-id");
    let watch = Watch {
        path: request.uri().path(),
        query: request.uri().query(),
        last_event_id: header.and_then(|id| id.to_str().ok()),
    };
    match watch.body(streams) {
        Ok(events) => {
            let frames = events.map(|bytes| Ok(Frame::data(bytes)));
            let response = Response::builder()
                .header(CONTENT_TYPE, "text/event-stream")
                .header(CACHE_CONTROL, "no-store");
            let body = BodyExt::boxed_unsync(StreamBody::new(frames));
            response.body(body).expect("constant headers are valid")
        }
        Err(refusal) => {
            let status = StatusCode::from_u16(refusal.status);
            let status = status.unwrap_or(StatusCode::BAD_REQUEST);
            text(status, "text/plain; charset=utf-8", refusal.message + "\n")
        }
    }
}

/// An answer in one piece.
pub fn text(status: StatusCode, content: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let response = Response::builder()
        .status(status)
        .header(CONTENT_TYPE, content);
    let body = Full::new(body.into()).boxed_unsync();
    response.body(body).expect("constant headers are valid")
}

/// An answer for programs.
pub fn json(status: StatusCode, body: &impl serde::Serialize) -> Response<Body> {
    let text_of = serde_json::to_string(body).expect("what is answered has string keys");
    text(status, "application/json", text_of + "\n")
}

/// Expositions one after the other; only the last says that it is the end.
fn join(texts: Vec<String>) -> String {
    const END: &str = "# EOF\n";
    let mut joined: String = texts
        .iter()
        .map(|text| text.strip_suffix(END).unwrap_or(text))
        .collect();
    joined += END;
    joined
}

/// Serves until `stop` is done; answers that are under way then are cut off.
pub async fn serve(listener: TcpListener, routes: Routes, stop: impl Future<Output = ()> + Send) {
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => return,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let routes = routes.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let routes = routes.clone();
                async move { Ok::<_, Infallible>(routes.answer(request).await) }
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT);
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio_util::sync::CancellationToken;

    use super::*;

    async fn ask(address: std::net::SocketAddr, line: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{line} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer[9..12].parse().unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        (status, body.to_owned())
    }

    #[tokio::test]
    async fn the_longest_path_that_fits_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let says = |what: &'static str| {
            move |request: Request<()>| {
                let path = request.uri().path().to_owned();
                async move { json(StatusCode::OK, &serde_json::json!({ what: path })) }
            }
        };
        let routes = Routes::new()
            .get("/v1/queues", says("all"))
            .get("/v1/queues/", says("one"))
            .metrics(|| async { ["a 1\n# EOF\n", "b 2\n# EOF\n"].map(str::to_owned).to_vec() });
        let stop = CancellationToken::new();
        let served = tokio::spawn(serve(listener, routes, stop.clone().cancelled_owned()));
        for (line, status, body) in [
            ("GET /healthz", 200, "ok\n"),
            ("GET /metrics", 200, "a 1\nb 2\n# EOF\n"),
            ("GET /v1/queues", 200, "{\"all\":\"/v1/queues\"}\n"),
            (
                "GET /v1/queues/accelerator/m?x=1",
                200,
                "{\"one\":\"/v1/queues/accelerator/m\"}\n",
            ),
            ("POST /metrics", 405, "only GET is answered here\n"),
            (
                "GET /v1",
                404,
                "there is no /v1 here, only /healthz, /metrics, /v1/queues, /v1/queues/\n",
            ),
        ] {
            assert_eq!(
                ask(address, line).await,
                (status, body.to_owned()),
                "{line}"
            );
        }
        stop.cancel();
        served.await.unwrap();
    }
}
