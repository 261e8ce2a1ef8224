//! Which nodes run, in which order, and what a run returns.

use serde_json::json;
use tidemill_pipeline::run::Status;
use tidemill_runtime::client::{RunStatus, StartOptions};

use crate::plans::{plan, stage};
use crate::session::{node, statuses, with_workers};

#[tokio::test(flavor = "multi_thread")]
async fn stages_run_in_order_and_pass_values_on() {
    with_workers(async |session| {
        let mut second = stage(
            "b",
            &["a"],
            json!({"give": "{{ a.n }} for {{ inputs.title }}"}),
        );
        second.when = Some("a.n > 2".to_owned());
        let mut skipped = stage("c", &["b"], json!({}));
        skipped.when = Some("a.n > 5".to_owned());
        let last = stage("d", &["c"], json!({"give": "{{ c }}", "cached": true}));
        let plan = plan(
            vec![
                stage("a", &[], json!({"give": {"n": 3}})),
                second,
                skipped,
                last,
            ],
            json!({"text": "{{ b }}", "n": "{{ a.n }}", "run": "{{ run.id }}"}),
        );
        let hash = plan.hash();
        let (outputs, state) = session.run("order", plan).await;
        assert_eq!(
            outputs,
            json!({"text": "3 for Tides", "n": 3, "run": "order"})
        );
        assert_eq!(
            session.script.events(),
            ["+a", "-a", "+b", "-b", "+d", "-d"]
        );
        assert_eq!(
            statuses(&state),
            [
                ("a", Status::Done),
                ("b", Status::Done),
                ("c", Status::Skipped),
                ("d", Status::Kept),
            ]
        );
        assert!(node(&state, "b").started_ms >= node(&state, "a").ended_ms);
        assert_eq!((state.pipeline.as_str(), &state.plan), ("test", &hash));
        assert_eq!(session.pipelines.state("order").await.unwrap(), state);
        let task = &session.script.tasks("test.call")[1];
        assert_eq!(
            task["run"],
            json!({"id": "order", "pipeline": "test", "plan": hash})
        );

        let listed = &session.pipelines.list(10).await.unwrap()[0];
        assert_eq!(
            (listed.id.as_str(), listed.status),
            ("order", RunStatus::Done)
        );
        assert_eq!((&listed.pipeline, &listed.plan), (&state.pipeline, &hash));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn independent_stages_run_at_the_same_time() {
    with_workers(async |session| {
        let held = || json!({"hold": true, "give": 1});
        let plan = plan(
            vec![
                stage("a", &[], held()),
                stage("b", &[], held()),
                stage("end", &["a", "b"], json!({"give": "{{ a + b }}"})),
            ],
            json!("{{ end }}"),
        );
        session.start("parallel", plan).await;
        session.script.seen("+", 2).await;
        assert_eq!(
            session.script.count("-"),
            0,
            "both have begun, neither has ended"
        );
        session.script.release(2);
        assert_eq!(session.done("parallel").await.0, json!(2));
        assert_eq!(session.script.events()[4..], ["+end", "-end"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_may_be_allowed() {
    with_workers(async |session| {
        let fails = json!({"fail": {"kind": "Failed"}});
        let mut allowed = stage("a", &[], fails.clone());
        allowed.allow_failure = true;
        let nodes = vec![allowed, stage("b", &["a"], json!({"give": "{{ a }}"}))];
        let (outputs, state) = session.run("allowed", plan(nodes, json!("{{ b }}"))).await;
        assert_eq!(outputs, json!(null));
        assert_eq!(node(&state, "a").status, Status::FailedAllowed);
        assert_eq!(
            session.script.count("+a"),
            2,
            "it is tried as often as it says"
        );

        let nodes = vec![stage("x", &[], fails), stage("y", &["x"], json!({}))];
        session.start("failed", plan(nodes, json!(null))).await;
        let (error, state) = session.failed("failed").await;
        assert_eq!(error, "stage `x` failed: as the script says");
        assert_eq!(
            statuses(&state),
            [("x", Status::Failed), ("y", Status::Waiting)]
        );
        assert_eq!(
            node(&state, "x").error.as_deref(),
            Some("as the script says")
        );
        assert_eq!(session.pipelines.state("failed").await.unwrap(), state);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn finally_runs_however_the_run_ends() {
    with_workers(async |session| {
        let with_finally = |work| {
            let mut plan = plan(vec![stage("work", &[], work)], json!("{{ work }}"));
            let tidy = json!({"give": "{{ run.status }}"});
            plan.finally = vec![stage("tidy", &[], tidy)];
            plan
        };
        let (outputs, state) = session.run("well", with_finally(json!({"give": 7}))).await;
        assert_eq!(
            (outputs, &node(&state, "tidy").output),
            (json!(7), &json!("done"))
        );

        let fails = json!({"fail": {"kind": "Invalid"}});
        session.start("badly", with_finally(fails)).await;
        let (_, state) = session.failed("badly").await;
        assert_eq!(node(&state, "tidy").output, json!("failed"));
        assert_eq!(
            session.script.count("+work"),
            2,
            "what is invalid is not tried again"
        );

        session
            .start("cleaned-up", with_finally(json!({"hang": true})))
            .await;
        session.script.seen("+work", 3).await;
        session
            .pipelines
            .cancel("cleaned-up", "enough")
            .await
            .unwrap();
        let state = session.canceled("cleaned-up").await;
        assert_eq!(
            statuses(&state),
            [("work", Status::Canceled), ("tidy", Status::Done)]
        );
        assert_eq!(node(&state, "tidy").output, json!("canceled"));
        assert_eq!(
            session.script.events()[8..],
            ["+work", "-work", "+tidy", "-tidy"]
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rerun_keeps_what_it_is_given() {
    with_workers(async |session| {
        let nodes = vec![
            stage("a", &[], json!({"give": "anew"})),
            stage("b", &["a"], json!({"give": "{{ a }}"})),
        ];
        let options = StartOptions {
            id: "rerun".to_owned(),
            keep: [("a".to_owned(), json!("kept"))].into(),
            earlier: Some("first".to_owned()),
            ..StartOptions::default()
        };
        session
            .start_with(plan(nodes, json!("{{ b }}")), options)
            .await;
        let (outputs, state) = session.done("rerun").await;
        assert_eq!(outputs, json!("kept"));
        assert_eq!(statuses(&state), [("a", Status::Kept), ("b", Status::Done)]);
        assert_eq!(session.script.count("+a"), 0);
        // What it keeps lies in artifacts of that run.
        let kept = session.script.tasks("tidemill.keep");
        assert_eq!(kept, [json!({"run": "first"})]);
        assert_eq!(state.earlier.as_deref(), Some("first"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_of_another_format_is_refused() {
    with_workers(async |session| {
        let input = json!({"plan": {"format": 99, "shape": "unknown"}, "inputs": {}});
        session.start_raw("future", &input).await;
        let (error, _) = session.failed("future").await;
        assert!(
            error.contains("format 99") && error.contains("format 1"),
            "{error}"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_template_fails_its_node_by_name() {
    with_workers(async |session| {
        let nodes = vec![stage("a", &[], json!({"give": "{{ inputs.nothing }}"}))];
        session.start("template", plan(nodes, json!(null))).await;
        let (error, _) = session.failed("template").await;
        assert!(error.starts_with("stage `a` failed: `with`: "), "{error}");
        assert!(error.contains("nothing"), "{error}");
    })
    .await;
}
