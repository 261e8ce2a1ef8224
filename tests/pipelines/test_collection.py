"""Artifacts that no run needs any more, and those that one does."""

from __future__ import annotations

import asyncio

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest

import pytest

from conftest import Up, eventually
from engine_client import connect

pytestmark = pytest.mark.once

LARGE = """
name: large
stages:
  - id: made
    uses: shell.run
    with: { command: [sh, -c, "head -c 300000 /dev/zero | tr '\\\\0' {{ run.id[0] }}"] }
  - id: used
    uses: shell.run
    with: { command: [sh, -c, "test -e FIXED"] }
"""


def objects(up: Up) -> int:
    return sum(path.is_file() for path in (up.data / "artifacts" / "objects").rglob("*"))


def forget(up: Up, run: str) -> None:
    """Deletes a run at the engine, as its retention does."""

    async def delete() -> None:
        client = await connect(up)
        request = DeleteWorkflowExecutionRequest(
            namespace=up.namespace, workflow_execution=WorkflowExecution(workflow_id=run)
        )
        await client.workflow_service.delete_workflow_execution(request)

    asyncio.run(delete())
    eventually(lambda: run not in up.command("ps").out)


def test_what_a_retry_uses_stays_and_what_nobody_needs_goes(up: Up) -> None:
    file = up.write(LARGE)
    assert up.command("run", file, "--id", "first").code == 8
    assert objects(up) == 1
    (up.folder / "FIXED").touch()
    again = up.command("retry", "first", "--id", "again", "--json")
    assert again.code == 0, again.err
    assert again.json["state"]["earlier"] == "first"
    assert up.node("again", "made")["status"] == "kept"

    collect = ("gc", "--grace", "0s", "--json")
    forget(up, "first")
    kept = up.command(*collect)
    assert kept.code == 0, kept.err
    assert objects(up) == 1
    assert up.command("retry", "again", "--from", "used", "--id", "third").code == 0

    forget(up, "third")
    forget(up, "again")
    # No run of this store is known: perhaps it is another engine's.
    refused = up.command(*collect)
    assert refused.code == 1 and "--force" in refused.err
    plan = up.command(*collect, "--force", "--dry-run")
    assert plan.json["report"]["objects"] == objects(up) == 1
    done = up.command(*collect, "--force")
    assert done.json["report"] == plan.json["report"]
    assert objects(up) == 0


def test_a_store_that_is_not_there_is_not_made(up: Up) -> None:
    answer = up.command("gc", "--artifacts", up.folder / "mistyped")
    assert answer.code == 4 and "mistyped" in answer.err
    assert not (up.folder / "mistyped").exists()


CALLED = """
name: called
inputs: { text: string }
stages:
  - { id: ok, approve: { message: "publish {{ inputs.text }}?", choices: [publish, drop] } }
outputs: { choice: "{{ ok.choice }}", text: "{{ inputs.text }}" }
"""
CALLER = """
name: caller
stages:
  - parallel:
      a: { call: { pipeline: ./called.yaml, with: { text: one } } }
      b: { call: { pipeline: ./called.yaml, with: { text: two } } }
outputs: { a: "{{ a }}", b: "{{ b }}" }
"""


def test_a_called_pipeline_is_answered_through_its_caller(up: Up) -> None:
    up.write(CALLED, "called.yaml")
    caller = up.write(CALLER)
    assert up.command("run", caller, "--detach", "--id", "caller").code == 0
    eventually(lambda: up.command("show", "caller").out.count("publish one?") == 1)
    eventually(lambda: up.command("show", "caller").out.count("publish two?") == 1)
    which = up.command("approve", "caller", "--choice", "publish")
    assert which.code == 2 and "a/ok" in which.err and "b/ok" in which.err
    assert up.command("approve", "caller", "a/ok", "--choice", "publish").code == 0
    eventually(lambda: up.node("caller", "a")["status"] == "done")
    assert up.command("approve", "caller", "--choice", "drop").code == 0
    assert up.command("logs", "caller", "--follow").code == 0
    assert up.node("caller", "b")["child"] == "caller/b"
    assert up.command("show", "caller/a", "--json").json["parent"] == "caller"
