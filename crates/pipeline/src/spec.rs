//! A pipeline as its author wrote it: names are not resolved yet, nothing is filled in, everything
//! knows its place.

use crate::diagnostic::Span;
use crate::plan::{Batch, Device, Limit};
use crate::yaml::Tree;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Spot<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

impl<T> Spot<T> {
    pub(crate) fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Pipeline {
    pub(crate) name: String,
    pub(crate) description: String,
    /// Nothing may make a branch.
    pub(crate) linear: bool,
    pub(crate) inputs: Vec<Input>,
    pub(crate) defaults: Policy,
    pub(crate) stages: Vec<Stage>,
    pub(crate) finally: Vec<Stage>,
    pub(crate) outputs: Option<Tree>,
}

#[derive(Clone, Debug)]
pub(crate) struct Input {
    pub(crate) name: Spot<String>,
    /// JSON Schema.
    pub(crate) schema: Tree,
}

#[derive(Clone, Debug)]
pub(crate) struct Stage {
    /// What messages about the whole stage point at: the key that says what it is.
    pub(crate) span: Span,
    pub(crate) id: Option<Spot<String>>,
    pub(crate) needs: Option<Vec<Spot<String>>>,
    /// An expression without braces.
    pub(crate) when: Option<Spot<String>>,
    pub(crate) allow_failure: bool,
    pub(crate) work: Work,
}

#[derive(Clone, Debug)]
pub(crate) enum Work {
    Uses(Box<Uses>),
    Approve(Approve),
    Parallel(Vec<Branch>),
    Map(Map),
    Call(Call),
    /// It was reported that it cannot be told what this is.
    Unclear,
}

#[derive(Clone, Debug)]
pub(crate) struct Uses {
    pub(crate) uses: Spot<String>,
    pub(crate) with: Option<Tree>,
    /// A template that replaces the output of the stage before as input.
    pub(crate) input: Option<Spot<String>>,
    pub(crate) policy: Policy,
    pub(crate) demands: Demands,
    pub(crate) cache: Option<Cache>,
    pub(crate) fan: Fan,
}

/// What `defaults:` gives to all stages, and a stage overrides.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policy {
    pub(crate) resource: Option<Spot<String>>,
    pub(crate) attempts: Option<Spot<u32>>,
    pub(crate) delay_ms: Option<Spot<u64>>,
    pub(crate) backoff: Option<Spot<f64>>,
    pub(crate) max_delay_ms: Option<Spot<u64>>,
    pub(crate) attempt_ms: Option<Spot<u64>>,
    pub(crate) total_ms: Option<Spot<u64>>,
    pub(crate) heartbeat_ms: Option<Spot<u64>>,
    pub(crate) priority: Option<Spot<u32>>,
    /// How long a task waits for a worker that has its model loaded; 0 for not at all.
    pub(crate) affinity_ms: Option<Spot<u64>>,
}

/// What a stage asks of the workers that run it; their places are those of the keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Demands {
    pub(crate) batch: Option<Spot<Batch>>,
    pub(crate) device: Option<Spot<Device>>,
    pub(crate) limit: Option<Limit>,
}

#[derive(Clone, Debug)]
pub(crate) struct Cache {
    pub(crate) span: Span,
    pub(crate) ttl_ms: Option<u64>,
    pub(crate) key: Option<Spot<String>>,
}

/// How a fan-out goes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fan {
    pub(crate) chunk: Option<Spot<u32>>,
    pub(crate) window: Option<Spot<u32>>,
    pub(crate) tolerate: Option<Spot<f64>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Approve {
    pub(crate) message: Spot<String>,
    pub(crate) choices: Option<Vec<Spot<String>>>,
    pub(crate) form: Option<Tree>,
    pub(crate) timeout_ms: Option<u64>,
    pub(crate) default: Option<Spot<String>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Branch {
    pub(crate) name: Spot<String>,
    /// Written as one stage rather than as a list: it takes the branch's name as its id.
    pub(crate) single: bool,
    pub(crate) stages: Vec<Stage>,
}

#[derive(Clone, Debug)]
pub(crate) struct Map {
    pub(crate) over: Option<Spot<String>>,
    pub(crate) fan: Fan,
    pub(crate) stages: Vec<Stage>,
}

#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) pipeline: Spot<String>,
    pub(crate) with: Option<Tree>,
}
