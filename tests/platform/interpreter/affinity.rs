//! Tasks that prefer workers which have their model loaded, and priorities.

use std::time::Duration;

use serde_json::{Value, json};
use tidemill_pipeline::plan::{Affinity, Node, Retry, Step, Timeouts, Work};

use crate::plans::{fan_out, node, plan, stage, step};
use crate::script::{Placed, collection};
use crate::session::{SMALL, with_workers_on};

const CLASS: &str = "accelerator";
const MODEL: &str = "accelerator/minilm";

/// A wait that nobody sits out.
const LONG: u64 = 3_600_000;
/// One that is sat out where nobody serves the model.
const SHORT: u64 = 50;

/// A step that prefers workers with the model `minilm`.
fn prefers(id: &str, wait_ms: u64, mut with: Value) -> Step {
    with["model"] = json!("{{ inputs.title | lower | replace('tides', 'minilm') }}");
    Step {
        resource: CLASS.to_owned(),
        affinity: Some(Affinity {
            parameter: "model".to_owned(),
            wait_ms,
        }),
        ..step(id, "test.call", with)
    }
}

fn task(needs: &[&str], step: Step) -> Node {
    node(&step.id.clone(), needs, Work::Task(step))
}

fn attempts(attempts: u32) -> Retry {
    Retry {
        attempts,
        first_delay_ms: 1,
        ..Retry::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_has_the_model_gets_the_task() {
    with_workers_on(&["cpu", CLASS, MODEL], async |session| {
        let nodes = vec![
            task(&[], prefers("a", LONG, json!({"give": 1}))),
            task(&["a"], prefers("b", LONG, json!({"give": "{{ a }}"}))),
        ];
        let (outputs, _) = session.run("warm", plan(nodes, json!("{{ b }}"))).await;
        assert_eq!(outputs, json!(1));
        assert_eq!(session.scheduled_on("warm").await, [MODEL, MODEL]);
        let scheduled = session.scheduled("warm").await;
        let wait = scheduled[0].schedule_to_start_timeout.unwrap();
        assert_eq!(wait.seconds, 3_600);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_spills_and_the_run_knows_until_a_worker_says_that_it_is_warm() {
    with_workers_on(&["cpu", CLASS], async |session| {
        let nodes = vec![
            // Nobody takes it, so it goes to its class, and so does the next.
            task(&[], prefers("a", SHORT, json!({}))),
            task(
                &["a"],
                prefers("b", SHORT, json!({"warm": "accelerator/other"})),
            ),
            // A worker of the class that has loaded the model says so.
            task(&["b"], prefers("c", SHORT, json!({"warm": MODEL}))),
            task(&["c"], prefers("d", SHORT, json!({"give": "d"}))),
        ];
        let (outputs, _) = session.run("spilled", plan(nodes, json!("{{ d }}"))).await;
        assert_eq!(outputs, json!("d"));
        let places = [MODEL, CLASS, CLASS, CLASS, MODEL, CLASS];
        assert_eq!(session.scheduled_on("spilled").await, places);
        for id in ["a", "b", "c", "d"] {
            assert_eq!(session.script.queues(id), [CLASS], "{id} ran once");
        }
        let scheduled = session.scheduled("spilled").await;
        let start = scheduled[1].schedule_to_start_timeout;
        let bounded = start.is_some_and(|wait| wait.seconds > 0 || wait.nanos > 0);
        assert!(
            !bounded,
            "at its class it waits as long as it takes: {start:?}"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_are_as_many_as_without_affinity() {
    with_workers_on(&["cpu", CLASS, MODEL], async |session| {
        let failing =
            |times: u32| json!({"fail": {"kind": "Failed", "times": times}, "give": "ok"});
        let step = |with, tries| Step {
            retry: attempts(tries),
            ..prefers("a", LONG, with)
        };
        // It goes well at the third of three, the first at the model's queue.
        let third = plan(vec![task(&[], step(failing(2), 3))], json!("{{ a }}"));
        let (outputs, _) = session.run("third", third).await;
        assert_eq!(outputs, json!("ok"));
        assert_eq!(session.script.queues("a"), [MODEL, CLASS, CLASS]);

        let never = |tries| plan(vec![task(&[], step(failing(99), tries))], json!(null));
        for (id, tries, queues) in [("one", 1, 1), ("two", 2, 2), ("four", 4, 4)] {
            let before = session.script.queues("a").len();
            session.start(id, never(tries)).await;
            let (error, _) = session.failed(id).await;
            assert_eq!(error, "stage `a` failed: as the script says", "{id}");
            assert_eq!(session.script.queues("a").len() - before, queues, "{id}");
        }

        // What would fail again is not tried again, wherever it was.
        let before = session.script.queues("a").len();
        let invalid = json!({"fail": {"kind": "Invalid"}});
        let invalid = plan(vec![task(&[], step(invalid, 5))], json!(null));
        session.start("invalid", invalid).await;
        session.failed("invalid").await;
        assert_eq!(session.script.queues("a").len() - before, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_total_is_of_both_queues() {
    with_workers_on(&["cpu"], async |session| {
        let step = Step {
            timeouts: Timeouts {
                total_ms: Some(400),
                ..Timeouts::default()
            },
            ..prefers("a", SHORT, json!({}))
        };
        session
            .start("total", plan(vec![task(&[], step)], json!(null)))
            .await;
        let (error, _) = session.failed("total").await;
        assert!(error.contains("within 400 ms"), "{error}");
        let scheduled = session.scheduled("total").await;
        let totals = scheduled.iter().map(|task| {
            let total = task.schedule_to_close_timeout.unwrap();
            Duration::try_from(total).unwrap()
        });
        let totals: Vec<Duration> = totals.collect();
        assert_eq!(totals[0], Duration::from_millis(400));
        let left = Duration::from_millis(400 - SHORT);
        assert!(totals.len() == 2 && totals[1] <= left, "{totals:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_does_not_wait_again_when_it_has_continued_as_new() {
    with_workers_on(&["cpu", CLASS], async |session| {
        let load = stage("load", &[], json!({"give": collection("loaded", 60)}));
        let mut embed = fan_out("embed", 2, 0.0, &[("embed", json!({"model": "minilm"}))]);
        if let Work::FanOut(fan_out) = &mut embed.work {
            let step = &mut fan_out.steps[0];
            step.resource = CLASS.to_owned();
            step.affinity = prefers("embed", SHORT, json!({})).affinity;
        }
        // Whichever run is the last of the chain, this one is in it.
        let last = task(&["embed"], prefers("last", SHORT, json!({})));
        let plan = plan(vec![load, embed, last], json!("{{ embed.count }}"));
        session.start_small("cold", plan).await;
        let (outputs, _) = session.done("cold").await;
        assert_eq!(outputs, json!(120));
        // The first chunks have waited, in the first run.
        let scheduled = session.scheduled_on("cold").await;
        assert!(scheduled.len() < SMALL as usize, "{scheduled:?}");
        assert!(scheduled.contains(&CLASS.to_owned()), "{scheduled:?}");
        assert!(!scheduled.contains(&MODEL.to_owned()), "{scheduled:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_priority_arrives_with_the_task() {
    with_workers_on(&["cpu"], async |session| {
        let mut urgent = step("urgent", "test.call", json!({}));
        urgent.demands.priority = Some(1);
        let nodes = vec![task(&[], urgent), stage("usual", &["urgent"], json!({}))];
        session.run("priority", plan(nodes, json!(null))).await;
        let placed = |stage: &str, priority| Placed {
            stage: stage.to_owned(),
            queue: "cpu".to_owned(),
            priority,
        };
        let expected = [placed("urgent", Some(1)), placed("usual", None)];
        assert_eq!(session.script.placed(), expected);
    })
    .await;
}
