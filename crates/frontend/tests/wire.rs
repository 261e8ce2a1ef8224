//! The frontend as a client meets it: a real connection, a real server in memory.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use prost::Message;
use tidemill_frontend::{Options, serve, serve_connection, serve_metrics};
use tidemill_proto::api::common::v1::{Payload, Payloads, WorkflowType};
use tidemill_proto::api::errordetails::v1::NamespaceNotFoundFailure;
use tidemill_proto::api::taskqueue::v1::TaskQueue;
use tidemill_proto::api::workflowservice::v1::*;
use tidemill_proto::client::{Client, Code, Status, connect, request};
use tidemill_proto::google::rpc;
use tidemill_server::namespaces::{DEFAULT, Registration};
use tidemill_server::{Config, Server};
use tidemill_store::sqlite::SqliteStore;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::transport::Endpoint;

const MINUTE: Duration = Duration::from_secs(60);

struct Running {
    server: Server,
    client: Client,
    drain: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

async fn start() -> Running {
    let namespace = Registration {
        name: DEFAULT.to_owned(),
        retention: Duration::from_secs(86_400),
        ..Default::default()
    };
    let config = Config {
        namespaces: vec![namespace],
        ..Default::default()
    };
    let store = SqliteStore::memory().expect("a store in memory opens");
    let server = Server::start(Arc::new(store), config)
        .await
        .expect("the server starts");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (drain, drained) = oneshot::channel();
    let served = tokio::spawn(serve(listener, server.clone(), Options::default(), async {
        if drained.await.is_err() {
            std::future::pending::<()>().await;
        }
    }));
    let client = connect(&address.to_string())
        .await
        .expect("the server is reachable");
    Running {
        server,
        client,
        drain,
        served,
    }
}

/// A start that is well-formed but for the size of its input.
fn start_request(input_bytes: usize) -> StartWorkflowExecutionRequest {
    let payload = Payload {
        data: vec![b'x'; input_bytes],
        ..Default::default()
    };
    StartWorkflowExecutionRequest {
        namespace: DEFAULT.to_owned(),
        workflow_id: "w".to_owned(),
        workflow_type: Some(WorkflowType {
            name: "t".to_owned(),
        }),
        task_queue: Some(TaskQueue {
            name: "q".to_owned(),
            ..Default::default()
        }),
        input: Some(Payloads {
            payloads: vec![payload],
        }),
        ..Default::default()
    }
}

async fn refusal<T: std::fmt::Debug>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Status {
    call.await.expect_err("the call is refused")
}

#[tokio::test]
async fn messages_that_are_too_large_get_the_answer_that_clients_know() {
    const MIB: usize = 1024 * 1024;
    let running = start().await;
    let mut plain = running.client.clone();
    let mut gzip = running.client.clone().send_compressed(Gzip);
    for (bytes, plain_text, gzip_text) in [
        (
            5 * MIB,
            "grpc: received message larger than max",
            "grpc: received message after decompression larger than max",
        ),
        (
            3 * MIB,
            "StartWorkflowExecution: Blob data",
            "StartWorkflowExecution: Blob data",
        ),
    ] {
        let code = if bytes > 4 * MIB {
            Code::ResourceExhausted
        } else {
            Code::InvalidArgument
        };
        for (client, text) in [(&mut plain, plain_text), (&mut gzip, gzip_text)] {
            let call = client.start_workflow_execution(request(start_request(bytes), MINUTE));
            let status = refusal(call).await;
            assert_eq!(status.code(), code, "{status:?}");
            assert!(status.message().starts_with(text), "{status:?}");
        }
    }
    // The connection is as good as before.
    plain
        .get_system_info(request(GetSystemInfoRequest {}, MINUTE))
        .await
        .unwrap();
}

#[tokio::test]
async fn refusals_carry_their_detail() {
    let mut client = start().await.client;
    let list = |namespace: &str| {
        let namespace = namespace.to_owned();
        request(
            ListWorkflowExecutionsRequest {
                namespace,
                ..Default::default()
            },
            MINUTE,
        )
    };
    let status = refusal(client.list_workflow_executions(list("nowhere"))).await;
    assert_eq!(status.code(), Code::NotFound);
    let detail = rpc::Status::decode(status.details())
        .unwrap()
        .details
        .remove(0);
    assert_eq!(
        detail.type_url,
        "type.googleapis.com/temporal.api.errordetails.v1.NamespaceNotFoundFailure"
    );
    let detail = NamespaceNotFoundFailure::decode(detail.value.as_slice()).unwrap();
    assert_eq!(detail.namespace, "nowhere");
    let status = refusal(client.list_workflow_executions(list(""))).await;
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn tokens_and_polls_are_checked_first() {
    let mut client = start().await.client;
    for token in [vec![], b"garbage".to_vec(), vec![0xff; 5000]] {
        let completed = RespondWorkflowTaskCompletedRequest {
            namespace: DEFAULT.to_owned(),
            task_token: token,
            ..Default::default()
        };
        let call = client.respond_workflow_task_completed(request(completed, MINUTE));
        assert_eq!(refusal(call).await.code(), Code::InvalidArgument);
    }
    let poll = || PollNexusTaskQueueRequest {
        namespace: DEFAULT.to_owned(),
        task_queue: Some(TaskQueue {
            name: "q".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let status = refusal(client.poll_nexus_task_queue(poll())).await;
    assert_eq!(status.code(), Code::InvalidArgument, "without a deadline");
    let soon = request(poll(), Duration::from_secs(1));
    let status = refusal(client.poll_nexus_task_queue(soon)).await;
    assert_eq!(
        status.code(),
        Code::FailedPrecondition,
        "with too short a deadline"
    );
}

#[tokio::test]
async fn what_is_not_served_says_so() {
    let mut client = start().await.client;
    let namespace = || DEFAULT.to_owned();
    let schedules = ListSchedulesRequest {
        namespace: namespace(),
        ..Default::default()
    };
    let status = refusal(client.list_schedules(schedules)).await;
    assert_eq!(status.code(), Code::Unimplemented);
    let sets = GetWorkerBuildIdCompatibilityRequest {
        namespace: namespace(),
        ..Default::default()
    };
    let status = refusal(client.get_worker_build_id_compatibility(sets)).await;
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn draining_ends_polls_and_lets_go_of_connections() {
    let running = start().await;
    let poll = PollNexusTaskQueueRequest {
        namespace: DEFAULT.to_owned(),
        task_queue: Some(TaskQueue {
            name: "q".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut poller = running.client.clone();
    let poll =
        tokio::spawn(async move { poller.poll_nexus_task_queue(request(poll, MINUTE)).await });
    let waits =
        r#"service_pending_requests{operation="PollNexusTaskQueue",service_name="frontend"} 1"#;
    while !running.server.metrics().encode().contains(waits) {
        tokio::task::yield_now().await;
    }
    running.drain.send(()).unwrap();
    let answer = poll.await.unwrap().expect("the poll ends empty");
    assert!(answer.into_inner().task_token.is_empty());
    running.served.await.unwrap();
    running.server.shutdown().await;
}

#[tokio::test]
async fn bytes_that_are_no_requests_harm_nobody() {
    let running = start().await;
    let mut client = running.client.clone();
    let namespace = DescribeNamespaceRequest {
        namespace: DEFAULT.into(),
        ..Default::default()
    };
    let metrics = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = metrics.local_addr().unwrap();
    tokio::spawn(serve_metrics(
        metrics,
        running.server.metrics().clone(),
        std::future::pending(),
    ));
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 1000], &[0xff; 1000]] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
    }
    client
        .describe_namespace(request(namespace, MINUTE))
        .await
        .unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let line = r#"service_requests_total{operation="DescribeNamespace",service_name="frontend"} 1"#;
    assert!(
        text.starts_with("HTTP/1.1 200 OK") && text.contains(line),
        "{text}"
    );
    assert!(text.contains("tidemill_store_fsyncs_total"), "{text}");
}

/// A stream that counts the calls that write, and takes several buffers in one.
struct Counted {
    stream: DuplexStream,
    writes: Arc<AtomicUsize>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn an_answer_is_one_write() {
    let running = start().await;
    let (near, far) = tokio::io::duplex(64 * 1024);
    let writes = Arc::new(AtomicUsize::new(0));
    let counted = Counted {
        stream: far,
        writes: writes.clone(),
    };
    tokio::spawn(serve_connection(counted, running.server.clone()));
    let mut near = Some(TokioIo::new(near));
    let connector = tower::service_fn(move |_| std::future::ready(near.take().ok_or("once")));
    let channel = Endpoint::from_static("http://in.memory")
        .connect_with_connector(connector)
        .await
        .unwrap();
    let mut client = Client::new(channel);
    let start = start_request(400);
    let started = client
        .start_workflow_execution(request(start, MINUTE))
        .await;
    started.unwrap();
    let poll = PollWorkflowTaskQueueRequest {
        namespace: DEFAULT.to_owned(),
        task_queue: Some(TaskQueue {
            name: "q".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let before = writes.load(Ordering::SeqCst);
    let task = client.poll_workflow_task_queue(request(poll, MINUTE)).await;
    let bytes = task.unwrap().into_inner().encoded_len();
    assert!((400..1000).contains(&bytes), "{bytes}");
    assert_eq!(writes.load(Ordering::SeqCst) - before, 1);
}
