//! Chunks through steps: the window, the outcome of items, reruns.

use serde_json::{Value, json};
use tidemill_pipeline::data::Collection;
use tidemill_pipeline::plan::{Plan, Work};
use tidemill_pipeline::run::{FanOutResult, Status};
use tidemill_runtime::client::StartOptions;

use crate::plans::{fan_out, plan, stage};
use crate::script::collection;
use crate::session::{node, with_workers};

/// A fan-out `embed` of two steps over so many chunks of two items.
fn embedding(chunks: u64, tolerate: f64, first: Value) -> Plan {
    let load = stage("load", &[], json!({"give": collection("loaded", chunks)}));
    let steps = [("split", first), ("embed", json!({}))];
    plan(
        vec![load, fan_out("embed", 3, tolerate, &steps)],
        json!("{{ embed }}"),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_chunks_are_in_progress_as_the_window_has() {
    with_workers(async |session| {
        session
            .start("window", embedding(7, 0.0, json!({"hold": true})))
            .await;
        session.script.seen("+split", 3).await;
        session.script.release(7);
        let (output, state) = session.done("window").await;
        let joined = json!({"$collection": "joined", "item": "vector", "count": 14, "parts": 7});
        assert_eq!(output, joined);
        assert_eq!(session.script.open_at_most(), 3);
        let embed = node(&state, "embed");
        let steps = embed
            .steps
            .iter()
            .map(|s| (s.id.as_str(), s.chunks_done, s.chunks, s.items));
        assert!(steps.eq([("split", 7, 7, 14), ("embed", 7, 7, 14)]));
        assert_eq!(embed.fan_out.as_ref().unwrap().over.manifest, "loaded");
        let parts = &session.script.tasks("tidemill.collect")[0]["parts"];
        assert_eq!(
            (parts[0]["digest"].as_str(), parts[6]["digest"].as_str()),
            (Some("embed#0"), Some("embed#6")),
            "results are in the order of the chunks"
        );
        let events = session.script.events();
        for chunk in 0..7 {
            let at = |event: String| events.iter().position(|seen| *seen == event).unwrap();
            assert!(at(format!("-split#{chunk}")) < at(format!("+embed#{chunk}")));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn items_may_fail_up_to_a_share() {
    with_workers(async |session| {
        let bad = json!({"bad": [4]});
        let (_, state) = session
            .run("tolerated", embedding(10, 0.05, bad.clone()))
            .await;
        let embed = node(&state, "embed");
        assert_eq!(embed.fan_out.as_ref().unwrap().failed, 1);
        assert_eq!((embed.steps[0].failed, embed.steps[0].items), (1, 19));

        session.start("strict", embedding(10, 0.04, bad)).await;
        let (error, state) = session.failed("strict").await;
        assert!(error.contains("1 of 20 items failed"), "{error}");
        assert!(error.contains("the first: unreadable"), "{error}");
        let result = node(&state, "embed").fan_out.as_ref();
        assert_eq!(
            result.unwrap().failed,
            1,
            "a rerun of the failed items needs it"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_is_lost_fails_its_items_and_not_the_others() {
    with_workers(async |session| {
        let lost = json!({"fail": {"kind": "Failed", "chunks": [2]}});
        let (output, state) = session.run("lost", embedding(5, 0.5, lost)).await;
        assert_eq!(output["count"], json!(8));
        assert_eq!(node(&state, "embed").fan_out.as_ref().unwrap().failed, 2);
        assert_eq!(session.script.count("+embed#2"), 0);
        let task = &session.script.tasks("tidemill.fail_chunk")[0];
        assert_eq!(
            (&task["stage"], &task["error"]),
            (&json!("split"), &json!("as the script says"))
        );

        // Wrong parameters fail every chunk: the first says it.
        let invalid = json!({"fail": {"kind": "Invalid"}});
        session.start("hopeless", embedding(50, 1.0, invalid)).await;
        let (error, _) = session.failed("hopeless").await;
        assert!(
            error.contains("stage `split` (test.items) failed: as the script says"),
            "{error}"
        );
        assert!(session.script.count("+split") < 20, "the rest is not tried");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_made_a_collection_and_templates_of_items_are_left() {
    with_workers(async |session| {
        let load = stage("load", &[], json!({"give": [1, 2, 3]}));
        let with = json!({
            "prompt": "{{ item }} of {{ inputs.title }}", "title": "{{ inputs.title }}",
        });
        let nodes = vec![load, fan_out("each", 2, 0.0, &[("each", with)])];
        let (output, _) = session
            .run("list", plan(nodes, json!("{{ each.count }}")))
            .await;
        assert_eq!(output, json!(4));
        assert_eq!(session.script.tasks("tidemill.chunk"), [json!([1, 2, 3])]);
        let task = &session.script.tasks("test.items")[0];
        let prompt = "{{ item }} of {{ inputs.title }}";
        assert_eq!(task["with"], json!({"prompt": prompt, "title": "Tides"}));
        assert_eq!(task["scope"], json!({"inputs": {"title": "Tides"}}));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rerun_touches_only_failed_items() {
    with_workers(async |session| {
        let of = |name| -> Collection { serde_json::from_value(collection(name, 9)).unwrap() };
        let before = FanOutResult {
            over: of("loaded"),
            results: of("results"),
            failed: 2,
        };
        let options = StartOptions {
            id: "again".to_owned(),
            keep: [("load".to_owned(), collection("loaded", 9))].into(),
            failed_items: [("embed".to_owned(), before)].into(),
            ..StartOptions::default()
        };
        let plan = embedding(9, 0.0, json!({}));
        assert!(matches!(plan.nodes[1].work, Work::FanOut(_)));
        session.start_with(plan, options).await;
        let (_, state) = session.done("again").await;
        assert_eq!(node(&state, "load").status, Status::Kept);
        assert_eq!(
            session.script.events(),
            ["+split#0", "-split#0", "+embed#0", "-embed#0"]
        );
        let task = &session.script.tasks("tidemill.failed_only")[0];
        assert_eq!(task["results"]["$collection"], json!("results"));
        let chunk = &session.script.tasks("test.items")[0]["input"]["chunk"];
        assert_eq!(chunk["collection"]["$collection"], json!("failed only"));
    })
    .await;
}
