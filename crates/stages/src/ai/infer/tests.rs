use std::sync::Arc;

use serde_json::json;
use tidemill_pipeline::data::Item;

use super::*;
use crate::ai::tests::context;
use crate::ai::tests::support::{Reply, Server};

/// A server whose model adds the numbers of `x`, of three numbers a row, and says of a text how long
/// it is. It refuses sums above 100, and more than 4 rows.
async fn server() -> Server {
    Server::start(|_, asked| {
        if !asked.path.ends_with("/infer") {
            return Reply::ok(json!({
                "name": "sum",
                "inputs": [
                    {"name": "x", "datatype": "FP32", "shape": [-1, 3]},
                    {"name": "label", "datatype": "BYTES", "shape": [-1, 1]},
                ],
                "outputs": [
                    {"name": "sum", "datatype": "FP32", "shape": [-1]},
                    {"name": "length", "datatype": "INT64", "shape": [-1, 1]},
                ],
            }));
        }
        let data = |index: usize| {
            asked.body["inputs"][index]["data"]
                .as_array()
                .expect("data")
        };
        // Inputs come in the order of their names.
        let (labels, numbers) = (data(0), data(1));
        let rows = labels.len();
        assert_eq!(asked.body["inputs"][1]["shape"], json!([rows, 3]));
        if rows > 4 {
            let error = "inference request batch-size must be <= 4 for 'sum'";
            return Reply::new(400, json!({ "error": error }));
        }
        let sums: Vec<f64> = numbers
            .chunks(3)
            .map(|row| row.iter().filter_map(Value::as_f64).sum())
            .collect();
        if sums.iter().any(|sum| *sum > 100.0) {
            return Reply::new(400, json!({"error": "a sum above 100"}));
        }
        let lengths: Vec<usize> = labels
            .iter()
            .map(|one| one.as_str().expect("text").len())
            .collect();
        Reply::ok(json!({
            "model_name": "sum",
            "outputs": [
                {"name": "sum", "datatype": "FP32", "shape": [rows], "data": sums},
                {"name": "length", "datatype": "INT64", "shape": [rows, 1], "data": lengths},
            ],
        }))
    })
    .await
}

fn with(server: &Server) -> Value {
    json!({
        "server": {"v2": {"url": server.url.trim_end_matches("/v1"), "model": "sum"}},
        "inputs": {"x": "numbers", "label": "/meta/label"},
        "outputs": {"sum": "total", "length": "letters"},
    })
}

fn item(numbers: Value) -> Value {
    json!({"numbers": numbers, "meta": {"label": "abcd"}})
}

fn place() -> Place {
    Place {
        devices: Vec::new(),
        model: Arc::new(()),
        cancelled: CancellationToken::new(),
        data: "/nowhere".into(),
        limit: None,
    }
}

#[tokio::test]
async fn items_become_rows_of_one_request_and_get_their_own_results() {
    let server = server().await;
    let stage = Infer::default();
    let plan = stage
        .plan(&with(&server), &context())
        .await
        .expect("a plan");
    assert!(plan.key.starts_with("infer sum@"), "{}", plan.key);
    assert!(!plan.device && plan.model.is_none());
    assert_eq!(plan.limits.items, limits().items);
    let items = vec![
        item(json!([1, 2, 3])),
        item(json!([1, 2])),
        item(json!([0.5, 0, 0])),
        json!({"numbers": [1, 2, 3]}),
        item(json!([1, "two", 3])),
    ];
    let results = stage
        .run(items, &with(&server), &place())
        .await
        .expect("run");
    let of = |n: usize| results[n].as_ref().expect("a result");
    assert_eq!(
        *of(0),
        json!({
            "numbers": [1, 2, 3], "meta": {"label": "abcd"}, "total": 6.0, "letters": [4],
        })
    );
    assert_eq!(of(2)["total"], 0.5);
    for (n, expected) in [
        (
            1,
            "input \"x\": the item's is of the shape [2], the model takes [3]",
        ),
        (3, "input \"label\": the item has no \"/meta/label\""),
        (4, "input \"x\": [1]: expected FP32, found \"two\""),
    ] {
        let error = results[n].as_ref().expect_err("wrong");
        assert_eq!(error.kind, batch::Kind::Invalid);
        assert!(error.message.contains(expected), "{error}");
    }
    let asked = server.asked();
    assert_eq!(
        asked.len(),
        2,
        "what the model is was asked once, and one request made"
    );
    let key = asked[1].header("idempotency-key").expect("a key");
    assert_eq!(asked[1].body["id"], key);
}

