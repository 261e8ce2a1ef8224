//! Tasks, batches and a simulated device together, without an engine.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tidemill_connect::artifacts::Artifacts;
use tidemill_pipeline::data::{Item, Part};
use tidemill_pipeline::plan::{Batch, Demands, Device};
use tidemill_pipeline::task::{Input, Output, TaskInput, TaskOutput};
use tidemill_stages::{Error, ErrorKind};
use tokio_util::sync::CancellationToken;

use super::Devices;
use crate::run::{Life, Runner};
use crate::store::Store;
use crate::testing::task;
use crate::{Metrics, Offer, Registry};

const INFER: &str = "simulate.infer";

/// A worker of `accelerator` on a simulated device with 8 GiB.
struct Host {
    runner: Runner,
    devices: Arc<Devices>,
}

impl Host {
    fn new() -> Self {
        Self::on("accelerator:device=sim:0:8GiB")
    }

    fn on(offer: &str) -> Self {
        let offer = Offer::parse(offer).unwrap();
        let devices = Devices::open(&offer, "data".into(), Metrics::new()).unwrap();
        Self {
            runner: Runner {
                registry: Registry::builtin(),
                store: Store::new(Artifacts::memory()),
                data: "data".into(),
                streams: Default::default(),
                limits: crate::limit::Limits::new("test"),
            },
            devices: Arc::new(devices),
        }
    }

    async fn run(&self, activity: &str, task: &TaskInput) -> Result<TaskOutput, Error> {
        self.watched(activity, task, &Arc::default()).await
    }

    async fn watched(
        &self,
        activity: &str,
        task: &TaskInput,
        lines: &Arc<Mutex<Vec<String>>>,
    ) -> Result<TaskOutput, Error> {
        let lines = lines.clone();
        let life = Life {
            cancelled: CancellationToken::new(),
            progress: Arc::new(move |line| lines.lock().push(line)),
            devices: self.devices.clone(),
            attempt: 1,
        };
        let payload = serde_json::to_vec(task).unwrap();
        self.runner.task(activity, &payload, life).await
    }

    /// Tasks of one item each, at the same time.
    async fn all(&self, tasks: Vec<TaskInput>) -> Vec<Result<Value, Error>> {
        let runs = tasks.iter().map(|task| async {
            let done = self.run(INFER, task).await?;
            match done.output {
                Output::Value(value) => Ok(value),
                Output::Part(_) => panic!("a value was given"),
            }
        });
        futures::future::join_all(runs).await
    }

    fn held(&self) -> usize {
        self.devices.leases().unwrap().live().len()
    }
}

fn infer(with: Value, input: Value) -> TaskInput {
    task(with, Input::Value(input))
}

fn demanding(demands: Demands, task: TaskInput) -> TaskInput {
    TaskInput { demands, ..task }
}

#[tokio::test(start_paused = true)]
async fn tasks_of_different_runs_share_a_call_and_models_never_do() {
    let host = Host::new();
    let tasks = (0..64).map(|n| {
        let model = if n % 2 == 0 { "even" } else { "odd" };
        infer(
            json!({ "model": model, "latency": "20ms" }),
            json!({ "n": n }),
        )
    });
    let results = host.all(tasks.collect()).await;
    for (n, result) in results.into_iter().enumerate() {
        let value = result.unwrap();
        assert_eq!(value["n"], n);
        assert_eq!(value["batch"], 32, "{value}");
        assert_eq!(value["model"], if n % 2 == 0 { "even" } else { "odd" });
        assert_eq!(value["device"], "sim:0");
    }
    assert_eq!(host.held(), 0);
    let devices = host.devices.snapshot().devices;
    assert_eq!(devices[0].model_loads, 2);
}

