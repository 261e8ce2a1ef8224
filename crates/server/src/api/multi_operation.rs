//! Update-with-start (contract 4.8): a start and an update of one workflow, as one request.

use tidemill_engine::id_policy::{self, Decision};
use tidemill_engine::update::{self, Status};
use tidemill_engine::{Cx, Error, Outcome, Run, start};
use tidemill_proto::api::enums::v1::WorkflowIdConflictPolicy as Conflict;
use tidemill_proto::api::enums::v1::{EventType, UpdateWorkflowExecutionLifecycleStage as Stage};
use tidemill_proto::api::update::v1::Request;
use tidemill_proto::api::workflowservice::v1::execute_multi_operation_request::operation::Operation;
use tidemill_proto::api::workflowservice::v1::execute_multi_operation_response::{
    Response, response,
};
use tidemill_proto::api::workflowservice::v1::{
    ExecuteMultiOperationRequest, ExecuteMultiOperationResponse, StartWorkflowExecutionRequest,
    StartWorkflowExecutionResponse, UpdateWorkflowExecutionRequest,
};

use tidemill_store::RunNo;

use super::start::{StartReply, new_run};
use super::update::{Waited, update_id, wanted_stage, with_id};
use super::{Call, event_link};
use crate::Server;
use crate::namespaces::Namespace;

/// What became of both halves.
struct Both {
    start: StartReply,
    update: Status,
}

impl Server {
    pub async fn execute_multi_operation(
        &self,
        namespace: &Namespace,
        request: ExecuteMultiOperationRequest,
        call: Call,
    ) -> Result<ExecuteMultiOperationResponse, Error> {
        let (start, update) = halves(request)?;
        let wanted = wanted_stage(
            update
                .wait_policy
                .as_ref()
                .map_or(Stage::Unspecified, |p| p.lifecycle_stage()),
        );
        let update = with_id(
            update
                .request
                .ok_or_else(|| Error::invalid("Request is not set on request."))?,
        );
        let deadline = self.wait_until(&call, self.core.config.long_poll);
        let mut tried_again = false;
        loop {
            let (start, update, ns) = (start.clone(), update.clone(), namespace.clone());
            let id = update_id(&update).to_owned();
            let workflow_id = start.workflow_id.clone();
            let core = self.core.clone();
            let done = self
                .core
                .shards
                .on_workflow(namespace, &workflow_id, move |current, cx| {
                    let id = update_id(&update).to_owned();
                    let outcome = start_and_admit(current, start, update, &ns, cx)?;
                    Ok(outcome.map(|both| {
                        let event = core.waiters.wait_for_update(RunNo(both.start.run.no), &id);
                        (both, event)
                    }))
                })
                .await?;
            let (
                Both {
                    start: started,
                    update: status,
                },
                event,
            ) = done.value;
            match self
                .await_update(&done.view, &id, status, event, wanted, deadline)
                .await
            {
                Ok(Waited::Reached(reached)) => {
                    return Ok(ExecuteMultiOperationResponse {
                        responses: vec![
                            part(response::Response::StartWorkflow(start_response(
                                namespace, &started,
                            ))),
                            part(response::Response::UpdateWorkflow(super::update::response(
                                namespace, &done.view, &id, reached,
                            ))),
                        ],
                    });
                }
                // The run closed under the update: a fresh one is started, once.
                Ok(Waited::Again) | Err(Error::NotFound(_)) if !tried_again => tried_again = true,
                Ok(Waited::Again) => {
                    return Err(update_failed(
                        &started,
                        Error::Aborted("workflow closed before the update was processed".into()),
                    ));
                }
                Err(error) => return Err(update_failed(&started, error)),
            }
        }
    }
}

fn part(response: response::Response) -> Response {
    Response {
        response: Some(response),
    }
}

fn halves(
    request: ExecuteMultiOperationRequest,
) -> Result<
    (
        StartWorkflowExecutionRequest,
        UpdateWorkflowExecutionRequest,
    ),
    Error,
> {
    let mut operations = request.operations.into_iter().filter_map(|o| o.operation);
    match (operations.next(), operations.next(), operations.next()) {
        (Some(Operation::StartWorkflow(start)), Some(Operation::UpdateWorkflow(update)), None) => {
            Ok((start, update))
        }
        _ => Err(Error::invalid(
            "Operations have to be exactly [Start, Update].",
        )),
    }
}

/// The start half failed: the update was not tried.
fn start_failed(error: Error) -> Error {
    multi(vec![Some(error), Some(Error::MultiOperationAborted)])
}

/// The update half failed; a start that was carried out before it stands.
fn update_failed(started: &StartReply, error: Error) -> Error {
    let start = if started.started {
        None
    } else {
        Some(Error::MultiOperationAborted)
    };
    multi(vec![start, Some(error)])
}

fn multi(operations: Vec<Option<Error>>) -> Error {
    Error::MultiOperation {
        message: "Update-with-Start could not be executed.".into(),
        operations,
    }
}

fn start_and_admit(
    current: Option<&Run>,
    request: StartWorkflowExecutionRequest,
    update: Request,
    namespace: &Namespace,
    cx: &Cx<'_>,
) -> Result<Outcome<Both>, Error> {
    let id = update_id(&update).to_owned();
    if let Some(run) = current {
        let known = update::status(run, &id);
        let repeated = run.core.create_request_id == request.request_id;
        let usable = run.is_open()
            && (repeated
                || known.is_some()
                || request.workflow_id_conflict_policy() == Conflict::UseExisting);
        if usable || matches!(known, Some(Status::Completed { .. })) {
            let start = StartReply::of(run, repeated, false);
            let not_started = StartReply {
                started: false,
                ..start.clone()
            };
            return match update::admit(run, update, cx) {
                Ok(outcome) => Ok(outcome.map(|update| Both { start, update })),
                Err(error) => Err(update_failed(&not_started, error)),
            };
        }
    }
    let reuse = request.workflow_id_reuse_policy();
    let decision = id_policy::decide(
        current,
        &request.request_id,
        reuse,
        request.workflow_id_conflict_policy(),
    );
    match decision.map_err(start_failed)? {
        Decision::Create | Decision::Replace => {}
        _ => {
            return Err(multi(vec![
                Some(Error::MultiOperationAborted),
                Some(Error::not_found("workflow execution already completed")),
            ]));
        }
    }
    let mut transitions = Vec::new();
    let new = new_run(&request, namespace, cx).map_err(start_failed)?;
    if let Some(run) = current.filter(|run| run.is_open()) {
        transitions.extend(
            super::start::terminate_for(run, &new, cx)
                .map_err(start_failed)?
                .transitions,
        );
    }
    // Admitted while the first workflow task is pending: the update rides on it.
    let mut tx = start::create(new, cx);
    update::admit_new(&mut tx, update);
    let start = StartReply::of(&tx.run, true, false);
    let created = tx.finish(Both {
        start,
        update: Status::Admitted,
    });
    transitions.extend(created.transitions);
    Ok(Outcome {
        transitions,
        reply: created.reply,
    })
}

fn start_response(namespace: &Namespace, start: &StartReply) -> StartWorkflowExecutionResponse {
    StartWorkflowExecutionResponse {
        run_id: start.run.run_id.to_string(),
        first_execution_run_id: start.first_run_id.clone(),
        started: start.started,
        status: start.status,
        link: Some(event_link(
            namespace,
            &start.run,
            1,
            EventType::WorkflowExecutionStarted,
        )),
        ..Default::default()
    }
}
