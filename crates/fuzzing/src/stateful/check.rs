//! What holds whatever was called, told by the protocol's answers alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidemill_engine::Error;
use tidemill_proto::api::enums::v1::{
    EventType as E, PendingWorkflowTaskState, WorkflowExecutionStatus as Status,
};
use tidemill_proto::api::history::v1::HistoryEvent;
use tidemill_proto::api::history::v1::history_event::Attributes as A;
use tidemill_proto::api::workflow::v1::WorkflowExecutionInfo;
use tidemill_proto::api::workflowservice::v1::*;
use tidemill_proto::maintenance::ExamineRequest;

use super::calls;
use crate::engine::{Engine, Outcome};

const PATIENCE: Duration = Duration::from_secs(30);
const NOT_FOUND: i32 = 5;
/// How the names of signals begin that are sent once.
pub(crate) const SIGNAL: &str = "signal-";

pub(crate) fn no_defect(error: &Error) {
    assert!(!matches!(error, Error::Internal(_)), "{error}");
}

/// A task that a worker gets holds together.
pub(crate) fn task(task: &PollWorkflowTaskQueueResponse) {
    if task.query.is_some() {
        return;
    }
    let events = task.history.as_ref().map_or(&[][..], |h| &h.events[..]);
    in_sequence(events);
    if let Some(last) = events.last().filter(|_| task.next_page_token.is_empty()) {
        assert_eq!(last.event_type(), E::WorkflowTaskStarted, "{events:?}");
        assert_eq!(last.event_id, task.started_event_id);
    }
    assert!(task.previous_started_event_id < task.started_event_id);
}

fn in_sequence(events: &[HistoryEvent]) {
    for pair in events.windows(2) {
        assert_eq!(pair[0].event_id + 1, pair[1].event_id, "{events:?}");
    }
}

/// A run as it was seen in the end.
pub(crate) struct Seen {
    workflow_id: String,
    events: Vec<HistoryEvent>,
    /// A worker has a workflow task of it: what comes meanwhile is not in the history yet.
    is_busy: bool,
}

/// Signals that were acknowledged, of workflows none of which was deleted, are there, once in a run.
pub(crate) fn signals(acknowledged: &[(String, String)], any_deleted: bool, runs: &[Seen]) {
    for run in runs {
        let mut seen = BTreeSet::new();
        for event in &run.events {
            if let Some(A::WorkflowExecutionSignaledEventAttributes(a)) = &event.attributes
                && a.signal_name.starts_with(SIGNAL)
            {
                let first = seen.insert(&a.signal_name);
                assert!(first, "{} has {} twice", run.workflow_id, a.signal_name);
            }
        }
    }
    for (workflow_id, name) in acknowledged {
        let mut runs = runs.iter().filter(|run| run.workflow_id == *workflow_id);
        let has = |run: &Seen| {
            run.events.iter().any(|event| match &event.attributes {
                Some(A::WorkflowExecutionSignaledEventAttributes(a)) => a.signal_name == *name,
                _ => false,
            })
        };
        assert!(
            any_deleted || runs.any(|run| run.is_busy || has(run)),
            "{workflow_id} has lost {name}"
        );
    }
}

