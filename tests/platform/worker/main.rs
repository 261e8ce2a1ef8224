//! The worker against the real engine. The workflow is played by hand, call by call, so that nothing
//! but the worker is under test.
//!
//! The engine is the binary `tidemill` beside these tests, or the one that `TIDEMILL_BIN` names.

mod driver;
mod stages;

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tidemill_connect::artifacts::Artifacts;
use tidemill_pipeline::data::{Artifact, Collection};
use tidemill_pipeline::plan::{Cache, Demands};
use tidemill_pipeline::task::{
    Chunk, Collect, Input, Output, PartOutput, RunRef, TaskInput, TaskOutput, internal,
};
use tidemill_worker::{Config, Error, Offer, Registry, serve};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use driver::{Driver, Ended};
use stages::Toys;
use tidemill_test_engine::Engine;

/// An engine, a driver, and what workers need.
struct Bench {
    engine: Engine,
    driver: Driver,
    data: TempDir,
    toys: Toys,
}

impl Bench {
    async fn new() -> Self {
        let engine = Engine::start();
        let driver = Driver::connect(&engine.address()).await;
        Self {
            engine,
            driver,
            data: tempfile::tempdir().unwrap(),
            toys: Toys::default(),
        }
    }

    fn config(&self) -> Config {
        Config {
            offers: vec![Offer::new("cpu", 2), Offer::new("accelerator", 1)],
            grace: Duration::from_millis(100),
            ..Config::new(self.engine.address(), self.data.path())
        }
    }

    fn registry(&self) -> Registry {
        let mut registry = Registry::empty();
        self.toys.add_to(&mut registry);
        registry
    }

    fn worker(&self) -> Worker {
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(self.config(), self.registry(), stop.clone()));
        Worker { stop, serving }
    }

    async fn run(&self, activity: &str, input: &TaskInput) -> Ended {
        self.driver.run("cpu", activity, &json!(input)).await
    }

    async fn output(&self, activity: &str, input: &TaskInput) -> Output {
        let ended = self.run(activity, input).await;
        let output: TaskOutput = serde_json::from_value(ended.completed()).unwrap();
        output.output
    }

    async fn part(&self, activity: &str, input: &TaskInput) -> PartOutput {
        match self.output(activity, input).await {
            Output::Part(part) => part,
            Output::Value(value) => panic!("{value}"),
        }
    }

    fn artifacts(&self) -> Artifacts {
        Artifacts::folder(self.data.path().join("artifacts")).unwrap()
    }
}

struct Worker {
    stop: CancellationToken,
    serving: JoinHandle<Result<(), Error>>,
}

impl Worker {
    async fn stop(self) {
        self.stop.cancel();
        self.serving.await.unwrap().unwrap();
    }
}

fn task(with: Value, input: Input) -> TaskInput {
    TaskInput {
        run: RunRef {
            id: "run-1".to_owned(),
            pipeline: "p".to_owned(),
            plan: "sha256:0".to_owned(),
        },
        stage: "here".to_owned(),
        with,
        input,
        scope: Value::Null,
        cache: None,
        demands: Demands::default(),
    }
}

