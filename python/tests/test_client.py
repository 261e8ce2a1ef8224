"""The client, against a real engine. A workflow of the test's stands for the interpreter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from engine import Engine, free_port
from flows import Interpreter
from temporalio.worker import UnsandboxedWorkflowRunner
from temporalio.worker import Worker as EngineWorker

from tidemill import Client, EngineUnreachable, Invalid, Run, RunFailed, Status

PLAN: dict[str, Any] = {
    "name": "demo",
    "nodes": [],
    "inputs": {
        "type": "object",
        "properties": {"topic": {"type": "string"}, "count": {"type": "integer", "default": 3}},
        "required": ["topic"],
    },
}


@pytest.fixture
async def client(engine: Engine) -> AsyncIterator[Client]:
    connected = Client(await engine.client())
    interpreter = EngineWorker(
        connected.engine,
        task_queue="tidemill-pipelines",
        workflows=[Interpreter],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )
    async with interpreter:
        yield connected


async def start(client: Client) -> Run:
    return await client.start({"hash": "sha256:1", "plan": PLAN}, {"topic": "mills"})


async def test_a_run_is_followed_answered_and_gives_its_outputs(client: Client) -> None:
    run = await start(client)
    assert run.id.startswith("demo-")
    seen: list[Status] = []
    async for state in client.run(run.id).follow(every=0.05):
        seen.append(state.node("review").status)
        if state.asking:
            await run.answer("review", form={"text": "better"}, by="ada", comment="fine")
    assert seen[-2:] == [Status.ASKING, Status.DONE]
    outputs = await run.result()
    assert outputs["inputs"] == {"topic": "mills", "count": 3}
    assert outputs["answer"] == {
        "node": "review",
        "choice": "approve",
        "form": {"text": "better"},
        "by": "ada",
        "comment": "fine",
    }
    described = await client.engine.get_workflow_handle(run.id).describe()
    assert await described.memo() == {"pipeline": "demo", "plan": "sha256:1"}


async def test_a_refused_answer_says_why_and_the_run_goes_on(client: Client) -> None:
    run = await start(client)
    with pytest.raises(Invalid, match="`maybe` is no choice"):
        await run.answer("review", "maybe")
    assert [one.id for one in (await run.state()).asking] == ["review"]
    await run.answer("review", "reject")
    with pytest.raises(RunFailed, match="failed: stage review: rejected") as failed:
        await run.result()
    assert failed.value.status == "failed"
    last = [state async for state in run.follow()][-1]
    assert last.node("review").status is Status.FAILED


async def test_a_cancelled_run_ends_so(client: Client) -> None:
    run = await start(client)
    async for state in run.follow(every=0.05):
        if state.asking:
            await run.cancel()
    with pytest.raises(RunFailed) as failed:
        await run.result()
    assert failed.value.status == "canceled"


async def test_wrong_inputs_and_taken_ids_are_refused_before_anything_runs(client: Client) -> None:
    with pytest.raises(Invalid, match="requires the input `topic`"):
        await client.start(PLAN)
    with pytest.raises(Invalid, match="Did you mean `topic`"):
        await client.start(PLAN, {"topik": "mills"})
    with pytest.raises(Invalid, match="this is no plan"):
        await client.start({"stages": []})
    run = await client.start(PLAN, {"topic": "mills"}, id="mine")
    with pytest.raises(Invalid, match="run mine goes on already"):
        await client.start(PLAN, {"topic": "mills"}, id="mine")
    await run.answer("review")
    await run.result()


async def test_a_run_that_is_not_there_is_named(client: Client) -> None:
    run = client.run("nothing")
    for asking in (run.state(), run.result(), run.answer("review"), run.cancel()):
        with pytest.raises(Invalid, match="there is no run `nothing`"):
            await asking
    with pytest.raises(Invalid, match="there is no run `nothing`"):
        async for _ in run.follow():
            pass


async def test_a_missing_engine_is_an_error_with_a_way_out() -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(EngineUnreachable, match=r"Start one with `tidemill up`"):
        await Client.connect(address)
