//! Changes to an open run's options, and callbacks or request ids attached to it
//! (contract sections 4.4 and 5.10).

use tidemill_proto::api::common::v1::{Callback, Link, Priority};
use tidemill_proto::api::enums::v1::EventType;
use tidemill_proto::api::history::v1::{
    HistoryEvent, WorkflowExecutionOptionsUpdatedEventAttributes,
};
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
    if run.attached.contains_key(&attachment.request_id) {
        return Ok(Outcome::unchanged(()));
    }
    let known = run.start().callbacks + run.visible.attached_callbacks.len();
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
            && let Some(oldest) = tx
                .run
                .attached
                .values()
                .min_by_key(|r| r.row)
                .map(|r| r.request_id.clone())
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
    if is_same(&effective.priority, &run.priority()) {
        return Ok(Outcome::unchanged(effective));
    }
    Ok(tx.finish(effective))
}

/// No priority and one without a value are the same.
fn is_same(a: &Option<Priority>, b: &Option<Priority>) -> bool {
    a.clone().unwrap_or_default() == b.clone().unwrap_or_default()
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
                    "fairness_weight" | "fairnessWeight" => {
                        to.fairness_weight = from.fairness_weight
                    }
                    _ => {
                        return Err(Error::invalid(format!(
                            "unknown path {path:?} in update mask"
                        )));
                    }
                }
            }
            ["versioning_override" | "versioningOverride", ..]
            | ["time_skipping_config" | "timeSkippingConfig", ..] => {
                return Err(Error::Unimplemented(format!(
                    "option {path:?} is not supported by this server"
                )));
            }
            _ => {
                return Err(Error::invalid(format!(
                    "unknown path {path:?} in update mask"
                )));
            }
        }
    }
    let effective = WorkflowExecutionOptions {
        priority: priority.clone(),
        ..Default::default()
    };
    if is_same(&priority, &tx.run.priority()) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::BUFFERED_ID;
    use crate::testing::Rig;

    fn attach(rig: &mut Rig, id: &str, callbacks: usize) -> Result<(), Error> {
        let callbacks = vec![Callback::default(); callbacks];
        let attachment = Attachment {
            request_id: id.into(),
            callbacks,
            ..Default::default()
        };
        rig.op(|run, cx| super::attach(run, attachment, cx))
    }

    fn change(
        rig: &mut Rig,
        paths: &[&str],
        priority: Option<Priority>,
    ) -> Result<Option<Priority>, Error> {
        let paths: Vec<_> = paths.iter().map(|p| (*p).to_owned()).collect();
        let options = WorkflowExecutionOptions {
            priority,
            ..Default::default()
        };
        rig.op(|run, cx| update(run, &paths, &options, "me", cx))
            .map(|o| o.priority)
    }

    fn key(priority_key: i32) -> Option<Priority> {
        Some(Priority {
            priority_key,
            ..Default::default()
        })
    }

    #[test]
    fn attached_requests() {
        let mut rig = Rig::idle();
        attach(&mut rig, "a", 2).unwrap();
        // The workflow does not see it: no task.
        assert_eq!(
            (rig.types(), rig.state()),
            (
                vec![EventType::WorkflowExecutionOptionsUpdated],
                "none".into()
            )
        );
        assert_eq!(rig.run.attached["a"].event_id, rig.run.last_event_id());
        // The same again is nothing new.
        attach(&mut rig, "a", 2).unwrap();
        assert_eq!(
            (rig.types(), rig.run.visible.attached_callbacks.len()),
            (vec![], 2)
        );
        assert!(matches!(
            attach(&mut rig, "b", 31),
            Err(Error::FailedPrecondition(_))
        ));
        // It waits while a task is started.
        rig.signal("").unwrap();
        let started = rig.poll();
        rig.types();
        attach(&mut rig, "b", 30).unwrap();
        assert_eq!(rig.run.attached["b"].event_id, BUFFERED_ID);
        rig.commands(&started.task, vec![]).unwrap();
        let events = rig.new_events();
        assert_eq!(
            events[1].event_type(),
            EventType::WorkflowExecutionOptionsUpdated
        );
        assert!(events[1].worker_may_ignore);
        assert_eq!(rig.run.attached["b"].event_id, events[1].event_id);
        // Only so many are kept, the latest.
        rig.limits.request_ids = 2;
        attach(&mut rig, "c", 0).unwrap();
        assert_eq!(rig.run.attached.keys().collect::<Vec<_>>(), ["b", "c"]);
        rig.terminate().unwrap();
        assert!(matches!(attach(&mut rig, "d", 0), Err(Error::NotFound(_))));
    }

    #[test]
    fn changed_options() {
        let mut rig = Rig::idle();
        assert_eq!(change(&mut rig, &["priority"], None), Ok(None));
        assert_eq!(
            change(&mut rig, &["priority.priority_key"], None).map(|p| p.unwrap_or_default()),
            Ok(Priority::default())
        );
        assert_eq!(rig.types(), []);
        assert_eq!(change(&mut rig, &["priority"], key(1)), Ok(key(1)));
        assert_eq!(rig.types(), [EventType::WorkflowExecutionOptionsUpdated]);
        assert_eq!((rig.run.priority_key(), rig.state().as_str()), (1, "none"));
        let fair = Priority {
            fairness_key: "f".into(),
            ..Default::default()
        };
        let both = Priority {
            priority_key: 1,
            ..fair.clone()
        };
        assert_eq!(
            change(&mut rig, &["priority.fairnessKey"], Some(fair)),
            Ok(Some(both.clone()))
        );
        // No effective change writes nothing, whatever else is asked for.
        rig.types();
        assert_eq!(
            change(&mut rig, &["priority"], Some(both)).map(|_| ()),
            Ok(())
        );
        assert_eq!(rig.types(), []);
        // Taken away, twice.
        change(&mut rig, &["priority"], None).unwrap();
        assert_eq!((rig.types().len(), rig.run.priority_key()), (1, 3));
        change(&mut rig, &["priority"], None).unwrap();
        assert_eq!(rig.types(), []);
        assert!(matches!(
            change(&mut rig, &["nonsense"], None),
            Err(Error::InvalidArgument(_))
        ));
        assert!(matches!(
            change(&mut rig, &["priority.nonsense"], None),
            Err(Error::InvalidArgument(_))
        ));
        assert!(matches!(
            change(&mut rig, &["versioning_override"], None),
            Err(Error::Unimplemented(_))
        ));
        rig.terminate().unwrap();
        assert!(matches!(
            change(&mut rig, &["priority"], key(2)),
            Err(Error::NotFound(_))
        ));
    }
}
