//! The checked form of a pipeline, which a run is pinned to.
//!
//! Everything an author may leave out is filled in, `parallel:` has become nodes with `needs`, and
//! consecutive stages over the items of a collection are one [`Work::FanOut`]. Templates are still
//! text: they are evaluated in the run, where the values are.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The format of [`Plan`]; an interpreter refuses plans of a format it does not know.
pub const FORMAT: u32 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub format: u32,
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// JSON Schema of the run's inputs: an object with `properties` and `required`.
    pub inputs: Value,
    /// In an order in which each comes after all that it needs.
    pub nodes: Vec<Node>,
    /// Nodes that run when all others have ended, however they did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub finally: Vec<Node>,
    /// What the run returns: JSON with templates in its strings.
    pub outputs: Value,
}

impl Plan {
    /// `sha256:` and the hash of the plan's canonical JSON, in which keys are sorted. Descriptions
    /// and the way it was written do not change it.
    pub fn hash(&self) -> String {
        let plan = Plan {
            description: String::new(),
            ..self.clone()
        };
        let mut value = serde_json::to_value(plan).expect("a plan is JSON");
        // They are sorted already unless some crate of the build asked serde_json to keep order.
        value.sort_all_objects();
        let mut hash = String::from("sha256:");
        for byte in Sha256::digest(value.to_string()) {
            hash.push_str(&format!("{byte:02x}"));
        }
        hash
    }

    /// All nodes, those of `finally` last.
    pub fn all_nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().chain(&self.finally)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub id: String,
    /// Nodes that must have ended well, or have been skipped, before this one begins.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub needs: BTreeSet<String>,
    /// An expression; when it is false the node is skipped, its output null.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// The run goes on when this node fails; its output is then null.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_failure: bool,
    pub work: Work,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(
    clippy::large_enum_variant,
    reason = "a plan has few nodes, and most are tasks"
)]
pub enum Work {
    /// One task.
    Task(Step),
    FanOut(FanOut),
    Approve(Approve),
    Call(Call),
    /// The end of `parallel:`. It runs nothing.
    Join(Join),
}

/// A stage as it is run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The id that the author gave; equal to the node's unless the node is a fan-out.
    pub id: String,
    /// The stage type: the activity type of its tasks.
    pub uses: String,
    /// The task queue of its tasks.
    pub resource: String,
    /// A template for the input; `None` when the stage takes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// JSON with templates in its strings.
    #[serde(default)]
    pub with: Value,
    pub retry: Retry,
    pub timeouts: Timeouts,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
    #[serde(default, skip_serializing_if = "Demands::is_default")]
    pub demands: Demands,
    /// Only of steps whose stage type names its model in a parameter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
}

/// Tasks go to a worker that has their model loaded, when one takes them in time; otherwise to any
/// of their class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affinity {
    /// The parameter that names the model. A value that is no text names none.
    pub parameter: String,
    /// How long a task waits for such a worker.
    pub wait_ms: u64,
}

/// What a step asks of the worker that runs it, beyond its resource class.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Demands {
    /// What replaces the stage's own choice of batches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
    /// 1 is the most urgent, 5 the least, 3 the usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
}

impl Demands {
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How items of this and other runs become one call. What is left open the stage decides.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// Items of a call at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<u32>,
    /// How long an item waits for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// The sum of the items' costs, in the stage's unit, such as tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<u64>,
    /// How long an item may wait for its batch to begin before it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
}

/// Devices that a step needs at the same time, all or none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    pub count: u32,
    /// Share of each, above 0 and up to 1.
    pub share: f64,
    /// Bytes of free memory on each; 0 when nothing is known.
    pub memory: u64,
}

impl Default for Device {
    fn default() -> Self {
        Self {
            count: 1,
            share: 1.0,
            memory: 0,
        }
    }
}

/// A limit that all workers share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    pub name: String,
    /// How much of the limit's concurrency a task takes.
    pub weight: u32,
}

/// Steps that a collection's items pass through, chunk by chunk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FanOut {
    /// A template for the collection, or for a list.
    pub over: String,
    /// The type of an item that comes out of the last step, such as `vector`.
    #[serde(default)]
    pub item: String,
    /// Items of a chunk; 0 leaves the collection's parts as they are.
    pub chunk: u32,
    /// Chunks in progress at a time.
    pub window: u32,
    /// Share of the items that may fail before the node fails, 0 to 1.
    pub tolerate: f64,
    pub steps: Vec<Step>,
}

/// A wait for a person, which holds no worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Approve {
    /// What is asked; a template.
    pub message: String,
    /// What may be answered: `approve` and `reject` unless the author says otherwise.
    pub choices: Vec<String>,
    /// JSON Schema of the form that goes with the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// The answer when nobody gave one in time; without it the node fails then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// Some `when` looks at the answer, so that `reject` is a way to go; otherwise the answer
    /// `reject` fails the run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub routed: bool,
}

/// Puts the outputs of branches together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Join {
    /// By branch, a template for its output; the node's output is an object of these.
    pub outputs: BTreeMap<String, String>,
}

/// A pipeline within the pipeline: a child workflow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    pub plan: Box<Plan>,
    /// JSON with templates in its strings.
    pub inputs: BTreeMap<String, Value>,
}

/// When a failed task is tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retry {
    /// Attempts in all; 0 for no bound.
    pub attempts: u32,
    pub first_delay_ms: u64,
    pub backoff: f64,
    pub max_delay_ms: u64,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_delay_ms: 1_000,
            backoff: 2.0,
            max_delay_ms: 60_000,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timeouts {
    /// Of one attempt.
    pub attempt_ms: u64,
    /// How long a worker may be silent before its attempt is given to another.
    pub heartbeat_ms: u64,
    /// Of all attempts and the waits between them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_ms: Option<u64>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            attempt_ms: 60 * 60 * 1_000,
            heartbeat_ms: 10_000,
            total_ms: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cache {
    /// How long a result may be used again.
    pub ttl_ms: u64,
    /// A template whose value is part of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}
