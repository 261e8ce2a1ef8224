//! The workflow that keeps a limit.
//!
//! It sets no timers: what is out of time is taken back when somebody asks, and nobody needs it before.

use std::time::UNIX_EPOCH;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use temporalio_macros::{workflow, workflow_methods};
use temporalio_sdk::{
    ContinueAsNewOptions, SyncWorkflowContext, WorkflowContext, WorkflowContextView, WorkflowResult,
};
use tidemill_pipeline::limit::{
    ASK_UPDATE, Ask, Config, Granted, REMOVE_UPDATE, SET_UPDATE, STATE_QUERY, State, WORKFLOW,
    name_of,
};

use super::state::Limit;

/// Updates after which it continues as new. A Temporal cluster allows a run 2,000 of them.
const UPDATES_MAX: u32 = 500;

/// A limit that workers share.
#[workflow]
pub struct LimitWorkflow {
    limit: Limit,
    updates: u32,
    removed: bool,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[workflow_methods]
impl LimitWorkflow {
    /// The input is null, or the [`Limit`] of the run before in the chain.
    #[init]
    fn new(_ctx: &WorkflowContextView, input: Value) -> Self {
        Self {
            // One that cannot be read is of another version: the limit begins anew once it is set.
            limit: serde_json::from_value(input).unwrap_or_default(),
            updates: 0,
            removed: false,
        }
    }

    #[run(name = WORKFLOW)]
    pub async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<Value> {
        let over = ctx.wait_condition(|limit| limit.removed || limit.updates >= UPDATES_MAX);
        let cancelled = over.await.is_err();
        if cancelled || ctx.state(|limit| limit.removed) {
            return Ok(Value::Null);
        }
        let limit = ctx.state(|limit| json!(limit.limit));
        ctx.continue_as_new(limit, ContinueAsNewOptions::default())?;
        Ok(Value::Null)
    }

    #[query(name = STATE_QUERY)]
    pub fn state(&self, ctx: &WorkflowContextView) -> State {
        let id = ctx.workflow_id();
        self.limit.state(name_of(id).unwrap_or(id))
    }

    #[update_validator(set)]
    fn validate_set(&self, _ctx: &WorkflowContextView, config: &Value) -> Result<(), BoxError> {
        let config: Config = read(config)?;
        config.check().map_err(BoxError::from)
    }

    #[update(name = SET_UPDATE)]
    pub fn set(&mut self, _ctx: &mut SyncWorkflowContext<Self>, config: Value) {
        self.updates += 1;
        if let Ok(config) = read(&config) {
            self.limit.set(config);
        }
    }

    #[update_validator(ask)]
    fn validate_ask(&self, _ctx: &WorkflowContextView, ask: &Value) -> Result<(), BoxError> {
        read::<Ask>(ask).map(drop)
    }

    #[update(name = ASK_UPDATE)]
    pub fn ask(&mut self, ctx: &mut SyncWorkflowContext<Self>, ask: Value) -> Option<Granted> {
        self.updates += 1;
        let ask = read(&ask).ok()?;
        let now = ctx.workflow_time()?.duration_since(UNIX_EPOCH).ok()?;
        Some(self.limit.ask(&ask, now.as_millis() as i64))
    }

    #[update(name = REMOVE_UPDATE)]
    pub fn remove(&mut self, _ctx: &mut SyncWorkflowContext<Self>, _: Value) {
        self.removed = true;
    }
}

fn read<T: DeserializeOwned>(value: &Value) -> Result<T, BoxError> {
    T::deserialize(value).map_err(|error| {
        format!("it is of another version of tidemill than this limit: {error}").into()
    })
}
