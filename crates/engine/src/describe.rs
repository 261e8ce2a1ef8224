//! A run as `DescribeWorkflowExecution` and lists show it (contract 7.3).

use std::time::Duration;

use tidemill_proto::api::common::v1::WorkflowType;
use tidemill_proto::api::enums::v1::{EventType, PendingWorkflowTaskState, TaskQueueKind};
use tidemill_proto::api::taskqueue::v1::TaskQueue;
use tidemill_proto::api::workflow::v1::{
    PendingChildExecutionInfo, PendingWorkflowTaskInfo, RequestIdInfo, WorkflowExecutionConfig,
    WorkflowExecutionExtendedInfo, WorkflowExecutionInfo,
};
use tidemill_proto::api::workflowservice::v1::DescribeWorkflowExecutionResponse;

use crate::activity;
use crate::run::{BUFFERED_ID, Run};
use crate::search_attribute::{self, Schema};
use crate::time::{Time, proto_span};

/// The part of a description that lists show too. Sizes and lengths are as they are now; a list
/// shows them for closed runs only.
pub fn info(run: &Run, schema: &dyn Schema) -> WorkflowExecutionInfo {
    let start = run.start();
    let core = &run.core;
    let close_time = Time(core.close_time).get();
    let duration = close_time.map_or(Duration::ZERO, |at| at.since(Time(core.execution_time)));
    WorkflowExecutionInfo {
        execution: Some(run.id.execution()),
        r#type: start.workflow_type.clone(),
        start_time: Time(core.start_time).proto_opt(),
        close_time: close_time.map(Time::proto),
        status: core.status,
        history_length: run.last_event_id(),
        parent_namespace_id: start
            .parent
            .as_ref()
            .map(|p| p.namespace_id.clone())
            .unwrap_or_default(),
        parent_execution: start.known_parent().map(|p| p.execution.clone()),
        execution_time: Time(core.execution_time).proto_opt(),
        memo: run.visible.memo.clone(),
        search_attributes: search_attribute::typed(run.visible.search_attributes.as_ref(), schema),
        auto_reset_points: run.visible.reset_points.clone(),
        task_queue: run.task_queue().to_owned(),
        state_transition_count: core.transitions,
        history_size_bytes: core.history_size,
        execution_duration: close_time.and_then(|_| proto_span(duration)),
        root_execution: Some(
            start
                .root_workflow_execution
                .as_deref()
                .cloned()
                .unwrap_or_else(|| run.id.execution()),
        ),
        first_run_id: start.first_execution_run_id.to_string(),
        most_recent_worker_version_stamp: core.worker_version.clone(),
        priority: run.priority(),
        ..Default::default()
    }
}

/// Everything that is to be said of a run.
pub fn describe(run: &Run, schema: &dyn Schema, now: Time) -> DescribeWorkflowExecutionResponse {
    let start = run.start();
    let core = &run.core;
    DescribeWorkflowExecutionResponse {
        execution_config: Some(WorkflowExecutionConfig {
            task_queue: Some(TaskQueue {
                name: run.task_queue().to_owned(),
                kind: TaskQueueKind::Normal as i32,
                ..Default::default()
            }),
            workflow_execution_timeout: start.workflow_execution_timeout,
            workflow_run_timeout: start.workflow_run_timeout,
            default_workflow_task_timeout: start.workflow_task_timeout,
            user_metadata: start.event().user_metadata,
        }),
        workflow_execution_info: Some(info(run, schema)),
        pending_activities: run
            .activities
            .values()
            .map(|a| activity::pending_info(run, a, now))
            .collect(),
        pending_children: run
            .children
            .values()
            .map(|c| PendingChildExecutionInfo {
                workflow_id: c.workflow_id.clone(),
                run_id: c.run_id.clone(),
                workflow_type_name: c.workflow_type.clone(),
                initiated_id: c.initiated_id,
                parent_close_policy: c.parent_close_policy,
            })
            .collect(),
        pending_workflow_task: core
            .workflow_task
            .as_ref()
            .map(|t| PendingWorkflowTaskInfo {
                state: if t.started_id == 0 {
                    PendingWorkflowTaskState::Scheduled
                } else {
                    PendingWorkflowTaskState::Started
                } as i32,
                scheduled_time: Time(t.scheduled_time).proto_opt(),
                original_scheduled_time: Time(t.original_scheduled_time).proto_opt(),
                started_time: Time(t.started_time).proto_opt(),
                attempt: t.attempt,
            }),
        workflow_extended_info: Some(extended(run)),
        ..Default::default()
    }
}

