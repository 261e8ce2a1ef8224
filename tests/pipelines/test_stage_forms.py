"""One step in each form that a stage may have: Rust, a Python function, a command.

`examples/rust-stage` has it in all three: it counts the words of a document. What is the same for all forms
is the contract.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from artifact_folder import collection
from conftest import EXAMPLES, REPOSITORY, Up, eventually

pytestmark = pytest.mark.once

EXAMPLE = EXAMPLES / "rust-stage"
WORDS = Path(os.environ.get("TIDEMILL_WORDS_BIN", REPOSITORY / "target/release/words"))
"""The example's worker, which the workspace builds."""
PYTHON_WORKER = [sys.executable, "-m", "tidemill", "worker", "steps.py"]


@dataclass
class Form:
    name: str
    pipeline: str
    """The example's pipeline with the step in this form."""
    stage: str
    """The step by itself."""
    result: str
    """A template for what came out of it."""
    worker: list[str]
    """The user's own worker."""

    def read(self, output: Any) -> Any:
        return output["json"] if self.name == "command" else output


FORMS = [
    Form(
        "rust",
        "pipeline.yaml",
        "uses: words.count, with: { shortest: 3 }",
        "{{ count }}",
        [str(WORDS)],
    ),
    Form(
        "python",
        "python.yaml",
        "uses: python.call, with: { function: count_words, shortest: 3 }",
        "{{ count }}",
        PYTHON_WORKER,
    ),
    Form(
        "command",
        "shell.yaml",
        "uses: shell.run, with: { command: [python3, count_words.py, 3] }",
        "{{ count.json }}",
        [],
    ),
]


@pytest.fixture(params=FORMS, ids=lambda form: form.name)
def form(request: pytest.FixtureRequest, up: Up) -> Iterator[Form]:
    """The example in the folder in which the worker runs, with the user's own worker, if there is one."""
    form: Form = request.param
    shutil.copytree(EXAMPLE, up.folder, dirs_exist_ok=True)
    if not form.worker:
        yield form
        return
    environment = {
        **os.environ,
        "TIDEMILL_ENGINE": up.engine,
        "TIDEMILL_NAMESPACE": up.namespace,
        "TIDEMILL_DATA": str(up.data),
        "PYTHONPATH": str(REPOSITORY / "python" / "src"),
    }
    options = ["--namespace", up.namespace] if form.name == "python" else []
    log = up.folder / "own.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*form.worker, *options], cwd=up.folder, env=environment, stdout=out, stderr=out
        )

    def serves() -> bool:
        assert process.poll() is None, log.read_text()
        return "serv" in log.read_text()

    try:
        eventually(serves)
        yield form
    finally:
        process.terminate()
        process.wait()


def one(form: Form, retry: str = "") -> str:
    """The step for one value. What `or` gives has no type before the run: any object is a document."""
    return f"""
name: one
inputs: {{ text: string }}
stages:
  - uses: data.set
    with: {{ uri: note, text: "{{{{ inputs.text }}}}" }}
  - {{ id: count, input: "{{{{ set or none }}}}", {form.stage}{retry} }}
outputs: "{form.result}"
"""


def test_contract_of_a_stage(up: Up, form: Form) -> None:
    # One value.
    file = up.write(one(form), "one.yaml")
    assert up.run(file, "--input", "text=three words, or two")["outputs"] == {
        "uri": "note",
        "words": 3,
    }

    # A large one, which comes as an artifact.
    large = up.folder / "large.json"
    large.write_text(json.dumps({"text": "word " * 40_000}))
    run = up.run(file, "--inputs-file", large, "--id", "large")
    assert "$artifact" in up.node("large", "set")["output"]
    assert run["outputs"] == {"uri": "note", "words": 40_000}

    # A failure: the run ends with what the step said.
    once = up.write(one(form, ", retry: { attempts: 1 }"), "once.yaml")
    failed = up.command("run", once, "--input", "text=1 2 3")
    assert failed.code == 8 and "has no words" in failed.err

    # The items of a collection: each has its own outcome.
    run = up.run(up.folder / form.pipeline, "--id", "each")
    assert run["outputs"] == {"notes": 3}
    each = {item["id"]: item for item in collection(up, up.node("each", "counts")["output"])}
    failed_item = each.pop("thursday.txt")
    assert "has no words" in failed_item["error"]
    assert {uri: form.read(item["value"]) for uri, item in each.items()} == {
        note.name: {"uri": note.name, "words": words(note.read_text())}
        for note in (EXAMPLE / "notes").iterdir()
        if note.name != "thursday.txt"
    }


def words(text: str) -> int:
    return sum(sum(map(str.isalpha, word)) >= 3 for word in text.split())


def test_what_the_worker_says_of_its_stages_is_what_the_example_has() -> None:
    said = subprocess.run([WORDS, "describe"], capture_output=True, text=True, check=True).stdout
    assert json.loads(said) == json.loads((EXAMPLE / "stages.json").read_text())
