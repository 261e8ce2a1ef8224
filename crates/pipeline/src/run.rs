//! A run of a plan: the interpreter workflow's input, result, state and signals.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::data::Collection;
use crate::plan::Plan;

/// The interpreter's workflow type.
pub const WORKFLOW: &str = "tidemill.pipeline";
/// The task queue on which interpreters are served.
pub const TASK_QUEUE: &str = "tidemill-pipelines";
/// Query: no argument → [`RunState`].
pub const STATE_QUERY: &str = "state";
/// Signal: [`Answer`].
pub const ANSWER_SIGNAL: &str = "answer";
/// Update: [`Answer`] → null. Unlike the signal it tells the caller when the answer is refused.
pub const ANSWER_UPDATE: &str = "answer";

/// The input of the interpreter workflow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunInput {
    pub plan: Plan,
    pub inputs: BTreeMap<String, Value>,
    /// Results of an earlier run that are used again, by node: a rerun from a later stage.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keep: BTreeMap<String, Value>,
    /// How fan-outs among them went, by node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub kept_fan_outs: BTreeMap<String, FanOutResult>,
    /// Fan-outs that run over the failed items of an earlier run only, by node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failed_items: BTreeMap<String, FanOutResult>,
    /// The run whose results these are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier: Option<String>,
    /// What a run that continues as new hands on; opaque to all but the interpreter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carry: Option<Value>,
}

/// The answer of a person to an approval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub node: String,
    pub choice: String,
    #[serde(default)]
    pub form: Value,
    /// Who answered.
    #[serde(default)]
    pub by: String,
    #[serde(default)]
    pub comment: String,
}

/// What is known of a run while it goes on and after.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    pub pipeline: String,
    /// Hash of the plan.
    pub plan: String,
    /// The run that called this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The run whose results this one uses again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier: Option<String>,
    pub nodes: Vec<NodeState>,
    /// Something that concerns no node: an answer that was ignored, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The result of a run that went well.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// The plan's `outputs`, evaluated.
    pub outputs: Value,
    pub state: RunState,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeState {
    pub id: String,
    pub status: Status,
    /// Milliseconds since 1970; 0 when it has not begun or ended.
    pub started_ms: i64,
    pub ended_ms: i64,
    /// What its work is: a stage type, `approve` or `call`.
    pub uses: String,
    /// JSON, by reference when large; null until it has ended.
    #[serde(default)]
    pub output: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Why it waits, or what it asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Steps of a fan-out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepState>,
    /// For a fan-out that has ended: what a rerun of its failed items needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fan_out: Option<FanOutResult>,
    /// The run of the pipeline that it calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub child: Option<String>,
    /// The choices of an approval that waits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    #[default]
    Waiting,
    Running,
    /// It waits for a person.
    Asking,
    Done,
    /// Its result was taken from an earlier run or from the cache.
    Kept,
    Skipped,
    Failed,
    /// It failed, and the run was allowed to go on.
    FailedAllowed,
    Canceled,
}

/// How far a step of a fan-out is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepState {
    pub id: String,
    pub uses: String,
    pub chunks_done: u32,
    pub chunks: u32,
    /// Items that came out.
    pub items: u64,
    pub failed: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FanOutResult {
    /// What it ran over.
    pub over: Collection,
    /// What came out, with the failed items.
    pub results: Collection,
    pub failed: u64,
}
