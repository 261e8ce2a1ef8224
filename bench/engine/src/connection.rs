//! One HTTP/2 connection, to which calls speak themselves. tonic's own channel has tasks and queues between
//! the two, for applications that want to reconnect; here they would be a part of what is measured.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{Builder, SendRequest};
use http::{HeaderMap, Request, Response, Uri};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::net::TcpStream;
use tower::Service;

/// Bytes that the server may send ahead, of one answer and of all.
const WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

#[derive(Clone)]
pub(crate) struct Connection {
    requests: SendRequest<Bytes>,
    origin: Uri,
}

type BoxError = Box<dyn Error + Send + Sync>;

impl Connection {
    /// To a host and port.
    pub(crate) async fn open(address: &str) -> Result<Self, BoxError> {
        let origin = format!("http://{address}").parse()?;
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (requests, connection) = Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(stream)
            .await?;
        // The calls under way hear of its end, too.
        tokio::spawn(connection);
        Ok(Self { requests, origin })
    }

    pub(crate) fn origin(&self) -> Uri {
        self.origin.clone()
    }
}

impl Service<Request<tonic::body::Body>> for Connection {
    type Response = Response<Answer>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.requests.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let requests = self.requests.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let message = body.collect().await?.to_bytes();
            let mut requests = requests.ready().await?;
            let (answer, mut stream) =
                requests.send_request(Request::from_parts(head, ()), false)?;
            stream.send_data(message, true)?;
            Ok(answer.await?.map(Answer))
        })
    }
}

/// An answer's message and trailers, as they come.
pub(crate) struct Answer(RecvStream);

impl Body for Answer {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let stream = &mut self.0;
        if let Some(data) = ready!(stream.poll_data(cx)) {
            let data = data.and_then(|data| {
                stream.flow_control().release_capacity(data.len())?;
                Ok(Frame::data(data))
            });
            return Poll::Ready(Some(data));
        }
        let trailers: Result<Option<HeaderMap>, _> = ready!(stream.poll_trailers(cx));
        Poll::Ready(
            trailers
                .transpose()
                .map(|trailers| trailers.map(Frame::trailers)),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}
