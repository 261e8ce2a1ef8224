"""What is kept of earlier work: cached results, reruns from a stage on, artifacts by reference."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import tiny_model
import pytest

from conftest import Up, eventually
from fake_openai import serving
from history import events, tasks

pytestmark = pytest.mark.once

THRESHOLD = 64 * 1024
"""Bytes of JSON above which a value is kept as an artifact."""


def ledger(up: Up, name: str = "ledger") -> list[str]:
    """What commands of the pipeline wrote down, in order."""
    file = up.folder / name
    return file.read_text().split() if file.exists() else []


def folder_of(up: Up, text: str, name: str = "pipeline.yaml") -> Path:
    return up.write(text.replace("FOLDER", str(up.folder)), name)


LARGE = """
name: large
inputs: { bytes: integer }
stages:
  - id: make
    uses: shell.run
    with:
      command: [sh, -c, 'head -c "$0" /dev/zero | tr "\\0" x', "{{ inputs.bytes }}"]
      max_bytes: 20000000
  - id: size
    uses: shell.run
    input: "{{ make }}"
    with: { command: "wc -c" }
outputs: "{{ size.json }}"
"""


def test_large_values_pass_by_reference(up: Up) -> None:
    file = up.write(LARGE)
    framing = len(json.dumps({"code": 0, "stderr": "", "stdout": ""}, separators=(",", ":")))
    for bytes, by_reference in [
        (THRESHOLD - framing, False),
        (THRESHOLD - framing + 1, True),
        (10 * 1024 * 1024, True),
    ]:
        run = up.run(file, "--input", f"bytes={bytes}", "--id", f"of-{bytes}")
        # The stage after it gets the whole value, whichever way it went.
        assert run["outputs"] == bytes + framing
        output = up.node(f"of-{bytes}", "make")["output"]
        assert ("$artifact" in output) == by_reference
        history = len(json.dumps(events(up, f"of-{bytes}")))
        if by_reference:
            assert output["bytes"] == bytes + framing
            assert history < THRESHOLD
        else:
            assert history > THRESHOLD


CACHED = """
name: cached
inputs:
  folder: { default: FOLDER/docs }
  model: { }
  batch: { type: integer, default: 8 }
  revision: { type: string, default: one }
stages:
  - uses: documents.load
    with: { path: "{{ inputs.folder }}", part: { items: 1 } }
  - uses: text.split
  - id: embed
    uses: embed.text
    with: { model: "{{ inputs.model }}", batch: "{{ inputs.batch }}" }
    cache: { ttl: 1h, key: "{{ inputs.revision }}" }
"""


def documents(up: Up, count: int) -> Path:
    folder = up.folder / "docs"
    folder.mkdir()
    for i in range(count):
        (folder / f"{i}.txt").write_text(f"text number {i}")
    return folder


def test_a_result_is_used_again_only_when_all_that_made_it_is_the_same(up: Up) -> None:
    docs = documents(up, 3)
    file = folder_of(up, CACHED)
    with serving() as server:

        def embedded(file: Path = file, model: str = "m", **inputs: str) -> list[str]:
            """Runs it; which texts the server was asked for."""
            before = len(server.texts)
            spec = json.dumps({"openai": {"url": server.url, "model": model}})
            given = [f"--input={name}={value}" for name, value in inputs.items()]
            up.run(file, f"--input=model={spec}", *given)
            return sorted(server.texts[before:])

        everything = ["text number 0", "text number 1", "text number 2"]
        assert embedded() == everything
        assert embedded() == []
        # The input: only what changed.
        (docs / "1.txt").write_text("another text")
        assert embedded() == ["another text"]
        everything[1] = "another text"
        everything.sort()
        # The parameters, the model, and what the author says it depends on.
        assert embedded(batch="2") == everything
        assert embedded(model="other") == everything
        assert embedded(revision="two") == everything
        # Each of these is another result beside the first.
        assert embedded() == embedded(batch="2") == embedded(model="other") == []
        # Time: what is older than the stage accepts is not used.
        short = folder_of(up, CACHED.replace("ttl: 1h", "ttl: 1s"), "short.yaml")
        old: set[str] = set()
        # Each document's result has an age of its own.
        eventually(lambda: old.update(embedded(short)) or old == set(everything))


def test_another_revision_of_a_local_model_is_another_result(up: Up) -> None:
    documents(up, 2)
    file = folder_of(up, CACHED)

    def cached(run: str) -> list[bool]:
        model = f"--input=model={json.dumps(str(model_folder))}"
        vectors = up.run(file, model, "--id", run)["outputs"]
        assert vectors["count"] == 2
        return [
            task.output.get("cached", False) for task in tasks(up, run) if task.stage == "embed"
        ]

    model_folder = tiny_model.write(up.folder / "tiny", seed=1)
    assert cached("first") == [False, False]
    assert cached("again") == [True, True]
    # The same name, other weights.
    tiny_model.write(model_folder, seed=2)
    assert cached("other") == [False, False]


STEPS = """
name: steps
stages:
  - { id: one, uses: shell.run, with: { command: "echo one >> FOLDER/ledger; echo 1" } }
  - { id: two, uses: shell.run, with: { command: "echo two >> FOLDER/ledger; echo 2" } }
  - { id: three, uses: shell.run, with: { command: "echo three >> FOLDER/ledger; echo 3" } }
  - id: four
    uses: shell.run
    with: { command: [sh, -c, "echo four >> FOLDER/ledger; exit 1"] }
    retry: { attempts: 1 }
  - { id: five, uses: data.set, with: { sum: "{{ one.json + two.json + three.json }}" } }
