//! Updates (contract 6.2): sent, awaited, polled.

use std::time::Duration;

use tidemill_engine::update::{self, Status};
use tidemill_engine::{Error, Outcome, UpdateEvent};
use tidemill_proto::api::enums::v1::{EventType, UpdateWorkflowExecutionLifecycleStage as Stage};
use tidemill_proto::api::failure::v1::Failure;
use tidemill_proto::api::history::v1::history_event::Attributes;
use tidemill_proto::api::update::v1::{self as proto, Request, UpdateRef, outcome};
use tidemill_proto::api::workflowservice::v1::{
    PollWorkflowExecutionUpdateRequest, PollWorkflowExecutionUpdateResponse,
    UpdateWorkflowExecutionRequest, UpdateWorkflowExecutionResponse,
};
use tidemill_store::RunNo;
use tokio::time::Instant;

use super::lifecycle::in_chain;
use super::{Call, RELOADED, event_link, target};
use crate::Server;
use crate::core::{identity, stopping};
use crate::namespaces::Namespace;
use crate::shard::{Target, View};
use crate::waiters::UpdateWait;

/// How far an update has come, and how it ended.
#[derive(Clone, Debug)]
pub(super) struct Reached {
    pub(super) stage: Stage,
    pub(super) outcome: Option<proto::Outcome>,
}

/// What waiting for an update can end with.
#[expect(
    clippy::large_enum_variant,
    reason = "made once and taken apart at once, never stored in numbers"
)]
pub(super) enum Waited {
    Reached(Reached),
    /// The run continued as another, or was reloaded: send the update again.
    Again,
}

