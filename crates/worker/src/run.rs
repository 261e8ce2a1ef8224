//! One task from its payload to its output: what surrounds a stage.

#[cfg(test)]
mod tests;

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;

use futures::FutureExt;
use serde::Serialize;
use serde_json::Value;
use tidemill_connect::stream::Streams;
use tidemill_pipeline::data::Part;
use tidemill_pipeline::stage::{Kind, Type};
use tidemill_pipeline::task::{Input, Output, PartOutput, TaskInput, TaskOutput};
use tidemill_stages::{Context, Error, Stage};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info_span};

use crate::batching::{BatchedStage, Devices, hold};
use crate::cache;
use crate::fan_out::{self, Whole};
use crate::internal as chores;
use crate::limit::{self, Entered};
use crate::message;
use crate::parts::{Limits, PartSink};
use crate::registry::{Entry, Registry};
use crate::store::Store;

/// What all tasks of a worker share.
pub(crate) struct Runner {
    pub(crate) registry: Registry,
    pub(crate) store: Store,
    pub(crate) data: PathBuf,
    /// What stages say while they are at work, for those who watch.
    pub(crate) streams: Streams,
    pub(crate) limits: limit::Limits,
}

/// What connects a task with the one who watches it.
#[derive(Clone)]
pub(crate) struct Life {
    pub(crate) cancelled: CancellationToken,
    pub(crate) progress: Arc<dyn Fn(String) + Send + Sync>,
    /// Those of the class that the task came from.
    pub(crate) devices: Arc<Devices>,
    pub(crate) attempt: u32,
}

impl Runner {
    /// Runs the task of type `activity` and returns its result as JSON. `workflow` is the id of the
    /// workflow that asked. Messages of errors begin with the stage's id.
    pub(crate) async fn run(
        &self,
        activity: &str,
        workflow: &str,
        payload: &[u8],
        life: Life,
    ) -> Result<Vec<u8>, Error> {
        if chores::is_one(activity) {
            let work = chores::run(&self.store, activity, workflow, payload);
            return work.await.map_err(|e| at(&format!("task {activity}"), e));
        }
        let output = self.task(activity, payload, life).await?;
        serde_json::to_vec(&output).map_err(not_json)
    }

    /// The same for a stage.
    pub(crate) async fn task(
        &self,
        activity: &str,
        payload: &[u8],
        life: Life,
    ) -> Result<TaskOutput, Error> {
        let task = message::decode(payload).map_err(|e| at(&format!("task {activity}"), e))?;
        let place = if task.stage == activity {
            format!("stage {activity}")
        } else {
            format!("stage {} ({activity})", task.stage)
        };
        let chunk = chunk(&task.input);
        let span = info_span!("task", run = %task.run.id, stage = %task.stage, chunk);
        let work = async {
            debug!(activity, "task begins");
            // A stage that panics must not take its worker with it, nor leave the message without
            // the stage's name.
            let done = AssertUnwindSafe(self.stage(activity, task, life)).catch_unwind();
            let done = match done.await {
                Ok(done) => done,
                Err(panic) => Err(Error::failed(format!("it panicked: {}", panicked(&*panic)))),
            };
            match &done {
                Ok(output) => debug!(cached = output.cached, "task done"),
                Err(e) => debug!(kind = e.kind.name(), error = %e, "task failed"),
            }
            done
        };
        work.instrument(span).await.map_err(|e| at(&place, e))
    }

