//! Questions to people: answers that count, answers that do not, and none.

use serde_json::{Value, json};
use temporalio_client::UntypedSignal;
use temporalio_common::data_converters::{PayloadConverter, RawValue};
use tidemill_pipeline::plan::Work;
use tidemill_pipeline::run::{ANSWER_SIGNAL, Answer, RunState, Status};
use tidemill_runtime::client::Error;

use crate::plans::{approve, plan, stage};
use crate::session::{Session, node, with_workers};

fn answer(node: &str, choice: &str) -> Answer {
    Answer {
        node: node.to_owned(),
        choice: choice.to_owned(),
        form: json!({"stars": 5}),
        by: "ada".to_owned(),
        comment: "fine".to_owned(),
    }
}

async fn signal(session: &Session, run: &str, answer: Value) {
    let answer = RawValue::from_value(&answer, &PayloadConverter::serde_json());
    let signal = UntypedSignal::new(ANSWER_SIGNAL);
    let handle = session.pipelines.handle(run);
    handle
        .signal(signal, answer, Default::default())
        .await
        .unwrap();
}

fn asks(state: &RunState) -> bool {
    node(state, "review").status == Status::Asking
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_right_answer_counts() {
    with_workers(async |session| {
        let publish = stage(
            "publish",
            &["review"],
            json!({"give": "{{ review.form.stars }}", "hold": true}),
        );
        let mut review = approve("review", &[], false, None);
        if let Work::Approve(work) = &mut review.work {
            work.form = Some(json!({
                "type": "object", "properties": {"stars": {"type": "integer"}},
                "required": ["stars"],
            }));
        }
        let nodes = vec![review, publish];
        session
            .start("asked", plan(nodes, json!("{{ publish }}")))
            .await;
        let state = session.until("asked", asks).await;
        let review = node(&state, "review");
        assert_eq!(review.message.as_deref(), Some("Publish Tides?"));
        assert_eq!(review.choices, ["approve", "reject"]);

        for (wrong, because) in [
            (
                answer("review", "maybe"),
                "`maybe` is no choice of stage `review`: choose one of approve, reject",
            ),
            (
                answer("publish", "approve"),
                "stage `publish` asks nothing now; asked at the moment: review",
            ),
            (
                answer("revue", "approve"),
                "there is no stage `revue`; asked at the moment: review",
            ),
        ] {
            let refused = session.pipelines.answer("asked", wrong).await;
            let Err(Error::Answer(message)) = refused else {
                panic!("{refused:?}");
            };
            assert_eq!(message, because);
        }
        for form in [json!({}), json!({"stars": "many"})] {
            let mut untyped = answer("review", "approve");
            untyped.form = form;
            let refused = session.pipelines.answer("asked", untyped).await;
            let Err(Error::Answer(message)) = refused else {
                panic!("{refused:?}");
            };
            assert!(message.contains("form.stars"), "{message}");
        }
        signal(session, "asked", json!({"node": "review"})).await;
        let ignored = session
            .until("asked", |state| state.message.is_some())
            .await;
        let message = ignored.message.unwrap();
        assert!(
            message.contains("ignored") && message.contains("choice"),
            "{message}"
        );

        signal(session, "asked", json!(answer("review", "approve"))).await;
        signal(session, "asked", json!(answer("review", "reject"))).await;
        // The run cannot have ended before the second answer came: it is held.
        session.script.release(1);
        let (output, state) = session.done("asked").await;
        assert_eq!(output, json!(5));
        let output = &node(&state, "review").output;
        assert_eq!(
            (&output["choice"], &output["by"]),
            (&json!("approve"), &json!("ada"))
        );
        assert_eq!(output["timed_out"], json!(false));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_answer_the_default_is_taken() {
    with_workers(async |session| {
        let nodes = vec![approve("review", &[], false, Some(50))];
        let (output, _) = session
            .run("default", plan(nodes, json!("{{ review }}")))
            .await;
        assert_eq!(
            (&output["choice"], &output["timed_out"]),
            (&json!("approve"), &json!(true))
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_fails_the_run_unless_it_leads_somewhere() {
    with_workers(async |session| {
        for routed in [false, true] {
            let run = format!("rejected-{routed}");
            let nodes = vec![approve("review", &[], routed, None)];
            session
                .start(&run, plan(nodes, json!("{{ review.choice }}")))
                .await;
            session.until(&run, asks).await;
            let rejected = session.pipelines.answer(&run, answer("review", "reject"));
            rejected.await.unwrap();
        }
        let (error, _) = session.failed("rejected-false").await;
        assert_eq!(error, "stage `review` failed: it was rejected by ada: fine");
        assert_eq!(session.done("rejected-true").await.0, json!("reject"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_any_more_when_another_stage_has_failed() {
    with_workers(async |session| {
        let fails = stage(
            "work",
            &[],
            json!({"fail": {"kind": "Invalid"}, "hold": true}),
        );
        let nodes = vec![approve("review", &[], false, None), fails];
        session.start("moot", plan(nodes, json!(null))).await;
        session.until("moot", asks).await;
        session.script.release(1);
        let (_, state) = session.failed("moot").await;
        assert_eq!(node(&state, "review").status, Status::Canceled);
    })
    .await;
}
