"""One workflow id started twice, under every reuse and conflict policy (A12)."""

from __future__ import annotations

import pytest
from temporalio.api.enums.v1 import WorkflowIdConflictPolicy, WorkflowIdReusePolicy
from temporalio.api.errordetails.v1 import WorkflowExecutionAlreadyStartedFailure

from commands import cancel, complete, fail
from errors import EXISTS, INVALID, refused
from histories import attributes, attributes_of, type_of
from raw import Run, Wire

REUSE = WorkflowIdReusePolicy
CONFLICT = WorkflowIdConflictPolicy
FAILED_ONLY = REUSE.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY
ALLOW = REUSE.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE
REJECT = REUSE.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
TERMINATE_IF_RUNNING = REUSE.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING
USE = CONFLICT.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
TERMINATE = CONFLICT.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
FAIL = CONFLICT.WORKFLOW_ID_CONFLICT_POLICY_FAIL


async def close(wire: Wire, run: Run, how: str) -> None:
    if how == "TERMINATED":
        await run.terminate()
    else:
        command = {"COMPLETED": complete, "FAILED": fail, "CANCELED": cancel}[how]
        await wire.step(command())
    assert await run.status() == how


@pytest.mark.parametrize("closed", ["COMPLETED", "FAILED", "CANCELED", "TERMINATED"])
@pytest.mark.parametrize("policy", [None, ALLOW, FAILED_ONLY, REJECT])
async def test_reuse_of_a_closed_id(
    wire: Wire, closed: str, policy: WorkflowIdReusePolicy.ValueType | None
) -> None:
    run = await wire.start(request_id="first")
    await close(wire, run, closed)
    allowed = policy != REJECT and not (policy == FAILED_ONLY and closed == "COMPLETED")
    if allowed:
        again = await wire.start_response(run.workflow_id, workflow_id_reuse_policy=policy)
        assert again.started and again.run_id != run.run_id
        await wire.run(run.workflow_id).terminate()
        return
    with refused(EXISTS, WorkflowExecutionAlreadyStartedFailure) as refusal:
        await wire.start(run.workflow_id, workflow_id_reuse_policy=policy)
    detail = refusal.detail(WorkflowExecutionAlreadyStartedFailure)
    assert (detail.run_id, detail.start_request_id) == (run.run_id, "first")


@pytest.mark.parametrize("policy", [None, FAIL])
async def test_open_id_refuses_a_second_start(
    wire: Wire, policy: WorkflowIdConflictPolicy.ValueType | None
) -> None:
    run = await wire.start()
    with refused(EXISTS, WorkflowExecutionAlreadyStartedFailure):
        await wire.start(run.workflow_id, workflow_id_conflict_policy=policy)
    assert await run.status() == "RUNNING"
    await run.terminate()


@pytest.mark.parametrize("reuse", [ALLOW, FAILED_ONLY, REJECT])
async def test_use_existing_asks_no_reuse_policy_of_an_open_run(
    wire: Wire, reuse: WorkflowIdReusePolicy.ValueType
) -> None:
    run = await wire.start()
    used = await wire.start_response(
        run.workflow_id, workflow_id_conflict_policy=USE, workflow_id_reuse_policy=reuse
    )
    assert (used.run_id, used.started) == (run.run_id, False)
    await run.terminate()


async def test_terminate_existing_says_why_the_old_run_ended(wire: Wire) -> None:
    run = await wire.start()
    new = await wire.start(run.workflow_id, workflow_id_conflict_policy=TERMINATE)
    closing = (await run.history())[-1]
    assert type_of(closing) == "WorkflowExecutionTerminated"
    assert attributes(closing).reason
    started = attributes_of(await new.history(), "WorkflowExecutionStarted")
    assert started.first_execution_run_id == new.run_id
    assert started.continued_execution_run_id == ""
    await new.terminate()


async def test_terminate_if_running_still_works(wire: Wire) -> None:
    run = await wire.start()
    new = await wire.start(run.workflow_id, workflow_id_reuse_policy=TERMINATE_IF_RUNNING)
    assert [await run.status(), await new.status()] == ["TERMINATED", "RUNNING"]
    await new.terminate()


@pytest.mark.parametrize(("reuse", "conflict"), [(REJECT, TERMINATE), (TERMINATE_IF_RUNNING, FAIL)])
async def test_contradicting_policies_are_refused(
    wire: Wire,
    reuse: WorkflowIdReusePolicy.ValueType,
    conflict: WorkflowIdConflictPolicy.ValueType,
) -> None:
    with refused(INVALID):
        await wire.start(workflow_id_reuse_policy=reuse, workflow_id_conflict_policy=conflict)


async def test_same_request_id_while_open_is_the_same_start(wire: Wire) -> None:
    run = await wire.start(request_id="same")
    again = await wire.start_response(run.workflow_id, request_id="same")
    assert (again.run_id, again.started) == (run.run_id, True)
    assert (await run.types()).count("WorkflowExecutionStarted") == 1
    await run.terminate()


async def test_request_id_attached_to_an_open_run_is_known_afterwards(wire: Wire) -> None:
    run = await wire.start()
    for _ in range(2):
        used = await wire.start_response(
            run.workflow_id,
            request_id="attached",
            workflow_id_conflict_policy=USE,
            on_conflict_options={"attach_request_id": True},
        )
        assert (used.run_id, used.started) == (run.run_id, False)
    events = await run.history()
    updated = attributes_of(events, "WorkflowExecutionOptionsUpdated")
    assert updated.attached_request_id == "attached"
    infos = (await run.describe()).workflow_extended_info.request_id_infos
    assert "attached" in infos
    await run.terminate()
