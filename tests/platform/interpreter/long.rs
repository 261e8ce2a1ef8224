//! Runs that continue as new, and an artifact store that is away for a while.

use std::collections::BTreeMap;

use serde_json::json;
use temporalio_client::WorkflowFetchHistoryOptions;
use tidemill_pipeline::run::{Answer, Status};

use crate::plans::{approve, fan_out, plan, stage};
use crate::script::collection;
use crate::session::{SMALL, node, with_workers};

#[tokio::test(flavor = "multi_thread")]
async fn a_long_fan_out_keeps_its_histories_short_and_does_nothing_twice() {
    with_workers(async |session| {
        const CHUNKS: u64 = 60;
        let load = stage("load", &[], json!({"give": collection("loaded", CHUNKS)}));
        let steps = [("split", json!({"bad": [17]})), ("embed", json!({}))];
        let nodes = vec![
            load,
            fan_out("embed", 4, 0.5, &steps),
            approve("review", &["load"], false, Some(3_600_000)),
        ];
        session
            .start_small(
                "long",
                plan(nodes, json!(["{{ embed }}", "{{ review.by }}"])),
            )
            .await;
        session.script.seen("-embed", 30).await;
        // The approval has been carried over by now; the answer is, too.
        let answer = Answer {
            node: "review".to_owned(),
            choice: "approve".to_owned(),
            form: json!(null),
            by: "ada".to_owned(),
            comment: String::new(),
        };
        session.pipelines.answer("long", answer).await.unwrap();
        let (outputs, state) = session.done("long").await;
        let count = CHUNKS * 2 - 1;
        assert_eq!(outputs[0]["count"], json!(count));
        assert_eq!(outputs[1], json!("ada"));
        let embed = node(&state, "embed");
        assert_eq!(
            (embed.steps[1].chunks_done, embed.steps[1].items),
            (60, count)
        );
        assert_eq!(embed.fan_out.as_ref().unwrap().failed, 1);

        let mut began = BTreeMap::new();
        for event in session
            .script
            .events()
            .iter()
            .filter(|event| event.starts_with('+'))
        {
            *began.entry(event.clone()).or_insert(0) += 1;
        }
        assert_eq!(began.len() as u64, CHUNKS * 2 + 1);
        assert!(began.values().all(|times| *times == 1), "{began:?}");
        let mut joined = Vec::new();
        for fold in session.script.tasks("tidemill.collect") {
            let parts = fold["parts"].as_array().unwrap().clone();
            joined.extend(
                parts
                    .iter()
                    .map(|part| part["digest"].as_str().unwrap().replace('!', "")),
            );
        }
        assert_eq!(
            joined,
            (0..CHUNKS)
                .map(|n| format!("embed#{n}"))
                .collect::<Vec<_>>()
        );

        let last = session
            .pipelines
            .handle("long")
            .fetch_history(WorkflowFetchHistoryOptions::default());
        let events = last.into_events().await.unwrap();
        assert!((events.len() as u32) < SMALL * 3, "{} events", events.len());
        let started = format!("{:?}", events[0]);
        let first = started.contains("continued_execution_run_id: \"\"");
        assert!(!first, "the last run is one that was carried over");
        assert_eq!(
            session.pipelines.list(10).await.unwrap().len(),
            1,
            "a chain is one run"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_waits_for_the_artifact_store_without_counting_attempts() {
    with_workers(async |session| {
        let away = json!({
            "fail": {"kind": "ArtifactStoreUnavailable", "times": 6}, "hold": true, "give": 1,
        });
        let nodes = vec![stage("a", &[], away)];
        session
            .start_small("store", plan(nodes, json!("{{ a }}")))
            .await;
        session.script.release(1);
        let waits = session
            .until("store", |state| node(state, "a").message.is_some())
            .await;
        let waiting = node(&waits, "a");
        assert_eq!(waiting.status, Status::Running);
        let message = waiting.message.as_ref().unwrap();
        assert!(
            message.contains("artifact store: as the script says"),
            "{message}"
        );
        session.script.release(20);
        let (outputs, state) = session.done("store").await;
        assert_eq!(outputs, json!(1));
        assert_eq!(session.script.count("+a"), 7);
        assert_eq!(node(&state, "a").message, None);
    })
    .await;
}
