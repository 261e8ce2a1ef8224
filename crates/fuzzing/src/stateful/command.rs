//! What a worker answers a workflow task with.

use prost::Message as _;
use tidemill_proto::api::activity::v1::ActivityOptions;
use tidemill_proto::api::command::v1::command::Attributes as C;
use tidemill_proto::api::command::v1::*;
use tidemill_proto::api::common::v1::*;
use tidemill_proto::api::enums::v1::CommandType as T;
use tidemill_proto::api::failure::v1::failure::FailureInfo;
use tidemill_proto::api::failure::v1::{ApplicationFailureInfo, Failure};
use tidemill_proto::api::protocol::v1::Message;
use tidemill_proto::api::taskqueue::v1::StickyExecutionAttributes;
use tidemill_proto::api::update::v1 as update;
use tidemill_proto::api::workflowservice::v1::*;
use tidemill_proto::wkt;

use super::calls::{command, json, queue, schedule_activity, seconds, sticky_queue};
use super::{ACTIVITIES, Memory, UPDATES, WORKFLOWS, calls, name, span};
use crate::engine::CUSTOM;
use crate::input::Input;

const TIMERS: [&str; 2] = ["t0", "t1"];

pub(super) fn completion(
    task: &PollWorkflowTaskQueueResponse,
    memory: &Memory,
    input: &mut Input,
) -> RespondWorkflowTaskCompletedRequest {
    let mut messages = Vec::new();
    let mut commands: Vec<_> = (0..input.below(4)).map(|_| any(memory, input)).collect();
    for asked in &task.messages {
        if input.one_in(4) {
            continue;
        }
        answer(asked, &mut messages, &mut commands, input);
    }
    if input.one_in(24) {
        // Of an update that nobody asked of this worker.
        let id = name(input, &UPDATES).to_owned();
        let stray = Message {
            protocol_instance_id: id,
            ..Default::default()
        };
        answer(&stray, &mut messages, &mut commands, input);
    }
    RespondWorkflowTaskCompletedRequest {
        commands,
        messages,
        sticky_attributes: input.one_in(3).then(|| StickyExecutionAttributes {
            worker_task_queue: Some(sticky_queue()),
            schedule_to_start_timeout: span(input),
        }),
        return_new_workflow_task: input.one_in(3),
        force_create_new_workflow_task: input.one_in(6),
        ..calls::completion(&task.task_token)
    }
}

