//! The workflow: what it is started with, what it is sent and asked.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use serde_json::{Value, json};
use temporalio_common::MemoValue;
use temporalio_macros::{workflow, workflow_methods};
use temporalio_sdk::{
    ApplicationFailure, ContinueAsNewOptions, SyncWorkflowContext, WorkflowContext,
    WorkflowContextView, WorkflowResult, WorkflowTermination,
};
use tidemill_pipeline::plan::{FORMAT, Work};
use tidemill_pipeline::run::{
    ANSWER_SIGNAL, ANSWER_UPDATE, Answer, NodeState, RunInput, RunResult, RunState, STATE_QUERY,
    Status, WORKFLOW,
};

use crate::carry::{Carry, End, Limits};
use crate::nodes;
use crate::walk::{self, Stop};

/// A run of a plan.
#[workflow]
pub struct Interpreter {
    setup: Result<Rc<Setup>, String>,
    pub(crate) state: RunState,
    pub(crate) answers: BTreeMap<String, Answer>,
    /// The run continues as new as soon as what is under way has ended: begin nothing.
    pub(crate) draining: bool,
    /// Queues of models from which no worker took a task in time, and of which none has said since
    /// that it serves them.
    pub(crate) cold: BTreeSet<String>,
}

/// What a run is made of and does not change.
pub(crate) struct Setup {
    pub(crate) input: RunInput,
    pub(crate) limits: Limits,
    /// What the run before this one in the chain handed on.
    pub(crate) carry: Option<Carry>,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[workflow_methods]
impl Interpreter {
    #[init]
    fn new(_ctx: &WorkflowContextView, input: Value) -> Self {
        let mut run = Self {
            setup: Err(String::new()),
            state: RunState::default(),
            answers: BTreeMap::new(),
            draining: false,
            cold: BTreeSet::new(),
        };
        run.setup = read(input).map(|setup| {
            match &setup.carry {
                Some(carry) => {
                    run.state = carry.state.clone();
                    run.answers = carry.answers.clone();
                    run.cold = carry.cold.clone();
                }
                None => run.state = begin(&setup.input),
            }
            Rc::new(setup)
        });
        run
    }

    /// Returns a [`RunResult`]. A run that fails or is cancelled has its [`RunState`] in the
    /// details of its failure.
    #[run(name = WORKFLOW)]
    pub async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<Value> {
        let setup = match ctx.state(|run| run.setup.clone()) {
            Ok(setup) => setup,
            Err(error) => return Err(fail(ctx, error)),
        };
        if let Some(parent) = ctx.info().parent()
            && setup.carry.is_none()
        {
            let parent = parent.workflow_id().to_owned();
            ctx.state_mut(|run| run.state.parent = Some(parent));
            describe_child(ctx);
        }
        match walk::run(ctx, &setup).await {
            Stop::Ended(End::Done, outputs) => Ok(json!(RunResult {
                outputs,
                state: ctx.state(|run| run.state.clone()),
            })),
            Stop::Ended(End::Failed(error), _) => Err(fail(ctx, error)),
            Stop::Ended(End::Canceled, _) => {
                let state = ctx.state(|run| run.state.clone());
                Err(WorkflowTermination::cancelled_with_details(state))
            }
            Stop::Drained(carry) => {
                let input = RunInput {
                    carry: Some(json!(carry)),
                    ..setup.input.clone()
                };
                let mut input = json!(input);
                input["limits"] = json!(setup.limits);
                ctx.continue_as_new(input, ContinueAsNewOptions::default())?;
                Ok(Value::Null)
            }
        }
    }

    /// What is known of the run.
    #[query(name = STATE_QUERY)]
    pub fn state(&self, _ctx: &WorkflowContextView) -> RunState {
        self.state.clone()
    }

    #[signal(name = ANSWER_SIGNAL)]
    fn answer(&mut self, _ctx: &mut SyncWorkflowContext<Self>, answer: Value) {
        match self.check(&answer) {
            Ok(answer) => self.accept(answer),
            Err(error) => self.state.message = Some(format!("an answer was ignored: {error}")),
        }
    }

    #[update_validator(answer_update)]
    fn validate_answer(&self, _ctx: &WorkflowContextView, answer: &Value) -> Result<(), BoxError> {
        self.check(answer).map(drop).map_err(BoxError::from)
    }