impl Server {
    pub async fn update_workflow_execution(
        &self,
        namespace: &Namespace,
        request: UpdateWorkflowExecutionRequest,
        call: Call,
    ) -> Result<UpdateWorkflowExecutionResponse, Error> {
        let mut target = target(namespace, &request.workflow_execution)?;
        let chain = request.first_execution_run_id;
        let update = with_id(
            request
                .request
                .ok_or_else(|| Error::invalid("Request is not set on request."))?,
        );
        let wanted = wanted_stage(
            request
                .wait_policy
                .map_or(Stage::Unspecified, |p| p.lifecycle_stage()),
        );
        if !chain.is_empty() {
            target.run_id = None;
        }
        let deadline = self.wait_until(&call, self.core.config.long_poll);
        loop {
            let (admitted, first_run, core) = (update.clone(), chain.clone(), self.core.clone());
            let done = self
                .core
                .shards
                .on_run(target.clone(), move |run, cx| {
                    in_chain(run, &first_run)?;
                    let id = update_id(&admitted).to_owned();
                    let outcome = update::admit(run, admitted, cx)?;
                    // Waiting begins before anything can happen to the update.
                    let event = core.waiters.wait_for_update(RunNo(run.id.no), &id);
                    Ok(outcome.map(|status| (status, event)))
                })
                .await;
            let done = match done {
                Ok(done) => done,
                Err(Error::ResourceExhausted { cause, .. })
                    if cause
                        == tidemill_proto::api::enums::v1::ResourceExhaustedCause::BusyWorkflow
                        && Instant::now() < deadline =>
                {
                    // The run is about to close or continue: it is over in a moment.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let id = update_id(&update);
            let (status, event) = done.value;
            match self
                .await_update(&done.view, id, status, event, wanted, deadline)
                .await?
            {
                Waited::Reached(reached) => {
                    return Ok(response(namespace, &done.view, id, reached));
                }
                Waited::Again => {}
            }
        }
    }

    /// Waits until an update has reached a stage. Past the deadline, the answer is how far it came.
    /// `event` was asked for before `status` was read.
    pub(super) async fn await_update(
        &self,
        view: &View,
        update_id: &str,
        mut status: Status,
        mut event: UpdateWait,
        wanted: Stage,
        deadline: Instant,
    ) -> Result<Waited, Error> {
        let mut now = view.clone();
        loop {
            let stage = match self.settled(&now, status).await? {
                Ok(reached) => return Ok(Waited::Reached(reached)),
                Err(stage) => stage,
            };
            if stage >= wanted {
                return Ok(Waited::Reached(Reached {
                    stage,
                    outcome: None,
                }));
            }
            match tokio::time::timeout_at(deadline, event.event()).await {
                Ok(Some(UpdateEvent::Accepted)) if wanted > Stage::Accepted => {}
                Ok(Some(event)) => return finished(event),
                Ok(None) if self.core.stop.has_begun() => return Err(stopping()),
                // The run was reloaded: what was not accepted is lost.
                Ok(None) => {
                    tokio::time::sleep(RELOADED).await;
                    return Ok(Waited::Again);
                }
                Err(_) => {
                    return Ok(Waited::Reached(Reached {
                        stage,
                        outcome: None,
                    }));
                }
            }
            // Accepted: on to its end.
            event = self
                .core
                .waiters
                .wait_for_update(RunNo(view.run.id.no), update_id);
            now = match self.core.shards.read(self.pinned(view)?).await {
                Ok(now) => now,
                Err(Error::NotFound(_)) => return Ok(Waited::Again),
                Err(error) => return Err(error),
            };
            status = match update::status(&now.run, update_id) {
                Some(status) => status,
                None => return Ok(Waited::Again),
            };
        }
    }

    fn pinned(&self, view: &View) -> Result<Target, Error> {
        let owner = identity(&view.run.id);
        let namespace = self.core.namespaces.by_id(&owner.namespace)?;
        Ok(Target::of(&namespace, &owner))
    }

    /// The outcome of an update that has one, else the stage that it is in.
    async fn settled(&self, view: &View, status: Status) -> Result<Result<Reached, Stage>, Error> {
        Ok(match status {
            Status::Admitted => Err(Stage::Admitted),
            Status::Accepted => Err(Stage::Accepted),
            Status::Failed(failure) => Ok(failed(*failure)),
            Status::Completed { event_id, batch_id } => {
                let event = self.core.read_event(view, batch_id, event_id).await?;
                match event.attributes {
                    Some(Attributes::WorkflowExecutionUpdateCompletedEventAttributes(a)) => {
                        Ok(Reached {
                            stage: Stage::Completed,
                            outcome: a.outcome,
                        })
                    }
                    _ => {
                        return Err(Error::DataLoss(format!(
                            "event {event_id} is not the completion of an update"
                        )));
                    }
                }
            }
        })
    }

    pub async fn poll_workflow_execution_update(
        &self,
        namespace: &Namespace,
        request: PollWorkflowExecutionUpdateRequest,
        call: Call,
    ) -> Result<PollWorkflowExecutionUpdateResponse, Error> {
        let reference = request.update_ref.unwrap_or_default();
        let target = target(namespace, &reference.workflow_execution)?;
        let wanted = request
            .wait_policy
            .map_or(Stage::Unspecified, |p| p.lifecycle_stage());
        let deadline = self.wait_until(&call, self.core.config.long_poll);
        let unknown = || Error::not_found(format!("update {:?} not found", reference.update_id));
        let (view, reached) = loop {
            let (id, core) = (reference.update_id.clone(), self.core.clone());
            let done = self
                .core
                .shards
                .on_run(target.clone(), move |run, _| {
                    let event = core.waiters.wait_for_update(RunNo(run.id.no), &id);
                    Ok(Outcome::unchanged((update::status(run, &id), event)))
                })
                .await?;
            let (status, event) = done.value;
            let status = status.ok_or_else(unknown)?;
            match self
                .await_update(
                    &done.view,
                    &reference.update_id,
                    status,
                    event,
                    wanted,
                    deadline,
                )
                .await?
            {
                Waited::Reached(reached) => break (done.view, reached),
                // The run was reloaded; what was accepted is still there.
                Waited::Again => {}
            }
        };
        Ok(PollWorkflowExecutionUpdateResponse {
            outcome: reached.outcome,
            stage: reached.stage as i32,
            update_ref: Some(UpdateRef {
                workflow_execution: Some(view.run.id.execution()),
                update_id: reference.update_id,
            }),
        })
    }
}

fn finished(event: UpdateEvent) -> Result<Waited, Error> {
    match event {
        UpdateEvent::Accepted => Ok(Waited::Reached(Reached {
            stage: Stage::Accepted,
            outcome: None,
        })),
        UpdateEvent::Completed(outcome) => Ok(Waited::Reached(Reached {
            stage: Stage::Completed,
            outcome: Some(outcome),
        })),
        UpdateEvent::Rejected(failure) => Ok(Waited::Reached(failed(failure))),
        UpdateEvent::Aborted(error) => Err(error),
        UpdateEvent::Moved => Ok(Waited::Again),
    }
}

fn failed(failure: Failure) -> Reached {
    Reached {
        stage: Stage::Completed,
        outcome: Some(proto::Outcome {
            value: Some(outcome::Value::Failure(failure)),
        }),
    }
}

/// An update without an id gets one.
pub(super) fn with_id(mut request: Request) -> Request {
    let meta = request.meta.get_or_insert_default();
    if meta.update_id.is_empty() {
        meta.update_id = uuid::Uuid::new_v4().to_string();
    }
    request
}

pub(super) fn update_id(request: &Request) -> &str {
    request.meta.as_ref().map_or("", |m| &m.update_id)
}

/// What a caller waits for when it does not say.
pub(super) fn wanted_stage(stage: Stage) -> Stage {
    if stage == Stage::Unspecified {
        Stage::Completed
    } else {
        stage
    }
}

pub(super) fn response(
    namespace: &Namespace,
    view: &View,
    update_id: &str,
    reached: Reached,
) -> UpdateWorkflowExecutionResponse {
    UpdateWorkflowExecutionResponse {
        update_ref: Some(UpdateRef {
            workflow_execution: Some(view.run.id.execution()),
            update_id: update_id.to_owned(),
        }),
        outcome: reached.outcome,
        stage: reached.stage as i32,
        link: Some(event_link(
            namespace,
            &view.run.id,
            1,
            EventType::WorkflowExecutionStarted,
        )),
    }
}
