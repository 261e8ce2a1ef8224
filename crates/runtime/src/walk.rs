//! The walk over a plan: which nodes begin when, and what follows from how they end.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::Value;
use temporalio_sdk::{WorkflowCancellationToken, WorkflowContext};
use tidemill_pipeline::plan::{Node, Work};
use tidemill_pipeline::run::Status;
use tidemill_pipeline::task::{Keep, RunRef, internal};
use tidemill_pipeline::template;

use crate::carry::{Carry, End, Progress};
use crate::context::Context;
use crate::evaluate;
use crate::in_flight::InFlight;
use crate::interpreter::{Interpreter, Setup};
use crate::nodes::{self, Left, Outcome, Paused};
use crate::task::{self, Fault, Task};

/// Why the walk stopped.
pub(crate) enum Stop {
    /// It is over; the outputs, if it went well.
    Ended(End, Value),
    /// It goes on in a new run.
    Drained(Box<Carry>),
}

pub(crate) async fn run(workflow: &WorkflowContext<Interpreter>, setup: &Rc<Setup>) -> Stop {
    let plan = &setup.input.plan;
    let carry = setup.carry.clone().unwrap_or_default();
    let root = workflow.cancellation_token();
    let mut walk = Walk {
        workflow: workflow.clone(),
        setup: setup.clone(),
        run: Rc::new(RunRef {
            id: workflow.workflow_id().to_owned(),
            pipeline: plan.name.clone(),
            plan: workflow.state(|run| run.state.plan.clone()),
        }),
        nodes: plan.nodes.iter().cloned().map(Rc::new).collect(),
        offset: 0,
        token: root.clone(),
        asking: root.child_token(),
        end: None,
        long: Rc::new(Cell::new(0)),
        fan_outs: carry.fan_outs,
        deadlines: carry.deadlines,
        failure: carry.failure.clone(),
        paused: 0,
        began: vec![false; plan.nodes.len()],
    };
    let carry_in_finally = carry.end.is_some();
    let end = match carry.end {
        Some(end) => end,
        None => {
            walk.keep().await;
            walk.all().await;
            if walk.paused > 0 && !root.is_cancelled() {
                return walk.drained();
            }
            walk.main_end(root.is_cancelled())
        }
    };

    // Cancellation does not reach `finally`: it is what cleans up then.
    walk.nodes = plan.finally.iter().cloned().map(Rc::new).collect();
    walk.began = vec![false; plan.finally.len()];
    walk.offset = plan.nodes.len();
    walk.token = WorkflowCancellationToken::new();
    walk.asking = walk.token.child_token();
    walk.end = Some(Rc::new(end.clone()));
    walk.failure = if carry_in_finally {
        carry.failure
    } else {
        None
    };
    walk.all().await;
    if walk.paused > 0 {
        return walk.drained();
    }
    match (end, walk.failure.take()) {
        (End::Done, None) => {
            walk.nodes = plan.nodes.iter().cloned().map(Rc::new).collect();
            walk.offset = 0;
            walk.token = root;
            match walk.outputs(&plan.outputs).await {
                Ok(outputs) => Stop::Ended(End::Done, outputs),
                Err(Fault::Failed(failure)) => {
                    Stop::Ended(End::Failed(failure.message), Value::Null)
                }
                Err(Fault::Canceled) => Stop::Ended(End::Canceled, Value::Null),
                Err(Fault::Paused) => walk.drained(),
            }
        }
        (End::Done, Some(error)) => Stop::Ended(End::Failed(error), Value::Null),
        (End::Failed(error), Some(more)) => {
            let error = format!("{error}; after that, {more}");
            Stop::Ended(End::Failed(error), Value::Null)
        }
        (end, _) => Stop::Ended(end, Value::Null),
    }
}

/// The main nodes of a plan, or those of `finally`.
struct Walk {
    workflow: WorkflowContext<Interpreter>,
    setup: Rc<Setup>,
    run: Rc<RunRef>,
    nodes: Vec<Rc<Node>>,
    /// Where they begin in the run's state.
    offset: usize,
    /// Cancels them.
    token: WorkflowCancellationToken,
    /// Cancels approvals: also when another node has failed, as the answer would change nothing.
    asking: WorkflowCancellationToken,
    end: Option<Rc<End>>,
    long: Rc<Cell<u32>>,
    fan_outs: BTreeMap<String, Progress>,
    deadlines: BTreeMap<String, i64>,
    /// The first node that failed, and why.
    failure: Option<String>,
    /// Nodes that go on, or begin, in the next run.
    paused: usize,
    /// Nodes that have begun in this run.
    began: Vec<bool>,
}