/// Everything that can be looked at from outside.
pub(crate) async fn all(engine: &Engine) -> Vec<Seen> {
    let mut open = BTreeMap::new();
    let mut seen = Vec::new();
    for listed in listed(engine).await {
        let execution = listed.execution.clone().unwrap_or_default();
        let request = DescribeWorkflowExecutionRequest {
            namespace: calls::NAMESPACE.into(),
            execution: listed.execution.clone(),
        };
        let described: Outcome<DescribeWorkflowExecutionResponse> = engine
            .call("DescribeWorkflowExecution", &request, PATIENCE)
            .await;
        let described = match described {
            Ok(described) => described,
            // Deleted meanwhile.
            Err(Some((NOT_FOUND, _))) => continue,
            Err(other) => panic!("{execution:?} is listed, but {other:?}"),
        };
        let info = described.workflow_execution_info.unwrap_or_default();
        if listed.status() != Status::Running {
            assert_eq!(info.status(), listed.status(), "{execution:?} was closed");
        }
        if info.status() == Status::Running {
            let before = open.insert(execution.workflow_id.clone(), execution.run_id.clone());
            // The one before may have closed since it was described.
            if let Some(before) = before {
                assert!(
                    !is_open(engine, &execution.workflow_id, &before).await,
                    "two runs of {execution:?} are open"
                );
            }
        }
        let events = history(engine, &request).await;
        legal(&events);
        let closed = events.last().is_some_and(|last| closes(last.event_type()));
        if info.status() != Status::Running && !events.is_empty() {
            assert!(closed, "{:?} of {execution:?}", info.status());
            assert_eq!(info.history_length, events.len() as i64, "{execution:?}");
        }
        seen.push(Seen {
            workflow_id: execution.workflow_id,
            events,
            is_busy: described
                .pending_workflow_task
                .is_some_and(|task| task.state() == PendingWorkflowTaskState::Started),
        });
    }
    let request = ExamineRequest {
        runs_max: 10,
        ..Default::default()
    };
    let examined = engine.server.examine(request).await;
    let examined = examined.unwrap_or_else(|error| panic!("it cannot be examined: {error}"));
    assert_eq!(examined.damage, Vec::<String>::new());
    for run in &examined.stuck {
        let lost = run.reasons.iter().find(|reason| {
            ["is in no queue", "its history ends", "nothing will wake"]
                .iter()
                .any(|text| reason.contains(text))
        });
        assert!(lost.is_none(), "{run:?}");
    }
    seen
}

async fn is_open(engine: &Engine, workflow_id: &str, run_id: &str) -> bool {
    let request = DescribeWorkflowExecutionRequest {
        namespace: calls::NAMESPACE.into(),
        execution: calls::execution(workflow_id, run_id),
    };
    let described: Outcome<DescribeWorkflowExecutionResponse> = engine
        .call("DescribeWorkflowExecution", &request, PATIENCE)
        .await;
    described
        .ok()
        .and_then(|described| described.workflow_execution_info)
        .is_some_and(|info| info.status() == Status::Running)
}

async fn listed(engine: &Engine) -> Vec<WorkflowExecutionInfo> {
    let mut request = ListWorkflowExecutionsRequest {
        namespace: calls::NAMESPACE.into(),
        page_size: 100,
        ..Default::default()
    };
    let mut all = Vec::new();
    loop {
        let page: Outcome<ListWorkflowExecutionsResponse> = engine
            .call("ListWorkflowExecutions", &request, PATIENCE)
            .await;
        let page = page.unwrap_or_else(|error| panic!("the list: {error:?}"));
        all.extend(page.executions);
        request.next_page_token = page.next_page_token;
        if request.next_page_token.is_empty() {
            return all;
        }
    }
}

/// All that is written of a run's history. Empty when the run was deleted meanwhile.
async fn history(engine: &Engine, run: &DescribeWorkflowExecutionRequest) -> Vec<HistoryEvent> {
    let mut request = GetWorkflowExecutionHistoryRequest {
        namespace: run.namespace.clone(),
        execution: run.execution.clone(),
        maximum_page_size: 5,
        ..Default::default()
    };
    let mut events = Vec::new();
    loop {
        let page: Outcome<GetWorkflowExecutionHistoryResponse> = engine
            .call("GetWorkflowExecutionHistory", &request, PATIENCE)
            .await;
        let page = match page {
            Ok(page) => page,
            Err(Some((NOT_FOUND, _))) => return Vec::new(),
            Err(other) => panic!("history of {run:?}: {other:?}"),
        };
        events.extend(page.history.unwrap_or_default().events);
        request.next_page_token = page.next_page_token;
        if request.next_page_token.is_empty() {
            return events;
        }
    }
}

fn closes(kind: E) -> bool {
    matches!(
        kind,
        E::WorkflowExecutionCompleted
            | E::WorkflowExecutionFailed
            | E::WorkflowExecutionTimedOut
            | E::WorkflowExecutionCanceled
            | E::WorkflowExecutionTerminated
            | E::WorkflowExecutionContinuedAsNew
    )
}

