//! Changes to an open run's options, and callbacks or request ids attached to it
//! (contract sections 4.4 and 5.10).

use tidemill_proto::api::common::v1::{Callback, Link};
use tidemill_proto::api::enums::v1::EventType;
use tidemill_proto::api::history::v1::{HistoryEvent, WorkflowExecutionOptionsUpdatedEventAttributes};
use tidemill_proto::api::workflow::v1::WorkflowExecutionOptions;

use crate::Error;
use crate::model::AttachedRequest;
use crate::run::Run;
use crate::transition::Outcome;
use crate::tx::{Cx, Tx};

/// What a start request adds to a run that is already there (conflict policy "use existing").
#[derive(Clone, Debug, Default)]
pub struct Attachment {
    pub request_id: String,
    pub callbacks: Vec<Callback>,
    pub links: Vec<Link>,
    pub identity: String,
}

/// Attaches a request id, callbacks and links with one event.
pub fn attach(run: &Run, attachment: Attachment, cx: &Cx<'_>) -> Result<Outcome<()>, Error> {
    if !run.is_open() {
        return Err(Error::already_completed());
    }
    let known = run.start().completion_callbacks.len() + run.visible.attached_callbacks.len();
    if known + attachment.callbacks.len() > cx.limits.callbacks {
        return Err(Error::FailedPrecondition(format!(
            "cannot attach more than {} callbacks to a workflow ({known} callbacks already attached)",
            cx.limits.callbacks
        )));
    }
    let mut tx = Tx::new(run, cx);
    let event_id = tx.push_event(HistoryEvent {
        attributes: Some(
            WorkflowExecutionOptionsUpdatedEventAttributes {
                attached_request_id: attachment.request_id.clone(),
                attached_completion_callbacks: attachment.callbacks.clone(),
                identity: attachment.identity,
                ..Default::default()
            }
            .into(),
        ),
        links: attachment.links,
        ..Default::default()
    });
    if !attachment.request_id.is_empty() {
        if tx.run.attached.len() >= cx.limits.request_ids
            && let Some(oldest) = tx.run.attached.values().min_by_key(|r| r.row).map(|r| r.request_id.clone())
        {
            tx.remove_attached(&oldest);
        }
        tx.put_attached(AttachedRequest {
            request_id: attachment.request_id,
            event_id,
            event_type: EventType::WorkflowExecutionOptionsUpdated as i32,
            row: 0,
        });
    }
    if !attachment.callbacks.is_empty() {
        tx.change_hidden(|v| v.attached_callbacks.extend(attachment.callbacks));
    }
    Ok(tx.finish(()))
}

/// Changes the options that a field mask names; no effective change writes nothing.
pub fn update(
    run: &Run,
    paths: &[String],
    options: &WorkflowExecutionOptions,
    identity: &str,
    cx: &Cx<'_>,
) -> Result<Outcome<WorkflowExecutionOptions>, Error> {
    if !run.is_open() {
        return Err(Error::already_completed());
    }
    let mut tx = Tx::new(run, cx);
    let effective = change(&mut tx, paths, options, identity)?;
    if effective.priority == run.priority() {
        return Ok(Outcome::unchanged(effective));
    }
    Ok(tx.finish(effective))
}

/// As [`update`], as part of a transition.
pub(crate) fn change(
    tx: &mut Tx<'_>,
    paths: &[String],
    options: &WorkflowExecutionOptions,
    identity: &str,
) -> Result<WorkflowExecutionOptions, Error> {
    let mut priority = tx.run.priority();
    for path in paths {
        match path.split('.').collect::<Vec<_>>().as_slice() {
            ["priority"] => priority = options.priority.clone(),
            ["priority", field] => {
                let from = options.priority.clone().unwrap_or_default();
                let to = priority.get_or_insert_default();
                match *field {
                    "priority_key" | "priorityKey" => to.priority_key = from.priority_key,
                    "fairness_key" | "fairnessKey" => to.fairness_key = from.fairness_key,
                    "fairness_weight" | "fairnessWeight" => to.fairness_weight = from.fairness_weight,
                    _ => return Err(Error::invalid(format!("unknown path {path:?} in update mask"))),
                }
            }
            ["versioning_override" | "versioningOverride", ..] | ["time_skipping_config" | "timeSkippingConfig", ..] => {
                return Err(Error::Unimplemented(format!("option {path:?} is not supported by this server")));
            }
            _ => return Err(Error::invalid(format!("unknown path {path:?} in update mask"))),
        }
    }
    let effective = WorkflowExecutionOptions { priority: priority.clone(), ..Default::default() };
    if priority == tx.run.priority() {
        return Ok(effective);
    }
    tx.run.core.priority_override = Some(priority.clone().unwrap_or_default());
    tx.push(WorkflowExecutionOptionsUpdatedEventAttributes {
        priority,
        identity: identity.to_owned(),
        ..Default::default()
    });
    Ok(effective)
}
