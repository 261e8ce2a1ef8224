//! The client over gRPC against a server that the test scripts. (Over HTTP: `tests/connectors.rs`; against
//! MLServer: `tests/oip.rs`.)

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt;
use prost::Message;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::{Grpc, NamedService};
use tonic::{Code, Request as Asked, Response, Status};
use tonic_prost::ProstCodec;

use super::message::{
    Any, Contents, Empty, Infer, Inferred, ModelIs, Named, Ready, RetryInfo, ServerIs, Span,
    StatusDetails, TensorIs, TensorOf,
};
use super::*;
use crate::inference::ErrorKind;
use crate::inference::tensor::Datatype;

type Answer = Arc<dyn Fn(Asked<Infer>) -> Result<Inferred, Status> + Send + Sync>;

/// Serves one model, `m`, as `answer` says.
#[derive(Clone)]
struct Server(Answer);

impl NamedService for Server {
    const NAME: &'static str = "inference.GRPCInferenceService";
}

/// One method.
struct Method<F>(F);

impl<Q, A, F> Service<Asked<Q>> for Method<F>
where
    F: FnMut(Asked<Q>) -> Result<A, Status>,
{
    type Response = Response<A>;
    type Error = Status;
    type Future = std::future::Ready<Result<Response<A>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, asked: Asked<Q>) -> Self::Future {
        std::future::ready((self.0)(asked).map(Response::new))
    }
}

async fn unary<Q, A>(
    request: http::Request<Body>,
    answer: impl FnMut(Asked<Q>) -> Result<A, Status> + Send + 'static,
) -> http::Response<Body>
where
    Q: Message + Default + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let mut grpc = Grpc::new(ProstCodec::<A, Q>::default());
    grpc.unary(Method(answer), request).await
}

impl Service<http::Request<Body>> for Server {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.0.clone();
        let tensor = |name: &str, datatype: &str, shape: &[i64]| TensorIs {
            name: name.to_owned(),
            datatype: datatype.to_owned(),
            shape: shape.to_vec(),
        };
        let model = ModelIs {
            name: "m".to_owned(),
            versions: vec!["1".to_owned()],
            platform: "test".to_owned(),
            inputs: vec![tensor("text", "BYTES", &[-1, 1])],
            outputs: vec![tensor("out", "FP32", &[-1, 2])],
        };
        Box::pin(async move {
            let method = request.uri().path().rsplit('/').next().map(str::to_owned);
            Ok(match method.as_deref() {
                Some("ServerReady") => {
                    unary(request, |_: Asked<Empty>| Ok(Ready { ready: true })).await
                }
                Some("ModelReady") => {
                    let ready = |asked: Asked<Named>| {
                        let ready = asked.get_ref().name == "m";
                        Ok(Ready { ready })
                    };
                    unary(request, ready).await
                }
                Some("ServerMetadata") => {
                    let is = |_: Asked<Empty>| {
                        Ok(ServerIs {
                            name: "scripted".to_owned(),
                            ..ServerIs::default()
                        })
                    };
                    unary(request, is).await
                }
                Some("ModelMetadata") => {
                    unary(request, move |_: Asked<Named>| Ok(model.clone())).await
                }
                _ => unary(request, move |asked| answer(asked)).await,
            })
        })
    }
}

async fn serve(
    answer: impl Fn(Asked<Infer>) -> Result<Inferred, Status> + Send + Sync + 'static,
) -> Oip {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let incoming = futures::stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    });
    let server = tonic::transport::Server::builder().add_service(Server(Arc::new(answer)));
    tokio::spawn(server.serve_with_incoming(incoming));
    Oip::new(Endpoint::new(url), Protocol::Grpc).expect("an address")
}

