//! Events that arrive while a workflow task is started wait until it ends (contract 1.10), so
//! that external events never stand between a task's start and its completion.

use std::collections::BTreeMap;

use tidemill_proto::api::enums::v1::EventType;
use tidemill_proto::api::history::v1::HistoryEvent;
use tidemill_proto::api::history::v1::history_event::Attributes;

use crate::run::BUFFERED_ID;
use crate::tx::Tx;

/// Event types that SDKs skip when they do not know them.
pub(crate) fn worker_may_ignore(kind: EventType) -> bool {
    use EventType as E;
    matches!(
        kind,
        E::WorkflowExecutionOptionsUpdated
            | E::WorkflowExecutionPaused
            | E::WorkflowExecutionUnpaused
            | E::WorkflowExecutionTimeSkippingTransitioned
            | E::NexusOperationCancelRequestCompleted
            | E::NexusOperationCancelRequestFailed
    )
}

/// Whether an event of this type waits while a workflow task is started. What the task itself
/// produces, and what opens or closes a run, never does.
pub(crate) fn is_bufferable(kind: EventType) -> bool {
    use EventType as E;
    !matches!(
        kind,
        E::WorkflowExecutionStarted
            | E::WorkflowExecutionCompleted
            | E::WorkflowExecutionFailed
            | E::WorkflowExecutionTimedOut
            | E::WorkflowExecutionTerminated
            | E::WorkflowExecutionContinuedAsNew
            | E::WorkflowExecutionCanceled
            | E::WorkflowTaskScheduled
            | E::WorkflowTaskStarted
            | E::WorkflowTaskCompleted
            | E::WorkflowTaskFailed
            | E::WorkflowTaskTimedOut
            | E::ActivityTaskScheduled
            | E::ActivityTaskCancelRequested
            | E::TimerStarted
            | E::TimerCanceled
            | E::MarkerRecorded
            | E::StartChildWorkflowExecutionInitiated
            | E::RequestCancelExternalWorkflowExecutionInitiated
            | E::SignalExternalWorkflowExecutionInitiated
            | E::UpsertWorkflowSearchAttributes
            | E::WorkflowPropertiesModified
            | E::NexusOperationScheduled
            | E::NexusOperationCancelRequested
            | E::WorkflowExecutionUpdateAccepted
            | E::WorkflowExecutionUpdateCompleted
    )
}

/// Close events of activities and children go behind everything else on a flush.
fn goes_last(kind: EventType) -> bool {
    use EventType as E;
    matches!(
        kind,
        E::ActivityTaskCompleted
            | E::ActivityTaskFailed
            | E::ActivityTaskCanceled
            | E::ActivityTaskTimedOut
            | E::ChildWorkflowExecutionCompleted
            | E::ChildWorkflowExecutionFailed
            | E::ChildWorkflowExecutionCanceled
            | E::ChildWorkflowExecutionTimedOut
            | E::ChildWorkflowExecutionTerminated
            | E::StartChildWorkflowExecutionFailed
            | E::NexusOperationCompleted
            | E::NexusOperationFailed
            | E::NexusOperationCanceled
            | E::NexusOperationTimedOut
    )
}

/// Appends buffered events in their final order and fills in the started event ids that were
/// not known when they were buffered.
pub(crate) fn flush(tx: &mut Tx<'_>, events: Vec<HistoryEvent>) {
    let (last, first): (Vec<_>, Vec<_>) =
        events.into_iter().partition(|e| goes_last(e.event_type()));
    let mut activity_started = BTreeMap::new();
    let mut child_started = BTreeMap::new();
    for mut event in first.into_iter().chain(last) {
        if let Some(started) = started_id_mut(&mut event)
            && *started.0 == BUFFERED_ID
        {
            let (slot, owner) = started;
            let known = match owner {
                Owner::Activity(scheduled) => activity_started.get(&scheduled),
                Owner::Child(initiated) => child_started.get(&initiated),
            };
            *slot = known.copied().unwrap_or(0);
        }
        let attached = match &event.attributes {
            Some(Attributes::WorkflowExecutionOptionsUpdatedEventAttributes(a)) => {
                Some(a.attached_request_id.clone())
            }
            Some(Attributes::WorkflowExecutionSignaledEventAttributes(a)) => {
                Some(a.request_id.clone())
            }
            _ => None,
        };
        let starts = match &event.attributes {
            Some(Attributes::ActivityTaskStartedEventAttributes(a)) => {
                Some(Owner::Activity(a.scheduled_event_id))
            }
            Some(Attributes::ChildWorkflowExecutionStartedEventAttributes(a)) => {
                Some(Owner::Child(a.initiated_event_id))
            }
            _ => None,
        };
        let cancel = event.event_type() == EventType::WorkflowExecutionCancelRequested;
        let id = tx.append(event);
        match starts {
            Some(Owner::Activity(scheduled)) => {
                activity_started.insert(scheduled, id);
            }
            Some(Owner::Child(initiated)) => {
                child_started.insert(initiated, id);
                if let Some(child) = tx.run.children.get(&initiated) {
                    let mut child = (**child).clone();
                    child.started_id = id;
                    tx.put_child(child);
                }
            }
            None => {}
        }
        if cancel {
            tx.run.core.cancel_requested_id = id;
        }
        if let Some(request) = attached.and_then(|r| tx.run.attached.get(&r).cloned()) {
            let mut request = (*request).clone();
            request.event_id = id;
            tx.put_attached(request);
        }
    }
}

