//! What workers and callers send: commands, messages, completions.

use super::*;

pub(crate) fn command(attributes: C) -> Command {
    use CommandType as T;
    let kind = match &attributes {
        C::ScheduleActivityTaskCommandAttributes(_) => T::ScheduleActivityTask,
        C::RequestCancelActivityTaskCommandAttributes(_) => T::RequestCancelActivityTask,
        C::StartTimerCommandAttributes(_) => T::StartTimer,
        C::CancelTimerCommandAttributes(_) => T::CancelTimer,
        C::RecordMarkerCommandAttributes(_) => T::RecordMarker,
        C::UpsertWorkflowSearchAttributesCommandAttributes(_) => T::UpsertWorkflowSearchAttributes,
        C::ModifyWorkflowPropertiesCommandAttributes(_) => T::ModifyWorkflowProperties,
        C::CompleteWorkflowExecutionCommandAttributes(_) => T::CompleteWorkflowExecution,
        C::FailWorkflowExecutionCommandAttributes(_) => T::FailWorkflowExecution,
        C::CancelWorkflowExecutionCommandAttributes(_) => T::CancelWorkflowExecution,
        C::ContinueAsNewWorkflowExecutionCommandAttributes(_) => T::ContinueAsNewWorkflowExecution,
        C::StartChildWorkflowExecutionCommandAttributes(_) => T::StartChildWorkflowExecution,
        C::RequestCancelExternalWorkflowExecutionCommandAttributes(_) => {
            T::RequestCancelExternalWorkflowExecution
        }
        C::SignalExternalWorkflowExecutionCommandAttributes(_) => {
            T::SignalExternalWorkflowExecution
        }
        C::ProtocolMessageCommandAttributes(_) => T::ProtocolMessage,
        other => panic!("the rig does not know {other:?}"),
    };
    Command {
        command_type: kind as i32,
        attributes: Some(attributes),
        ..Default::default()
    }
}

pub(crate) fn start_timer(id: &str, s: i64) -> Command {
    let timer = StartTimerCommandAttributes {
        timer_id: id.into(),
        start_to_fire_timeout: seconds(s),
    };
    command(timer.into())
}

pub(crate) fn cancel_timer(id: &str) -> Command {
    command(
        CancelTimerCommandAttributes {
            timer_id: id.into(),
        }
        .into(),
    )
}

/// An activity with a start-to-close timeout of half an hour.
pub(crate) fn schedule_activity(id: &str, attempts: i32) -> Command {
    command(
        ScheduleActivityTaskCommandAttributes {
            activity_id: id.into(),
            activity_type: Some(ActivityType { name: "A".into() }),
            task_queue: Some(TaskQueue {
                name: "activities".into(),
                ..Default::default()
            }),
            start_to_close_timeout: seconds(1800),
            retry_policy: Some(RetryPolicy {
                maximum_attempts: attempts,
                ..Default::default()
            }),
            ..Default::default()
        }
        .into(),
    )
}

pub(crate) fn cancel_activity(scheduled_event_id: i64) -> Command {
    command(RequestCancelActivityTaskCommandAttributes { scheduled_event_id }.into())
}

pub(crate) fn complete_workflow() -> Command {
    command(
        CompleteWorkflowExecutionCommandAttributes {
            result: Some(payloads("done")),
        }
        .into(),
    )
}

pub(crate) fn fail_workflow() -> Command {
    command(
        FailWorkflowExecutionCommandAttributes {
            failure: Some(failure("Bug")),
        }
        .into(),
    )
}

pub(crate) fn continue_again() -> Command {
    command(ContinueAsNewWorkflowExecutionCommandAttributes::default().into())
}

pub(crate) fn sticky() -> Option<Sticky> {
    Some(Sticky {
        queue: "sticky".into(),
        timeout: 5_000_000_000,
    })
}

pub(crate) fn request(update_id: &str) -> Request {
    Request {
        meta: Some(Meta {
            update_id: update_id.into(),
            identity: "caller".into(),
        }),
        input: Some(Input {
            name: "U".into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn message(id: &str, update_id: &str, name: &str, body: &impl prost::Message) -> Message {
    Message {
        id: id.into(),
        protocol_instance_id: update_id.into(),
        body: Some(tidemill_proto::wkt::Any {
            type_url: format!("type.googleapis.com/temporal.api.update.v1.{name}"),
            value: body.encode_to_vec(),
        }),
        sequencing_id: Some(SequencingId::EventId(0)),
    }
}

pub(crate) fn acceptance(update_id: &str) -> Message {
    let body = Acceptance {
        accepted_request_message_id: format!("{update_id}/request"),
        accepted_request: Some(request(update_id)),
        ..Default::default()
    };
    message(
        &format!("{update_id}/accept"),
        update_id,
        "Acceptance",
        &body,
    )
}

pub(crate) fn update_result() -> UpdateOutcome {
    UpdateOutcome {
        value: Some(outcome::Value::Success(payloads("updated"))),
    }
}

pub(crate) fn response(update_id: &str) -> Message {
    let body = Response {
        meta: request(update_id).meta,
        outcome: Some(update_result()),
    };
    message(
        &format!("{update_id}/complete"),
        update_id,
        "Response",
        &body,
    )
}

pub(crate) fn rejection(update_id: &str) -> Message {
    let body = Rejection {
        failure: Some(failure("No")),
        ..Default::default()
    };
    message(
        &format!("{update_id}/reject"),
        update_id,
        "Rejection",
        &body,
    )
}

/// The commands that go with messages, as SDKs send them.
pub(crate) fn for_messages(messages: &[Message]) -> Vec<Command> {
    let rejects = |m: &Message| m.id.ends_with("/reject");
    let command = |m: &Message| {
        command(
            ProtocolMessageCommandAttributes {
                message_id: m.id.clone(),
            }
            .into(),
        )
    };
    messages
        .iter()
        .filter(|m| !rejects(m))
        .map(command)
        .collect()
}

/// A completion with messages and their commands, then `more` commands.
pub(crate) fn with_messages(messages: Vec<Message>, more: Vec<Command>) -> Completion {
    let commands = for_messages(&messages).into_iter().chain(more).collect();
    Completion {
        commands,
        messages,
        ..Default::default()
    }
}

/// A completion that answers queries.
pub(crate) fn answers(ids: &[&str]) -> Completion {
    let query_results = ids
        .iter()
        .map(|id| ((*id).to_owned(), WorkflowQueryResult::default()))
        .collect();
    Completion {
        query_results,
        ..Default::default()
    }
}

/// A payload of JSON.
pub(crate) fn json(text: &str) -> Payload {
    Payload {
        metadata: [("encoding".to_owned(), b"json/plain".to_vec())].into(),
        data: text.into(),
        ..Default::default()
    }
}