/// Ids without gaps, one beginning, at most one end, and every event after the one that it belongs to.
fn legal(events: &[HistoryEvent]) {
    let Some(first) = events.first() else { return };
    assert_eq!(first.event_id, 1, "{events:?}");
    assert_eq!(first.event_type(), E::WorkflowExecutionStarted);
    in_sequence(events);
    for event in &events[..events.len() - 1] {
        assert!(!closes(event.event_type()), "events after {event:?}");
    }
    let kind = |id: i64| {
        let index = usize::try_from(id - 1).ok();
        index
            .and_then(|index| events.get(index))
            .map(HistoryEvent::event_type)
    };
    // What of an event's kind may come once: its end.
    let mut ended = BTreeSet::new();
    let mut ends = |id: i64, expected: E, event: &HistoryEvent| {
        assert!(id < event.event_id, "{event:?}");
        assert_eq!(kind(id), Some(expected), "{event:?}");
        assert!(ended.insert((id, expected)), "a second end: {event:?}");
    };
    for event in events {
        let Some(attributes) = &event.attributes else {
            panic!("{event:?} has no attributes");
        };
        match attributes {
            A::WorkflowExecutionStartedEventAttributes(_) => assert_eq!(event.event_id, 1),
            A::WorkflowTaskStartedEventAttributes(a) => {
                ends(a.scheduled_event_id, E::WorkflowTaskScheduled, event);
            }
            A::WorkflowTaskCompletedEventAttributes(a) => {
                assert_eq!(kind(a.scheduled_event_id), Some(E::WorkflowTaskScheduled));
                ends(a.started_event_id, E::WorkflowTaskStarted, event);
            }
            A::WorkflowTaskFailedEventAttributes(a) => {
                ends(a.started_event_id, E::WorkflowTaskStarted, event);
            }
            A::WorkflowTaskTimedOutEventAttributes(a) if a.started_event_id > 0 => {
                ends(a.started_event_id, E::WorkflowTaskStarted, event);
            }
            A::ActivityTaskStartedEventAttributes(a) => {
                assert_eq!(kind(a.scheduled_event_id), Some(E::ActivityTaskScheduled));
            }
            A::ActivityTaskCompletedEventAttributes(a) => {
                assert_eq!(kind(a.started_event_id), Some(E::ActivityTaskStarted));
                ends(a.scheduled_event_id, E::ActivityTaskScheduled, event);
            }
            A::ActivityTaskFailedEventAttributes(a) => {
                ends(a.scheduled_event_id, E::ActivityTaskScheduled, event);
            }
            A::ActivityTaskTimedOutEventAttributes(a) => {
                ends(a.scheduled_event_id, E::ActivityTaskScheduled, event);
            }
            A::ActivityTaskCanceledEventAttributes(a) => {
                ends(a.scheduled_event_id, E::ActivityTaskScheduled, event);
            }
            A::TimerFiredEventAttributes(a) => ends(a.started_event_id, E::TimerStarted, event),
            A::TimerCanceledEventAttributes(a) => ends(a.started_event_id, E::TimerStarted, event),
            A::ChildWorkflowExecutionStartedEventAttributes(a) => {
                ends(
                    a.initiated_event_id,
                    E::StartChildWorkflowExecutionInitiated,
                    event,
                );
            }
            A::StartChildWorkflowExecutionFailedEventAttributes(a) => {
                ends(
                    a.initiated_event_id,
                    E::StartChildWorkflowExecutionInitiated,
                    event,
                );
            }
            A::ExternalWorkflowExecutionSignaledEventAttributes(a) => {
                ends(
                    a.initiated_event_id,
                    E::SignalExternalWorkflowExecutionInitiated,
                    event,
                );
            }
            A::SignalExternalWorkflowExecutionFailedEventAttributes(a) => {
                ends(
                    a.initiated_event_id,
                    E::SignalExternalWorkflowExecutionInitiated,
                    event,
                );
            }
            A::WorkflowExecutionUpdateCompletedEventAttributes(a) => {
                ends(
                    a.accepted_event_id,
                    E::WorkflowExecutionUpdateAccepted,
                    event,
                );
            }
            _ => {}
        }
    }
}