enum Owner {
    Activity(i64),
    Child(i64),
}

fn started_id_mut(event: &mut HistoryEvent) -> Option<(&mut i64, Owner)> {
    use Attributes as A;
    Some(match event.attributes.as_mut()? {
        A::ActivityTaskCompletedEventAttributes(a) => (
            &mut a.started_event_id,
            Owner::Activity(a.scheduled_event_id),
        ),
        A::ActivityTaskFailedEventAttributes(a) => (
            &mut a.started_event_id,
            Owner::Activity(a.scheduled_event_id),
        ),
        A::ActivityTaskCanceledEventAttributes(a) => (
            &mut a.started_event_id,
            Owner::Activity(a.scheduled_event_id),
        ),
        A::ActivityTaskTimedOutEventAttributes(a) => (
            &mut a.started_event_id,
            Owner::Activity(a.scheduled_event_id),
        ),
        A::ChildWorkflowExecutionCompletedEventAttributes(a) => {
            (&mut a.started_event_id, Owner::Child(a.initiated_event_id))
        }
        A::ChildWorkflowExecutionFailedEventAttributes(a) => {
            (&mut a.started_event_id, Owner::Child(a.initiated_event_id))
        }
        A::ChildWorkflowExecutionCanceledEventAttributes(a) => {
            (&mut a.started_event_id, Owner::Child(a.initiated_event_id))
        }
        A::ChildWorkflowExecutionTimedOutEventAttributes(a) => {
            (&mut a.started_event_id, Owner::Child(a.initiated_event_id))
        }
        A::ChildWorkflowExecutionTerminatedEventAttributes(a) => {
            (&mut a.started_event_id, Owner::Child(a.initiated_event_id))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_and_in_which_order() {
        use EventType as E;
        // Direct, waits, or waits and goes last.
        let letter = |kind| match (is_bufferable(kind), goes_last(kind)) {
            (false, false) => 'd',
            (true, false) => 'w',
            (true, true) => 'l',
            (false, true) => panic!("{kind:?} never waits"),
        };
        let rows: [(char, &[EventType]); 2] = [
            (
                'w',
                &[
                    E::WorkflowExecutionSignaled,
                    E::WorkflowExecutionCancelRequested,
                    E::WorkflowExecutionOptionsUpdated,
                    E::WorkflowExecutionPaused,
                    E::WorkflowExecutionUnpaused,
                    E::WorkflowExecutionUpdateAdmitted,
                    E::WorkflowExecutionTimeSkippingTransitioned,
                    E::TimerFired,
                    E::ActivityTaskStarted,
                    E::ChildWorkflowExecutionStarted,
                    E::ExternalWorkflowExecutionSignaled,
                    E::SignalExternalWorkflowExecutionFailed,
                    E::ExternalWorkflowExecutionCancelRequested,
                    E::RequestCancelExternalWorkflowExecutionFailed,
                    E::NexusOperationStarted,
                    E::NexusOperationCancelRequestCompleted,
                    E::NexusOperationCancelRequestFailed,
                ],
            ),
            (
                'l',
                &[
                    E::ActivityTaskCompleted,
                    E::ActivityTaskFailed,
                    E::ActivityTaskTimedOut,
                    E::ActivityTaskCanceled,
                    E::StartChildWorkflowExecutionFailed,
                    E::ChildWorkflowExecutionCompleted,
                    E::ChildWorkflowExecutionFailed,
                    E::ChildWorkflowExecutionCanceled,
                    E::ChildWorkflowExecutionTimedOut,
                    E::ChildWorkflowExecutionTerminated,
                    E::NexusOperationCompleted,
                    E::NexusOperationFailed,
                    E::NexusOperationCanceled,
                    E::NexusOperationTimedOut,
                ],
            ),
        ];
        for kind in (1..200).filter_map(|n| EventType::try_from(n).ok()) {
            let expected = rows
                .iter()
                .find(|(_, kinds)| kinds.contains(&kind))
                .map_or('d', |(letter, _)| *letter);
            // What the protocol names and no engine writes.
            let unused = [
                E::WorkflowPropertiesModifiedExternally,
                E::ActivityPropertiesModifiedExternally,
                E::WorkflowExecutionUpdateRejected,
            ];
            if unused.contains(&kind) {
                continue;
            }
            assert_eq!(letter(kind), expected, "{kind:?}");
        }
    }
}
