//! Steps that the items of a collection pass through, chunk by chunk.
//!
//! At most `window` chunks are in progress. A chunk goes through its steps one after another; all
//! that is kept of it between steps is the digest of a part. Results of chunks that are through are
//! joined from time to time, so that what is kept stays bounded however many there are.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use serde_json::{Map, Value, json};
use tidemill_pipeline::data::Collection;
use tidemill_pipeline::plan::{Cache, FanOut, Step};
use tidemill_pipeline::run::{FanOutResult, NodeState, StepState};
use tidemill_pipeline::task::{
    Chunk, Collect, FailChunk, FailedOnly, Input, Output, PartOutput, TaskInput, TaskOutput,
    internal,
};
use tidemill_pipeline::template;

use super::single::{cache, failed, of};
use super::{Left, Outcome, Paused, as_collection};
use crate::affinity;
use crate::carry::{Position, Progress};
use crate::context::Context;
use crate::evaluate;
use crate::in_flight::InFlight;
use crate::task::{self, Failure, Fault, INVALID, Task};

/// Chunks that may be begun ahead of the oldest that is not through, in folds. Bounds the results
/// that wait for a chunk that takes long.
const AHEAD: u32 = 4;

/// Chunks that are lost one after another, with none that goes well between, before the rest is
/// not even tried.
const LOST_IN_A_ROW: u32 = 8;

pub(super) async fn run(cx: &Context, fan_out: &FanOut, left: Left) -> Outcome {
    let steps = match prepare(cx, fan_out).await {
        Ok(steps) => Rc::new(steps),
        Err(fault) => return fault.into(),
    };
    let progress = match left.progress {
        Some(progress) => progress,
        None => match begin(cx, fan_out, left.failed_items).await {
            Ok(over) => fresh(fan_out, over),
            Err(fault) => return fault.into(),
        },
    };
    let window = Window {
        cx,
        fan_out,
        steps,
        progress,
        in_flight: InFlight::new(),
        folding: false,
        broken: None,
        stopped: false,
    };
    window.run().await
}

/// A step with what is the same for all chunks.
struct Prepared {
    step: Step,
    with: Value,
    scope: Value,
    cache: Option<Cache>,
}

/// Evaluates what does not speak of an item.
async fn prepare(cx: &Context, fan_out: &FanOut) -> Result<Vec<Prepared>, Fault> {
    let scope = cx.scope();
    let mut prepared = Vec::with_capacity(fan_out.steps.len());
    for step in &fan_out.steps {
        let wrong =
            |error: template::Error| Fault::failed(failed(step, &format!("`with`: {error}")));
        let with = evaluate::around_items(cx, &failed(step, "`with`"), &step.with).await?;
        let mut roots = BTreeSet::new();
        roots_beside_items(&step.with, &mut roots).map_err(wrong)?;
        if let Some(key) = step.cache.as_ref().and_then(|cache| cache.key.as_ref())
            && template::speaks_of_item(key)
        {
            roots.extend(template::roots(key).map_err(wrong)?);
        }
        let named: Map<String, Value> = roots
            .into_iter()
            .filter_map(|root| Some((root.clone(), scope.get(&root)?.clone())))
            .collect();
        prepared.push(Prepared {
            step: step.clone(),
            with,
            scope: if named.is_empty() {
                Value::Null
            } else {
                Value::Object(named)
            },
            cache: cache(cx, step).await?,
        });
    }
    Ok(prepared)
}

/// What the strings that mention `item` mention besides.
fn roots_beside_items(value: &Value, roots: &mut BTreeSet<String>) -> Result<(), template::Error> {
    match value {
        Value::String(text) => {
            let named = template::roots(text)?;
            if named.contains("item") {
                roots.extend(named.into_iter().filter(|root| root != "item"));
            }
            Ok(())
        }
        Value::Array(values) => values
            .iter()
            .try_for_each(|value| roots_beside_items(value, roots)),
        Value::Object(fields) => fields
            .values()
            .try_for_each(|value| roots_beside_items(value, roots)),
        _ => Ok(()),
    }
}