    async fn stage(
        &self,
        activity: &str,
        mut task: TaskInput,
        life: Life,
    ) -> Result<TaskOutput, Error> {
        // Perhaps another worker of the same queue has it, so this is not final.
        let entry = self.registry.get(activity).ok_or_else(|| {
            Error::unavailable(format!(
                "this worker has no stage type {activity}; give stages that other workers serve \
                 a `resource` of their own"
            ))
        })?;
        let batched = BatchedStage::new(&entry.of, &entry.stage, &life.devices, &task.demands);
        let stage: &dyn Stage = match &batched {
            Some(batched) => batched,
            None => entry.stage.as_ref(),
        };
        let store = self.store.for_run(&task.run.id);
        let mut cx = Context {
            run: task.run.clone(),
            stage: task.stage.clone(),
            artifacts: store.artifacts().clone(),
            data: self.data.clone(),
            cancelled: life.cancelled.clone(),
            progress: life.progress.clone(),
            devices: Vec::new(),
            item: String::new(),
            streams: self.streams.clone(),
            limit: None,
        };
        let key = cache::key(entry, &task, &store, &cx).await?;
        if let Some(key) = &key
            && let Some(output) = cache::get(&store, key).await?
        {
            return Ok(TaskOutput {
                output,
                cached: true,
                warm: None,
            });
        }
        let entered = self
            .limits
            .enter(&task, life.attempt, &life.cancelled, &life.progress)
            .await?;
        cx.limit = entered.as_ref().map(Entered::limiter);
        let with = store.resolve(std::mem::take(&mut task.with)).await?;
        let queue = batched.as_ref().and_then(|batched| batched.queue(&with));
        // Batches take devices for themselves; whatever else runs beside devices holds them alone.
        let _held = match &batched {
            Some(_) => None,
            None => hold(&task, &life, &mut cx).await?,
        };
        // A result in which items failed is not used again: they may well succeed next time.
        let mut whole_result = true;
        let work = async {
            let output = match (entry.of.kind, task.input) {
                (Kind::Source, Input::Value(value)) => {
                    source(&store, entry, value, with, &cx).await?
                }
                (Kind::Source, _) => {
                    return Err(Error::invalid(
                        "it makes a collection and cannot be run over the items of another",
                    ));
                }
                (Kind::Call, Input::Value(value)) => {
                    let value = store.resolve(value).await?;
                    let value = stage.call(value, with, &cx).await?;
                    Output::Value(store.claim_check(value).await?)
                }
                (Kind::Items, Input::Value(value)) => few(&store, stage, value, with, &cx).await?,
                (kind, input) => {
                    let per_item = kind == Kind::Call && batched.is_none();
                    let scope = store.resolve(task.scope).await?;
                    let whole = Whole::new(stage, per_item, with, scope);
                    let chunk = store.chunk(&input).await?;
                    let failed_before = chunk.failed.len();
                    let part = fan_out::run(&store, whole, chunk, &cx).await?;
                    whole_result = part.failed.len() == failed_before;
                    Output::Part(part_output(&store, part, failed_before).await?)
                }
            };
            Ok(output)
        };
        let output = limit::under(&entered, work).await?;
        if let Some(key) = key.filter(|_| whole_result) {
            cache::put(&store, &key, &output).await?;
        }
        Ok(TaskOutput {
            output,
            cached: false,
            warm: queue.filter(|queue| life.devices.serves(queue)),
        })
    }
}

async fn source(
    store: &Store,
    entry: &Entry,
    value: Value,
    with: Value,
    cx: &Context,
) -> Result<Output, Error> {
    let value = store.resolve(value).await?;
    let limits = Limits::of(&with)?;
    let mut sink = PartSink::new(store, &cx.stage, limits);
    entry.stage.source(value, with, &mut sink, cx).await?;
    let item = match &entry.of.output {
        Type::Collection(item) => item.to_string(),
        other => other.to_string(),
    };
    let collection = sink.finish(&item).await?;
    debug!(
        items = collection.count,
        parts = collection.parts,
        "collection made"
    );
    Ok(Output::Value(json(&collection)?))
}

/// A stage for items where there is no collection: a list or a single value passes through it as
/// one chunk. There is nowhere to keep an item's failure, so it is the task's.
async fn few(
    store: &Store,
    stage: &dyn Stage,
    value: Value,
    with: Value,
    cx: &Context,
) -> Result<Output, Error> {
    let value = store.resolve(value).await?;
    if value.get("$collection").is_some() {
        return Err(Error::invalid(
            "it takes the items of a collection and was given the collection as a whole: the plan \
             was made for another version of this stage type; check the pipeline again",
        ));
    }
    let (list, values) = match value {
        Value::Array(values) => (true, values),
        one => (false, vec![one]),
    };
    let chunk = Part {
        items: chores::items(values),
        failed: Vec::new(),
    };
    let mut made = stage.items(chunk, with, cx).await?;
    if let Some(failed) = made.failed.first() {
        return Err(Error::failed(format!(
            "item {}: {}",
            failed.id, failed.error
        )));
    }
    let value = if list || made.items.len() != 1 {
        Value::Array(made.items.into_iter().map(|item| item.value).collect())
    } else {
        made.items.remove(0).value
    };
    Ok(Output::Value(store.claim_check(value).await?))
}

/// Lays a part down. So many of its items had failed before: the first error is another's, if there is
/// one.
pub(crate) async fn part_output(
    store: &Store,
    part: Part,
    failed_before: usize,
) -> Result<PartOutput, Error> {
    let digest = store.put_part(&part).await?;
    let first = part.failed.get(failed_before).or(part.failed.first());
    Ok(PartOutput {
        digest,
        count: part.items.len() as u64,
        failed: part.failed.len() as u64,
        failed_sources: fan_out::sources(&part.failed) as u64,
        first_error: first.map(|f| format!("{}: {}", f.id, f.error)),
    })
}

/// The error with its place before it.
fn at(place: &str, error: Error) -> Error {
    Error {
        message: format!("{place}: {}", error.message),
        ..error
    }
}

pub(crate) fn json<T: Serialize>(value: &T) -> Result<Value, Error> {
    serde_json::to_value(value).map_err(not_json)
}

pub(crate) fn not_json(error: serde_json::Error) -> Error {
    Error::failed(format!("a result cannot be written as JSON: {error}"))
}

/// What a panic said.
pub(crate) fn panicked(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message")
}

/// Which chunk of a fan-out, for the log.
fn chunk(input: &Input) -> String {
    match input {
        Input::Value(_) => String::new(),
        Input::Chunk(chunk) => chunk.index.to_string(),
        Input::Part(digest) => digest.chars().take(15).collect(),
    }
}
