//! A run's history, as the engine keeps it.

use serde::de::DeserializeOwned;
use std::time::Duration;
use tidemill_pipeline::run::RunInput;
use tidemill_proto::api::common::v1::{Payloads, WorkflowExecution};
use tidemill_proto::api::history::v1::HistoryEvent;
use tidemill_proto::api::history::v1::history_event::Attributes;
use tidemill_proto::api::workflowservice::v1::GetWorkflowExecutionHistoryRequest;
use tidemill_proto::client::{self, Client, Code};

use super::Target;
use crate::exit::Failure;
use crate::workflow::connection::{refused, waiting};

const WAIT: Duration = Duration::from_secs(30);

/// Reads histories. A run that continued as new is a chain of them under one id.
pub(super) struct Histories {
    client: Client,
    namespace: String,
}

impl Histories {
    pub(super) async fn connect(target: &Target) -> Result<Self, Failure> {
        let client = client::connect(&target.engine).await.map_err(|error| {
            Failure::general(format!(
                "cannot connect to an engine at {}: {error}",
                target.engine
            ))
        })?;
        Ok(Self {
            client,
            namespace: target.namespace.clone(),
        })
    }

    /// Events and the token of those that follow, empty at the end. With `wait`, at least one event
    /// unless the history has ended.
    pub(super) async fn page(
        &mut self,
        run: &WorkflowExecution,
        token: Vec<u8>,
        wait: bool,
    ) -> Result<(Vec<HistoryEvent>, Vec<u8>), Failure> {
        loop {
            let request = GetWorkflowExecutionHistoryRequest {
                namespace: self.namespace.clone(),
                execution: Some(run.clone()),
                next_page_token: token.clone(),
                wait_new_event: wait,
                ..Default::default()
            };
            let answer = self
                .client
                .get_workflow_execution_history(waiting(request, WAIT))
                .await;
            match answer {
                Ok(answer) => {
                    let answer = answer.into_inner();
                    let events = answer.history.unwrap_or_default().events;
                    if events.is_empty() && wait && !answer.next_page_token.is_empty() {
                        continue;
                    }
                    return Ok((events, answer.next_page_token));
                }
                Err(status) if wait && status.code() == Code::DeadlineExceeded => {}
                Err(status) if status.code() == Code::NotFound => {
                    return Err(Failure::general(format!(
                        "there is no run `{}`; `tidemill ps` lists runs",
                        run.workflow_id
                    )));
                }
                Err(status) => return Err(refused(status)),
            }
        }
    }

    /// What a run was started with.
    pub(super) async fn input(&mut self, run: &str) -> Result<RunInput, Failure> {
        let execution = WorkflowExecution {
            workflow_id: run.to_owned(),
            run_id: String::new(),
        };
        let (events, _) = self.page(&execution, Vec::new(), false).await?;
        let started = events.into_iter().next().and_then(|event| event.attributes);
        let Some(Attributes::WorkflowExecutionStartedEventAttributes(started)) = started else {
            return Err(Failure::general(format!("run {run} has no beginning")));
        };
        from_payloads(started.input.as_ref())
            .ok_or_else(|| Failure::general(format!("workflow {run} is no run of a pipeline")))
    }
}

/// The first payload, if it is the JSON of a `T`.
pub(super) fn from_payloads<T: DeserializeOwned>(payloads: Option<&Payloads>) -> Option<T> {
    let payload = payloads?.payloads.first()?;
    serde_json::from_slice(&payload.data).ok()
}
