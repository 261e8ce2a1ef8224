"""What programs and editors read: `--json` of the commands, and the JSON Schema of pipelines."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from conftest import BINARY, EXAMPLES, REPOSITORY, Up, eventually

pytestmark = pytest.mark.once

ASKS = """
name: asks
stages:
  - { id: make, uses: shell.run, with: { command: "test -e mended" }, retry: { attempts: 1 } }
  - approve: go on?
"""


def commands_with_json(up: Up, *path: str) -> set[str]:
    """The commands that have `--json`, as their own help says."""
    help = up.command(*path, "--help").out
    listed = re.findall(
        r"^  ([a-z-]+)  ", help.partition("Commands:")[2].partition("Options:")[0], re.M
    )
    if not listed:
        return {" ".join(path)} if "--json" in help else set()
    return set().union(*(commands_with_json(up, *path, name) for name in listed if name != "help"))


def test_every_command_with_json_gives_json(up: Up) -> None:
    """In the order in which a program would use them. What fails says so in its exit code too."""
    file = up.write(ASKS)
    address = ["--address", up.engine]
    docs = EXAMPLES / "semantic-search" / "docs"
    up.run(
        EXAMPLES / "semantic-search" / "pipeline.yaml",
        *["--input", f"folder={docs}", "--input", "model=fake:16"],
    )
    seen: set[str] = set()

    def run(command: str, *arguments: str | Path, code: int = 0) -> list[Any]:
        answer = up.command(*command.split(), *arguments, "--json")
        assert answer.code == code, f"{command}: {answer.err}"
        seen.add(command)
        if command in ("check", "logs"):
            return [json.loads(line) for line in answer.out.splitlines()]
        return [answer.json] if answer.out.strip() else []

    (checked,) = run("check", file)
    assert checked["plan"]["name"] == "asks" and checked["hash"].startswith("sha256:")
    (failed,) = run("run", file, "--id", "one", code=8)
    assert failed["status"] == "failed" and "make" in failed["error"]
    (up.folder / "mended").touch()
    (started,) = run("retry", "one", "--id", "two", "--detach")
    assert started == {"run": "two"}
    eventually(lambda: up.node("two", "approve")["status"] == "asking")
    run("approve", "two", "--by", "ada")
    eventually(lambda: up.command("ps", "--json").json[0]["status"] == "done")
    (runs,) = run("ps")
    status = {one["run"]: one["status"] for one in runs}
    assert (status["one"], status["two"]) == ("failed", "done")
    (shown,) = run("show", "two")
    assert [node["status"] for node in shown["nodes"]] == ["done", "done"]
    lines = run("logs", "two")
    assert [line["what"] for line in lines][-1] == "done"
    (up.folder / "mended").unlink()
    up.command("run", up.write(ASKS.replace("test -e mended", "true")), "--id", "three", "--detach")
    run("cancel", "three", "--wait")
    (found,) = run("search", "a mill")
    assert found["matches"]
    (collected,) = run("gc", "--dry-run")
    assert collected["dry_run"] is True

    run("limit set", "provider", "--tokens-per-minute", "1000")
    (limit,) = run("limit show", "provider")
    assert "1000" in json.dumps(limit)
    (limits,) = run("limit list")
    assert "provider" in json.dumps(limits)
    run("limit remove", "provider")
    (queues,) = run("queues")
    assert "cpu" in json.dumps(queues)

    (listed,) = run("workflow list", *address)
    assert "one" in json.dumps(listed)
    (count,) = run("workflow count", *address)
    assert str(len(listed)) in json.dumps(count)
    for name in ("describe", "history", "result"):
        assert run(f"workflow {name}", *address, "-w", "two")
    (state,) = run("workflow query", *address, "-w", "two", "--type", "state")
    assert "asks" in json.dumps(state)
    operators = {"queue list", "engine doctor"}
    if up.mode == "address":
        # An engine of others may not know their service.
        seen |= operators
    else:
        (queues,) = run("queue list", *address)
        assert "cpu" in json.dumps(queues)
        (found,) = run("engine doctor", *address)
        assert found["runs_open"] + found["runs_closed"] == len(listed)
    engine_only = {
        f"workflow {name}" for name in ("start", "signal", "cancel", "terminate", "reset")
    }
    assert commands_with_json(up) - engine_only == seen


def schema_in(folder: Path) -> Any:
    """As an editor gets it that has the folder open, whose own stages are in it."""
    said = subprocess.run([BINARY, "schema"], cwd=folder, capture_output=True, check=True).stdout
    schema = json.loads(said)
    jsonschema.Draft202012Validator.check_schema(schema)
    return schema


@pytest.fixture
def schema(tmp_path: Path) -> Any:
    return schema_in(tmp_path)


def test_the_schema_accepts_what_check_accepts(up: Up) -> None:
    files = [*EXAMPLES.glob("*/*.yaml"), *REPOSITORY.glob("bench/*/*.yaml")]
    assert len(files) >= 8
    for file in files:
        checked = up.command("check", file)
        assert checked.code == 0, checked.err
        validator = jsonschema.Draft202012Validator(schema_in(file.parent))
        pipeline = yaml.safe_load(file.read_text())
        errors = [error.message for error in validator.iter_errors(pipeline)]
        assert not errors, f"{file}: {errors}"


RIGHT = """
name: right
inputs: { folder: { type: string } }
stages:
  - uses: documents.load
    with: { path: "{{ inputs.folder }}", part: { items: 8 } }
  - uses: text.split
    with: { method: markdown, size: 400 }
  - uses: embed.text
    with: { model: { openai: { url: "http://127.0.0.1:1/v1", model: m } }, batch: 8 }
    retry: { attempts: 3, delay: 2s }
  - uses: vector.upsert
    with: { index: documents }
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("stages:", "stage:"),
        ("documents.load", "documents.laod"),
        ("path:", "paht:"),
        ("part: { items: 8 }", "part: { itmes: 8 }"),
        ("method: markdown", "method: sentences"),
        ("size: 400", "size: large"),
        ("delay: 2s", "delay: two seconds"),
        ("attempts: 3", "attempts: -1"),
        ("{ openai: {", "{ opnai: {"),
        ("- uses: vector.upsert", "- uses: vector.upsert\n    approve: really?"),
        ("name: right", "name: not right"),
    ],
)
def test_the_schema_refuses_what_check_refuses(up: Up, schema: Any, old: str, new: str) -> None:
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid(yaml.safe_load(RIGHT))
    assert up.command("check", up.write(RIGHT)).code == 0
    wrong = RIGHT.replace(old, new)
    assert wrong != RIGHT
    assert up.command("check", up.write(wrong)).code == 7
    assert not validator.is_valid(yaml.safe_load(wrong))


def test_editors_can_complete_the_parameters_of_every_stage(schema: Any) -> None:
    rules = schema["$defs"]["stage"]["allOf"]
    parameters = {
        rule["if"]["properties"]["uses"]["const"]: rule["then"]["properties"]["with"]
        for rule in rules
    }
    names = {one["const"] for one in schema["$defs"]["stage"]["properties"]["uses"]["anyOf"]}
    assert set(parameters) == names
    # `data.set` takes any name.
    open_ended = {name for name, with_ in parameters.items() if not with_.get("properties")}
    assert open_ended == {"data.set"}
    for name, with_ in parameters.items():
        for parameter, about in with_.get("properties", {}).items():
            assert about.get("description"), f"{name}: {parameter}"