impl Walk {
    /// Runs nodes until none is under way and none can begin.
    async fn all(&mut self) {
        let mut in_flight = InFlight::new();
        loop {
            self.begin_ready(&mut in_flight);
            let (workflow, setup, long, token) = (
                self.workflow.clone(),
                self.setup.clone(),
                self.long.clone(),
                self.token.clone(),
            );
            let ended = in_flight.next(|| drain_if_long(&workflow, &setup, long.get(), &token));
            match ended.await {
                Some((at, outcome)) => self.ended(at, outcome),
                None => return,
            }
        }
    }

    fn begin_ready(&mut self, in_flight: &mut InFlight<usize, Outcome>) {
        // A node that is skipped can make another ready that stands before it only if the plan is
        // out of order, which it is not: one pass is enough.
        for at in 0..self.nodes.len() {
            if self.began[at] || self.token.is_cancelled() || !self.is_ready(at) {
                continue;
            }
            self.began[at] = true;
            if self.workflow.state(|run| run.draining) {
                self.paused += 1;
                continue;
            }
            if let Some(left) = self.admit(at) {
                in_flight.push(at, nodes::run(self.context(at), left));
            }
        }
    }

    /// Whether a node can begin, or goes on from the run before.
    fn is_ready(&self, at: usize) -> bool {
        let node = &self.nodes[at];
        self.workflow.state(|run| {
            let nodes = &run.state.nodes;
            match nodes[self.offset + at].status {
                Status::Running | Status::Asking => true,
                Status::Waiting if self.failure.is_some() => false,
                // Whatever `finally` needs of the main nodes has ended by now, one way or another.
                Status::Waiting => nodes
                    .iter()
                    .skip(self.offset)
                    .filter(|other| node.needs.contains(&other.id))
                    .all(|other| is_past(other.status)),
                _ => false,
            }
        })
    }

    /// Decides whether a node that is ready runs, and with what. A node that goes on does.
    fn admit(&mut self, at: usize) -> Option<Left> {
        let cx = self.context(at);
        let node = self.nodes[at].clone();
        let status = self
            .workflow
            .state(|run| run.state.nodes[self.offset + at].status);
        if status == Status::Waiting {
            match node
                .when
                .as_ref()
                .map(|when| template::condition(when, &cx.scope()))
            {
                Some(Ok(false)) => {
                    self.set(at, Status::Skipped, Value::Null);
                    return None;
                }
                Some(Err(error)) => {
                    self.ended(at, Outcome::failed(format!("`when`: {error}")));
                    return None;
                }
                Some(Ok(true)) | None => {}
            }
            let now = cx.now_ms();
            cx.update(|state| {
                state.status = Status::Running;
                state.started_ms = now;
            });
        }
        Some(Left {
            progress: self.fan_outs.remove(&node.id),
            deadline: self.deadlines.remove(&node.id),
            asks: status == Status::Asking,
            failed_items: self.setup.input.failed_items.get(&node.id).cloned(),
        })
    }

    fn ended(&mut self, at: usize, outcome: Outcome) {
        let node = self.nodes[at].clone();
        match outcome {
            Outcome::Done {
                output,
                kept,
                fan_out,
            } => {
                let status = if kept { Status::Kept } else { Status::Done };
                self.context(at).update(|state| state.fan_out = fan_out);
                self.set(at, status, output);
            }
            Outcome::Failed { error, fan_out } => {
                let status = if node.allow_failure {
                    Status::FailedAllowed
                } else {
                    if self.failure.is_none() {
                        self.failure = Some(format!("stage `{}` failed: {error}", node.id));
                    }
                    self.asking.cancel();
                    Status::Failed
                };
                self.context(at).update(|state| {
                    state.fan_out = fan_out;
                    state.error = Some(error);
                });
                self.set(at, status, Value::Null);
            }
            Outcome::Canceled => self.set(at, Status::Canceled, Value::Null),
            Outcome::Paused(paused) => {
                self.paused += 1;
                match paused {
                    Paused::Begin => {}
                    Paused::FanOut(progress) => {
                        self.fan_outs.insert(node.id.clone(), *progress);
                    }
                    Paused::Approve(Some(deadline)) => {
                        self.deadlines.insert(node.id.clone(), deadline);
                    }
                    Paused::Approve(None) => {}
                }
            }
        }
    }

