"""Builds the commands that a workflow task may be completed with."""

from __future__ import annotations

from typing import Any

from temporalio.api.command.v1 import (
    CancelTimerCommandAttributes,
    CancelWorkflowExecutionCommandAttributes,
    Command,
    CompleteWorkflowExecutionCommandAttributes,
    ContinueAsNewWorkflowExecutionCommandAttributes,
    FailWorkflowExecutionCommandAttributes,
    ModifyWorkflowPropertiesCommandAttributes,
    ProtocolMessageCommandAttributes,
    RecordMarkerCommandAttributes,
    RequestCancelActivityTaskCommandAttributes,
    RequestCancelExternalWorkflowExecutionCommandAttributes,
    ScheduleActivityTaskCommandAttributes,
    SignalExternalWorkflowExecutionCommandAttributes,
    StartChildWorkflowExecutionCommandAttributes,
    StartTimerCommandAttributes,
    UpsertWorkflowSearchAttributesCommandAttributes,
)
from temporalio.api.common.v1 import (
    ActivityType,
    Memo,
    Payload,
    SearchAttributes,
    WorkflowExecution,
    WorkflowType,
)
from temporalio.api.enums.v1 import CommandType
from temporalio.api.failure.v1 import Failure
from temporalio.api.taskqueue.v1 import TaskQueue

from values import application_failure, payloads, seconds


def complete(result: Any = None) -> Command:
    attributes = CompleteWorkflowExecutionCommandAttributes(result=payloads(result))
    return Command(
        command_type=CommandType.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION,
        complete_workflow_execution_command_attributes=attributes,
    )


def fail(failure: Failure | None = None) -> Command:
    attributes = FailWorkflowExecutionCommandAttributes(failure=failure or application_failure())
    return Command(
        command_type=CommandType.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION,
        fail_workflow_execution_command_attributes=attributes,
    )


def cancel(details: Any = None) -> Command:
    attributes = CancelWorkflowExecutionCommandAttributes(details=payloads(details))
    return Command(
        command_type=CommandType.COMMAND_TYPE_CANCEL_WORKFLOW_EXECUTION,
        cancel_workflow_execution_command_attributes=attributes,
    )


def continue_as_new(**fields: Any) -> Command:
    attributes = ContinueAsNewWorkflowExecutionCommandAttributes(**fields)
    return Command(
        command_type=CommandType.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION,
        continue_as_new_workflow_execution_command_attributes=attributes,
    )


def timer(timer_id: str, length: float) -> Command:
    attributes = StartTimerCommandAttributes(
        timer_id=timer_id, start_to_fire_timeout=seconds(length)
    )
    return Command(
        command_type=CommandType.COMMAND_TYPE_START_TIMER,
        start_timer_command_attributes=attributes,
    )


def cancel_timer(timer_id: str) -> Command:
    return Command(
        command_type=CommandType.COMMAND_TYPE_CANCEL_TIMER,
        cancel_timer_command_attributes=CancelTimerCommandAttributes(timer_id=timer_id),
    )


def activity(activity_id: str, task_queue: str, *, close: float = 30, **fields: Any) -> Command:
    """Schedules an activity; `close` is its start-to-close timeout in seconds, 0 for none."""
    if close:
        fields["start_to_close_timeout"] = seconds(close)
    eager = fields.pop("request_eager_execution", False)
    attributes = ScheduleActivityTaskCommandAttributes(
        activity_id=activity_id,
        activity_type=ActivityType(name=fields.pop("type", "step")),
        task_queue=TaskQueue(name=task_queue),
        request_eager_execution=eager,
        **fields,
    )
    return Command(
        command_type=CommandType.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK,
        schedule_activity_task_command_attributes=attributes,
    )


def cancel_activity(scheduled_event_id: int) -> Command:
    attributes = RequestCancelActivityTaskCommandAttributes(scheduled_event_id=scheduled_event_id)
    return Command(
        command_type=CommandType.COMMAND_TYPE_REQUEST_CANCEL_ACTIVITY_TASK,
        request_cancel_activity_task_command_attributes=attributes,
    )


def child(workflow_id: str, type: str = "child", **fields: Any) -> Command:
    attributes = StartChildWorkflowExecutionCommandAttributes(
        workflow_id=workflow_id, workflow_type=WorkflowType(name=type), **fields
    )
    return Command(
        command_type=CommandType.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION,
        start_child_workflow_execution_command_attributes=attributes,
    )


def signal_external(workflow_id: str, name: str = "poke", **fields: Any) -> Command:
    attributes = SignalExternalWorkflowExecutionCommandAttributes(
        execution=WorkflowExecution(workflow_id=workflow_id), signal_name=name, **fields
    )
    return Command(
        command_type=CommandType.COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION,
        signal_external_workflow_execution_command_attributes=attributes,
    )


def cancel_external(workflow_id: str, **fields: Any) -> Command:
    attributes = RequestCancelExternalWorkflowExecutionCommandAttributes(
        workflow_id=workflow_id, **fields
    )
    return Command(
        command_type=CommandType.COMMAND_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION,
        request_cancel_external_workflow_execution_command_attributes=attributes,
    )


def marker(name: str, **details: Any) -> Command:
    attributes = RecordMarkerCommandAttributes(
        marker_name=name, details={key: payloads(value) for key, value in details.items()}
    )
    return Command(
        command_type=CommandType.COMMAND_TYPE_RECORD_MARKER,
        record_marker_command_attributes=attributes,
    )


def upsert(**attributes: Payload) -> Command:
    """Upserts search attributes; the payloads say their own types."""
    upserted = UpsertWorkflowSearchAttributesCommandAttributes(
        search_attributes=SearchAttributes(indexed_fields=attributes)
    )
    return Command(
        command_type=CommandType.COMMAND_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES,
        upsert_workflow_search_attributes_command_attributes=upserted,
    )


def modify_memo(**fields: Payload) -> Command:
    attributes = ModifyWorkflowPropertiesCommandAttributes(upserted_memo=Memo(fields=fields))
    return Command(
        command_type=CommandType.COMMAND_TYPE_MODIFY_WORKFLOW_PROPERTIES,
        modify_workflow_properties_command_attributes=attributes,
    )


def message(message_id: str) -> Command:
    """Handles the protocol message of that id at this place among the commands."""
    attributes = ProtocolMessageCommandAttributes(message_id=message_id)
    return Command(
        command_type=CommandType.COMMAND_TYPE_PROTOCOL_MESSAGE,
        protocol_message_command_attributes=attributes,
    )
