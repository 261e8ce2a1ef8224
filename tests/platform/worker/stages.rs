//! Stages whose behaviour the tests choose.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tidemill_pipeline::data::{FailedItem, Item, Part};
use tidemill_pipeline::stage::{Kind, StageType, Type};
use tidemill_stages::{Context, Error, ErrorKind, Sink, Stage};
use tidemill_worker::Registry;
use tokio::sync::Semaphore;

#[derive(Clone)]
pub(crate) struct Toys(Arc<State>);

struct State {
    /// One permit for each call of `toy.wait` that has begun.
    waiting: Semaphore,
    waited: AtomicUsize,
    told: AtomicBool,
    spinning: Semaphore,
    go_on: AtomicBool,
    go_on_told: Semaphore,
    gone_on: Semaphore,
}

impl Default for Toys {
    fn default() -> Self {
        Self(Arc::new(State {
            waiting: Semaphore::new(0),
            waited: AtomicUsize::new(0),
            told: AtomicBool::new(false),
            spinning: Semaphore::new(0),
            go_on: AtomicBool::new(false),
            go_on_told: Semaphore::new(0),
            gone_on: Semaphore::new(0),
        }))
    }
}

const NAMES: [&str; 8] = [
    "toy.source",
    "toy.double",
    "toy.label",
    "toy.big",
    "toy.length",
    "toy.fail",
    "toy.wait",
    "toy.spin",
];

impl Toys {
    pub(crate) fn add_to(&self, registry: &mut Registry) {
        for name in NAMES {
            let toy = Toy {
                name,
                state: self.0.clone(),
            };
            registry.add(Arc::new(toy), "1");
        }
    }

    /// Until a `toy.wait` runs.
    pub(crate) async fn waits(&self) {
        self.0.waiting.acquire().await.unwrap().forget();
    }

    pub(crate) fn waited(&self) -> usize {
        self.0.waited.load(Ordering::SeqCst)
    }

    /// Whether a `toy.wait` has seen its cancellation.
    pub(crate) fn was_told(&self) -> bool {
        self.0.told.load(Ordering::SeqCst)
    }

    /// Until two `toy.spin` run.
    pub(crate) async fn spin(&self) {
        self.0.spinning.acquire_many(2).await.unwrap().forget();
    }

    /// Lets `toy.wait` and `toy.spin` end.
    pub(crate) fn go_on(&self) {
        self.0.go_on.store(true, Ordering::SeqCst);
        self.0.go_on_told.add_permits(1);
    }

    pub(crate) async fn has_gone_on(&self) {
        self.0.gone_on.acquire().await.unwrap().forget();
    }
}

struct Toy {
    name: &'static str,
    state: Arc<State>,
}

#[async_trait]
impl Stage for Toy {
    fn describe(&self) -> StageType {
        let kind = match self.name {
            "toy.source" => Kind::Source,
            "toy.double" | "toy.label" => Kind::Items,
            _ => Kind::Call,
        };
        StageType {
            name: self.name.to_owned(),
            summary: String::new(),
            kind,
            input: Type::Any,
            output: Type::collection(Type::record("toy")),
            resource: "cpu".to_owned(),
            with: json!({}),
            pure: true,
            batched: None,
        }
    }

    async fn source(
        &self,
        input: Value,
        _: Value,
        sink: &mut dyn Sink,
        _: &Context,
    ) -> Result<(), Error> {
        for n in 0..input.as_u64().unwrap() {
            let item = Item {
                id: format!("item {n}"),
                source: String::new(),
                value: json!({ "n": n }),
            };
            sink.item(item, 10).await?;
        }
        sink.failed("broken", "not readable").await
    }

    async fn items(&self, chunk: Part, with: Value, _: &Context) -> Result<Part, Error> {
        let mut made = Part::default();
        for item in chunk.items {
            let n = item.value["n"].as_u64().unwrap();
            if self.name == "toy.label" {
                assert_eq!(with["label"], json!(format!("{n} of 10")));
                made.items.push(item);
            } else if n == 9 {
                made.failed.push(FailedItem {
                    id: item.id,
                    source: String::new(),
                    stage: String::new(),
                    error: "nine".to_owned(),
                });
            } else {
                let value = json!({ "n": 2 * n });
                made.items.push(Item { value, ..item });
            }
        }
        Ok(made)
    }

    async fn call(&self, input: Value, with: Value, cx: &Context) -> Result<Value, Error> {
        match self.name {
            "toy.big" => Ok(json!("x".repeat(input.as_u64().unwrap() as usize))),
            "toy.length" => Ok(json!(with["of"].as_str().map(str::len))),
            "toy.fail" => match input.as_str().unwrap() {
                "invalid" => Err(Error::invalid("never")),
                "limited" => Err(Error {
                    retry_after: Some(Duration::from_secs(7)),
                    ..Error::new(ErrorKind::RateLimited, "later")
                }),
                _ => panic!("on purpose"),
            },
            "toy.spin" => {
                self.state.spinning.add_permits(1);
                while !self.state.go_on.load(Ordering::SeqCst) {
                    std::hint::spin_loop();
                }
                Ok(Value::Null)
            }
            _ => self.wait(&input, cx).await,
        }
    }
}

impl Toy {
    async fn wait(&self, input: &Value, cx: &Context) -> Result<Value, Error> {
        let times = self.state.waited.fetch_add(1, Ordering::SeqCst) + 1;
        self.state.waiting.add_permits(1);
        if input == "once" && times == 2 {
            return Ok(json!("second attempt"));
        }
        (cx.progress)("1 of 2 awaited".to_owned());
        tokio::select! {
            () = cx.cancelled.cancelled() => {
                self.state.told.store(true, Ordering::SeqCst);
                Err(Error::cancelled())
            }
            _ = self.state.go_on_told.acquire() => {
                self.state.gone_on.add_permits(1);
                Ok(json!("went on"))
            }
        }
    }
}