"""


def test_a_rerun_begins_at_the_stage_that_failed(up: Up) -> None:
    failed = up.command("run", folder_of(up, STEPS), "--id", "broken")
    assert failed.code == 8 and "four" in failed.err
    assert ledger(up) == ["one", "two", "three", "four"]
    mended = folder_of(up, STEPS.replace("exit 1", "exit 0"), "mended.yaml")
    again = up.command("retry", "broken", "--with", mended, "--id", "again", "--json").json
    assert again["outputs"] == {"sum": 6}
    assert ledger(up) == ["one", "two", "three", "four", "four"]
    kept = [node["id"] for node in again["state"]["nodes"] if node["status"] == "kept"]
    assert kept == ["one", "two", "three"]
    ran = [task.stage for task in tasks(up, "again") if task.stage in STEPS and task.stage]
    assert ran == ["four", "five"]
    # From a stage on, though it ended well.
    assert up.command("retry", "again", "--from", "three", "--json").json["outputs"] == {"sum": 6}
    assert ledger(up)[5:] == ["three", "four"]


ITEMS = """
name: items
stages:
  - id: each
    map:
      over: "{{ range(40) | list }}"
      chunk: 6
      tolerate: 10%
      stages:
        - id: work
          uses: shell.run
          with:
            command:
              - sh
              - -c
              - echo "$0" >> FOLDER/ledger; test -e FOLDER/mended || test $(($0 % 15)) -ne 7
              - "{{ item }}"
  - uses: data.set
    with: { count: "{{ each.count }}" }
"""


def test_a_rerun_touches_only_the_items_that_failed(up: Up) -> None:
    file = folder_of(up, ITEMS)
    first = up.run(file, "--id", "first")
    assert first["outputs"] == {"count": 37}
    assert sorted(set(ledger(up)), key=int) == [str(i) for i in range(40)]
    fan_out = up.node("first", "each")["fan_out"]
    assert fan_out["failed"] == 3
    (up.folder / "ledger").unlink()
    (up.folder / "mended").touch()
    again = up.command("retry", "first", "--failed-items", "--id", "again", "--json")
    assert again.code == 0, again.err
    assert sorted(ledger(up), key=int) == ["7", "22", "37"]
    assert up.node("again", "each")["fan_out"]["failed"] == 0


SAME = """
name: same
inputs: { letter: { default: x } }
stages:
  - id: make
    uses: shell.run
    with: { command: [sh, -c, 'head -c 100000 /dev/zero | tr "\\0" "$0"', "{{ inputs.letter }}"] }
"""


def test_the_same_bytes_are_stored_once_for_all_who_need_them(up: Up) -> None:
    file = up.write(SAME)
    outputs: dict[str, Any] = {}
    for run, letter in [("one", "x"), ("two", "x"), ("three", "y")]:
        outputs[run] = up.run(file, "--id", run, "--input", f"letter={letter}")["outputs"]
    assert outputs["one"] == outputs["two"] != outputs["three"]
    digest = outputs["one"]["$artifact"].removeprefix("sha256:")
    objects = [path for path in (up.data / "artifacts/objects").rglob("*") if path.is_file()]
    assert len(objects) == 2
    (stored,) = [path for path in objects if path.name == digest]
    assert hashlib.sha256(stored.read_bytes()).hexdigest() == digest
    marks = (up.data / "artifacts/refs").glob(f"*/{digest}")
    assert sorted(mark.parent.name for mark in marks) == ["one", "two"]
