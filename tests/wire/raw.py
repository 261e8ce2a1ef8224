"""A worker and client without an SDK: every request is sent, every response seen, as it is.

Histories and task responses are the contract; an SDK would hide them. `Wire` is one namespace and
one task queue, `Run` one workflow run in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import (
    HistoryEventFilterType,
    TaskQueueKind,
    UpdateWorkflowExecutionLifecycleStage,
    WorkflowExecutionStatus,
    WorkflowTaskFailedCause,
)
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.protocol.v1 import Message
from temporalio.api.query.v1 import WorkflowQuery, WorkflowQueryResult
from temporalio.api.taskqueue.v1 import StickyExecutionAttributes, TaskQueue
from temporalio.api.update.v1 import Input, Meta, Request, UpdateRef, WaitPolicy
from temporalio.api.workflowservice import v1 as api
from temporalio.service import WorkflowService

import commands
import histories
from values import application_failure, payloads, seconds

WorkflowTask = api.PollWorkflowTaskQueueResponse
ActivityTask = api.PollActivityTaskQueueResponse

IDENTITY = "wire-worker"
RPC_TIMEOUT = timedelta(seconds=30)
POLL_TIMEOUT = timedelta(seconds=30)
SHORTEST_POLL = timedelta(seconds=3)
"""Servers refuse a poll of which the deadline is nearer than two seconds."""

CLOSE_EVENT = HistoryEventFilterType.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT
ACCEPTED = UpdateWorkflowExecutionLifecycleStage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ACCEPTED
ADMITTED = UpdateWorkflowExecutionLifecycleStage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ADMITTED
COMPLETED = (
    UpdateWorkflowExecutionLifecycleStage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED
)
Stage = UpdateWorkflowExecutionLifecycleStage.ValueType


def fresh(prefix: str) -> str:
    """An id that no other test uses, also on a server that many suites share."""
    return f"{prefix}-{uuid4()}"


@dataclass(frozen=True)
class Wire:
    """Raw calls to one namespace; polls and starts use one task queue unless told otherwise."""

    service: WorkflowService
    namespace: str
    task_queue: str = field(default_factory=lambda: fresh("queue"))

    # Starting and finding runs.

    def start_request(
        self, workflow_id: str | None = None, type: str = "wire", **fields: Any
    ) -> api.StartWorkflowExecutionRequest:
        fields.setdefault("request_id", str(uuid4()))
        fields.setdefault("task_queue", TaskQueue(name=self.task_queue))
        return api.StartWorkflowExecutionRequest(
            namespace=self.namespace,
            workflow_id=fresh("run") if workflow_id is None else workflow_id,
            workflow_type=WorkflowType(name=type),
            identity="wire-client",
            **fields,
        )

    async def start_response(
        self, workflow_id: str | None = None, **fields: Any
    ) -> api.StartWorkflowExecutionResponse:
        request = self.start_request(workflow_id, **fields)
        return await self.service.start_workflow_execution(request, timeout=RPC_TIMEOUT)

    async def start(self, workflow_id: str | None = None, **fields: Any) -> Run:
        workflow_id = fresh("run") if workflow_id is None else workflow_id
        response = await self.start_response(workflow_id, **fields)
        return Run(self, workflow_id, response.run_id)

    def run(self, workflow_id: str, run_id: str = "") -> Run:
        """An existing run; without a run id whichever is the current one."""
        return Run(self, workflow_id, run_id)

    # The worker's side of workflow tasks.

    async def poll_response(
        self, queue: TaskQueue | None = None, timeout: timedelta = POLL_TIMEOUT, **fields: Any
    ) -> WorkflowTask:
        request = api.PollWorkflowTaskQueueRequest(
            namespace=self.namespace,
            task_queue=queue or TaskQueue(name=self.task_queue),
            identity=IDENTITY,
            **fields,
        )
        return await self.service.poll_workflow_task_queue(request, timeout=timeout)

    async def poll(self, queue: TaskQueue | None = None) -> WorkflowTask:
        """The next workflow task of the queue."""
        task = await self.poll_response(queue)
        assert task.task_token, "the long poll ended without a workflow task"
        return task

    def sticky(self, name: str) -> TaskQueue:
        """The sticky queue `name` of a worker on this task queue."""
        return TaskQueue(
            name=name,
            kind=TaskQueueKind.TASK_QUEUE_KIND_STICKY,
            normal_name=self.task_queue,
        )

    async def complete(
        self,
        task: WorkflowTask,
        *orders: Command,
        messages: Sequence[Message] = (),
        queries: dict[str, WorkflowQueryResult] | None = None,
        sticky: tuple[str, float] | None = None,
        force_new: bool = False,
        return_new: bool = False,
        **fields: Any,
    ) -> api.RespondWorkflowTaskCompletedResponse:
        """Complete the task; `sticky` is a queue name and its schedule-to-start in seconds."""
        if sticky is not None:
            name, length = sticky
            fields["sticky_attributes"] = StickyExecutionAttributes(
                worker_task_queue=self.sticky(name), schedule_to_start_timeout=seconds(length)
            )
        request = api.RespondWorkflowTaskCompletedRequest(
            namespace=self.namespace,
            task_token=task.task_token,
            identity=IDENTITY,
            commands=orders,
            messages=messages,
            query_results=queries,
            force_create_new_workflow_task=force_new,
            return_new_workflow_task=return_new,
            **fields,
        )
        return await self.service.respond_workflow_task_completed(request, timeout=RPC_TIMEOUT)

    async def step(self, *orders: Command, **options: Any) -> WorkflowTask:
        """Poll the next workflow task and complete it; returns the task."""
        task = await self.poll()
        await self.complete(task, *orders, **options)
        return task

    async def answer(
        self, task: WorkflowTask, *answers: Message, then: Sequence[Command] = ()
    ) -> None:
        """Complete the task with answers to updates, and with the commands `then` after them."""
        handled = [commands.message(answer.id) for answer in answers]
        await self.complete(task, *handled, *then, messages=answers)

    async def fail(
        self,
        task: WorkflowTask,
        cause: WorkflowTaskFailedCause.ValueType = (
            WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE
        ),
    ) -> None:
        request = api.RespondWorkflowTaskFailedRequest(
            namespace=self.namespace,
            task_token=task.task_token,
            identity=IDENTITY,
            cause=cause,
            failure=application_failure("the workflow task failed"),
        )
        await self.service.respond_workflow_task_failed(request, timeout=RPC_TIMEOUT)

    async def answer_query(self, task: WorkflowTask, result: WorkflowQueryResult) -> None:
        """Answer a query that came as a task of its own."""
        request = api.RespondQueryTaskCompletedRequest(
            namespace=self.namespace,
            task_token=task.task_token,
            completed_type=result.result_type,
            query_result=result.answer,
            error_message=result.error_message,
            failure=result.failure if result.HasField("failure") else None,
        )
        await self.service.respond_query_task_completed(request, timeout=RPC_TIMEOUT)

    # The worker's side of activities.

    async def poll_activity_response(
        self, queue: str | None = None, timeout: timedelta = POLL_TIMEOUT, **fields: Any
    ) -> ActivityTask:
        request = api.PollActivityTaskQueueRequest(
            namespace=self.namespace,
            task_queue=TaskQueue(name=queue or self.task_queue),
            identity=IDENTITY,
            **fields,
        )
        return await self.service.poll_activity_task_queue(request, timeout=timeout)

    async def poll_activity(self, queue: str | None = None) -> ActivityTask:
        """The next activity task of the queue."""
        task = await self.poll_activity_response(queue)
        assert task.task_token, "the long poll ended without an activity task"
        return task

    async def complete_activity(self, task: ActivityTask, result: Any = None) -> None:
        request = api.RespondActivityTaskCompletedRequest(
            namespace=self.namespace,
            task_token=task.task_token,
            identity=IDENTITY,
            result=payloads(result),
        )
        await self.service.respond_activity_task_completed(request, timeout=RPC_TIMEOUT)

    async def fail_activity(
        self, task: ActivityTask, failure: Failure | None = None, **fields: Any
    ) -> api.RespondActivityTaskFailedResponse:
        request = api.RespondActivityTaskFailedRequest(
            namespace=self.namespace,
            task_token=task.task_token,
            identity=IDENTITY,
            failure=failure or application_failure(),
            **fields,
        )
        return await self.service.respond_activity_task_failed(request, timeout=RPC_TIMEOUT)

    async def cancel_activity(self, task: ActivityTask, details: Any = None) -> None:
        """Report that the activity has ended because of its cancellation."""
        request = api.RespondActivityTaskCanceledRequest(
            namespace=self.namespace,
            task_token=task.task_token,
            identity=IDENTITY,
            details=payloads(details),
        )
        await self.service.respond_activity_task_canceled(request, timeout=RPC_TIMEOUT)

    async def heartbeat(
        self, task: ActivityTask, details: Any = None
    ) -> api.RecordActivityTaskHeartbeatResponse:
        request = api.RecordActivityTaskHeartbeatRequest(
            namespace=self.namespace,
            task_token=task.task_token,
            identity=IDENTITY,
            details=payloads(details),
        )
        return await self.service.record_activity_task_heartbeat(request, timeout=RPC_TIMEOUT)


@dataclass(frozen=True)
class Run:
    """One run of a workflow, addressed by workflow id and run id."""

    wire: Wire
    workflow_id: str
    run_id: str

    @property
    def execution(self) -> WorkflowExecution:
        return WorkflowExecution(workflow_id=self.workflow_id, run_id=self.run_id)

    @property
    def service(self) -> WorkflowService:
        return self.wire.service

    # Reading.

    async def history_page(self, **fields: Any) -> api.GetWorkflowExecutionHistoryResponse:
        request = api.GetWorkflowExecutionHistoryRequest(
            namespace=self.wire.namespace, execution=self.execution, **fields
        )
        return await self.service.get_workflow_execution_history(request, timeout=RPC_TIMEOUT)

    async def history(self, **fields: Any) -> list[HistoryEvent]:
        """Every event so far."""
        events: list[HistoryEvent] = []
        token = b""
        while True:
            page = await self.history_page(next_page_token=token, **fields)
            events.extend(page.history.events)
            token = page.next_page_token
            if not token:
                return events

    async def types(self) -> list[str]:
        """The types of all events, in the short form of `histories.type_of`."""
        return histories.types(await self.history())

    async def closed(self) -> HistoryEvent:
        """Wait until the run is closed; its last event.

        The wait's own answer is not used: to clients which do not say that they follow retries,
        servers show the close event of a retried run as a continue-as-new.
        """
        token = b""
        while True:
            page = await self.history_page(
                wait_new_event=True, history_event_filter_type=CLOSE_EVENT, next_page_token=token
            )
            if page.history.events:
                return (await self.history())[-1]
            token = page.next_page_token

    async def reaches(self, type: str, count: int = 1) -> list[HistoryEvent]:
        """Wait until the history holds `count` events of that type; all events until then."""
        events: list[HistoryEvent] = []
        token = b""
        while True:
            page = await self.history_page(wait_new_event=True, next_page_token=token)
            events.extend(page.history.events)
            if len(histories.every(events, type)) >= count:
                return events
            token = page.next_page_token
            assert token, f"closed without {count} {type}: {histories.types(events)}"

    async def describe(self) -> api.DescribeWorkflowExecutionResponse:
        request = api.DescribeWorkflowExecutionRequest(
            namespace=self.wire.namespace, execution=self.execution
        )
        return await self.service.describe_workflow_execution(request, timeout=RPC_TIMEOUT)

    async def status(self) -> str:
        """The run's status in the short form, such as `RUNNING`."""
        info = (await self.describe()).workflow_execution_info
        name = WorkflowExecutionStatus.Name(info.status)
        return name.removeprefix("WORKFLOW_EXECUTION_STATUS_")

    # Acting on it.

    async def signal(self, name: str = "poke", *values: Any, **fields: Any) -> None:
        request = api.SignalWorkflowExecutionRequest(
            namespace=self.wire.namespace,
            workflow_execution=self.execution,
            signal_name=name,
            input=payloads(*values),
            identity="wire-client",
            **fields,
        )
        await self.service.signal_workflow_execution(request, timeout=RPC_TIMEOUT)

    async def cancel(self, **fields: Any) -> None:
        request = api.RequestCancelWorkflowExecutionRequest(
            namespace=self.wire.namespace,
            workflow_execution=self.execution,
            identity="wire-client",
            **fields,
        )
        await self.service.request_cancel_workflow_execution(request, timeout=RPC_TIMEOUT)

    async def terminate(self, reason: str = "wire", **fields: Any) -> None:
        request = api.TerminateWorkflowExecutionRequest(
            namespace=self.wire.namespace,
            workflow_execution=self.execution,
            reason=reason,
            identity="wire-client",
            **fields,
        )
        await self.service.terminate_workflow_execution(request, timeout=RPC_TIMEOUT)

    async def query(
        self, name: str = "state", *values: Any, timeout: timedelta = RPC_TIMEOUT, **fields: Any
    ) -> api.QueryWorkflowResponse:
        request = api.QueryWorkflowRequest(
            namespace=self.wire.namespace,
            execution=self.execution,
            query=WorkflowQuery(query_type=name, query_args=payloads(*values)),
            **fields,
        )
        return await self.service.query_workflow(request, timeout=timeout)

    def update_request(
        self, update_id: str, stage: Stage = COMPLETED, name: str = "change", **fields: Any
    ) -> api.UpdateWorkflowExecutionRequest:
        return api.UpdateWorkflowExecutionRequest(
            namespace=self.wire.namespace,
            workflow_execution=self.execution,
            wait_policy=WaitPolicy(lifecycle_stage=stage),
            request=Request(
                meta=Meta(update_id=update_id, identity="wire-client"),
                input=Input(name=name, args=payloads("argument")),
            ),
            **fields,
        )

    async def update(
        self, update_id: str, stage: Stage = COMPLETED, timeout: timedelta = RPC_TIMEOUT
    ) -> api.UpdateWorkflowExecutionResponse:
        request = self.update_request(update_id, stage)
        return await self.service.update_workflow_execution(request, timeout=timeout)

    async def poll_update(
        self, update_id: str, stage: Stage = COMPLETED
    ) -> api.PollWorkflowExecutionUpdateResponse:
        request = api.PollWorkflowExecutionUpdateRequest(
            namespace=self.wire.namespace,
            update_ref=UpdateRef(workflow_execution=self.execution, update_id=update_id),
            wait_policy=WaitPolicy(lifecycle_stage=stage),
        )
        return await self.service.poll_workflow_execution_update(request, timeout=RPC_TIMEOUT)

    async def reset(self, finish_event_id: int, **fields: Any) -> Run:
        """Reset to that workflow task; the new run."""
        fields.setdefault("request_id", str(uuid4()))
        request = api.ResetWorkflowExecutionRequest(
            namespace=self.wire.namespace,
            workflow_execution=self.execution,
            reason="wire",
            workflow_task_finish_event_id=finish_event_id,
            **fields,
        )
        response = await self.service.reset_workflow_execution(request, timeout=RPC_TIMEOUT)
        return Run(self.wire, self.workflow_id, response.run_id)

    async def delete(self) -> None:
        request = api.DeleteWorkflowExecutionRequest(
            namespace=self.wire.namespace, workflow_execution=self.execution
        )
        await self.service.delete_workflow_execution(request, timeout=RPC_TIMEOUT)
