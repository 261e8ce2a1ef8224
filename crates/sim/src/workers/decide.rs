//! What a workflow does next, from its history alone.

use tidemill_proto::api::command::v1::command::Attributes as C;
use tidemill_proto::api::command::v1::*;
use tidemill_proto::api::common::v1::{ActivityType, RetryPolicy, WorkflowType};
use tidemill_proto::api::enums::v1::CommandType;
use tidemill_proto::api::history::v1::HistoryEvent;
use tidemill_proto::api::history::v1::history_event::Attributes as E;
use tidemill_proto::wkt;

use super::{ACTIVITY_TIMEOUT, BEATING_TIMEOUT, HEARTBEAT_TIMEOUT, RETRY, RETRY_MOST};
use crate::clients::{QUEUE, queue, text};
use crate::oracle;
use crate::plan::{Step, Workflow};

pub(super) fn millis(ms: i64) -> Option<wkt::Duration> {
    Some(wkt::Duration {
        seconds: ms / 1000,
        nanos: (ms % 1000 * 1_000_000) as i32,
    })
}

/// Its commands.
pub(super) fn decide(
    workflows: &[Workflow],
    workflow: &Workflow,
    events: &[HistoryEvent],
) -> Vec<C> {
    let attributes = || events.iter().filter_map(|event| event.attributes.as_ref());
    let ends: Vec<i64> = attributes()
        .filter_map(|attributes| match attributes {
            E::ActivityTaskCompletedEventAttributes(a) => Some(a.scheduled_event_id),
            E::ActivityTaskFailedEventAttributes(a) => Some(a.scheduled_event_id),
            E::ActivityTaskTimedOutEventAttributes(a) => Some(a.scheduled_event_id),
            E::TimerFiredEventAttributes(a) => Some(a.started_event_id),
            E::ChildWorkflowExecutionCompletedEventAttributes(a) => Some(a.initiated_event_id),
            E::ChildWorkflowExecutionTerminatedEventAttributes(a) => Some(a.initiated_event_id),
            // After a reset the base's child may be there still.
            E::StartChildWorkflowExecutionFailedEventAttributes(a) => Some(a.initiated_event_id),
            _ => None,
        })
        .collect();
    let begun = |is_it: &dyn Fn(&E) -> bool| {
        events
            .iter()
            .find(|event| event.attributes.as_ref().is_some_and(is_it))
            .map(|event| event.event_id)
    };
    if attributes().any(|a| matches!(a, E::WorkflowExecutionCancelRequestedEventAttributes(_))) {
        return vec![C::CancelWorkflowExecutionCommandAttributes(
            CancelWorkflowExecutionCommandAttributes::default(),
        )];
    }
    let signals = attributes()
        .filter(|a| matches!(a, E::WorkflowExecutionSignaledEventAttributes(_)))
        .count();
    let updates = attributes()
        .filter(|a| matches!(a, E::WorkflowExecutionUpdateCompletedEventAttributes(_)))
        .count();
    for (number, step) in workflow.steps.iter().enumerate() {
        let mut commands = Vec::new();
        let mut waits = false;
        let mut go = |begun: Option<i64>, begin: C| match begun {
            None => {
                commands.push(begin);
                waits = true;
            }
            Some(id) => waits |= !ends.contains(&id),
        };
        match step {
            Step::Nothing => {}
            Step::Activities(activities) => {
                for (at, one) in activities.iter().enumerate() {
                    let id = format!("activity-{number}-{at}-{}", one.failures);
                    let is_it = |a: &E| matches!(a, E::ActivityTaskScheduledEventAttributes(a) if a.activity_id == id);
                    go(begun(&is_it), activity(&id, one.beats));
                }
            }
            Step::Timer(time) => {
                let id = format!("timer-{number}");
                let is_it =
                    |a: &E| matches!(a, E::TimerStartedEventAttributes(a) if a.timer_id == id);
                let start = C::StartTimerCommandAttributes(StartTimerCommandAttributes {
                    timer_id: id.clone(),
                    start_to_fire_timeout: millis(time.as_millis() as i64),
                });
                go(begun(&is_it), start);
            }
            Step::Signals(count) => waits = signals < *count,
            Step::Updates(count) => waits = updates < *count,
            Step::Child(at) => {
                let id = &workflows[*at].id;
                let is_it = |a: &E| matches!(a, E::StartChildWorkflowExecutionInitiatedEventAttributes(a) if a.workflow_id == *id);
                go(begun(&is_it), child(id));
            }
        }
        if waits {
            return commands;
        }
    }
    let runs_before = attributes()
        .find_map(|attributes| match attributes {
            E::WorkflowExecutionStartedEventAttributes(a) => {
                Some(oracle::result(&a.input).parse().unwrap_or(0))
            }
            _ => None,
        })
        .unwrap_or(0);
    if runs_before < workflow.continues {
        let again = ContinueAsNewWorkflowExecutionCommandAttributes {
            input: text((runs_before + 1).to_string()),
            ..Default::default()
        };
        return vec![C::ContinueAsNewWorkflowExecutionCommandAttributes(again)];
    }
    vec![C::CompleteWorkflowExecutionCommandAttributes(
        CompleteWorkflowExecutionCommandAttributes::default(),
    )]
}

fn activity(id: &str, beats: bool) -> C {
    C::ScheduleActivityTaskCommandAttributes(ScheduleActivityTaskCommandAttributes {
        activity_id: id.into(),
        activity_type: Some(ActivityType {
            name: "Step".into(),
        }),
        task_queue: queue(),
        start_to_close_timeout: millis(if beats {
            BEATING_TIMEOUT
        } else {
            ACTIVITY_TIMEOUT
        }),
        heartbeat_timeout: beats.then(|| millis(HEARTBEAT_TIMEOUT)).flatten(),
        retry_policy: Some(RetryPolicy {
            initial_interval: millis(RETRY.as_millis() as i64),
            backoff_coefficient: 2.0,
            maximum_interval: millis(RETRY_MOST.as_millis() as i64),
            ..Default::default()
        }),
        ..Default::default()
    })
}

fn child(id: &str) -> C {
    C::StartChildWorkflowExecutionCommandAttributes(StartChildWorkflowExecutionCommandAttributes {
        workflow_id: id.into(),
        workflow_type: Some(WorkflowType {
            name: "Plan".into(),
        }),
        task_queue: queue(),
        ..Default::default()
    })
}

pub(super) fn command(attributes: C) -> Command {
    let kind = match &attributes {
        C::CompleteWorkflowExecutionCommandAttributes(_) => CommandType::CompleteWorkflowExecution,
        C::CancelWorkflowExecutionCommandAttributes(_) => CommandType::CancelWorkflowExecution,
        C::ProtocolMessageCommandAttributes(_) => CommandType::ProtocolMessage,
        C::ScheduleActivityTaskCommandAttributes(_) => CommandType::ScheduleActivityTask,
        C::StartTimerCommandAttributes(_) => CommandType::StartTimer,
        C::ContinueAsNewWorkflowExecutionCommandAttributes(_) => {
            CommandType::ContinueAsNewWorkflowExecution
        }
        C::StartChildWorkflowExecutionCommandAttributes(_) => {
            CommandType::StartChildWorkflowExecution
        }
        other => unreachable!("no plan has {other:?} on {QUEUE}"),
    };
    Command {
        command_type: kind as i32,
        attributes: Some(attributes),
        ..Default::default()
    }
}
