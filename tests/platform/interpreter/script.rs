//! A worker whose stages do what their `with` says, and who writes down what it was asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use temporalio_macros::activities;
use temporalio_sdk::ApplicationFailure;
use temporalio_sdk::activities::{ActivityContext, ActivityError};
use tokio::sync::{Semaphore, watch};

/// What has happened so far.
#[derive(Clone, Default)]
pub(crate) struct Script {
    log: Arc<Mutex<Log>>,
    changed: Arc<watch::Sender<u64>>,
    gate: Gate,
}

#[derive(Clone)]
struct Gate(Arc<Semaphore>);

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }
}

#[derive(Default)]
struct Log {
    /// `stage`, or `stage#chunk`: with `+` when it began, `-` when it ended.
    events: Vec<String>,
    calls: BTreeMap<String, u32>,
    tasks: Vec<(String, Value)>,
    /// Stages with the queue and the priority of each of their attempts.
    placed: Vec<Placed>,
    open: u32,
    open_at_most: u32,
}

/// Where an attempt was taken, and with which priority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) stage: String,
    pub(crate) queue: String,
    pub(crate) priority: Option<u32>,
}

impl Script {
    pub(crate) fn placed(&self) -> Vec<Placed> {
        self.log.lock().unwrap().placed.clone()
    }

    /// The queues at which a stage's attempts were taken, in that order.
    pub(crate) fn queues(&self, stage: &str) -> Vec<String> {
        let placed = self.placed().into_iter();
        let of_stage = placed.filter(|placed| placed.stage == stage);
        of_stage.map(|placed| placed.queue).collect()
    }

    pub(crate) fn events(&self) -> Vec<String> {
        self.log.lock().unwrap().events.clone()
    }

    /// Events that begin with a sign and the name of a stage.
    pub(crate) fn count(&self, event: &str) -> usize {
        let begins = |seen: &&String| seen.starts_with(event);
        self.events().iter().filter(begins).count()
    }

    /// The inputs of the tasks of an activity type.
    pub(crate) fn tasks(&self, name: &str) -> Vec<Value> {
        let log = self.log.lock().unwrap();
        let of_type = log.tasks.iter().filter(|(of, _)| of == name);
        of_type.map(|(_, input)| input.clone()).collect()
    }

    pub(crate) fn open_at_most(&self) -> u32 {
        self.log.lock().unwrap().open_at_most
    }

    /// Waits until so many events have been seen.
    pub(crate) async fn seen(&self, event: &str, times: usize) {
        let mut changed = self.changed.subscribe();
        while self.count(event) < times {
            changed.changed().await.unwrap();
        }
    }

    /// Lets tasks that are held go on.
    pub(crate) fn release(&self, tasks: usize) {
        self.gate.0.add_permits(tasks);
    }

    fn note(&self, sign: char, what: &str) {
        let mut log = self.log.lock().unwrap();
        log.events.push(format!("{sign}{what}"));
        if sign == '+' {
            log.open += 1;
            log.open_at_most = log.open_at_most.max(log.open);
        } else {
            log.open -= 1;
        }
        drop(log);
        self.changed.send_modify(|times| *times += 1);
    }

    async fn stage(
        &self,
        ctx: &ActivityContext,
        name: &str,
        input: Value,
    ) -> Result<Value, ActivityError> {
        let stage = input["stage"].as_str().unwrap().to_owned();
        let chunk = chunk_of(&input["input"]);
        let what = match chunk {
            Some(chunk) => format!("{stage}#{chunk}"),
            None => stage,
        };
        let call = {
            let mut log = self.log.lock().unwrap();
            log.tasks.push((name.to_owned(), input.clone()));
            log.placed.push(Placed {
                stage: input["stage"].as_str().unwrap().to_owned(),
                queue: ctx.info().task_queue.clone(),
                priority: ctx.info().priority.priority_key,
            });
            let calls = log.calls.entry(what.clone()).or_default();
            *calls += 1;
            *calls
        };
        self.note('+', &what);
        let reply = self.act(ctx, call, chunk, &input).await;
        self.note('-', &what);
        reply
    }