#[tokio::test(start_paused = true)]
async fn a_poisoned_item_fails_alone() {
    let host = Host::new();
    let tasks =
        (0..32).map(|n| infer(json!({ "model": "m" }), json!({ "n": n, "poison": n == 7 })));
    let results = host.all(tasks.collect()).await;
    for (n, result) in results.into_iter().enumerate() {
        match result {
            Ok(value) => assert!(n != 7, "{value}"),
            Err(error) => {
                assert_eq!(n, 7, "{error}");
                assert!(error.message.contains("a poisoned item"), "{error}");
            }
        }
    }
    assert_eq!(host.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn three_ways_to_run_out_of_memory_have_three_outcomes() {
    let host = Host::new();
    // For a while: handed back, to be tried elsewhere.
    let short = || infer(json!({ "model": "short", "short_calls": 1 }), json!({}));
    let error = host.all(vec![short()]).await.remove(0).unwrap_err();
    assert_eq!(error.kind, ErrorKind::OutOfMemory, "{error}");
    assert!(error.kind.is_retryable());
    host.all(vec![short()]).await.remove(0).unwrap();

    // The batch: halved until it fits, and no larger from then on.
    let tasks = || {
        let task = |n: u32| infer(json!({ "model": "m", "most_items": 5 }), json!({ "n": n }));
        (0..32).map(task).collect::<Vec<_>>()
    };
    for result in host.all(tasks()).await {
        let batch = result.unwrap()["batch"].as_u64().unwrap();
        assert!(batch <= 5, "{batch}");
    }

    // The model: never tried again, and the numbers are said.
    let large = infer(
        json!({ "model": "large", "model_memory": "9GiB" }),
        json!({}),
    );
    let error = host.all(vec![large]).await.remove(0).unwrap_err();
    assert_eq!(error.kind, ErrorKind::ModelTooLarge, "{error}");
    assert!(!error.kind.is_retryable());
    assert!(error.message.contains("9 GiB"), "{error}");
    assert!(error.message.contains("8 GiB"), "{error}");
    assert_eq!(host.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_chunk_keeps_the_outcome_of_each_item() {
    let host = Host::new();
    let part = Part {
        items: (0..100)
            .map(|n| Item {
                id: format!("row-{n}"),
                source: String::new(),
                value: json!({ "n": n, "poison": n == 50 }),
            })
            .collect(),
        failed: Vec::new(),
    };
    let store = &host.runner.store;
    let digest = store.for_run("run-1").put_part(&part).await.unwrap();
    let chunk = task(json!({ "model": "m" }), Input::Part(digest));
    let done = host.run(INFER, &chunk).await.unwrap();
    let Output::Part(made) = done.output else {
        panic!("a chunk becomes a part");
    };
    assert_eq!((made.count, made.failed), (99, 1));
    let made = store.part(&made.digest).await.unwrap();
    assert_eq!(made.failed[0].id, "row-50");
    let ids: Vec<&str> = made.items.iter().map(|item| item.id.as_str()).collect();
    assert_eq!(ids[..3], ["row-0", "row-1", "row-2"]);
}

#[tokio::test(start_paused = true)]
async fn a_loaded_model_has_a_queue_until_it_is_dropped() {
    let host = Host::new();
    let following = tokio::spawn(host.devices.clone().follow());
    let mut queues = host.devices.queues();
    assert!(queues.borrow_and_update().is_empty());
    let half = |model: &str| infer(json!({ "model": model, "model_memory": "5GiB" }), json!({}));
    let done = host.run(INFER, &half("a")).await.unwrap();
    assert_eq!(done.warm.as_deref(), Some("accelerator/a"));
    queues
        .wait_for(|queues| queues.contains("accelerator/a"))
        .await
        .unwrap();
    // There is room for one of the two.
    let done = host.run(INFER, &half("b")).await.unwrap();
    assert_eq!(done.warm.as_deref(), Some("accelerator/b"));
    queues
        .wait_for(|queues| !queues.contains("accelerator/a"))
        .await
        .unwrap();
    following.abort();
}

#[tokio::test(start_paused = true)]
async fn a_served_model_has_its_queue_from_the_start() {
    let host = Host::on("accelerator:device=sim:0,serve=minilm");
    assert!(host.devices.serves("accelerator/minilm"));
}

#[tokio::test(start_paused = true)]
async fn another_stage_holds_a_device_alone_and_those_who_wait_say_why() {
    let host = Host::new();
    let work = task(json!({ "wait": "50ms" }), Input::Value(json!(1)));
    let second = task(json!({ "model": "m" }), Input::Value(json!({})));
    let lines = Arc::default();
    let (first, second) = tokio::join!(host.run("simulate.work", &work), async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(host.held(), 1);
        host.watched(INFER, &second, &lines).await
    });
    first.unwrap();
    second.unwrap();
    let lines = lines.lock();
    let waited = lines
        .iter()
        .any(|line| line.contains("sim:0") && line.contains("run-1/here"));
    assert!(waited, "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn a_demand_that_no_device_meets_is_handed_back_with_the_numbers() {
    let host = Host::new();
    let demands = Demands {
        device: Some(Device {
            memory: 82 << 30,
            ..Device::default()
        }),
        ..Demands::default()
    };
    let work = demanding(demands.clone(), task(json!({}), Input::Value(json!(1))));
    let error = host.run("simulate.work", &work).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.message.contains("82 GiB"), "{error}");
    assert!(error.message.contains("8 GiB"), "{error}");
    let none = Host::on("accelerator=2");
    let error = none.run("simulate.work", &work).await.unwrap_err();
    assert!(
        error.message.contains("--offer accelerator:device="),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_the_pipeline_says_of_batches_holds() {
    let host = Host::new();
    let demands = Demands {
        batch: Some(Batch {
            items: Some(4),
            ..Batch::default()
        }),
        ..Demands::default()
    };
    let tasks = (0..16).map(|n| {
        let task = infer(json!({ "model": "m" }), json!({ "n": n }));
        demanding(demands.clone(), task)
    });
    for result in host.all(tasks.collect()).await {
        assert_eq!(result.unwrap()["batch"], 4);
    }
    let none = Demands {
        batch: Some(Batch {
            items: Some(0),
            ..Batch::default()
        }),
        ..Demands::default()
    };
    let task = demanding(none, infer(json!({ "model": "m" }), json!({})));
    let error = host.all(vec![task]).await.remove(0).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
}
