//! Starting runs, following them, answering what they ask: thin over Temporal's client.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use serde_json::{Value, json};
use temporalio_client::errors::{
    WorkflowGetResultError, WorkflowQueryError, WorkflowStartError, WorkflowUpdateError,
};
use temporalio_client::{
    Client, WorkflowCancelOptions, WorkflowExecutionStatus, WorkflowGetResultOptions,
    WorkflowHandle, WorkflowIdConflictPolicy, WorkflowStartOptions,
};
use temporalio_common::MemoValues;
use temporalio_common::error::IncomingError;
use tidemill_pipeline::plan::Plan;
use tidemill_pipeline::run::{
    Answer, FanOutResult, RunInput, RunResult, RunState, Status, TASK_QUEUE,
};

use crate::Interpreter;
use crate::worker::{self, Engine};

/// Memo of a run: the pipeline's name.
pub const MEMO_PIPELINE: &str = "pipeline";
/// Memo of a run: the plan's hash.
pub const MEMO_PLAN: &str = "plan";

/// Between two looks at a run's state: from the first to the last.
const LOOK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

type Handle =
    WorkflowHandle<Client, <Interpreter as temporalio_common::HasWorkflowDefinition>::Run>;

/// The pipelines of an engine.
#[derive(Clone)]
pub struct Pipelines {
    client: Client,
}

/// What went wrong with a run, or on the way to it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Engine(#[from] worker::Error),
    #[error("there is no run `{0}`; `tidemill ps` lists runs")]
    NotFound(String),
    #[error("a run `{0}` is going on already; cancel it, or start this one under another id")]
    Running(String),
    /// A line for each stage.
    #[error("no worker could ever run it: {0}")]
    Unsatisfiable(String),
    #[error("the answer is refused: {0}")]
    Answer(String),
    #[error("run `{run}`: {cause}")]
    Other { run: String, cause: String },
}

/// What a run may have besides its plan and its inputs.
#[derive(Clone, Debug, Default)]
pub struct StartOptions {
    /// The run's id; made from the pipeline's name and the time when empty.
    pub id: String,
    /// Results of an earlier run to be used again, by node.
    pub keep: BTreeMap<String, Value>,
    /// How fan-outs among them went, by node.
    pub kept_fan_outs: BTreeMap<String, FanOutResult>,
    /// Fan-outs of which only the items that failed there are to be run, by node.
    pub failed_items: BTreeMap<String, FanOutResult>,
    /// The run that the three above are of: its artifacts are kept for this one.
    pub earlier: Option<String>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    Done(RunResult),
    /// What failed, and the state if the run could still tell it.
    Failed {
        error: String,
        state: Option<RunState>,
    },
    Canceled {
        state: Option<RunState>,
    },
    Terminated,
    TimedOut,
}

/// A question that waits for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The run that asks: the one that was looked at, or one that it called.
    pub run: String,
    pub node: String,
}

/// A run in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub id: String,
    pub pipeline: String,
    /// Hash of the plan.
    pub plan: String,
    pub status: RunStatus,
    /// Milliseconds since 1970.
    pub started_ms: i64,
    /// Milliseconds since 1970; 0 while it goes on.
    pub ended_ms: i64,
    /// The run that called it, if one did.
    pub parent: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RunStatus {
    Running,
    Done,
    Failed,
    Canceled,
    Terminated,
    TimedOut,
    Other,
}

impl Pipelines {
    /// # Errors
    /// The engine is not reached.
    pub async fn connect(engine: &Engine) -> Result<Self, Error> {
        let client = worker::connect(engine).await?;
        Ok(Self { client })
    }

