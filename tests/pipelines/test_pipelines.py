"""What a user does with pipelines, in the order in which a user does it."""

from __future__ import annotations

import json
import shutil
import signal

import pytest

from conftest import EXAMPLES, Up, chunks, eventually

SEARCH = EXAMPLES / "semantic-search" / "pipeline.yaml"
LOADS = """
name: x
inputs: { folder: string }
stages:
  - uses: documents.load
    with: { path: "{{ inputs.folder }}" }
"""


def test_documents_become_an_index_and_changes_are_followed(up: Up) -> None:
    docs = up.folder / "docs"
    shutil.copytree(EXAMPLES / "semantic-search" / "docs", docs)
    inputs = ["--input", f"folder={docs}", "--input", "model=fake:64"]
    first = up.run(SEARCH, *inputs, "--id", "first")
    before = chunks(up)
    assert first["outputs"]["documents"] > 0
    assert len(before) == len(set(before)) > 0

    found = up.command("search", before[0][1], "--index", "documents", "--json").json["matches"]
    assert found[0]["text"] == before[0][1]
    assert found[0]["score"] == pytest.approx(1, abs=1e-3)

    # Nothing changed: nothing is embedded. Then one document changes and one goes.
    up.run(SEARCH, *inputs, "--id", "second")
    assert chunks(up) == before
    changed, gone = sorted(path for path in docs.iterdir() if path.suffix == ".md")[:2]
    changed.write_text("Only this sentence is left.")
    gone.unlink()
    up.run(SEARCH, *inputs, "--id", "third")
    after = chunks(up)
    assert [text for document, text in after if changed.name in document] == [
        "Only this sentence is left."
    ]
    assert not [document for document, _ in after if gone.name in document]
    others = [row for row in before if changed.name not in row[0] and gone.name not in row[0]]
    assert [row for row in after if changed.name not in row[0]] == others


def test_a_person_is_asked_and_answers(up: Up) -> None:
    file = EXAMPLES / "human-review" / "pipeline.yaml"
    assert up.command("run", file, "--detach", "--id", "ask").code == 0
    eventually(lambda: '"asking"' in up.command("show", "ask", "--json").out)
    wrong = up.command("approve", "ask", "review", "--choice", "perhaps")
    assert wrong.code == 7 and "publish" in wrong.err
    # The question outlives the process.
    up.kill()
    up.start()
    eventually(lambda: '"asking"' in up.command("show", "ask", "--json").out)
    form = json.dumps({"text": "The mill is open on Sundays."})
    right = up.command("approve", "ask", "review", "--choice", "publish", "--form", form)
    assert right.code == 0, right.err
    assert up.command("logs", "ask", "--follow").code == 0
    assert "The mill is open on Sundays." in (up.folder / "published.txt").read_text()


def test_failed_items_are_counted_and_run_again_alone(up: Up) -> None:
    first = up.run(EXAMPLES / "fan-out" / "pipeline.yaml", "--id", "first")
    fan_out = next(n for n in first["state"]["nodes"] if n.get("fan_out"))
    failed = fan_out["fan_out"]["failed"]
    assert failed == 2
    again = up.command("retry", "first", "--failed-items", "--id", "again", "--json")
    nodes = again.json["state"]["nodes"]
    retried = next(n for n in nodes if n["id"] == fan_out["id"])
    assert retried["fan_out"]["over"]["count"] == failed

    items = up.command("show", "first", "--failed", "--json").json
    assert [item["item"] for item in items] == ["99", "199"]
    assert all("exit status: 1" in item["error"] for item in items)
    assert "199" in up.command("show", "first", "--failed").out


def test_wrong_pipelines_and_inputs_are_refused_with_their_place(up: Up) -> None:
    file = up.write("name: x\nstages:\n  - uses: documents.laod\n")
    refused = up.command("check", file)
    assert refused.code == 7
    assert "pipeline.yaml:3:" in refused.err and "documents.load" in refused.err
    file = up.write(LOADS)
    assert up.command("check", file).code == 0
    missing = up.command("run", file)
    assert missing.code == 7 and "folder" in missing.err
    assert up.command("ps", "--json").json == []


def test_a_run_that_fails_says_why_and_goes_on_from_there(up: Up) -> None:
    text = """
name: fails
stages:
  - uses: data.set
    with: { value: 7 }
  - id: break
    uses: shell.run
    with: { command: "test -e mended" }
    retry: { attempts: 1 }
outputs: "{{ set.value }}"
"""
    file = up.write(text)
    failed = up.command("run", file, "--id", "one", "--json")
    assert failed.code == 8 and "break" in failed.err
    (up.folder / "mended").touch()
    again = up.command("retry", "one", "--id", "two", "--json")
    assert again.code == 0, again.err
    statuses = {node["id"]: node["status"] for node in again.json["state"]["nodes"]}
    assert statuses == {"set": "kept", "break": "done"}
    assert again.json["outputs"] == 7
    assert up.kill(signal.SIGTERM) == 0
