//! A batched stage as the worker calls any stage: its items go into batches with those of others.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tidemill_device::batch::{Batcher, Error as BatchError, Item as BatchItem, Kind};
use tidemill_pipeline::data::{FailedItem, Item, Part};
use tidemill_pipeline::plan::Demands;
use tidemill_pipeline::stage::StageType;
use tidemill_stages::batched::Plan;
use tidemill_stages::{Batched, Context, Error, ErrorKind, Stage};
use tokio::sync::watch;
use tokio::time::Instant;

use super::devices::{Devices, request};
use super::execute::Executor;

/// Calls of an item before its last error counts, if another try may help.
const TRIES: u32 = 3;
const TRY_AGAIN_FIRST: Duration = Duration::from_millis(500);
/// Who is told to wait longer than this hands the task back.
const TRY_AGAIN_MOST: Duration = Duration::from_secs(30);
/// Items are told of as done after so many.
const SUBMIT_AT_ONCE: usize = 1024;

/// A task's view of a stage that works on batches.
pub(crate) struct BatchedStage {
    of: StageType,
    stage: Arc<dyn Stage>,
    devices: Arc<Devices>,
    demands: Demands,
}

impl BatchedStage {
    /// `None` when the stage has no batched form.
    pub(crate) fn new(
        of: &StageType,
        stage: &Arc<dyn Stage>,
        devices: &Arc<Devices>,
        demands: &Demands,
    ) -> Option<Self> {
        stage.batched()?;
        Some(Self {
            of: of.clone(),
            stage: stage.clone(),
            devices: devices.clone(),
            demands: demands.clone(),
        })
    }

    fn batched(&self) -> Result<&dyn Batched, Error> {
        let batched = self.stage.batched();
        batched.ok_or_else(|| Error::failed("the stage type has no batched form"))
    }

    /// The batcher for these parameters, and what it waits for.
    async fn line(&self, with: &Value, cx: &Context) -> Result<Line, Error> {
        let plan = self.batched()?.plan(with, cx).await?;
        let plan = self.demanded(plan);
        if let (Some(model), Some(name)) = (&plan.model, self.model_name(with)) {
            self.devices.known_as(&model.key, name);
        }
        // What a batch may hold or wait for is part of what makes batches different.
        let key = format!(
            "{}\n{:?}\n{:?}\n{:?}",
            plan.key, plan.limits, self.demands.device, self.demands.limit
        );
        let waiting = self.devices.waiting(&key);
        let make = || {
            let executor = Executor {
                stage: self.stage.clone(),
                with: with.clone(),
                request: request(self.demands.device.as_ref()),
                devices: self.devices.clone(),
                limit: cx.limit.clone(),
                waiting: waiting.clone(),
                plan: plan.clone(),
            };
            Batcher::new(
                plan.limits.clone(),
                Arc::new(executor),
                self.devices.safe.clone(),
            )
        };
        let batcher = self.devices.batchers.get_or_make(&key, make);
        let batcher = batcher.map_err(|error| Error::invalid(error.to_string()))?;
        Ok(Line {
            waiting: waiting.subscribe(),
            batcher,
        })
    }

    /// The stage's plan with what the pipeline says otherwise.
    fn demanded(&self, mut plan: Plan) -> Plan {
        if let Some(batch) = &self.demands.batch {
            if let Some(items) = batch.items {
                plan.limits.items = items as usize;
            }
            if let Some(delay) = batch.delay_ms {
                plan.limits.delay = Duration::from_millis(delay);
            }
            if batch.cost.is_some() {
                plan.limits.cost = batch.cost;
            }
        }
        if plan.device {
            // One batch for each device, so that none waits for another's.
            plan.limits.lanes = plan.limits.lanes.max(self.devices.count());
        }
        plan.limits.queue = plan.limits.queue.max(plan.limits.items);
        plan
    }

    /// The queue of the model that tasks with these parameters use.
    pub(crate) fn queue(&self, with: &Value) -> Option<String> {
        Some(self.devices.queue_of(self.model_name(with)?))
    }