    pub fn new(client: Client) -> Self {
        Self { client }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Starts a run and returns its id. The inputs are those that the plan wants: they have been
    /// checked, and defaults are filled in.
    ///
    /// # Errors
    /// No worker could ever run a stage, the id is taken by a run that goes on, or the engine is not reached.
    pub async fn start(
        &self,
        plan: Plan,
        inputs: BTreeMap<String, Value>,
        options: StartOptions,
    ) -> Result<String, Error> {
        self.placeable(&plan).await?;
        let mut id = options.id;
        if id.is_empty() {
            let nanos = now().as_nanos();
            id = format!("{}-{:x}", plan.name, nanos / 1_000);
        }
        let input = RunInput {
            plan,
            inputs,
            keep: options.keep,
            kept_fan_outs: options.kept_fan_outs,
            failed_items: options.failed_items,
            earlier: options.earlier,
            carry: None,
        };
        let (name, hash) = (input.plan.name.clone(), input.plan.hash());
        self.start_raw(&id, &name, &hash, json!(input)).await?;
        Ok(id)
    }

    /// Starts a run with the interpreter's input as it is.
    async fn start_raw(&self, id: &str, name: &str, hash: &str, input: Value) -> Result<(), Error> {
        let mut memo = MemoValues::new();
        memo.insert(MEMO_PIPELINE, name.to_owned());
        memo.insert(MEMO_PLAN, hash.to_owned());
        let options = WorkflowStartOptions::new(TASK_QUEUE, id)
            .id_conflict_policy(WorkflowIdConflictPolicy::Fail)
            .static_summary(name.to_owned())
            .memo(memo)
            .build();
        let started = self.client.start_workflow(Interpreter::run, input, options);
        match started.await {
            Ok(_) => Ok(()),
            Err(WorkflowStartError::AlreadyStarted { .. }) => Err(Error::Running(id.to_owned())),
            Err(error) => Err(other(id, error)),
        }
    }

    /// What is known of a run, also of one that has ended while its history is kept. It is the
    /// interpreter that answers: one has to be served. When none is, a run that has ended is still
    /// known from its result.
    ///
    /// # Errors
    /// There is no such run, or nobody answers for it.
    pub async fn state(&self, run: &str) -> Result<RunState, Error> {
        let handle = self.handle(run);
        let query = handle.query(Interpreter::state, (), Default::default());
        let error = match query.await {
            Ok(state) => return Ok(state),
            Err(WorkflowQueryError::NotFound(_)) => return Err(Error::NotFound(run.to_owned())),
            Err(error) => other(run, error),
        };
        let described = handle.describe(Default::default()).await;
        if described.is_ok_and(|run| run.status() == WorkflowExecutionStatus::Running) {
            return Err(error);
        }
        match self.result(run).await {
            Ok(Ended::Done(result)) => Ok(result.state),
            Ok(
                Ended::Failed {
                    state: Some(state), ..
                }
                | Ended::Canceled { state: Some(state) },
            ) => Ok(state),
            _ => Err(error),
        }
    }

    /// Waits until a run has ended.
    ///
    /// # Errors
    /// There is no such run, or the engine is not reached.
    pub async fn result(&self, run: &str) -> Result<Ended, Error> {
        let options = WorkflowGetResultOptions::builder()
            .follow_runs(true)
            .build();
        match self.handle(run).get_result(options).await {
            Ok(result) => serde_json::from_value(result)
                .map(Ended::Done)
                .map_err(|error| other(run, error)),
            Err(WorkflowGetResultError::Failed(error)) => {
                let state = match &*error {
                    IncomingError::Application(failure) => failure.details().ok().flatten(),
                    IncomingError::ChildWorkflowExecution(_) | IncomingError::Activity(_) => None,
                    _ => None,
                };
                Ok(Ended::Failed {
                    error: error.to_string(),
                    state,
                })
            }
            Err(WorkflowGetResultError::Cancelled { details }) => Ok(Ended::Canceled {
                state: details.deserialize().ok(),
            }),
            Err(WorkflowGetResultError::Terminated { .. }) => Ok(Ended::Terminated),
            Err(WorkflowGetResultError::TimedOut) => Ok(Ended::TimedOut),
            Err(WorkflowGetResultError::NotFound(_)) => Err(Error::NotFound(run.to_owned())),
            Err(error) => Err(other(run, error)),
        }
    }

    /// Waits until a run has ended and tells `progress` its state on the way, whenever it has
    /// changed. Looks less often while nothing changes.
    ///
    /// # Errors
    /// There is no such run, or the engine is not reached.
    pub async fn follow(
        &self,
        run: &str,
        mut progress: impl FnMut(&RunState),
    ) -> Result<Ended, Error> {
        let mut result = pin!(self.result(run));
        let mut last = None;
        let mut wait = LOOK.0;
        loop {
            tokio::select! {
                ended = &mut result => {
                    let ended = ended?;
                    if let Some(state) = ended.state().filter(|state| last.as_ref() != Some(*state)) {
                        progress(state);
                    }
                    return Ok(ended);
                }
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(LOOK.1);
            // No state yet, or no interpreter at the moment: the result tells when it is over.
            if let Ok(state) = self.state(run).await
                && last.as_ref() != Some(&state)
            {
                progress(&state);
                last = Some(state);
                wait = LOOK.0;
            }
        }
    }

    /// What a run asks at the moment, and the runs that it called.
    ///
    /// # Errors
    /// There is no such run, or nobody answers for it.
    pub async fn questions(&self, run: &str) -> Result<Vec<Question>, Error> {
        let mut questions = Vec::new();
        let mut runs = vec![run.to_owned()];
        while let Some(run) = runs.pop() {
            for node in self.state(&run).await?.nodes {
                match (node.status, node.child) {
                    (Status::Asking, _) => questions.push(Question {
                        run: run.clone(),
                        node: node.id,
                    }),
                    (Status::Running, Some(child)) => runs.push(child),
                    _ => {}
                }
            }
        }
        Ok(questions)
    }

    /// Answers what a run asks.
    ///
    /// # Errors
    /// The answer is refused, with what would be right; or there is no such run.
    pub async fn answer(&self, run: &str, answer: Answer) -> Result<(), Error> {
        let handle = self.handle(run);
        let update = handle.execute_update(
            Interpreter::answer_update,
            json!(answer),
            Default::default(),
        );
        match update.await {
            Ok(()) => Ok(()),
            Err(WorkflowUpdateError::Failed(failure)) => Err(Error::Answer(failure.message)),
            Err(WorkflowUpdateError::NotFound(_)) => Err(Error::NotFound(run.to_owned())),
            Err(error) => Err(other(run, error)),
        }
    }

    /// Asks a run to end: tasks under way are told, `finally` still runs.
    ///
    /// # Errors
    /// There is no such run, or the engine is not reached.
    pub async fn cancel(&self, run: &str, reason: &str) -> Result<(), Error> {
        let options = WorkflowCancelOptions::builder().reason(reason).build();
        let cancelled = self.handle(run).cancel(options).await;
        cancelled.map_err(|error| match error {
            temporalio_client::errors::WorkflowInteractionError::NotFound(_) => {
                Error::NotFound(run.to_owned())
            }
            error => other(run, error),
        })
    }

    /// Runs, the latest first; at most `limit`.
    ///
    /// # Errors
    /// The engine is not reached.
    pub async fn list(&self, limit: usize) -> Result<Vec<Listed>, Error> {
        let query = format!("WorkflowType = '{}'", tidemill_pipeline::run::WORKFLOW);
        let mut found = pin!(self.client.list_workflows(query, Default::default()));
        let mut runs = Vec::new();
        while let Some(run) = found.next().await {
            let run = run.map_err(|error| other("*", error))?;
            let status = match run.status() {
                // The run goes on under the same id.
                WorkflowExecutionStatus::ContinuedAsNew => continue,
                WorkflowExecutionStatus::Running | WorkflowExecutionStatus::Paused => {
                    RunStatus::Running
                }
                WorkflowExecutionStatus::Completed => RunStatus::Done,
                WorkflowExecutionStatus::Failed => RunStatus::Failed,
                WorkflowExecutionStatus::Canceled => RunStatus::Canceled,
                WorkflowExecutionStatus::Terminated => RunStatus::Terminated,
                WorkflowExecutionStatus::TimedOut => RunStatus::TimedOut,
                _ => RunStatus::Other,
            };
            let memo = run.memo();
            let text = |key| memo.get::<String>(key).ok().flatten().unwrap_or_default();
            runs.push(Listed {
                id: run.id().to_owned(),
                pipeline: text(MEMO_PIPELINE),
                plan: text(MEMO_PLAN),
                status,
                started_ms: run.start_time().map_or(0, since_1970_ms),
                ended_ms: run.close_time().map_or(0, since_1970_ms),
                parent: run
                    .parent_id()
                    .map(str::to_owned)
                    .filter(|id| !id.is_empty()),
            });
            if runs.len() == limit {
                break;
            }
        }
        Ok(runs)
    }

    /// Temporal's handle of a run: for what this client does not offer.
    pub fn handle(&self, run: &str) -> Handle {
        self.client
            .get_workflow_handle::<<Interpreter as temporalio_common::HasWorkflowDefinition>::Run>(
                run,
            )
    }
}

impl Ended {
    /// The state at the end, if it is known.
    pub fn state(&self) -> Option<&RunState> {
        match self {
            Ended::Done(result) => Some(&result.state),
            Ended::Failed { state, .. } | Ended::Canceled { state } => state.as_ref(),
            Ended::Terminated | Ended::TimedOut => None,
        }
    }
}

fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

fn since_1970_ms(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as i64)
}

fn other(run: &str, error: impl std::fmt::Display) -> Error {
    Error::Other {
        run: run.to_owned(),
        cause: error.to_string(),
    }
}