fn extended(run: &Run) -> WorkflowExecutionExtendedInfo {
    let core = &run.core;
    let created = (
        core.create_request_id.clone(),
        RequestIdInfo {
            event_type: EventType::WorkflowExecutionStarted as i32,
            event_id: 1,
            buffered: false,
        },
    );
    let attached = run.attached.values().map(|r| {
        let buffered = r.event_id == BUFFERED_ID;
        let event_id = if buffered { 0 } else { r.event_id };
        (
            r.request_id.clone(),
            RequestIdInfo {
                event_type: r.event_type,
                event_id,
                buffered,
            },
        )
    });
    WorkflowExecutionExtendedInfo {
        execution_expiration_time: Time(core.execution_expiration).proto_opt(),
        run_expiration_time: Time(core.run_expiration).proto_opt(),
        cancel_requested: core.cancel_requested,
        last_reset_time: Time(core.last_reset_time).proto_opt(),
        original_start_time: Time(core.start_time).proto_opt(),
        reset_run_id: core.reset_run_id.clone(),
        request_id_infos: std::iter::once(created).chain(attached).collect(),
        ..Default::default()
    }
}

/// A workflow type's name as the protocol wraps it.
pub fn workflow_type(name: &str) -> Option<WorkflowType> {
    Some(WorkflowType {
        name: name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use tidemill_proto::api::enums::v1::PendingActivityState;
    use tidemill_proto::api::history::v1::WorkflowExecutionStartedEventAttributes;

    use super::*;
    use crate::fixture::{BEGIN, seconds};
    use crate::options::{self, Attachment};
    use crate::testing::{Rig, Words, complete_workflow, schedule_activity};

    fn task(rig: &Rig) -> Option<(PendingWorkflowTaskState, i32)> {
        let task = describe(&rig.run, &Words, rig.now).pending_workflow_task?;
        Some((task.state(), task.attempt))
    }

    #[test]
    fn an_open_run() {
        let mut rig = Rig::with(WorkflowExecutionStartedEventAttributes {
            workflow_run_timeout: seconds(60),
            workflow_execution_timeout: seconds(90),
            first_workflow_task_backoff: seconds(5),
            ..Default::default()
        });
        assert_eq!(task(&rig), None);
        rig.after(5.0);
        assert_eq!(task(&rig), Some((PendingWorkflowTaskState::Scheduled, 1)));
        let started = rig.poll();
        assert_eq!(task(&rig), Some((PendingWorkflowTaskState::Started, 1)));
        let attachment = Attachment {
            request_id: "x".into(),
            ..Default::default()
        };
        rig.op(|run, cx| options::attach(run, attachment, cx))
            .unwrap();
        let all = describe(&rig.run, &Words, rig.now);
        let ids = all.workflow_extended_info.unwrap().request_id_infos;
        let shown = |id: &str| (ids[id].event_id, ids[id].buffered);
        assert_eq!((shown("create"), shown("x")), ((1, false), (0, true)));
        rig.commands(&started.task, vec![schedule_activity("a", 1)])
            .unwrap();

        let all = describe(&rig.run, &Words, rig.now);
        assert_eq!(
            all.pending_activities[0].state(),
            PendingActivityState::Scheduled
        );
        let config = all.execution_config.unwrap();
        assert_eq!(
            (
                config.task_queue.unwrap().name.as_str(),
                config.default_workflow_task_timeout
            ),
            ("queue", seconds(10))
        );
        let extended = all.workflow_extended_info.unwrap();
        let at = |s: u64| Some(BEGIN.plus(Duration::from_secs(s)).proto());
        assert_eq!(
            (
                extended.run_expiration_time,
                extended.execution_expiration_time
            ),
            (at(65), at(90))
        );
        assert_eq!(extended.request_id_infos["x"].event_id, 6);
        let info = all.workflow_execution_info.unwrap();
        assert_eq!(
            (info.start_time, info.execution_time, info.close_time),
            (at(0), at(5), None)
        );
        assert_eq!(
            (info.history_length, info.state_transition_count),
            (rig.run.last_event_id(), rig.writes)
        );
        assert_eq!(
            (
                info.execution_duration,
                info.first_run_id.as_str(),
                info.task_queue.as_str()
            ),
            (None, "first", "queue")
        );
        assert_eq!(info.root_execution, Some(rig.run.id.execution()));
        assert_eq!(info.parent_execution, None);
        // A task that is not stored is shown as well.
        rig.task(vec![]);
        rig.update("u").unwrap();
        assert_eq!(
            (rig.state().as_str(), task(&rig)),
            (
                "scheduled speculative",
                Some((PendingWorkflowTaskState::Scheduled, 1))
            )
        );
    }

    #[test]
    fn a_closed_run() {
        let mut rig = Rig::new();
        rig.wait(7.0);
        rig.task(vec![schedule_activity("a", 1), complete_workflow()]);
        rig.wait(7.0);
        let all = describe(&rig.run, &Words, rig.now);
        assert!(all.pending_activities.is_empty() && all.pending_workflow_task.is_none());
        let info = all.workflow_execution_info.unwrap();
        assert_eq!(
            info.close_time,
            Some(BEGIN.plus(Duration::from_secs(7)).proto())
        );
        assert_eq!((info.execution_duration, info.status), (seconds(7), 2));
    }
}
