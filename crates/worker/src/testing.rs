//! What this crate's unit tests share: a runner over a store in memory, and stages that are toys.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tidemill_connect::artifacts::Artifacts;
use tidemill_pipeline::data::{FailedItem, Item, Part};
use tidemill_pipeline::plan::{Cache, Demands};
use tidemill_pipeline::stage::{Kind, StageType, Type};
use tidemill_pipeline::task::{Input, Output, PartOutput, RunRef, TaskInput, TaskOutput};
use tidemill_stages::{Context, Error, ErrorKind, Sink, Stage};
use tokio_util::sync::CancellationToken;

use crate::batching::Devices;
use crate::limit::Limits;
use crate::run::{Life, Runner};
use crate::store::Store;
use crate::{Metrics, Offer, Registry};

/// A runner of [`Toy`]s: `toy.call`, `toy.source`, `toy.items`, and `toy.impure`.
pub(crate) fn runner() -> (Runner, Arc<Toy>) {
    let toy = Arc::new(Toy::new(Kind::Call, "toy.call"));
    let mut registry = Registry::empty();
    registry.add(toy.clone(), "1");
    registry.add(Arc::new(Toy::new(Kind::Source, "toy.source")), "1");
    registry.add(Arc::new(Toy::new(Kind::Items, "toy.items")), "1");
    let impure = Toy {
        pure: false,
        ..Toy::new(Kind::Call, "toy.impure")
    };
    registry.add(Arc::new(impure), "1");
    let runner = Runner {
        registry,
        store: Store::new(Artifacts::memory()),
        data: "data".into(),
        streams: Default::default(),
        limits: Limits::new("test"),
    };
    (runner, toy)
}

pub(crate) fn life() -> Life {
    Life {
        cancelled: CancellationToken::new(),
        progress: Arc::new(|_| {}),
        devices: Arc::new(
            Devices::open(&Offer::new("cpu", 1), "data".into(), Metrics::new()).unwrap(),
        ),
        attempt: 1,
    }
}

pub(crate) fn task(with: Value, input: Input) -> TaskInput {
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

pub(crate) fn cached(task: TaskInput, key: Option<&str>) -> TaskInput {
    TaskInput {
        cache: Some(Cache {
            ttl_ms: 60_000,
            key: key.map(str::to_owned),
        }),
        ..task
    }
}

pub(crate) async fn run(
    runner: &Runner,
    activity: &str,
    task: &TaskInput,
) -> Result<TaskOutput, Error> {
    let payload = serde_json::to_vec(task).unwrap();
    runner.task(activity, &payload, life()).await
}

pub(crate) async fn value(runner: &Runner, activity: &str, task: &TaskInput) -> Value {
    match run(runner, activity, task).await.unwrap().output {
        Output::Value(value) => value,
        Output::Part(part) => panic!("{part:?}"),
    }
}

pub(crate) async fn part(runner: &Runner, activity: &str, task: &TaskInput) -> (PartOutput, Part) {
    match run(runner, activity, task).await.unwrap().output {
        Output::Part(output) => {
            let part = runner.store.part(&output.digest).await.unwrap();
            (output, part)
        }
        Output::Value(value) => panic!("{value}"),
    }
}

pub(crate) fn item(id: &str, value: Value) -> Item {
    Item {
        id: id.to_owned(),
        source: String::new(),
        value,
    }
}

pub(crate) fn failed(id: &str, source: &str) -> FailedItem {
    FailedItem {
        id: id.to_owned(),
        source: source.to_owned(),
        stage: "before".to_owned(),
        error: "broken".to_owned(),
    }
}

/// Does what its parameter `do` says, or what an item's value says: `fail`, `panic`, `invalid`,
/// `away`, `store` (an error of that kind), `shaky` (away, the first two times); everything else it
/// gives back. As a source it makes as many items as its input says.
pub(crate) struct Toy {
    kind: Kind,
    name: &'static str,
    pure: bool,
    pub(crate) calls: AtomicUsize,
    pub(crate) revision: Mutex<Option<String>>,
}

impl Toy {
    pub(crate) fn new(kind: Kind, name: &'static str) -> Self {
        Self {
            kind,
            name,
            pure: true,
            calls: AtomicUsize::new(0),
            revision: Mutex::default(),
        }
    }

    fn act(&self, what: &Value) -> Result<(), Error> {
        let calls = self.calls.fetch_add(1, Ordering::Relaxed);
        match what.as_str() {
            Some("panic") => panic!("at {calls}"),
            Some("fail") => Err(Error::failed("no good")),
            Some("invalid") => Err(Error::invalid("wrong")),
            Some("away") => Err(Error {
                retry_after: Some(Duration::from_secs(60)),
                ..Error::unavailable("gone")
            }),
            Some("shaky") if calls < 2 => Err(Error {
                retry_after: Some(Duration::from_millis(1)),
                ..Error::unavailable("busy")
            }),
            Some("store") => Err(Error::new(ErrorKind::ArtifactStoreUnavailable, "no disk")),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Stage for Toy {
    fn describe(&self) -> StageType {
        StageType {
            name: self.name.to_owned(),
            summary: String::new(),
            kind: self.kind,
            input: Type::Any,
            output: Type::collection(Type::record("toy")),
            resource: "cpu".to_owned(),
            with: json!({}),
            pure: self.pure,
            batched: None,
        }
    }

    async fn call(&self, input: Value, with: Value, cx: &Context) -> Result<Value, Error> {
        self.act(&with["do"])?;
        self.act(&input)?;
        Ok(json!({ "input": input, "with": with, "stage": cx.stage }))
    }

    async fn source(
        &self,
        input: Value,
        with: Value,
        sink: &mut dyn Sink,
        _: &Context,
    ) -> Result<(), Error> {
        self.act(&with["do"])?;
        for n in 0..input.as_u64().unwrap_or_default() {
            sink.item(item(&format!("i{n}"), json!(n)), 10).await?;
        }
        sink.failed("broken.pdf", "not a PDF").await
    }

    async fn items(&self, chunk: Part, with: Value, _: &Context) -> Result<Part, Error> {
        self.act(&with["do"])?;
        // The earlier failures stay in the part: the worker must not count them twice.
        let mut made = Part {
            items: Vec::new(),
            failed: chunk.failed,
        };
        for given in chunk.items {
            match self.act(&given.value) {
                Ok(()) => made.items.push(Item {
                    value: json!({ "value": given.value, "with": with }),
                    source: String::new(),
                    ..given
                }),
                Err(e) => made.failed.push(FailedItem {
                    id: given.id,
                    source: String::new(),
                    stage: String::new(),
                    error: e.message,
                }),
            }
        }
        Ok(made)
    }

    async fn revision(&self, _: &Value, _: &Context) -> Result<Option<String>, Error> {
        Ok(self.revision.lock().clone())
    }
}