    /// What the pipeline calls the model.
    fn model_name<'a>(&self, with: &'a Value) -> Option<&'a str> {
        let parameter = self.of.batched.as_ref()?.model.as_ref()?;
        with.get(parameter)?.as_str()
    }

    fn deadline(&self) -> Option<Instant> {
        let expires = self.demands.batch.as_ref()?.expires_ms?;
        Some(Instant::now() + Duration::from_millis(expires))
    }

    /// Submits values and returns their results in order; those whose trouble may pass are submitted
    /// again a few times.
    async fn results(
        &self,
        values: Vec<Value>,
        with: &Value,
        cx: &Context,
    ) -> Result<Vec<Result<Value, BatchError>>, Error> {
        let batched = self.batched()?;
        let line = self.line(with, cx).await?;
        let total = values.len();
        let mut results: Vec<Option<Result<Value, BatchError>>> = vec![None; total];
        let deadline = self.deadline();
        let mut open: Vec<(usize, BatchItem<Value>)> = Vec::with_capacity(total);
        for (at, value) in values.into_iter().enumerate() {
            match batched.cost(&value, with) {
                Ok(cost) => open.push((
                    at,
                    BatchItem {
                        value,
                        cost,
                        priority: self.demands.priority.unwrap_or(3),
                        deadline,
                    },
                )),
                Err(message) => {
                    results[at] = Some(Err(BatchError {
                        kind: Kind::Invalid,
                        message,
                        retry_after: None,
                    }));
                }
            }
        }
        let mut wait = TRY_AGAIN_FIRST;
        for attempt in 1..=TRIES {
            let mut again = Vec::new();
            let mut delay = wait;
            while !open.is_empty() {
                let rest = open.split_off(open.len().min(SUBMIT_AT_ONCE));
                let now = std::mem::replace(&mut open, rest);
                let (places, items): (Vec<usize>, Vec<BatchItem<Value>>) = now.into_iter().unzip();
                let kept = (attempt < TRIES).then(|| items.clone());
                let done = line.submit(items, cx).await?;
                for (i, (at, result)) in places.into_iter().zip(done).enumerate() {
                    if let (Err(error), Some(kept)) = (&result, &kept)
                        && passes_here(error)
                    {
                        delay = delay.max(error.retry_after.unwrap_or_default());
                        again.push((at, kept[i].clone()));
                    }
                    results[at] = Some(result);
                }
                let done = results.iter().flatten().count() - again.len();
                if total > 1 {
                    (cx.progress)(format!("{done} of {total} items"));
                }
            }
            if again.is_empty() || delay > TRY_AGAIN_MOST {
                break;
            }
            open = again;
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = cx.cancelled.cancelled() => return Err(Error::cancelled()),
            }
            wait *= 2;
        }
        Ok(results.into_iter().flatten().collect())
    }
}

/// Whether trying again soon on this worker may help.
fn passes_here(error: &BatchError) -> bool {
    matches!(error.kind, Kind::Unavailable | Kind::RateLimited)
}

#[async_trait]
impl Stage for BatchedStage {
    fn describe(&self) -> StageType {
        self.of.clone()
    }

    async fn call(&self, input: Value, with: Value, cx: &Context) -> Result<Value, Error> {
        let mut results = self.results(vec![input], &with, cx).await?;
        match results.pop() {
            Some(Ok(value)) => Ok(value),
            Some(Err(error)) => Err(of_task(error)),
            None => Err(Error::failed("a batch gave no result for an item")),
        }
    }

    async fn items(&self, chunk: Part, with: Value, cx: &Context) -> Result<Part, Error> {
        let mut made = Part::default();
        let (mut heads, mut values) = (Vec::new(), Vec::new());
        for Item { id, source, value } in chunk.items {
            heads.push((id, source));
            values.push(value);
        }
        let results = self.results(values, &with, cx).await?;
        let mut of_all = None;
        for ((id, source), result) in heads.into_iter().zip(results) {
            match result {
                Ok(value) => made.items.push(Item { id, source, value }),
                Err(error) => {
                    let message = error.message.clone();
                    if !is_of_item(error.kind) {
                        of_all.get_or_insert(error);
                    }
                    made.failed.push(FailedItem {
                        id,
                        source,
                        stage: cx.stage.clone(),
                        error: format!("{}: {message}", self.of.name),
                    });
                }
            }
        }
        match of_all {
            // Nothing could be done for a reason that is no item's: the task is tried again, elsewhere
            // or later.
            Some(error) if made.items.is_empty() => Err(of_task(error)),
            _ => Ok(made),
        }
    }

    async fn revision(&self, with: &Value, cx: &Context) -> Result<Option<String>, Error> {
        self.stage.revision(with, cx).await
    }
}

/// Whether another item might have fared better.
fn is_of_item(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Failed | Kind::Invalid | Kind::BatchTooLarge | Kind::Expired
    )
}

/// An item's error as that of its task.
fn of_task(error: BatchError) -> Error {
    let kind = match error.kind {
        Kind::Failed | Kind::Expired => ErrorKind::Failed,
        Kind::Invalid => ErrorKind::Invalid,
        Kind::Unavailable => ErrorKind::Unavailable,
        Kind::RateLimited => ErrorKind::RateLimited,
        Kind::OutOfMemory => ErrorKind::OutOfMemory,
        Kind::BatchTooLarge | Kind::ModelTooLarge => ErrorKind::ModelTooLarge,
        Kind::Cancelled => ErrorKind::Cancelled,
    };
    Error {
        message: error.message,
        kind,
        retry_after: error.retry_after,
    }
}

/// A batcher, and what its next batch waits for.
struct Line {
    batcher: Arc<Batcher<Value, Value>>,
    waiting: watch::Receiver<Option<String>>,
}

impl Line {
    async fn submit(
        &self,
        items: Vec<BatchItem<Value>>,
        cx: &Context,
    ) -> Result<Vec<Result<Value, BatchError>>, Error> {
        let mut waiting = self.waiting.clone();
        waiting.mark_changed();
        let mut submitted = std::pin::pin!(self.batcher.submit_all(items));
        loop {
            tokio::select! {
                done = &mut submitted => return Ok(done),
                () = cx.cancelled.cancelled() => return Err(Error::cancelled()),
                Ok(()) = waiting.changed() => {
                    if let Some(reason) = waiting.borrow_and_update().clone() {
                        (cx.progress)(format!("waiting: {reason}"));
                    }
                }
            }
        }
    }
}
