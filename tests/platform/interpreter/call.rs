//! Pipelines within pipelines.

use serde_json::json;
use tidemill_pipeline::run::Status;

use crate::plans::{call, plan, stage};
use crate::session::{node, with_workers};

#[tokio::test(flavor = "multi_thread")]
async fn a_called_pipeline_gives_its_outputs() {
    with_workers(async |session| {
        let mut inner = plan(
            vec![stage("twice", &[], json!({"give": "{{ inputs.n * 2 }}"}))],
            json!({"doubled": "{{ twice }}"}),
        );
        inner.name = "inner".to_owned();
        let nodes = vec![call("double", inner, json!({"n": 21}))];
        let (output, state) = session
            .run("caller", plan(nodes, json!("{{ double.doubled }}")))
            .await;
        assert_eq!(output, json!(42));
        assert_eq!(node(&state, "double").uses, "call");
        let child = session.pipelines.state("caller/double").await.unwrap();
        assert_eq!(child.pipeline, "inner");
        let listed = session.pipelines.list(10).await.unwrap();
        let listed = listed.iter().find(|run| run.id == "caller/double").unwrap();
        assert_eq!(listed.parent.as_deref(), Some("caller"));
        assert_eq!(listed.pipeline, "inner");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_called_pipeline_fails_or_is_cancelled_with_its_caller() {
    with_workers(async |session| {
        let calling = |with| {
            let mut inner = plan(vec![stage("inside", &[], with)], json!(null));
            inner.finally = vec![stage("tidy", &[], json!({}))];
            plan(vec![call("sub", inner, json!({}))], json!(null))
        };
        session
            .start("failing", calling(json!({"fail": {"kind": "Invalid"}})))
            .await;
        let (error, _) = session.failed("failing").await;
        let because = "stage `inside` failed: as the script says";
        assert_eq!(
            error,
            format!("stage `sub` failed: pipeline `test` as failing/sub: {because}")
        );

        session
            .start("stopped", calling(json!({"hang": true})))
            .await;
        session.script.seen("+inside", 2).await;
        session.pipelines.cancel("stopped", "enough").await.unwrap();
        let state = session.canceled("stopped").await;
        assert_eq!(node(&state, "sub").status, Status::Canceled);
        let child = session.canceled("stopped/sub").await;
        assert_eq!(node(&child, "inside").status, Status::Canceled);
        assert_eq!(
            session.script.count("-tidy"),
            2,
            "the child cleaned up before"
        );
    })
    .await;
}