    /// Ends a node.
    fn set(&self, at: usize, status: Status, output: Value) {
        let cx = self.context(at);
        let now = cx.now_ms();
        cx.update(|state| {
            state.status = status;
            state.output = output;
            state.ended_ms = now;
            state.choices = Vec::new();
            state.message = None;
        });
    }

    /// Takes over what an earlier run gave, artifacts first.
    async fn keep(&mut self) {
        if let Some(run) = self.setup.input.earlier.clone()
            && self.setup.carry.is_none()
            && let Some(first) = self.nodes.first().cloned()
        {
            let task = Task::internal(internal::KEEP, &first.id);
            match task::run::<()>(&self.context(0), &task, &Keep { run }).await {
                Ok(()) => {}
                // Cancelled: `main_end` sees it.
                Err(Fault::Canceled | Fault::Paused) => return,
                Err(Fault::Failed(failure)) => {
                    self.failure = Some(format!("results of the earlier run: {}", failure.message));
                    return;
                }
            }
        }
        for at in 0..self.nodes.len() {
            let kept = self.setup.input.keep.get(&self.nodes[at].id).cloned();
            if let Some(output) = kept
                && self.workflow.state(|run| run.state.nodes[at].status) == Status::Waiting
            {
                let fan_out = self.setup.input.kept_fan_outs.get(&self.nodes[at].id);
                self.context(at)
                    .update(|state| state.fan_out = fan_out.cloned());
                self.set(at, Status::Kept, output);
            }
        }
    }

    /// The outputs that the plan promises.
    async fn outputs(&self, outputs: &Value) -> Result<Value, Fault> {
        // What has to be evaluated by a task is shown at the last node.
        match self.nodes.len().checked_sub(1) {
            Some(last) => {
                evaluate::value(&self.context(last), "the pipeline's outputs", outputs).await
            }
            None => Ok(Value::Null),
        }
    }

    /// How the main nodes ended, once none is under way.
    fn main_end(&self, canceled: bool) -> End {
        let unfinished = self.workflow.state(|run| {
            let nodes = run.state.nodes.iter().take(self.nodes.len());
            nodes.filter(|node| !is_past(node.status)).count()
        });
        if canceled && unfinished > 0 {
            for at in 0..self.nodes.len() {
                let status = self.workflow.state(|run| run.state.nodes[at].status);
                if matches!(status, Status::Waiting | Status::Running | Status::Asking) {
                    self.set(at, Status::Canceled, Value::Null);
                }
            }
            return End::Canceled;
        }
        match &self.failure {
            Some(error) => End::Failed(error.clone()),
            None => End::Done,
        }
    }

    fn drained(self) -> Stop {
        let (state, answers, cold) = self
            .workflow
            .state(|run| (run.state.clone(), run.answers.clone(), run.cold.clone()));
        Stop::Drained(Box::new(Carry {
            state,
            answers,
            fan_outs: self.fan_outs,
            deadlines: self.deadlines,
            failure: self.failure,
            end: self.end.map(|end| (*end).clone()),
            cold,
        }))
    }

    fn context(&self, at: usize) -> Context {
        let node = self.nodes[at].clone();
        let approves = matches!(node.work, Work::Approve(_));
        Context {
            workflow: self.workflow.clone(),
            run: self.run.clone(),
            limits: self.setup.limits,
            token: if approves {
                self.asking.clone()
            } else {
                self.token.clone()
            },
            end: self.end.clone(),
            long: self.long.clone(),
            index: self.offset + at,
            node,
        }
    }
}

/// Whether what needs a node of this status can begin.
fn is_past(status: Status) -> bool {
    matches!(
        status,
        Status::Done | Status::Kept | Status::Skipped | Status::FailedAllowed
    )
}

/// Decides that the run continues as new: its history is long, and nothing long is under way that
/// would have to be waited for.
fn drain_if_long(
    workflow: &WorkflowContext<Interpreter>,
    setup: &Setup,
    long: u32,
    token: &WorkflowCancellationToken,
) {
    if workflow.state(|run| run.draining) || token.is_cancelled() {
        return;
    }
    let events = workflow.history_length();
    let is_long = events > setup.limits.history || workflow.continue_as_new_suggested();
    if is_long && (long == 0 || events > setup.limits.history_hard) {
        workflow.state_mut(|run| run.draining = true);
    }
}