fn request(inputs: Vec<Tensor>) -> TensorRequest {
    let parameters = json!({"top_k": 3, "greedy": true, "name": "x", "p": 0.5});
    TensorRequest {
        model: "m".to_owned(),
        version: Some("1".to_owned()),
        inputs,
        outputs: vec!["out".to_owned()],
        parameters: parameters.as_object().cloned().expect("an object"),
        idempotency_key: Some("key-1".to_owned()),
    }
}

fn tensor(datatype: Datatype, value: &serde_json::Value) -> Tensor {
    Tensor::from_json("x", datatype, None, value).expect("a tensor")
}

#[tokio::test]
async fn a_server_says_what_it_has() {
    let server = serve(|_| Err(Status::internal("not asked"))).await;
    assert!(server.ready().await.expect("asked"));
    assert_eq!(server.server().await.expect("asked").name, "scripted");
    assert!(server.model_ready("m", None).await.expect("asked"));
    assert!(!server.model_ready("n", None).await.expect("asked"));
    let model = server.model("m", None).await.expect("asked");
    assert_eq!(
        (model.inputs[0].name.as_str(), &model.outputs[0].shape[..]),
        ("text", &[-1, 2][..])
    );
}

#[tokio::test]
async fn tensors_go_and_come_raw_or_by_their_type() {
    let rows = [
        (Datatype::Bool, json!([true, false])),
        (Datatype::Int8, json!([-128, 127])),
        (Datatype::Uint16, json!([0, 65535])),
        (Datatype::Int32, json!([-1, 1])),
        (Datatype::Int64, json!([i64::MIN, 1])),
        (Datatype::Uint64, json!([u64::MAX, 1])),
        (Datatype::Fp16, json!([0.5, 1.0])),
        (Datatype::Fp32, json!([0.1, 1.0])),
        (Datatype::Fp64, json!([0.1, 1.0])),
        (Datatype::Bytes, json!(["tide", {"base64": "/wA="}])),
    ];
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = seen.clone();
    let server = serve(move |asked| {
        let key = asked.metadata().get("idempotency-key").cloned();
        let asked = asked.into_inner();
        kept.lock().expect("seen").push((asked.clone(), key));
        let input = &asked.inputs[0];
        let raw = asked.raw[0].clone();
        let of = |contents: Option<Contents>, raw: Vec<Vec<u8>>| {
            let mut output = input.clone();
            output.contents = contents;
            Ok(Inferred {
                model_name: "m".to_owned(),
                outputs: vec![output],
                raw,
                ..Inferred::default()
            })
        };
        // Some by their type, as servers without raw contents do.
        match input.datatype.as_str() {
            "INT8" => of(
                Some(Contents {
                    ints: vec![-128, 127],
                    ..Contents::default()
                }),
                vec![],
            ),
            "BOOL" => of(
                Some(Contents {
                    bools: vec![true, false],
                    ..Contents::default()
                }),
                vec![],
            ),
            _ => of(None, vec![raw]),
        }
    })
    .await;
    for (datatype, value) in rows {
        let asked = request(vec![tensor(datatype, &value)]);
        let answer = server.infer(&asked).await.expect("an answer");
        assert_eq!(answer.outputs[0].to_json(), value, "{datatype}");
    }
    let seen = seen.lock().expect("seen");
    let (first, key) = &seen[0];
    assert_eq!(
        (first.model_version.as_str(), first.id.as_str()),
        ("1", "key-1")
    );
    assert_eq!(
        key.as_ref().and_then(|key| key.to_str().ok()),
        Some("key-1")
    );
    assert_eq!(first.parameters.len(), 4);
    assert_eq!(first.outputs[0].name, "out");
}

