"""Runs that the server starts again by itself."""

from __future__ import annotations

import pytest
from temporalio.api.common.v1 import Memo
from temporalio.api.enums.v1 import ContinueAsNewInitiator, RetryState

from commands import cancel, complete, fail, modify_memo
from histories import STARTED, attributes, attributes_of, type_of
from raw import Run, Wire
from values import application_failure, in_seconds, payload, payloads, read, retry, seconds

RETRY = ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_RETRY


async def next_run(run: Run) -> Run:
    return run.wire.run(run.workflow_id, attributes(await run.closed()).new_execution_run_id)


async def test_failed_run_is_retried_with_its_original_input(wire: Wire) -> None:
    run = await wire.start(
        input=payloads("original"),
        memo=Memo(fields={"note": payload("original")}),
        retry_policy=retry(2, first=1),
    )
    await wire.step(modify_memo(note=payload("changed")), fail())
    failed = attributes(await run.closed())
    assert failed.retry_state == RetryState.RETRY_STATE_IN_PROGRESS
    assert await run.status() == "FAILED"

    again = await next_run(run)
    started = attributes_of(await again.history(), STARTED)
    assert (started.initiator, started.attempt) == (RETRY, 2)
    assert read(started.input) == "original"
    assert read(started.memo.fields["note"]) == "original"
    assert started.continued_failure.message == "boom"
    assert started.first_execution_run_id == run.run_id
    assert 0 < in_seconds(started.first_workflow_task_backoff) <= 1

    await wire.step(fail())
    failed = attributes(await again.closed())
    assert failed.retry_state == RetryState.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED
    assert failed.new_execution_run_id == ""


async def test_non_retryable_failure_is_final(wire: Wire) -> None:
    run = await wire.start(retry_policy=retry(first=1, fatal=("Fatal",)))
    await wire.step(fail(application_failure(type="Fatal")))
    failed = attributes(await run.closed())
    assert failed.retry_state == RetryState.RETRY_STATE_NON_RETRYABLE_FAILURE


async def test_without_policy_there_is_no_retry(wire: Wire) -> None:
    run = await wire.start()
    await wire.step(fail())
    failed = attributes(await run.closed())
    assert failed.retry_state == RetryState.RETRY_STATE_RETRY_POLICY_NOT_SET


async def test_timed_out_run_is_retried(wire: Wire) -> None:
    run = await wire.start(workflow_run_timeout=seconds(1), retry_policy=retry(2, first=1))
    closing = await run.closed()
    assert type_of(closing) == "WorkflowExecutionTimedOut"
    again = await next_run(run)
    started = attributes_of(await again.history(), STARTED)
    assert (started.initiator, started.attempt) == (RETRY, 2)
    await again.terminate()


@pytest.mark.parametrize("how", ["cancel", "terminate"])
@pytest.mark.parametrize("chain", ["cron", "retry"])
async def test_canceling_or_terminating_ends_the_chain(wire: Wire, how: str, chain: str) -> None:
    options = {"cron": {"cron_schedule": "@every 1s"}, "retry": {"retry_policy": retry()}}
    run = await wire.start(**options[chain])
    task = await wire.poll()
    if how == "cancel":
        await wire.complete(task, cancel())
    else:
        await run.terminate()
    closing = await run.closed()
    assert type_of(closing) in ("WorkflowExecutionCanceled", "WorkflowExecutionTerminated")
    current = await wire.run(run.workflow_id).describe()
    assert current.workflow_execution_info.execution.run_id == run.run_id


async def test_cron_run_that_completes_goes_on(wire: Wire) -> None:
    run = await wire.start(cron_schedule="@every 1s")
    await wire.step(complete(1))
    again = await next_run(run)
    assert await run.status() == "COMPLETED"
    assert await again.status() == "RUNNING"
    info = (await again.describe()).workflow_execution_info
    assert info.first_run_id == run.run_id
    await again.terminate()