pub(super) fn update_request(id: &str) -> update::Request {
    update::Request {
        meta: Some(update::Meta {
            update_id: id.into(),
            ..Default::default()
        }),
        input: Some(update::Input {
            name: "change".into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Accepts, rejects or completes an update.
fn answer(
    asked: &Message,
    messages: &mut Vec<Message>,
    commands: &mut Vec<Command>,
    input: &mut Input,
) {
    let id = &asked.protocol_instance_id;
    let accepted = update::Acceptance {
        accepted_request_message_id: asked.id.clone(),
        accepted_request: Some(update_request(id)),
        ..Default::default()
    };
    let rejected = update::Rejection {
        rejected_request_message_id: asked.id.clone(),
        rejected_request: Some(update_request(id)),
        failure: Some(failure(input)),
        ..Default::default()
    };
    let done = update::Response {
        meta: update_request(id).meta,
        outcome: Some(update::Outcome {
            value: Some(update::outcome::Value::Success(Payloads::default())),
        }),
    };
    let parts = match input.below(4) {
        0 => vec![("Acceptance", accepted.encode_to_vec())],
        1 => vec![("Rejection", rejected.encode_to_vec())],
        2 => vec![("Response", done.encode_to_vec())],
        _ => vec![
            ("Acceptance", accepted.encode_to_vec()),
            ("Response", done.encode_to_vec()),
        ],
    };
    for (kind, value) in parts {
        let message_id = format!("{id}/{kind}");
        messages.push(Message {
            id: message_id.clone(),
            protocol_instance_id: id.clone(),
            body: Some(wkt::Any {
                type_url: format!("type.googleapis.com/temporal.api.update.v1.{kind}"),
                value,
            }),
            ..Default::default()
        });
        if kind != "Rejection" && !input.one_in(16) {
            commands.push(command(
                T::ProtocolMessage,
                C::ProtocolMessageCommandAttributes(ProtocolMessageCommandAttributes {
                    message_id,
                }),
            ));
        }
    }
}

pub(super) fn failure(input: &mut Input) -> Failure {
    Failure {
        message: "told to".into(),
        failure_info: input.one_in(2).then(|| {
            FailureInfo::ApplicationFailureInfo(ApplicationFailureInfo {
                r#type: "Type".into(),
                non_retryable: input.one_in(2),
                next_retry_delay: span(input),
                ..Default::default()
            })
        }),
        ..Default::default()
    }
}

pub(super) fn search_attributes(input: &mut Input) -> SearchAttributes {
    let value = name(input, &["\"v\"", "null", "1", "[", "[\"a\",\"b\"]"]);
    let field = name(
        input,
        &[CUSTOM, "BuildIds", "WorkflowId", "TemporalChangeVersion"],
    );
    SearchAttributes {
        indexed_fields: [(field.to_owned(), json(value))].into(),
    }
}

pub(super) fn activity_options(input: &mut Input) -> ActivityOptions {
    ActivityOptions {
        task_queue: Some(queue()),
        start_to_close_timeout: span(input),
        retry_policy: Some(retry_policy(input)),
        ..Default::default()
    }
}

fn retry_policy(input: &mut Input) -> RetryPolicy {
    RetryPolicy {
        initial_interval: span(input),
        backoff_coefficient: f64::from(input.below(4) as u8),
        maximum_attempts: input.below(4) as i32,
        ..Default::default()
    }
}

fn target(memory: &Memory, input: &mut Input) -> WorkflowExecution {
    memory.execution(input).unwrap_or_default()
}

fn any(memory: &Memory, input: &mut Input) -> Command {
    let near = |input: &mut Input| memory.next_event - 4 + input.below(8) as i64;
    match input.below(20) {
        0..=3 => {
            let mut command = schedule_activity(name(input, &ACTIVITIES));
            if let Some(C::ScheduleActivityTaskCommandAttributes(a)) = &mut command.attributes {
                a.request_eager_execution = input.one_in(4);
                a.heartbeat_timeout = if input.one_in(3) { span(input) } else { None };
                if input.one_in(3) {
                    a.start_to_close_timeout = span(input);
                    a.retry_policy = Some(retry_policy(input));
                }
            }
            command
        }
        4 => command(
            T::RequestCancelActivityTask,
            C::RequestCancelActivityTaskCommandAttributes(
                RequestCancelActivityTaskCommandAttributes {
                    scheduled_event_id: near(input),
                },
            ),
        ),
        5 | 6 => command(
            T::StartTimer,
            C::StartTimerCommandAttributes(StartTimerCommandAttributes {
                timer_id: name(input, &TIMERS).into(),
                start_to_fire_timeout: span(input),
            }),
        ),
        7 => command(
            T::CancelTimer,
            C::CancelTimerCommandAttributes(CancelTimerCommandAttributes {
                timer_id: name(input, &TIMERS).into(),
            }),
        ),
        8 => command(
            T::RecordMarker,
            C::RecordMarkerCommandAttributes(RecordMarkerCommandAttributes {
                marker_name: name(input, &["marker"]).into(),
                ..Default::default()
            }),
        ),
        9 => command(
            T::UpsertWorkflowSearchAttributes,
            C::UpsertWorkflowSearchAttributesCommandAttributes(
                UpsertWorkflowSearchAttributesCommandAttributes {
                    search_attributes: Some(search_attributes(input)),
                },
            ),
        ),
        10 => command(
            T::ModifyWorkflowProperties,
            C::ModifyWorkflowPropertiesCommandAttributes(
                ModifyWorkflowPropertiesCommandAttributes {
                    upserted_memo: Some(Memo {
                        fields: [("k".to_owned(), json(name(input, &["1", "null"])))].into(),
                    }),
                },
            ),
        ),
        11 | 12 => command(
            T::StartChildWorkflowExecution,
            C::StartChildWorkflowExecutionCommandAttributes(
                StartChildWorkflowExecutionCommandAttributes {
                    workflow_id: name(input, &WORKFLOWS).into(),
                    workflow_type: Some(WorkflowType {
                        name: "Child".into(),
                    }),
                    task_queue: Some(queue()),
                    parent_close_policy: input.below(4) as i32,
                    workflow_id_reuse_policy: input.below(5) as i32,
                    ..Default::default()
                },
            ),
        ),
        13 => command(
            T::SignalExternalWorkflowExecution,
            C::SignalExternalWorkflowExecutionCommandAttributes(
                SignalExternalWorkflowExecutionCommandAttributes {
                    execution: Some(target(memory, input)),
                    signal_name: "signal".into(),
                    child_workflow_only: input.one_in(4),
                    ..Default::default()
                },
            ),
        ),
        14 => {
            let target = target(memory, input);
            command(
                T::RequestCancelExternalWorkflowExecution,
                C::RequestCancelExternalWorkflowExecutionCommandAttributes(
                    RequestCancelExternalWorkflowExecutionCommandAttributes {
                        workflow_id: target.workflow_id,
                        run_id: target.run_id,
                        child_workflow_only: input.one_in(4),
                        ..Default::default()
                    },
                ),
            )
        }
        15 => command(
            T::CompleteWorkflowExecution,
            C::CompleteWorkflowExecutionCommandAttributes(Default::default()),
        ),
        16 => command(
            T::FailWorkflowExecution,
            C::FailWorkflowExecutionCommandAttributes(FailWorkflowExecutionCommandAttributes {
                failure: Some(failure(input)),
            }),
        ),
        17 => command(
            T::CancelWorkflowExecution,
            C::CancelWorkflowExecutionCommandAttributes(Default::default()),
        ),
        18 => command(
            T::ContinueAsNewWorkflowExecution,
            C::ContinueAsNewWorkflowExecutionCommandAttributes(
                ContinueAsNewWorkflowExecutionCommandAttributes {
                    workflow_type: Some(WorkflowType {
                        name: name(input, &["Type", "Other"]).into(),
                    }),
                    workflow_run_timeout: seconds(60),
                    ..Default::default()
                },
            ),
        ),
        // A kind without its attributes.
        _ => Command {
            command_type: input.below(24) as i32,
            ..Default::default()
        },
    }
}