#[tokio::test]
async fn texts_are_embedded_in_the_events_of_every_connector() {
    let server = serve(|asked| {
        let asked = asked.into_inner();
        assert_eq!(asked.inputs[0].shape, [2, 1]);
        Ok(Inferred {
            model_name: "m".to_owned(),
            outputs: vec![TensorOf {
                name: "out".to_owned(),
                datatype: "FP32".to_owned(),
                shape: vec![2, 2],
                contents: Some(Contents {
                    floats: vec![1.0, 2.0, 3.0, 4.0],
                    ..Contents::default()
                }),
            }],
            ..Inferred::default()
        })
    })
    .await;
    let request = EmbeddingRequest {
        model: "m".to_owned(),
        texts: vec!["a".to_owned(), "b".to_owned()],
        ..EmbeddingRequest::default()
    };
    let found: Vec<_> = server.start(Request::Embed(request)).collect().await;
    use crate::inference::Event;
    let vectors = Tensor::of_vectors("embedding", &[vec![1.0, 2.0], vec![3.0, 4.0]]);
    let expected = [
        Event::Started {
            model: "m".to_owned(),
        },
        Event::Delta(Delta::Tensor(vectors)),
        Event::Usage(Usage::default()),
        Event::Finished(Finish::Stop),
    ];
    assert_eq!(found, expected);
}

#[tokio::test]
async fn errors_say_whether_to_try_again() {
    use ErrorKind::{
        Auth, BatchTooLarge, Failed, Invalid, Misconfigured, OutOfMemory, RateLimited, TooLong,
        Unavailable,
    };
    let rows = [
        (Code::InvalidArgument, "unexpected shape", Invalid),
        (
            Code::InvalidArgument,
            "batch-size must be <= 8",
            BatchTooLarge,
        ),
        (Code::Internal, "CUDA out of memory. Tried", OutOfMemory),
        (Code::Internal, "exceeds the context length", TooLong),
        (Code::Internal, "it broke", Failed),
        (Code::NotFound, "unknown model", Misconfigured),
        (Code::Unimplemented, "", Misconfigured),
        (Code::Unauthenticated, "who?", Auth),
        (Code::ResourceExhausted, "slow down", RateLimited),
        (Code::Unavailable, "loading", Unavailable),
    ];
    for (code, words, kind) in rows {
        let server = serve(move |_| {
            let info = RetryInfo {
                delay: Some(Span {
                    seconds: 2,
                    nanos: 500_000_000,
                }),
            };
            let details = StatusDetails {
                details: vec![Any {
                    type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
                    value: info.encode_to_vec(),
                }],
            };
            Err(Status::with_details(
                code,
                words,
                details.encode_to_vec().into(),
            ))
        })
        .await;
        let asked = request(vec![tensor(Datatype::Int32, &json!([1]))]);
        let error = server.infer(&asked).await.expect_err("refused");
        assert_eq!(error.kind, kind, "{code:?} {words}: {error}");
        assert!(error.message.contains(words), "{error}");
        assert_eq!(
            error.retry_after,
            Some(Duration::from_millis(2500)),
            "{error}"
        );
    }
}

#[tokio::test]
async fn an_address_that_answers_html_is_refused_over_either_protocol() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = [0; 1024];
            let _ = stream.read(&mut asked).await;
            let page = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 15\r\n\
                        connection: close\r\n\r\n<!DOCTYPE html>";
            let _ = stream.write_all(page.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    for (protocol, expected) in [
        (Protocol::Http, "answered HTML, not JSON"),
        (Protocol::Grpc, "does not speak gRPC"),
    ] {
        let server = Oip::new(Endpoint::new(&url), protocol).expect("an address");
        let error = server.model("m", None).await.expect_err("a page");
        assert_eq!(error.kind, ErrorKind::Misconfigured, "{error}");
        assert!(error.message.contains(expected), "{error}");
        assert!(error.message.contains(&url), "{error}");
    }
    // Bound and closed again: nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port")
        .port();
    for protocol in [Protocol::Http, Protocol::Grpc] {
        let endpoint = Endpoint::new(format!("http://127.0.0.1:{port}"));
        let server = Oip::new(endpoint, protocol).expect("an address");
        let error = server.ready().await.expect_err("nobody");
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    }
}
