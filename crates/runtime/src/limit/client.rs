//! Setting limits and looking at them.

use std::pin::pin;

use futures::StreamExt;
use serde_json::{Value, json};
use temporalio_client::errors::{
    WorkflowQueryError, WorkflowUpdateError, WorkflowUpdateWithStartError,
};
use temporalio_client::{
    Client, WorkflowHandle, WorkflowIdConflictPolicy, WorkflowIdReusePolicy,
    WorkflowUpdateWithStartOptions,
};
use tidemill_pipeline::limit::{self, Config, State};
use tidemill_pipeline::run::TASK_QUEUE;

use super::LimitWorkflow;
use crate::worker::{self, Engine};

type Run = <LimitWorkflow as temporalio_common::HasWorkflowDefinition>::Run;

/// The limits of an engine.
#[derive(Clone)]
pub struct Limits {
    client: Client,
}

/// What went wrong with a limit, or on the way to it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Engine(#[from] worker::Error),
    #[error("{}", limit::does_not_exist(.0))]
    NotFound(String),
    #[error("{0}")]
    Invalid(String),
    #[error("limit `{name}`: {cause}")]
    Other { name: String, cause: String },
}

impl Limits {
    /// # Errors
    /// The engine is not reached.
    pub async fn connect(engine: &Engine) -> Result<Self, Error> {
        let client = worker::connect(engine).await?;
        Ok(Self { client })
    }

    /// Makes a limit, or replaces what it allows; what is used of it stays so. Returns when it holds:
    /// pipelines have to be served for that.
    ///
    /// # Errors
    /// A name or a configuration that cannot be, or the engine is not reached.
    pub async fn set(&self, name: &str, config: &Config) -> Result<(), Error> {
        limit::check_name(name).map_err(Error::Invalid)?;
        let wrong = |error| Error::Invalid(format!("limit `{name}`: {error}"));
        config.check().map_err(wrong)?;
        let options = WorkflowUpdateWithStartOptions::new(
            TASK_QUEUE,
            limit::workflow_id(name),
            WorkflowIdConflictPolicy::UseExisting,
        )
        .id_reuse_policy(WorkflowIdReusePolicy::AllowDuplicate)
        .static_summary(format!("limit {name}"))
        .build();
        let set = self.client.execute_update_with_start_workflow(
            LimitWorkflow::run,
            Value::Null,
            LimitWorkflow::set,
            json!(config),
            options,
        );
        set.await.map_err(|error| match error {
            WorkflowUpdateWithStartError::Update(WorkflowUpdateError::Failed(failure)) => {
                wrong(failure.message)
            }
            error => other(name, error),
        })
    }

    /// # Errors
    /// There is no such limit, or nobody answers for it.
    pub async fn state(&self, name: &str) -> Result<State, Error> {
        let handle = self.handle(name)?;
        let query = handle.query(LimitWorkflow::state, (), Default::default());
        let state = query.await.map_err(|error| match error {
            WorkflowQueryError::NotFound(_) => Error::NotFound(name.to_owned()),
            error => other(name, error),
        })?;
        // A limit that was removed answers as long as its history is kept.
        let described = handle.describe(Default::default()).await;
        let described = described.map_err(|error| other(name, error))?;
        if described.close_time().is_some() {
            return Err(Error::NotFound(name.to_owned()));
        }
        Ok(state)
    }

    /// # Errors
    /// There is no such limit, or the engine is not reached.
    pub async fn remove(&self, name: &str) -> Result<(), Error> {
        let handle = self.handle(name)?;
        let update = handle.execute_update(LimitWorkflow::remove, Value::Null, Default::default());
        update.await.map_err(|error| match error {
            WorkflowUpdateError::NotFound(_) => Error::NotFound(name.to_owned()),
            error => other(name, error),
        })
    }

    /// Names of all limits, sorted.
    ///
    /// # Errors
    /// The engine is not reached.
    pub async fn list(&self) -> Result<Vec<String>, Error> {
        let query = format!(
            "WorkflowType = '{}' AND ExecutionStatus = 'Running'",
            limit::WORKFLOW
        );
        let mut found = pin!(self.client.list_workflows(query, Default::default()));
        let mut names = Vec::new();
        while let Some(run) = found.next().await {
            let run = run.map_err(|error| other("*", error))?;
            names.extend(limit::name_of(run.id()).map(str::to_owned));
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    fn handle(&self, name: &str) -> Result<WorkflowHandle<Client, Run>, Error> {
        limit::check_name(name).map_err(Error::Invalid)?;
        let id = limit::workflow_id(name);
        Ok(self.client.get_workflow_handle::<Run>(id))
    }
}

fn other(name: &str, error: impl std::fmt::Display) -> Error {
    Error::Other {
        name: name.to_owned(),
        cause: error.to_string(),
    }
}
