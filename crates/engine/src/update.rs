//! Updates: requests that the workflow validates, accepts and completes.
//!
//! ```text
//! admitted ──task started──▶ sent ──acceptance──▶ accepted ──response──▶ completed
//!     ▲          task failed   │ └───rejection──▶ (forgotten: no event)
//!     └────────────────────────┘
//! ```
//! Admitted and sent live in memory only; acceptance and completion are events. A lost process
//! loses what was not accepted, and its callers retry (contract section 6.2).

use std::sync::Arc;

use prost::Message as _;
use tidemill_proto::api::enums::v1::WorkflowTaskFailedCause as Cause;
use tidemill_proto::api::failure::v1::failure::FailureInfo;
use tidemill_proto::api::failure::v1::{ApplicationFailureInfo, Failure};
use tidemill_proto::api::history::v1::{
    WorkflowExecutionUpdateAcceptedEventAttributes, WorkflowExecutionUpdateCompletedEventAttributes,
};
use tidemill_proto::api::protocol::v1::{Message, message::SequencingId};
use tidemill_proto::api::update::v1::{
    Acceptance, Outcome as UpdateOutcome, Rejection, Request, Response, outcome,
};

use crate::Error;
use crate::command::Refused;
use crate::model::{UpdateRecord, WorkflowTask};
use crate::run::{LiveUpdate, Run, UpdateStage};
use crate::transition::{Outcome, UpdateEvent};
use crate::tx::{Cx, Tx};
use crate::workflow_task;

/// What is known of an update.
#[derive(Clone, Debug, PartialEq)]
pub enum Status {
    Admitted,
    Accepted,
    /// The outcome is in the completed event.
    Completed {
        event_id: i64,
        batch_id: i64,
    },
    /// The outcome is known without a look at history.
    Failed(Box<Failure>),
}

/// Looks an update up; `None` when the run does not know it.
pub fn status(run: &Run, update_id: &str) -> Option<Status> {
    if let Some(record) = run.updates.get(update_id) {
        if record.completed_id != 0 {
            return Some(Status::Completed {
                event_id: record.completed_id,
                batch_id: record.completed_batch_id,
            });
        }
        if record.accepted_id != 0 {
            return Some(if run.is_open() {
                Status::Accepted
            } else {
                Status::Failed(Box::new(closed_failure()))
            });
        }
    }
    let live = run.volatile.updates.get(update_id)?;
    Some(if live.stage == UpdateStage::Accepted {
        Status::Accepted
    } else {
        Status::Admitted
    })
}

/// Takes an update in. A known id attaches to what is there: the request is not delivered twice.
pub fn admit(run: &Run, request: Request, cx: &Cx<'_>) -> Result<Outcome<Status>, Error> {
    let update_id = request
        .meta
        .as_ref()
        .map_or("", |m| &m.update_id)
        .to_owned();
    if let Some(known) = status(run, &update_id) {
        return Ok(Outcome::unchanged(known));
    }
    if !run.is_open() {
        return Err(Error::already_completed());
    }
    if run.status() == tidemill_proto::api::enums::v1::WorkflowExecutionStatus::Paused {
        return Err(Error::FailedPrecondition(
            "workflow is paused, unpause it before updating it".into(),
        ));
    }
    if run.core.workflow_task_attempt >= 3 {
        return Err(Error::WorkflowNotReady(
            "Unable to perform workflow execution update due to Workflow Task in failed state."
                .into(),
        ));
    }
    if run.volatile.close_attempted && run.workflow_task_started() {
        return Err(Error::busy("Workflow is busy closing, try again."));
    }
    check_limits(run, &request, cx)?;
    let mut tx = Tx::new(run, cx);
    admit_new(&mut tx, request);
    if workflow_task::may_schedule(&tx.run) {
        workflow_task::schedule_speculative(&mut tx);
    }
    Ok(tx.finish(Status::Admitted))
}

/// Takes in an update that the run does not know, without asking for a workflow task.
pub fn admit_new(tx: &mut Tx<'_>, request: Request) {
    let update_id = request
        .meta
        .as_ref()
        .map_or("", |m| &m.update_id)
        .to_owned();
    let seq = tx.run.volatile.next_update_seq;
    tx.run.volatile.next_update_seq += 1;
    let live = LiveUpdate {
        update_id: update_id.clone(),
        seq,
        request,
        stage: UpdateStage::Admitted,
    };
    tx.run.volatile.updates.insert(update_id, Arc::new(live));
}

