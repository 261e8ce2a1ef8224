//! A run's history, as the engine keeps it.

use serde::de::DeserializeOwned;
use tidemill_pipeline::run::RunInput;
use tidemill_proto::api::common::v1::{Payloads, WorkflowExecution};
use tidemill_proto::api::history::v1::HistoryEvent;
use tidemill_proto::api::history::v1::history_event::Attributes;
use tidemill_proto::client::Code;

use super::Target;
use crate::exit::Failure;
use crate::workflow::connection::{Connection, refused};
use crate::workflow::history;

/// Reads histories. A run that continued as new is a chain of them under one id.
pub(super) struct Histories(Connection);

impl Histories {
    pub(super) async fn connect(target: &Target) -> Result<Self, Failure> {
        let namespace = target.namespace.clone();
        Connection::to(&target.engine, namespace, target.json)
            .await
            .map(Self)
    }

    /// Events and the token of those that follow, empty at the end. With `wait`, the next ones.
    pub(super) async fn page(
        &mut self,
        run: &WorkflowExecution,
        token: Vec<u8>,
        wait: bool,
    ) -> Result<(Vec<HistoryEvent>, Vec<u8>), Failure> {
        let page = history::page(&mut self.0, run, token, wait).await;
        page.map_err(|status| match status.code() {
            Code::NotFound => Failure::general(format!(
                "there is no run `{}`; `tidemill ps` lists runs",
                run.workflow_id
            )),
            _ => refused(status),
        })
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