fn value(value: Value) -> Input {
    Input::Value(value)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_passes_through_two_stages() {
    let bench = Bench::new().await;
    let worker = bench.worker();
    let source = task(json!({ "part": { "items": 4 } }), value(json!(10)));
    let Output::Value(made) = bench.output("toy.source", &source).await else {
        panic!("a source makes a value");
    };
    let made: Collection = serde_json::from_value(made).unwrap();
    assert_eq!((made.count, made.parts), (10, 3));

    let mut parts = Vec::new();
    for index in 0..made.parts {
        let chunk = Chunk {
            collection: made.clone(),
            index,
            size: 0,
        };
        let first = task(json!({}), Input::Chunk(chunk));
        let first = bench.part("toy.double", &first).await;
        let with = json!({ "label": "{{ item.n }} of {{ inputs.all }}" });
        let second = TaskInput {
            scope: json!({ "inputs": { "all": made.count } }),
            ..task(with, Input::Part(first.digest))
        };
        parts.push(bench.part("toy.label", &second).await);
    }
    // The source's own failure, and 6 which `toy.double` refuses.
    let failed: Vec<u64> = parts.iter().map(|part| part.failed).collect();
    assert_eq!(failed, [0, 0, 2]);
    assert_eq!(
        parts[2].first_error.as_deref(),
        Some("broken: not readable")
    );

    let collect = Collect {
        item: "toy".to_owned(),
        before: None,
        parts,
    };
    let ended = bench
        .driver
        .run("cpu", internal::COLLECT, &json!(collect))
        .await;
    let all: Collection = serde_json::from_value(ended.completed()).unwrap();
    assert_eq!((all.count, all.parts), (9, 3));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_values_stay_out_of_history() {
    let bench = Bench::new().await;
    let worker = bench.worker();
    let size = 10 * 1024 * 1024;
    let Output::Value(big) = bench
        .output("toy.big", &task(json!({}), value(json!(size))))
        .await
    else {
        panic!("a call gives a value");
    };
    let artifact: Artifact = serde_json::from_value(big.clone()).unwrap();
    assert!(artifact.bytes > size);
    assert!(bench.driver.history_bytes().await < 64 * 1024);
    // The next stage sees the value itself.
    let next = bench
        .output(
            "toy.length",
            &task(json!({ "of": big }), value(Value::Null)),
        )
        .await;
    assert_eq!(next, Output::Value(json!(size)));

    // While the store is away, tasks fail with a name that the interpreter waits on.
    let store = bench.data.path().join("artifacts");
    let away = bench.data.path().join("away");
    fs::rename(&store, &away).unwrap();
    let next = task(json!({ "of": big }), value(Value::Null));
    let failure = bench.run("toy.length", &next).await.failed();
    assert_eq!(failure.kind, "ArtifactStoreUnavailable");
    assert!(
        failure.message.starts_with("stage here (toy.length): "),
        "{}",
        failure.message
    );
    fs::rename(&away, &store).unwrap();
    assert_eq!(
        bench.output("toy.length", &next).await,
        Output::Value(json!(size))
    );
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_say_what_comes_next() {
    let bench = Bench::new().await;
    let worker = bench.worker();
    for (what, kind, non_retryable) in [
        ("invalid", "Invalid", true),
        ("limited", "RateLimited", false),
        ("panic", "Failed", false),
    ] {
        let failure = bench
            .run("toy.fail", &task(json!({}), value(json!(what))))
            .await
            .failed();
        assert_eq!(
            (&*failure.kind, failure.non_retryable),
            (kind, non_retryable)
        );
        assert!(
            failure.message.starts_with("stage here (toy.fail): "),
            "{}",
            failure.message
        );
        if what == "limited" {
            assert_eq!(failure.next_retry, Some(Duration::from_secs(7)));
        }
    }
    let failure = bench
        .driver
        .run("cpu", "toy.fail", &json!({ "run": 5 }))
        .await
        .failed();
    assert_eq!((&*failure.kind, failure.non_retryable), ("Invalid", true));
    assert!(
        failure.message.contains("field `run`"),
        "{}",
        failure.message
    );
    // The worker has survived its stages.
    let fine = bench
        .output("toy.big", &task(json!({}), value(json!(1))))
        .await;
    assert_eq!(fine, Output::Value(json!("x")));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_reaches_the_stage() {
    let bench = Bench::new().await;
    let worker = bench.worker();
    let wait = json!(task(json!({}), value(Value::Null)));
    let run = bench.driver.start("cpu", "toy.wait", &wait).await;
    bench.toys.waits().await;
    run.cancel().await;
    assert!(matches!(run.end().await, Ended::Canceled));
    assert!(bench.toys.was_told());
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_is_seen_while_a_task_runs() {
    let bench = Bench::new().await;
    let worker = bench.worker();
    let wait = json!(task(json!({}), value(Value::Null)));
    let run = bench.driver.start("cpu", "toy.wait", &wait).await;
    bench.toys.waits().await;
    assert_eq!(run.heartbeat().await, json!("1 of 2 awaited"));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_stops_hands_its_task_back() {
    let bench = Bench::new().await;
    let first = bench.worker();
    let wait = json!(task(json!({}), value(json!("once"))));
    let run = bench.driver.start("cpu", "toy.wait", &wait).await;
    bench.toys.waits().await;
    first.stop().await;
    assert!(bench.toys.was_told());
    let second = bench.worker();
    assert_eq!(
        run.end().await.completed()["output"]["value"],
        json!("second attempt")
    );
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_survives_a_restart_of_the_engine() {
    let mut bench = Bench::new().await;
    let worker = bench.worker();
    let wait = json!(task(json!({}), value(json!("until told"))));
    let run = bench.driver.start("cpu", "toy.wait", &wait).await;
    bench.toys.waits().await;
    bench.engine.kill();
    bench.toys.go_on();
    bench.toys.has_gone_on().await;
    bench.engine.restart();
    assert_eq!(
        run.end().await.completed()["output"]["value"],
        json!("went on")
    );
    assert_eq!(bench.toys.waited(), 1, "it was not run again");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stage_that_computes_holds_up_no_other_class() {
    let bench = Bench::new().await;
    let worker = bench.worker();
    let spin = json!(task(json!({}), value(Value::Null)));
    let hogs = [
        bench.driver.start("cpu", "toy.spin", &spin).await,
        bench.driver.start("cpu", "toy.spin", &spin).await,
    ];
    bench.toys.spin().await;
    let quick = json!(task(json!({}), value(json!(1))));
    let ended = bench.driver.run("accelerator", "toy.big", &quick).await;
    assert_eq!(ended.completed()["output"]["value"], json!("x"));
    bench.toys.go_on();
    for hog in hogs {
        hog.end().await.completed();
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_tasks_are_done_once() {
    let bench = Bench::new().await;
    let worker = bench.worker();
    let cached = TaskInput {
        cache: Some(Cache {
            ttl_ms: 60_000,
            key: None,
        }),
        ..task(json!({}), value(json!(100_000)))
    };
    let mut seen = Vec::new();
    for _ in 0..2 {
        let ended = bench.run("toy.big", &cached).await.completed();
        seen.push(serde_json::from_value::<TaskOutput>(ended).unwrap());
    }
    assert_eq!((seen[0].cached, seen[1].cached), (false, true));
    assert_eq!(seen[0].output, seen[1].output);
    let Output::Value(big) = &seen[1].output else {
        panic!("a call gives a value");
    };
    let artifact: Artifact = serde_json::from_value(big.clone()).unwrap();
    let value: String = bench.artifacts().get_json(&artifact.digest).await.unwrap();
    assert_eq!(value.len(), 100_000);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_waits_for_its_engine_but_not_for_its_namespace() {
    let mut bench = Bench::new().await;
    // Made before two workers open it at once.
    bench.artifacts();
    bench.engine.kill();
    let worker = bench.worker();
    let gone = CancellationToken::new();
    let idle = tokio::spawn(serve(bench.config(), bench.registry(), gone.clone()));
    gone.cancel();
    idle.await.unwrap().unwrap();
    bench.engine.restart();
    let fine = bench
        .output("toy.big", &task(json!({}), value(json!(1))))
        .await;
    assert_eq!(fine, Output::Value(json!("x")));
    worker.stop().await;

    let config = Config {
        namespace: "nowhere".to_owned(),
        ..bench.config()
    };
    let error = serve(config, bench.registry(), CancellationToken::new()).await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.starts_with("namespace nowhere does not exist"),
        "{error}"
    );
}
