//! What the interpreter asks of a worker, and what comes back: the one payload, JSON, of an
//! activity whose type is the stage's. A worker in any language that keeps to it can serve a stage.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::data::Collection;
use crate::plan::{Cache, Demands};

/// Activity types that serve the interpreter itself; every worker of `cpu` has them.
pub mod internal {
    /// [`Collect`](super::Collect) → [`Collection`](crate::data::Collection).
    pub const COLLECT: &str = "tidemill.collect";
    /// A JSON list (inline or by reference) → [`Collection`](crate::data::Collection).
    pub const CHUNK: &str = "tidemill.chunk";
    /// [`FailedOnly`](super::FailedOnly) → [`Collection`](crate::data::Collection).
    pub const FAILED_ONLY: &str = "tidemill.failed_only";
    /// [`FailChunk`](super::FailChunk) → [`PartOutput`](super::PartOutput).
    pub const FAIL_CHUNK: &str = "tidemill.fail_chunk";
    /// [`Evaluate`](super::Evaluate) → the values, a JSON list.
    pub const EVALUATE: &str = "tidemill.evaluate";
    /// [`Keep`](super::Keep) → null.
    pub const KEEP: &str = "tidemill.keep";
}

/// The input of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskInput {
    pub run: RunRef,
    /// The id of the stage in its pipeline.
    pub stage: String,
    /// Its parameters, templates evaluated. Large values are [`Artifact`](crate::data::Artifact)s.
    pub with: Value,
    pub input: Input,
    /// In a fan-out, strings of `with` that speak of `item` come as templates; these are the other
    /// values that they name, by name.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub scope: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
    #[serde(default, skip_serializing_if = "Demands::is_default")]
    pub demands: Demands,
}

/// The run that a task belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRef {
    pub id: String,
    pub pipeline: String,
    /// [`Plan::hash`](crate::plan::Plan::hash).
    pub plan: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// JSON, an artifact that stands for JSON, or a collection.
    Value(Value),
    /// One chunk of a fan-out's collection.
    Chunk(Chunk),
    /// What the step before gave for this chunk: the digest of a [`Part`](crate::data::Part).
    Part(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    pub collection: Collection,
    /// The part, when chunks are parts; otherwise items are counted over all parts.
    pub index: u32,
    /// Items of a chunk; 0 when chunks are parts.
    pub size: u32,
}

/// The result of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskOutput {
    pub output: Output,
    /// It was not run: an earlier result with the same key was used.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cached: bool,
    /// The task queue of the model that it used, when its worker has that model loaded and polls the
    /// queue: tasks that follow are well placed there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// JSON, an artifact that stands for it, or a collection.
    Value(Value),
    Part(PartOutput),
}

/// What a step made of a chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartOutput {
    /// Digest of the [`Part`](crate::data::Part).
    pub digest: String,
    /// Items in it.
    pub count: u64,
    /// Items that failed, at this step or before.
    pub failed: u64,
    /// Items of the fan-out's own collection among whose results one failed.
    pub failed_sources: u64,
    /// What the first failure said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_error: Option<String>,
}

/// Makes a collection of parts. Parts that are collections themselves are joined, so that a run
/// can fold its results from time to time and keep its state small.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Collect {
    pub item: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Collection>,
    pub parts: Vec<PartOutput>,
}

/// Makes a collection of those items of `over` that failed on the way to `results`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailedOnly {
    pub over: Collection,
    pub results: Collection,
}

/// Evaluates templates that look into values kept as artifacts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluate {
    pub texts: Vec<String>,
    /// What they can name, an object.
    pub scope: Value,
}

/// Keeps the artifacts of an earlier run for as long as those of the run that asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    pub run: String,
}

/// A step could not process a chunk at all: makes the part in which each of the chunk's items has
/// failed with `error`, so that the outcome of every item is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailChunk {
    /// What the step was given: [`Input::Chunk`] or [`Input::Part`].
    pub input: Input,
    /// The stage at which it failed.
    pub stage: String,
    pub error: String,
}
