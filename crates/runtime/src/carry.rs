//! What a run hands on when it continues as new, so that its history stays small.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tidemill_pipeline::data::Collection;
use tidemill_pipeline::run::{Answer, RunState};
use tidemill_pipeline::task::PartOutput;

/// Where a run stands. Nodes whose status says that they are under way are begun again: a fan-out
/// from its [`Progress`], an approval with the deadline that it had.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Carry {
    pub(crate) state: RunState,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) answers: BTreeMap<String, Answer>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) fan_outs: BTreeMap<String, Progress>,
    /// When approvals time out, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) deadlines: BTreeMap<String, i64>,
    /// The node that failed while others were still under way, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<String>,
    /// How the main nodes ended, once only those of `finally` are left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) end: Option<End>,
    /// See [`affinity`](crate::affinity).
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) cold: BTreeSet<String>,
}

/// How a run ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum End {
    Done,
    Failed(String),
    Canceled,
}

/// How far a fan-out is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub(crate) over: Collection,
    /// Chunks that `over` has.
    pub(crate) chunks: u32,
    /// The first chunk that has not begun.
    pub(crate) next: u32,
    /// Chunks between steps.
    pub(crate) at: BTreeMap<u32, Position>,
    /// Chunks through all steps that are not in `folded` yet.
    pub(crate) done: BTreeMap<u32, PartOutput>,
    /// Results of the chunks before `folded_to`.
    pub(crate) folded: Option<Collection>,
    pub(crate) folded_to: u32,
    /// Items of `over` that failed.
    pub(crate) failed: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) first_error: Option<String>,
    /// Chunks that a step failed as a whole since the last that went well.
    pub(crate) lost_in_a_row: u32,
    /// Steps of chunks that went well.
    pub(crate) went_well: u64,
}

/// Where a chunk is between two steps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// The step that it goes through next.
    pub(crate) step: usize,
    /// The part that the step before gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) part: Option<String>,
    /// Items that failed before.
    #[serde(default)]
    pub(crate) failed: u64,
}

/// When a run continues as new. Hidden in the input beside
/// [`RunInput`](tidemill_pipeline::run::RunInput): tests make it small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Limits {
    /// Events in a history after which the run goes on in a new one as soon as no long task or
    /// child is under way.
    pub(crate) history: u32,
    /// Events after which nothing new is begun until those have ended.
    pub(crate) history_hard: u32,
    /// Chunks whose results are joined at a time.
    pub(crate) fold: u32,
    /// Between the first two tries while the artifact store is away; doubles up to a minute.
    pub(crate) store_wait_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            history: 2_500,
            history_hard: 25_000,
            fold: 500,
            store_wait_ms: 5_000,
        }
    }
}
