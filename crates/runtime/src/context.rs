//! What the code of a node sees of its run.

use std::cell::Cell;
use std::rc::Rc;
use std::time::UNIX_EPOCH;

use serde_json::{Map, Value, json};
use temporalio_sdk::{WorkflowCancellationToken, WorkflowContext};
use tidemill_pipeline::plan::Node;
use tidemill_pipeline::run::NodeState;
use tidemill_pipeline::task::RunRef;

use crate::carry::{End, Limits};
use crate::interpreter::Interpreter;

/// A run seen from one of its nodes.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) workflow: WorkflowContext<Interpreter>,
    pub(crate) run: Rc<RunRef>,
    pub(crate) limits: Limits,
    /// Cancels what the node has under way.
    pub(crate) token: WorkflowCancellationToken,
    /// How the main nodes ended, for those of `finally`.
    pub(crate) end: Option<Rc<End>>,
    /// Tasks and children under way that may take long, so that nothing should wait for them.
    pub(crate) long: Rc<Cell<u32>>,
    /// The node's place in [`RunState::nodes`](tidemill_pipeline::run::RunState::nodes).
    pub(crate) index: usize,
    pub(crate) node: Rc<Node>,
}

impl Context {
    /// Milliseconds since 1970 by the workflow's clock.
    pub(crate) fn now_ms(&self) -> i64 {
        now_ms(&self.workflow)
    }

    /// Changes the state of the node.
    pub(crate) fn update(&self, change: impl FnOnce(&mut NodeState)) {
        self.workflow
            .state_mut(|run| change(&mut run.state.nodes[self.index]));
    }

    /// Whether nothing new is to be begun because the run continues as new.
    pub(crate) fn draining(&self) -> bool {
        self.workflow.state(|run| run.draining)
    }

    /// The values that templates can name: inputs, the run, what nodes gave.
    pub(crate) fn scope(&self) -> Value {
        scope(&self.workflow, &self.run, self.end.as_deref())
    }

    /// Counts a long task until the returned guard is dropped.
    pub(crate) fn long_task(&self) -> LongTask {
        self.long.set(self.long.get() + 1);
        LongTask(self.long.clone())
    }
}

pub(crate) struct LongTask(Rc<Cell<u32>>);

impl Drop for LongTask {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Milliseconds since 1970 by the workflow's clock.
pub(crate) fn now_ms(workflow: &WorkflowContext<Interpreter>) -> i64 {
    workflow
        .workflow_time()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .map_or(0, |since| since.as_millis() as i64)
}

/// The values that templates can name. Those of `finally`, which have an `end`, can name nodes that
/// have not run, too: these are null.
pub(crate) fn scope(
    workflow: &WorkflowContext<Interpreter>,
    run: &RunRef,
    end: Option<&End>,
) -> Value {
    let mut scope = workflow.state(|run| {
        let nodes = run.state.nodes.iter();
        let mut scope: Map<String, Value> = nodes
            .filter(|node| node.ended_ms != 0 || end.is_some())
            .map(|node| (node.id.clone(), node.output.clone()))
            .collect();
        scope.insert("inputs".to_owned(), json!(run.inputs()));
        scope
    });
    let mut about = json!({"id": run.id, "pipeline": run.pipeline, "plan": run.plan});
    if let Some(end) = end {
        let (status, error) = match end {
            End::Done => ("done", Value::Null),
            End::Failed(error) => ("failed", json!(error)),
            End::Canceled => ("canceled", Value::Null),
        };
        about["status"] = json!(status);
        about["error"] = error;
    }
    scope.insert("run".to_owned(), about);
    Value::Object(scope)
}