fn check_limits(run: &Run, request: &Request, cx: &Cx<'_>) -> Result<(), Error> {
    let live = &run.volatile.updates;
    if live.len() >= cx.limits.updates_in_flight {
        return Err(Error::concurrent_limit(format!(
            "limit on number of concurrent in-flight updates has been reached ({})",
            cx.limits.updates_in_flight
        )));
    }
    let bytes: usize = live.values().map(|u| u.request.encoded_len()).sum();
    if bytes + request.encoded_len() > cx.limits.updates_in_flight_bytes {
        return Err(Error::concurrent_limit(format!(
            "limit on total payload size of concurrent in-flight updates has been reached ({} bytes)",
            cx.limits.updates_in_flight_bytes
        )));
    }
    if run.core.update_count + unaccepted(run) >= cx.limits.updates_total {
        return Err(Error::FailedPrecondition(format!(
            "limit on number of total updates has been reached ({})",
            cx.limits.updates_total
        )));
    }
    Ok(())
}

/// How many updates the run has taken in that are not on its count yet.
pub(crate) fn unaccepted(run: &Run) -> i64 {
    let new =
        |u: &LiveUpdate| u.stage < UpdateStage::Accepted && !run.updates.contains_key(&u.update_id);
    run.volatile.updates.values().filter(|u| new(u)).count() as i64
}

/// Puts the requests that wait on a task that is being started.
pub(crate) fn send(tx: &mut Tx<'_>, task: &mut WorkflowTask) -> Vec<Message> {
    let mut waiting: Vec<_> = tx
        .run
        .volatile
        .updates
        .values()
        .filter(|u| u.stage == UpdateStage::Admitted)
        .cloned()
        .collect();
    waiting.sort_by_key(|u| u.seq);
    let mut messages = Vec::with_capacity(waiting.len());
    for update in waiting {
        messages.push(Message {
            id: format!("{}/request", update.update_id),
            protocol_instance_id: update.update_id.clone(),
            body: Some(any("Request", &update.request)),
            sequencing_id: Some(SequencingId::EventId(task.started_id - 1)),
        });
        set_stage(tx, &update.update_id, UpdateStage::Sent);
        task.sent_updates.push(update.update_id.clone());
    }
    messages
}

fn any(name: &str, message: &impl prost::Message) -> AnyMessage {
    AnyMessage {
        type_url: format!("type.googleapis.com/temporal.api.update.v1.{name}"),
        value: message.encode_to_vec(),
    }
}

type AnyMessage = tidemill_proto::wkt::Any;

fn set_stage(tx: &mut Tx<'_>, update_id: &str, stage: UpdateStage) {
    if let Some(update) = tx.run.volatile.updates.get_mut(update_id) {
        Arc::make_mut(update).stage = stage;
    }
}

/// The task that carried requests did not complete: they go with the next one.
pub(crate) fn unsend(tx: &mut Tx<'_>) {
    for id in sent(&tx.run) {
        set_stage(tx, &id, UpdateStage::Admitted);
    }
}

/// The engine failed the task that carried requests: their callers are told, since the
/// workflow code that saw them would fail again. What a reset has admitted is in history and
/// goes with the next task.
pub(crate) fn abort_sent(tx: &mut Tx<'_>) {
    for id in sent(&tx.run) {
        if tx.run.updates.contains_key(&id) {
            set_stage(tx, &id, UpdateStage::Admitted);
            continue;
        }
        tx.run.volatile.updates.remove(&id);
        let error = Error::WorkflowNotReady(
            "Unable to perform workflow execution update due to unexpected workflow task failure."
                .into(),
        );
        tx.update_event(id, UpdateEvent::Aborted(error));
    }
}

fn sent(run: &Run) -> Vec<String> {
    run.volatile
        .updates
        .values()
        .filter(|u| u.stage == UpdateStage::Sent)
        .map(|u| u.update_id.clone())
        .collect()
}