    /// Takes an answer, and tells who gave it when it is refused.
    #[update(name = ANSWER_UPDATE)]
    pub fn answer_update(&mut self, _ctx: &mut SyncWorkflowContext<Self>, answer: Value) {
        if let Ok(answer) = self.check(&answer) {
            self.accept(answer);
        }
    }
}

impl Interpreter {
    pub(crate) fn inputs(&self) -> BTreeMap<String, Value> {
        let setup = self.setup.as_ref().ok();
        setup.map_or_else(BTreeMap::new, |setup| setup.input.inputs.clone())
    }

    fn accept(&mut self, answer: Answer) {
        self.state.message = None;
        self.answers.insert(answer.node.clone(), answer);
    }

    fn check(&self, answer: &Value) -> Result<Answer, String> {
        let answer: Answer = serde_json::from_value(answer.clone())
            .map_err(|error| format!("it needs at least `node` and `choice`: {error}"))?;
        let answered = |node: &str| self.answers.contains_key(node);
        let form = |node: &str| {
            let setup = self.setup.as_ref().ok()?;
            let mut nodes = setup.input.plan.all_nodes();
            match &nodes.find(|known| known.id == node)?.work {
                Work::Approve(approve) => approve.form.clone(),
                _ => None,
            }
        };
        nodes::check_answer(&self.state, answered, form, &answer)?;
        Ok(answer)
    }
}

/// Reads a run's input by hand, so that one that cannot be read fails the run with a reason.
fn read(mut input: Value) -> Result<Setup, String> {
    let limits = match input.get_mut("limits").map(Value::take) {
        Some(limits) => {
            serde_json::from_value(limits).map_err(|error| format!("limits: {error}"))?
        }
        None => Limits::default(),
    };
    let format = input["plan"]["format"].as_u64();
    if format != Some(u64::from(FORMAT)) {
        let found = format.map_or("none".to_owned(), |format| format.to_string());
        return Err(format!(
            "the plan has format {found}, and this interpreter knows format {FORMAT}: \
             serve pipelines with the version of tidemill that made the plan, or make it anew"
        ));
    }
    let mut input: RunInput = serde_json::from_value(input)
        .map_err(|error| format!("the run's input is not one of plan format {FORMAT}: {error}"))?;
    let carry = input.carry.take().map(serde_json::from_value).transpose();
    let carry = carry.map_err(|error| {
        format!("what the run before handed on cannot be read by this version: {error}")
    })?;
    Ok(Setup {
        input,
        limits,
        carry,
    })
}

/// The state of a run that has not begun.
fn begin(input: &RunInput) -> RunState {
    let nodes = input.plan.all_nodes().map(|node| NodeState {
        id: node.id.clone(),
        status: Status::Waiting,
        started_ms: 0,
        ended_ms: 0,
        uses: match &node.work {
            Work::Task(step) => step.uses.clone(),
            Work::FanOut(fan_out) => {
                let uses = fan_out.steps.iter().map(|step| step.uses.as_str());
                uses.collect::<Vec<_>>().join(", ")
            }
            Work::Approve(_) => "approve".to_owned(),
            Work::Call(_) => "call".to_owned(),
            Work::Join(_) => "parallel".to_owned(),
        },
        output: Value::Null,
        error: None,
        message: None,
        steps: Vec::new(),
        fan_out: None,
        child: None,
        choices: Vec::new(),
    });
    RunState {
        pipeline: input.plan.name.clone(),
        plan: input.plan.hash(),
        parent: None,
        earlier: input.earlier.clone(),
        nodes: nodes.collect(),
        message: None,
    }
}

/// A child cannot be started with a memo, so it writes its own.
fn describe_child(ctx: &WorkflowContext<Interpreter>) {
    let (pipeline, plan) = ctx.state(|run| (run.state.pipeline.clone(), run.state.plan.clone()));
    let memo = [
        (crate::client::MEMO_PIPELINE, Some(MemoValue::new(pipeline))),
        (crate::client::MEMO_PLAN, Some(MemoValue::new(plan))),
    ];
    // Text is always a payload; without it the run is listed by its id only.
    let _ = ctx.upsert_memo(memo);
}

/// The end of a run that failed.
fn fail(ctx: &WorkflowContext<Interpreter>, error: String) -> WorkflowTermination {
    let state = ctx.state(|run| run.state.clone());
    let failure = ApplicationFailure::builder(error)
        .type_name("PipelineFailed".to_owned())
        .non_retryable(true)
        .details(state);
    failure.build().into()
}