    async fn act(
        &self,
        ctx: &ActivityContext,
        call: u32,
        chunk: Option<u64>,
        input: &Value,
    ) -> Result<Value, ActivityError> {
        let with = &input["with"];
        if with["hold"] == json!(true) {
            self.gate.0.acquire().await.unwrap().forget();
        }
        if with["hang"] == json!(true) {
            let mut beat = tokio::time::interval(Duration::from_millis(100));
            loop {
                tokio::select! {
                    () = ctx.cancelled() => return Err(ActivityError::cancelled()),
                    _ = beat.tick() => ctx.record_heartbeat(()).await?,
                }
            }
        }
        let fails = &with["fail"];
        let here = fails["chunks"].is_null()
            || fails["chunks"].as_array().unwrap().contains(&json!(chunk));
        if fails.is_object() && here && u64::from(call) <= fails["times"].as_u64().unwrap_or(99) {
            return Err(failure(
                fails["kind"].as_str().unwrap(),
                "as the script says",
            ));
        }
        Ok(match chunk {
            Some(chunk) => {
                // An item that failed before stays with its part, as its mark says.
                let marked = input["input"]["part"]
                    .as_str()
                    .is_some_and(|part| part.contains('!'));
                let listed = with["bad"]
                    .as_array()
                    .is_some_and(|bad| bad.contains(&json!(chunk)));
                let bad = u64::from(marked || listed);
                let stage = input["stage"].as_str().unwrap();
                let mark = if bad > 0 { "!" } else { "" };
                json!({"output": {"part": {
                    "digest": format!("{stage}{mark}#{chunk}"), "count": 2 - bad, "failed": bad,
                    "failed_sources": bad,
                    "first_error": (bad > 0).then_some("unreadable"),
                }}, "warm": with["warm"].clone()})
            }
            None => json!({
                "output": {"value": with["give"].clone()}, "cached": with["cached"] == json!(true),
                "warm": with["warm"].clone(),
            }),
        })
    }

    fn internal(&self, name: &str, input: &Value) {
        self.log
            .lock()
            .unwrap()
            .tasks
            .push((name.to_owned(), input.clone()));
    }
}

/// The number of the chunk that a task is about; parts are named after it.
fn chunk_of(input: &Value) -> Option<u64> {
    match input["part"].as_str() {
        Some(part) => part.rsplit_once('#')?.1.parse().ok(),
        None => input["chunk"]["index"].as_u64(),
    }
}

fn failure(kind: &str, message: &str) -> ActivityError {
    let failure = ApplicationFailure::builder(message)
        .type_name(kind.to_owned())
        .non_retryable(kind == "Invalid");
    failure.build().into()
}

/// A collection of two items to a part.
pub(crate) fn collection(name: &str, parts: u64) -> Value {
    json!({"$collection": name, "item": "document", "count": parts * 2, "parts": parts})
}

#[activities]
impl Script {
    #[activity(name = "test.call")]
    async fn call(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: Value,
    ) -> Result<Value, ActivityError> {
        self.stage(&ctx, "test.call", input).await
    }

    #[activity(name = "test.items")]
    async fn items(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: Value,
    ) -> Result<Value, ActivityError> {
        self.stage(&ctx, "test.items", input).await
    }

    #[activity(name = "tidemill.collect")]
    async fn collect(
        self: Arc<Self>,
        _ctx: ActivityContext,
        input: Value,
    ) -> Result<Value, ActivityError> {
        self.internal("tidemill.collect", &input);
        let parts = input["parts"].as_array().unwrap();
        let counts = parts.iter().map(|part| part["count"].as_u64().unwrap());
        let count = counts.sum::<u64>() + input["before"]["count"].as_u64().unwrap_or(0);
        let so_far = input["before"]["parts"].as_u64().unwrap_or(0);
        Ok(json!({
            "$collection": "joined", "item": input["item"], "count": count,
            "parts": parts.len() as u64 + so_far,
        }))
    }

    #[activity(name = "tidemill.chunk")]
    async fn chunk(
        self: Arc<Self>,
        _ctx: ActivityContext,
        input: Value,
    ) -> Result<Value, ActivityError> {
        self.internal("tidemill.chunk", &input);
        let items = input.as_array().unwrap().len() as u64;
        Ok(collection("chunked", items.div_ceil(2)))
    }

    #[activity(name = "tidemill.failed_only")]
    async fn failed_only(
        self: Arc<Self>,
        _ctx: ActivityContext,
        input: Value,
    ) -> Result<Value, ActivityError> {
        self.internal("tidemill.failed_only", &input);
        Ok(collection("failed only", 1))
    }

    #[activity(name = "tidemill.keep")]
    async fn keep(
        self: Arc<Self>,
        _ctx: ActivityContext,
        input: Value,
    ) -> Result<Value, ActivityError> {
        self.internal("tidemill.keep", &input);
        Ok(Value::Null)
    }

    #[activity(name = "tidemill.fail_chunk")]
    async fn fail_chunk(
        self: Arc<Self>,
        _ctx: ActivityContext,
        input: Value,
    ) -> Result<Value, ActivityError> {
        self.internal("tidemill.fail_chunk", &input);
        Ok(json!({
            "digest": "lost", "count": 0, "failed": 2, "failed_sources": 2,
            "first_error": input["error"],
        }))
    }
}