#[tokio::test]
async fn a_refused_batch_says_how_to_go_on() {
    let server = server().await;
    let stage = Infer::default();
    let run = async |items: Vec<Value>| stage.run(items, &with(&server), &place()).await;
    let many = run(vec![item(json!([1, 2, 3])); 5])
        .await
        .expect_err("too many");
    assert_eq!(many.kind, batch::Kind::BatchTooLarge);
    let poison = item(json!([99, 2, 3]));
    let two = run(vec![item(json!([1, 2, 3])), poison.clone()]).await;
    assert_eq!(two.expect_err("one is wrong").kind, batch::Kind::Failed);
    let alone = run(vec![poison.clone()]).await.expect("its own failure");
    assert_eq!(
        alone[0].as_ref().expect_err("wrong").kind,
        batch::Kind::Invalid
    );
    // As the stage does itself where nobody batches.
    let values = vec![item(json!([1, 2, 3])); 9];
    let part = Part {
        items: values
            .into_iter()
            .chain([poison])
            .enumerate()
            .map(|(n, value)| Item {
                id: n.to_string(),
                source: String::new(),
                value,
            })
            .collect(),
        failed: Vec::new(),
    };
    let out = stage
        .items(part, with(&server), &context())
        .await
        .expect("run");
    assert_eq!(out.items.len(), 9);
    let ids: Vec<_> = out.failed.iter().map(|failed| failed.id.as_str()).collect();
    assert_eq!(ids, ["9"]);
    assert!(
        out.failed[0].error.contains("a sum above 100"),
        "{}",
        out.failed[0].error
    );
}

#[tokio::test]
async fn wrong_parameters_and_addresses_are_refused_with_their_place() {
    let server = server().await;
    let page = Server::start(|_, _| Reply::new(200, "<!DOCTYPE html><title>Sign in</title>")).await;
    let change = |pointer: &str, value: Value| {
        let mut with = with(&server);
        *with.pointer_mut(pointer).expect("a place") = value;
        with
    };
    let rows = [
        (
            change("/server/v2/url", json!(page.url)),
            "infer: with.server.v2: ",
            "answered HTML, not JSON: is this the address of the Open Inference Protocol?",
        ),
        (
            change("/inputs", json!({})),
            "infer: with.inputs: ",
            "given nothing",
        ),
        (
            change("/inputs", json!({"y": "numbers"})),
            "infer: with.inputs.y: ",
            "it has x, label",
        ),
        (
            change("/outputs", json!({"y": "numbers"})),
            "infer: with.outputs.y: ",
            "it has sum, length",
        ),
        (
            change("/inputs/x", json!({"from": "numbers", "datatype": "FLOAT"})),
            "infer: with.inputs.x: ",
            "expected a field's name or {from, datatype, shape}",
        ),
        (
            change("/server", json!({"v3": {}})),
            "infer: with.server",
            "unknown variant `v3`, expected `v2`",
        ),
        (
            change("/server/v2/url", json!("nonsense")),
            "infer: with.server.v2: ",
            "not an address",
        ),
    ];
    for (with, place, expected) in rows {
        let error = Infer::default()
            .plan(&with, &context())
            .await
            .expect_err("wrong");
        assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
        assert!(error.message.starts_with(place), "{error}");
        assert!(error.message.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_model_without_rows_gets_each_item_alone_and_the_fake_gives_back() {
    let server = Server::start(|_, asked| match asked.path.ends_with("/infer") {
        false => Reply::ok(json!({
            "name": "one",
            "inputs": [{"name": "x", "datatype": "INT32", "shape": [2]}],
            "outputs": [{"name": "y", "datatype": "INT32", "shape": [2]}],
        })),
        true => {
            assert_eq!(asked.body["inputs"][0]["shape"], json!([2]));
            let data = &asked.body["inputs"][0]["data"];
            Reply::ok(json!({"outputs": [
                {"name": "y", "datatype": "INT32", "shape": [2], "data": data},
            ]}))
        }
    })
    .await;
    let with = json!({
        "server": {"v2": {"url": server.url.trim_end_matches("/v1"), "model": "one"}},
        "inputs": {"x": "."},
    });
    let stage = Infer::default();
    let plan = stage.plan(&with, &context()).await.expect("a plan");
    assert_eq!(plan.limits.items, 1);
    let results = stage
        .run(vec![json!([1, 2]), json!([3, 4])], &with, &place())
        .await;
    let results = results.expect("run");
    assert_eq!(
        results,
        [Ok(json!({"y": [1, 2]})), Ok(json!({"y": [3, 4]}))]
    );
    assert_eq!(server.asked().len(), 3);

    let fake = json!({"server": {"v2": {"url": "fake:", "model": "m"}}, "inputs": {"x": "a"},
                      "outputs": {"x": "b"}});
    // Shapes differ, so they are two requests.
    let items = vec![json!({"a": 1}), json!({"a": [1.5, 2]}), json!({"a": 3})];
    let results = stage.run(items, &fake, &place()).await.expect("run");
    let b: Vec<_> = results
        .iter()
        .map(|one| one.as_ref().expect("a result")["b"].clone())
        .collect();
    assert_eq!(b, [json!(1), json!([1.5, 2.0]), json!(3)]);
}
