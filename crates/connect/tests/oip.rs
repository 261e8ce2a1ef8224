//! The Open Inference Protocol against MLServer, over HTTP and gRPC.

use std::sync::{LazyLock, OnceLock};

use serde_json::{Value, json};
use tidemill_connect::embed::{self, Call, Spec};
use tidemill_connect::inference::oip::{Oip, Protocol};
use tidemill_connect::inference::tensor::{Datatype, Tensor};
use tidemill_connect::inference::{Endpoint, ErrorKind, TensorRequest};
use tokio::runtime::Runtime;

#[path = "support/servers.rs"]
mod servers;

use servers::Server;

/// The server's addresses, with how to speak to each.
fn servers() -> [(Protocol, String); 2] {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let server = SERVER.get_or_init(|| Server::start(".venv-oip", "oip", "TIDEMILL_TEST_OIP"));
    let (http, grpc) = server.url.split_once(' ').expect("two addresses");
    [
        (Protocol::Http, http.to_owned()),
        (Protocol::Grpc, grpc.to_owned()),
    ]
}

/// Runs a test where all of them run: connections to the server are shared, and end with the runtime
/// that they were made in.
fn on_runtime(test: impl Future<Output = ()>) {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));
    RUNTIME.block_on(test);
}

fn open(url: &str, protocol: Protocol) -> Oip {
    Oip::new(Endpoint::new(url), protocol).expect("an address")
}

#[test]
fn a_server_says_what_it_has() {
    on_runtime(async {
        for (protocol, url) in servers() {
            let server = open(&url, protocol);
            assert!(server.ready().await.expect("asked"), "{protocol:?}");
            let is = server.server().await.expect("metadata");
            assert_eq!(is.name, "mlserver");
            assert!(server.model_ready("lengths", None).await.expect("asked"));
            let model = server.model("lengths", None).await.expect("metadata");
            assert_eq!(
                (model.name.as_str(), model.platform.as_str()),
                ("lengths", "test")
            );
            assert_eq!(model.inputs[0].shape, [-1, 1]);
            assert_eq!(model.outputs[0].datatype, "FP32");
            assert!(model.is_batched());
        }
    });
}

#[test]
fn tensors_of_every_type_come_back_as_they_went() {
    on_runtime(async {
        let rows = [
            (Datatype::Bool, json!([[true, false]])),
            (Datatype::Uint8, json!([[0, 255]])),
            (Datatype::Uint16, json!([[0, 65535]])),
            (Datatype::Uint32, json!([[0, 4294967295_u32]])),
            (Datatype::Uint64, json!([[0, u64::MAX]])),
            (Datatype::Int8, json!([[-128, 127]])),
            (Datatype::Int16, json!([[-32768, 32767]])),
            (Datatype::Int32, json!([[i32::MIN, i32::MAX]])),
            (Datatype::Int64, json!([[i64::MIN, i64::MAX]])),
            (Datatype::Fp32, json!([[0.1, -1e30]])),
            (Datatype::Fp64, json!([[0.1, -1e300]])),
            (Datatype::Bytes, json!([["tide", "mühle"]])),
        ];
        for (protocol, url) in servers() {
            let server = open(&url, protocol);
            for (datatype, value) in &rows {
                let input = Tensor::from_json("x", *datatype, None, value).expect("a tensor");
                let request = TensorRequest {
                    model: "echo".to_owned(),
                    version: Some("3".to_owned()),
                    inputs: vec![input],
                    idempotency_key: Some("key".to_owned()),
                    ..TensorRequest::default()
                };
                let answer = server.infer(&request).await.expect("an answer");
                assert_eq!(
                    (answer.model.as_str(), answer.version.as_str()),
                    ("echo", "3")
                );
                let output = &answer.outputs[0];
                assert_eq!(output.name, "out_x");
                assert_eq!(output.datatype(), *datatype, "{protocol:?}");
                assert_eq!(output.to_json(), *value, "{protocol:?} {datatype}");
            }
        }
    });
}

#[test]
fn texts_are_embedded_and_a_bad_one_fails_alone() {
    on_runtime(async {
        for (protocol, url) in servers() {
            let spec: Value = json!({"v2": {"url": url, "model": "lengths", "protocol": protocol}});
            let spec: Spec = serde_json::from_value(spec).expect("a model");
            let model = embed::open(&spec, "/nowhere".as_ref())
                .await
                .expect("opened");
            let texts = ["a", "poison", "", "dddd", "huge"]
                .map(str::to_owned)
                .to_vec();
            let found = model
                .embed(texts, &Call::default())
                .await
                .expect("embedded");
            assert_eq!(found[0], Ok(vec![1.0, 1.0]), "{protocol:?}");
            assert_eq!(found[3], Ok(vec![4.0, 1.0]));
            assert_eq!(found[4], Ok(vec![4.0, 1.0]), "alone it fits");
            let reason = found[1].as_ref().expect_err("poison");
            assert!(reason.contains("no such text"), "{protocol:?}: {reason}");
            assert!(found[2].is_err());
        }
    });
}

#[test]
fn errors_say_what_they_are() {
    on_runtime(async {
        let texts = |texts: &[&str]| TensorRequest {
            model: "lengths".to_owned(),
            inputs: vec![Tensor::of_texts(
                "text",
                &texts
                    .iter()
                    .map(|one| (*one).to_owned())
                    .collect::<Vec<_>>(),
                2,
            )],
            ..TensorRequest::default()
        };
        for (protocol, url) in servers() {
            let server = open(&url, protocol);
            let unknown = TensorRequest {
                model: "nope".to_owned(),
                ..texts(&["a"])
            };
            for (request, kind, expected) in [
                (unknown, ErrorKind::Misconfigured, "the model \"nope\""),
                (
                    texts(&["huge", "b"]),
                    ErrorKind::OutOfMemory,
                    "CUDA out of memory",
                ),
                (texts(&["poison"]), ErrorKind::Invalid, "no such text"),
            ] {
                let error = server.infer(&request).await.expect_err("refused");
                assert_eq!(error.kind, kind, "{protocol:?}: {error}");
                assert!(error.message.contains(expected), "{protocol:?}: {error}");
            }
        }
        // Each port asked in the other's protocol.
        let [(_, http), (_, grpc)] = servers();
        let error = open(&http, Protocol::Grpc).ready().await.expect_err("HTTP");
        assert_eq!(error.kind, ErrorKind::Misconfigured, "{error}");
        assert!(error.message.contains("does not speak gRPC"), "{error}");
        assert!(open(&grpc, Protocol::Http).ready().await.is_err());
    });
}
