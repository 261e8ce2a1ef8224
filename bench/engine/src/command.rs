//! The commands that the parts of the bench complete workflow tasks with.

use std::time::Duration;

use temporalio_protos::temporal::api::command::v1::command::Attributes;
use temporalio_protos::temporal::api::command::v1::{
    Command, CompleteWorkflowExecutionCommandAttributes, FailWorkflowExecutionCommandAttributes,
    RecordMarkerCommandAttributes, ScheduleActivityTaskCommandAttributes,
    StartTimerCommandAttributes,
};
use temporalio_protos::temporal::api::common::v1::ActivityType;
use temporalio_protos::temporal::api::enums::v1::CommandType;
use temporalio_protos::temporal::api::failure::v1::Failure;
use temporalio_protos::temporal::api::taskqueue::v1::TaskQueue;

use crate::load;

fn command(kind: CommandType, attributes: Attributes) -> Command {
    Command {
        command_type: kind.into(),
        attributes: Some(attributes),
        ..Default::default()
    }
}

pub(crate) fn complete() -> Command {
    let attributes = CompleteWorkflowExecutionCommandAttributes {
        result: Some(load::json_payloads(1)),
    };
    command(
        CommandType::CompleteWorkflowExecution,
        Attributes::CompleteWorkflowExecutionCommandAttributes(attributes),
    )
}

pub(crate) fn fail() -> Command {
    let attributes = FailWorkflowExecutionCommandAttributes {
        failure: Some(Failure {
            message: "as the bench asked".to_owned(),
            ..Default::default()
        }),
    };
    command(
        CommandType::FailWorkflowExecution,
        Attributes::FailWorkflowExecutionCommandAttributes(attributes),
    )
}

pub(crate) fn timer(length: Duration) -> Command {
    let attributes = StartTimerCommandAttributes {
        timer_id: "1".to_owned(),
        start_to_fire_timeout: length.try_into().ok(),
    };
    command(
        CommandType::StartTimer,
        Attributes::StartTimerCommandAttributes(attributes),
    )
}

pub(crate) fn marker() -> Command {
    let attributes = RecordMarkerCommandAttributes {
        marker_name: "step".to_owned(),
        details: [("data".to_owned(), load::json_payloads(1))].into(),
        ..Default::default()
    };
    command(
        CommandType::RecordMarker,
        Attributes::RecordMarkerCommandAttributes(attributes),
    )
}

pub(crate) fn activity(id: usize, queue: TaskQueue) -> Command {
    let attributes = ScheduleActivityTaskCommandAttributes {
        activity_id: id.to_string(),
        activity_type: Some(ActivityType {
            name: "step".to_owned(),
        }),
        task_queue: Some(queue),
        input: Some(load::json_payloads(1)),
        start_to_close_timeout: Duration::from_secs(3600).try_into().ok(),
        ..Default::default()
    };
    command(
        CommandType::ScheduleActivityTask,
        Attributes::ScheduleActivityTaskCommandAttributes(attributes),
    )
}