/// The collection to run over.
async fn begin(
    cx: &Context,
    fan_out: &FanOut,
    failed_items: Option<FanOutResult>,
) -> Result<Collection, Fault> {
    let node = &cx.node.id;
    if let Some(before) = failed_items {
        let input = FailedOnly {
            over: before.over,
            results: before.results,
        };
        return task::run(cx, &Task::internal(internal::FAILED_ONLY, node), &input).await;
    }
    let over = evaluate::text(cx, &format!("what `{node}` runs over"), &fan_out.over).await?;
    if let Some(collection) = as_collection(&over) {
        return Ok(collection);
    }
    if over.is_array() || over.get("$artifact").is_some() {
        return task::run(cx, &Task::internal(internal::CHUNK, node), &over).await;
    }
    let found = match over {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        _ => "an object",
    };
    Err(Fault::failed(format!(
        "`{node}` runs over a collection or a list, but {} is {found}",
        fan_out.over
    )))
}

/// Items that failed in the fan-outs that made the collection: they have judged them already, and
/// their results bring them along.
fn judged(cx: &Context, over: &Collection) -> u64 {
    cx.workflow.state(|run| {
        let mut failed = 0;
        let mut manifest = &over.manifest;
        // Nodes stand in the order in which they ran: what one was made of stands before it.
        let nodes = run.state.nodes.iter().rev();
        for made in nodes.filter_map(|node| node.fan_out.as_ref()) {
            if made.results.manifest == *manifest {
                failed += made.failed;
                manifest = &made.over.manifest;
            }
        }
        failed
    })
}

fn fresh(fan_out: &FanOut, over: Collection) -> Progress {
    let chunks = match fan_out.chunk {
        0 => over.parts,
        size => u32::try_from(over.count.div_ceil(u64::from(size))).unwrap_or(u32::MAX),
    };
    Progress {
        over,
        chunks,
        next: 0,
        at: BTreeMap::new(),
        done: BTreeMap::new(),
        folded: None,
        folded_to: 0,
        failed: 0,
        first_error: None,
        lost_in_a_row: 0,
        went_well: 0,
    }
}

#[derive(Clone, Copy)]
enum Key {
    /// A step of this chunk.
    Chunk(u32),
    /// Joining the results of the chunks before this one.
    Fold(u32),
}

enum Ended {
    Step(Result<PartOutput, Fault>),
    /// A step failed; this is the part in which its items have, if it could be made.
    Lost(Failure, Result<PartOutput, Fault>),
    Fold(Result<Collection, Fault>),
}

struct Window<'a> {
    cx: &'a Context,
    fan_out: &'a FanOut,
    steps: Rc<Vec<Prepared>>,
    progress: Progress,
    in_flight: InFlight<Key, Ended>,
    folding: bool,
    /// Why the rest is not tried.
    broken: Option<String>,
    /// Nothing new is begun: it was cancelled, or a part of it has to wait for the next run.
    stopped: bool,
}

