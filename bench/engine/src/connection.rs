//! One HTTP/2 connection, and calls of the protocol on it. tonic's own client has tasks, queues and streams of
//! messages between the two, for applications that want to reconnect; here they would be a part of what is measured.

use std::error::Error;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::{Builder, SendRequest};
use http::header::{CONTENT_TYPE, TE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Request, Uri};
use prost::Message;
use temporalio_protos::temporal::api::workflowservice::v1 as api;
use tokio::net::TcpStream;
use tonic::Status;

/// Bytes that the server may send ahead, of one answer and of all.
const WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

#[derive(Clone)]
pub(crate) struct Connection {
    requests: SendRequest<Bytes>,
    authority: Authority,
}

/// A request of Temporal's protocol.
pub(crate) trait Rpc: Message {
    const PATH: &str;
    type Answer: Message + Default;
}

macro_rules! rpcs {
    ($($name:ident: $request:ident => $answer:ident;)*) => {$(
        impl Rpc for api::$request {
            const PATH: &str =
                concat!("/temporal.api.workflowservice.v1.WorkflowService/", stringify!($name));
            type Answer = api::$answer;
        }
    )*};
}

rpcs! {
    CountWorkflowExecutions: CountWorkflowExecutionsRequest => CountWorkflowExecutionsResponse;
    DescribeNamespace: DescribeNamespaceRequest => DescribeNamespaceResponse;
    GetWorkflowExecutionHistory: GetWorkflowExecutionHistoryRequest => GetWorkflowExecutionHistoryResponse;
    ListWorkflowExecutions: ListWorkflowExecutionsRequest => ListWorkflowExecutionsResponse;
    PollActivityTaskQueue: PollActivityTaskQueueRequest => PollActivityTaskQueueResponse;
    PollWorkflowTaskQueue: PollWorkflowTaskQueueRequest => PollWorkflowTaskQueueResponse;
    RespondActivityTaskCompleted: RespondActivityTaskCompletedRequest => RespondActivityTaskCompletedResponse;
    RespondWorkflowTaskCompleted: RespondWorkflowTaskCompletedRequest => RespondWorkflowTaskCompletedResponse;
    SignalWorkflowExecution: SignalWorkflowExecutionRequest => SignalWorkflowExecutionResponse;
    StartWorkflowExecution: StartWorkflowExecutionRequest => StartWorkflowExecutionResponse;
}

impl Connection {
    /// To a host and port.
    pub(crate) async fn open(address: &str) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let authority = address.parse()?;
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (requests, connection) = Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(stream)
            .await?;
        // The calls under way hear of its end, too.
        tokio::spawn(connection);
        Ok(Self {
            requests,
            authority,
        })
    }

    pub(crate) async fn call<R: Rpc>(&self, request: R) -> Result<R::Answer, Status> {
        self.send(request, None).await
    }

    /// A call that the server may hold for so long.
    pub(crate) async fn wait<R: Rpc>(
        &self,
        request: R,
        deadline: Duration,
    ) -> Result<R::Answer, Status> {
        self.send(request, Some(deadline)).await
    }

    async fn send<R: Rpc>(
        &self,
        request: R,
        deadline: Option<Duration>,
    ) -> Result<R::Answer, Status> {
        let (head, message) = (self.head::<R>(deadline), encode(&request));
        drop(request);
        let mut requests = self.requests.clone().ready().await.map_err(broken)?;
        let (answer, mut stream) = requests.send_request(head, false).map_err(broken)?;
        stream.send_data(message, true).map_err(broken)?;
        let (head, body) = answer.await.map_err(broken)?.into_parts();
        let (message, trailers) = read(body).await.map_err(broken)?;
        // An answer that is nothing but an error has its status in the head.
        let status = trailers.as_ref().unwrap_or(&head.headers);
        match Status::from_header_map(status) {
            Some(status) if status.code() != tonic::Code::Ok => Err(status),
            Some(_) => decode(message),
            None => Err(Status::unknown(format!("HTTP {}", head.status))),
        }
    }

    fn head<R: Rpc>(&self, deadline: Option<Duration>) -> Request<()> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(self.authority.clone());
        uri.path_and_query = Some(PathAndQuery::from_static(R::PATH));
        let mut head = Request::new(());
        *head.method_mut() = http::Method::POST;
        *head.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        let headers = head.headers_mut();
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        if let Some(deadline) = deadline
            && let Ok(value) = HeaderValue::from_str(&format!("{}m", deadline.as_millis()))
        {
            headers.insert("grpc-timeout", value);
        }
        head
    }
}

fn encode(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode_raw(&mut frame);
    frame.freeze()
}

fn decode<M: Message + Default>(frame: Bytes) -> Result<M, Status> {
    if frame.first() != Some(&0) || frame_length(&frame) != Some(frame.len()) {
        return Err(Status::internal("not one message, uncompressed"));
    }
    M::decode(frame.slice(PREFIX..)).map_err(|error| Status::internal(error.to_string()))
}

/// How long a message is, with its prefix, by what is there of it.
fn frame_length(data: &[u8]) -> Option<usize> {
    let length = data.get(1..PREFIX)?.try_into().ok()?;
    Some(PREFIX + u32::from_be_bytes(length) as usize)
}

/// An answer's message, with its prefix, and its trailers. A message that came at once is not copied.
async fn read(mut body: RecvStream) -> Result<(Bytes, Option<HeaderMap>), h2::Error> {
    let mut whole = Bytes::new();
    let mut parts = BytesMut::new();
    while let Some(data) = body.data().await.transpose()? {
        body.flow_control().release_capacity(data.len())?;
        if frame_length(&data) == Some(data.len()) && whole.is_empty() && parts.is_empty() {
            whole = data;
            continue;
        }
        if parts.is_empty() {
            parts.reserve(frame_length(&data).unwrap_or_default());
        }
        parts.extend_from_slice(&data);
    }
    let message = match parts.is_empty() {
        true => whole,
        false => parts.freeze(),
    };
    Ok((message, body.trailers().await?))
}

fn broken(error: h2::Error) -> Status {
    Status::unavailable(format!("the connection failed: {error}"))
}