pub(crate) fn has_admitted(run: &Run) -> bool {
    run.volatile
        .updates
        .values()
        .any(|u| u.stage == UpdateStage::Admitted)
}

/// Handles a protocol message of a completion.
pub(crate) fn on_message(tx: &mut Tx<'_>, message: &Message) -> Result<(), Refused> {
    let body = message
        .body
        .as_ref()
        .ok_or_else(|| bad("protocol message has no body"))?;
    let name = body.type_url.rsplit('.').next().unwrap_or_default();
    let decode = |e: prost::DecodeError| {
        bad(format!(
            "protocol message {} cannot be decoded: {e}",
            message.id
        ))
    };
    let update_id = &message.protocol_instance_id;
    match name {
        "Acceptance" => accept(
            tx,
            update_id,
            Acceptance::decode(&*body.value).map_err(decode)?,
        ),
        "Response" => complete(
            tx,
            update_id,
            Response::decode(&*body.value).map_err(decode)?,
        ),
        "Rejection" => reject(
            tx,
            update_id,
            Rejection::decode(&*body.value).map_err(decode)?,
        ),
        _ => Err(bad(format!(
            "protocol message has unknown type {}",
            body.type_url
        ))),
    }
}

/// Whether a message is a rejection: the only kind that leaves no trace in history.
pub(crate) fn is_rejection(message: &Message) -> bool {
    message
        .body
        .as_ref()
        .is_some_and(|b| b.type_url.ends_with(".Rejection"))
}

fn bad(message: impl Into<String>) -> Refused {
    Refused::new(Cause::BadUpdateWorkflowExecutionMessage, message)
}

fn accept(tx: &mut Tx<'_>, update_id: &str, acceptance: Acceptance) -> Result<(), Refused> {
    let request = match tx.run.volatile.updates.get(update_id) {
        Some(u) if u.stage == UpdateStage::Accepted => {
            return Err(bad(format!("update {update_id} was accepted before")));
        }
        Some(u) => u.request.clone(),
        // Lost with a process that was killed; the worker still has it.
        None => acceptance
            .accepted_request
            .clone()
            .filter(|r| r.input.is_some())
            .ok_or_else(|| bad(format!("update {update_id} is not known")))?,
    };
    if tx
        .run
        .updates
        .get(update_id)
        .is_some_and(|r| r.completed_id != 0 || r.accepted_id != 0)
    {
        return Err(bad(format!("update {update_id} was accepted before")));
    }
    let accepted_id = tx.push(WorkflowExecutionUpdateAcceptedEventAttributes {
        protocol_instance_id: update_id.to_owned(),
        accepted_request_message_id: acceptance.accepted_request_message_id,
        accepted_request_sequencing_event_id: acceptance.accepted_request_sequencing_event_id,
        accepted_request: Some(request.clone()),
    });
    let known = tx.run.updates.get(update_id).map(|r| (**r).clone());
    if known.is_none() {
        tx.run.core.update_count += 1;
    }
    tx.put_update(UpdateRecord {
        update_id: update_id.to_owned(),
        accepted_id,
        request: None,
        ..known.unwrap_or_default()
    });
    let seq = tx.run.volatile.next_update_seq;
    tx.run.volatile.next_update_seq += 1;
    let live = LiveUpdate {
        update_id: update_id.to_owned(),
        seq,
        request,
        stage: UpdateStage::Accepted,
    };
    tx.run
        .volatile
        .updates
        .insert(update_id.to_owned(), Arc::new(live));
    tx.update_event(update_id, UpdateEvent::Accepted);
    Ok(())
}

fn complete(tx: &mut Tx<'_>, update_id: &str, response: Response) -> Result<(), Refused> {
    let record = tx
        .run
        .updates
        .get(update_id)
        .filter(|r| r.accepted_id != 0 && r.completed_id == 0)
        .map(|r| (**r).clone())
        .ok_or_else(|| bad(format!("update {update_id} is not in the accepted state")))?;
    let outcome = response
        .outcome
        .ok_or_else(|| bad(format!("response to update {update_id} has no outcome")))?;
    let batch_id = tx.batch_id();
    let event_id = tx.push(WorkflowExecutionUpdateCompletedEventAttributes {
        meta: response.meta,
        accepted_event_id: record.accepted_id,
        outcome: Some(outcome.clone()),
    });
    tx.put_update(UpdateRecord {
        completed_id: event_id,
        completed_batch_id: batch_id,
        ..record
    });
    tx.run.volatile.updates.remove(update_id);
    tx.update_event(update_id, UpdateEvent::Completed(outcome));
    Ok(())
}