impl Window<'_> {
    async fn run(mut self) -> Outcome {
        self.show();
        for chunk in self.progress.at.keys().copied().collect::<Vec<_>>() {
            self.step(chunk);
        }
        loop {
            self.fill();
            self.fold();
            let Some((key, ended)) = self.in_flight.next(|| ()).await else {
                break;
            };
            match (key, ended) {
                (Key::Chunk(chunk), Ended::Step(Ok(part))) => {
                    self.progress.lost_in_a_row = 0;
                    self.progress.went_well += 1;
                    self.through(chunk, part, false);
                }
                (Key::Chunk(chunk), Ended::Lost(failure, part)) => self.lost(chunk, failure, part),
                (Key::Fold(to), Ended::Fold(Ok(folded))) => {
                    self.folding = false;
                    self.progress.folded = Some(folded);
                    self.progress.folded_to = to;
                    self.progress.done = self.progress.done.split_off(&to);
                }
                (_, Ended::Step(Err(fault)) | Ended::Fold(Err(fault))) => match fault {
                    Fault::Canceled | Fault::Paused => self.stopped = true,
                    Fault::Failed(failure) => {
                        self.broken = Some(format!("joining results: {}", failure.message));
                    }
                },
                (Key::Fold(_), _) | (Key::Chunk(_), Ended::Fold(_)) => {
                    unreachable!("a fold ends as one, and a step as one")
                }
            }
        }
        if self.cx.token.is_cancelled() {
            return Outcome::Canceled;
        }
        if let Some(error) = self.broken {
            return Outcome::failed(error);
        }
        if !self.complete() {
            return Outcome::Paused(Paused::FanOut(Box::new(self.progress)));
        }
        self.end()
    }

    /// Begins chunks until the window is full.
    fn fill(&mut self) {
        let progress = &self.progress;
        let ahead = progress
            .folded_to
            .saturating_add(self.cx.limits.fold.saturating_mul(AHEAD));
        let end = progress.chunks.min(ahead.max(progress.next));
        let window = self.fan_out.window.max(1) as usize;
        let mut begin = Vec::new();
        if !self.resting() {
            let free = window.saturating_sub(progress.at.len());
            begin.extend((progress.next..end).take(free));
        }
        for chunk in begin {
            self.progress.at.insert(chunk, Position::default());
            self.progress.next = chunk + 1;
            self.step(chunk);
        }
    }

    /// Whether nothing new is to be begun.
    fn resting(&self) -> bool {
        self.stopped || self.broken.is_some() || self.cx.token.is_cancelled() || self.cx.draining()
    }

    /// Puts a chunk into its next step.
    fn step(&mut self, chunk: u32) {
        if self.resting() {
            return;
        }
        let position = self.progress.at[&chunk].clone();
        let input = match position.part {
            Some(part) => Input::Part(part),
            None => Input::Chunk(Chunk {
                collection: self.progress.over.clone(),
                index: chunk,
                size: self.fan_out.chunk,
            }),
        };
        let (cx, steps) = (self.cx.clone(), self.steps.clone());
        self.in_flight.push(Key::Chunk(chunk), async move {
            let prepared = &steps[position.step];
            let step = &prepared.step;
            let task_input = TaskInput {
                run: (*cx.run).clone(),
                stage: step.id.clone(),
                with: prepared.with.clone(),
                input,
                scope: prepared.scope.clone(),
                cache: prepared.cache.clone(),
                demands: step.demands.clone(),
            };
            let failure = match affinity::run(&cx, &of(step, &prepared.with), &task_input).await {
                Ok(TaskOutput {
                    output: Output::Part(part),
                    ..
                }) => return Ended::Step(Ok(part)),
                Ok(_) => Failure {
                    kind: INVALID.to_owned(),
                    message: "its worker gave a value for a chunk, where a part is wanted".into(),
                },
                Err(Fault::Failed(failure)) => failure,
                Err(fault) => return Ended::Step(Err(fault)),
            };
            let lost = FailChunk {
                input: task_input.input,
                stage: step.id.clone(),
                error: failure.message.clone(),
            };
            let task = Task::internal(internal::FAIL_CHUNK, &step.id);
            Ended::Lost(failure, task::run(&cx, &task, &lost).await)
        });
    }

    /// A chunk has left a step. `lost` skips the steps that are left: it has no items any more.
    fn through(&mut self, chunk: u32, part: PartOutput, lost: bool) {
        let Some(mut position) = self.progress.at.remove(&chunk) else {
            return;
        };
        let failed_here = part.failed.saturating_sub(position.failed);
        let step = position.step;
        self.cx.update(|node| {
            if let Some(state) = node.steps.get_mut(step) {
                state.chunks_done += 1;
                state.items += part.count;
                state.failed += failed_here;
            }
        });
        if lost || step + 1 == self.steps.len() {
            self.progress.failed += part.failed_sources;
            if self.progress.first_error.is_none() {
                self.progress.first_error = part.first_error.clone();
            }
            self.progress.done.insert(chunk, part);
            return;
        }
        position.step += 1;
        position.failed = part.failed;
        position.part = Some(part.digest);
        self.progress.at.insert(chunk, position);
        self.step(chunk);
    }

    /// A step could not process a chunk at all. Its items have failed and the others go on, unless
    /// it looks as if none would go well.
    fn lost(&mut self, chunk: u32, failure: Failure, part: Result<PartOutput, Fault>) {
        let step = self.progress.at.get(&chunk).map_or(0, |at| at.step);
        let error = failed(&self.steps[step].step, &failure.message);
        self.progress.lost_in_a_row += 1;
        let hopeless = failure.kind == INVALID && self.progress.went_well == 0
            || self.progress.lost_in_a_row >= LOST_IN_A_ROW.max(self.fan_out.window);
        match part {
            Err(Fault::Canceled | Fault::Paused) => self.stopped = true,
            Ok(part) if !hopeless => self.through(chunk, part, true),
            _ => self.broken = Some(error),
        }
    }

    /// Joins results when enough have gathered, or the last.
    fn fold(&mut self) {
        if self.folding || self.resting() {
            return;
        }
        let progress = &self.progress;
        let mut to = progress.folded_to;
        while progress.done.contains_key(&to) {
            to += 1;
        }
        let gathered = to - progress.folded_to;
        let last = to == progress.chunks && (gathered > 0 || progress.folded.is_none());
        if gathered < self.cx.limits.fold.max(1) && !last {
            return;
        }
        let input = Collect {
            item: if self.fan_out.item.is_empty() {
                progress.over.item.clone()
            } else {
                self.fan_out.item.clone()
            },
            before: progress.folded.clone(),
            parts: progress
                .done
                .range(..to)
                .map(|(_, part)| part.clone())
                .collect(),
        };
        self.folding = true;
        let cx = self.cx.clone();
        self.in_flight.push(Key::Fold(to), async move {
            let task = Task::internal(internal::COLLECT, &cx.node.id);
            Ended::Fold(task::run(&cx, &task, &input).await)
        });
    }

    fn complete(&self) -> bool {
        self.progress.folded.is_some() && self.progress.folded_to == self.progress.chunks
    }

    /// All chunks are through: has it gone well enough?
    fn end(self) -> Outcome {
        let Progress {
            over,
            folded,
            failed,
            first_error,
            ..
        } = self.progress;
        let results = folded.unwrap_or_else(|| over.clone());
        let failed = failed.saturating_sub(judged(self.cx, &over));
        let total = over.count.max(failed).max(1);
        let output = json!(results);
        let too_many = failed as f64 > self.fan_out.tolerate * total as f64;
        let fan_out = Some(FanOutResult {
            over,
            results,
            failed,
        });
        if !too_many {
            return Outcome::Done {
                output,
                kept: false,
                fan_out,
            };
        }
        let first = first_error.map_or(String::new(), |error| format!("; the first: {error}"));
        Outcome::Failed {
            error: format!(
                "{failed} of {total} items failed, more than the {} % that are tolerated{first}",
                self.fan_out.tolerate * 100.0
            ),
            fan_out,
        }
    }

    /// Puts the steps into the node's state.
    fn show(&self) {
        let chunks = self.progress.chunks;
        let steps = &self.steps;
        self.cx.update(|node: &mut NodeState| {
            if node.steps.is_empty() {
                node.steps = steps
                    .iter()
                    .map(|prepared| state_of(&prepared.step))
                    .collect();
            }
            for step in &mut node.steps {
                step.chunks = chunks;
            }
        });
    }
}

fn state_of(step: &Step) -> StepState {
    StepState {
        id: step.id.clone(),
        uses: step.uses.clone(),
        ..StepState::default()
    }
}