fn reject(tx: &mut Tx<'_>, update_id: &str, rejection: Rejection) -> Result<(), Refused> {
    match tx.run.volatile.updates.get(update_id) {
        Some(u) if u.stage == UpdateStage::Accepted => {
            return Err(bad(format!(
                "update {update_id} was accepted and cannot be rejected"
            )));
        }
        Some(_) => {}
        None if rejection.rejected_request.is_some() => {}
        None => return Err(bad(format!("update {update_id} is not known"))),
    }
    let failure = rejection
        .failure
        .ok_or_else(|| bad(format!("rejection of update {update_id} has no failure")))?;
    forget(tx, update_id);
    tx.update_event(update_id, UpdateEvent::Rejected(failure));
    Ok(())
}

/// Drops an update that leaves no trace, and its record if a reset had admitted it.
fn forget(tx: &mut Tx<'_>, update_id: &str) {
    tx.run.volatile.updates.remove(update_id);
    tx.remove_update(update_id);
}

/// Requests that were sent and not answered are rejected: the worker ignored them.
pub(crate) fn reject_unanswered(tx: &mut Tx<'_>) {
    for id in sent(&tx.run) {
        forget(tx, &id);
        let failure = application_failure(
            "UnprocessedUpdate",
            "Workflow Update is rejected because it wasn't processed by worker. Probably, Workflow Update is not supported by the worker.",
        );
        tx.update_event(id, UpdateEvent::Rejected(failure));
    }
}

/// The run has closed: what was accepted fails, what was not moves to the next run or is told.
pub(crate) fn close(tx: &mut Tx<'_>, continues: bool) {
    let live: Vec<_> = tx.run.volatile.updates.values().cloned().collect();
    tx.run.volatile.updates.clear();
    for update in live {
        let event = match (update.stage, continues) {
            (UpdateStage::Accepted, _) => UpdateEvent::Completed(UpdateOutcome {
                value: Some(outcome::Value::Failure(closed_failure())),
            }),
            (_, true) => UpdateEvent::Moved,
            (_, false) => UpdateEvent::Aborted(Error::not_found(
                "workflow update was aborted by closing workflow",
            )),
        };
        tx.update_event(update.update_id.clone(), event);
    }
}

/// The outcome of an update that was accepted and not completed when its run closed.
pub fn closed_failure() -> Failure {
    application_failure(
        "AcceptedUpdateCompletedWorkflow",
        "Workflow Update failed because the Workflow completed before the Update completed.",
    )
}

fn application_failure(kind: &str, message: &str) -> Failure {
    Failure {
        message: message.to_owned(),
        source: "Server".to_owned(),
        failure_info: Some(FailureInfo::ApplicationFailureInfo(
            ApplicationFailureInfo {
                r#type: kind.to_owned(),
                non_retryable: true,
                ..Default::default()
            },
        )),
        ..Default::default()
    }
}

/// Brings back what the records know after a run was loaded. What a closed run has not completed
/// has failed: see [`status`].
pub(crate) fn restore(run: &mut Run) {
    if !run.is_open() {
        return;
    }
    let mut open: Vec<_> = run
        .updates
        .values()
        .filter(|r| r.completed_id == 0)
        .cloned()
        .collect();
    open.sort_by_key(|r| r.row);
    for record in open {
        let (stage, request) = if record.accepted_id != 0 {
            (UpdateStage::Accepted, Request::default())
        } else {
            (
                UpdateStage::Admitted,
                record.request.clone().unwrap_or_default(),
            )
        };
        let seq = run.volatile.next_update_seq;
        run.volatile.next_update_seq += 1;
        let live = LiveUpdate {
            update_id: record.update_id.clone(),
            seq,
            request,
            stage,
        };
        run.volatile
            .updates
            .insert(record.update_id.clone(), Arc::new(live));
    }
}

#[cfg(test)]
mod tests;
