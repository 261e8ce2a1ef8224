"""Items that fail among many: the outcome of each is kept, a retry touches those that failed."""

from __future__ import annotations

import json
from typing import Any

from artifact_folder import collection
from conftest import Up
from fake_openai import Refused, serving

PIPELINE = """
name: answers
inputs:
  rows: { type: string }
  url: { type: string }
stages:
  - uses: documents.load
    with: { path: "{{ inputs.rows }}", part: { items: 500, bytes: 16777216 } }
  - id: answers
    map:
      tolerate: 2%
      window: 8
      stages:
        - uses: llm.generate
          with: { url: "{{ inputs.url }}", model: m, prompt: "{{ item.text }}" }
outputs: { answered: "{{ answers.count }}" }
"""
PATIENCE = 1800.0


def test_a_retry_of_failed_items_touches_no_other(up: Up, full: bool) -> None:
    questions = [f"Question {i}?" for i in range(100_000 if full else 2_000)]
    failing = questions[37::100]
    rows = up.folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in questions))
    file = up.write(PIPELINE)
    refused = set(failing)

    def answer(body: dict[str, Any]) -> str:
        question = body["messages"][-1]["content"]
        if question in refused:
            raise Refused(400, f"not this one: {question}")
        return f"Answer to {question}"

    with serving() as models:
        models.answer = answer

        def asked() -> list[str]:
            """What the server was asked since the last look: a ledger apart from the product."""
            with models.lock:
                bodies, models.chats = models.chats, []
            return sorted(body["messages"][-1]["content"] for body in bodies)

        inputs = ["--input", f"rows={rows}", "--input", f"url={models.url}"]
        first = up.run(file, *inputs, "--id", "first", patience=PATIENCE)
        assert asked() == sorted(questions)
        assert first["outputs"]["answered"] == len(questions) - len(failing)
        results = list(collection(up, first["state"]["nodes"][-1]["fan_out"]["results"]))
        assert len(results) == len({item["id"] for item in results}) == len(questions)
        errors = [item["error"] for item in results if "error" in item]
        assert len(errors) == len(failing)
        assert all(any(question in error for error in errors) for question in failing[:20])

        refused.clear()
        again = up.command(
            "retry", "first", "--failed-items", "--id", "again", "--json", patience=PATIENCE
        )
        assert again.code == 0, again.err
        assert asked() == sorted(failing)
        results = list(collection(up, again.json["state"]["nodes"][-1]["fan_out"]["results"]))
        assert len(results) == len(failing)
        assert not [item for item in results if "error" in item]


TWO_MAPS = """
name: two-maps
stages:
  - id: first
    map:
      over: "{{ range(10) | list }}"
      tolerate: 10%
      stages: [ { uses: shell.run, id: look, with: { command: [test, "{{ item }}", -ne, "3"] } } ]
  - id: second
    map:
      stages: [ { uses: shell.run, id: echo, with: { command: [echo, "{{ item.code }}"] } } ]
  - id: third
    map:
      stages: [ { uses: shell.run, id: again, with: { command: [echo, "{{ item.code }}"] } } ]
"""


def test_failures_that_were_tolerated_are_not_judged_again(up: Up) -> None:
    state = up.run(up.write(TWO_MAPS), "--id", "first")["state"]
    failed = {node["id"]: node["fan_out"]["failed"] for node in state["nodes"]}
    assert failed == {"first": 1, "second": 0, "third": 0}
    assert [node["output"]["count"] for node in state["nodes"]] == [9, 9, 9]

    # Nor are they by a retry that keeps the first map, and they can still be run again after it.
    again = up.command("retry", "first", "--from", "second", "--id", "again", "--json")
    assert again.code == 0, again.err
    assert again.json["state"]["nodes"][0]["status"] == "kept"
    assert up.command("retry", "again", "--failed-items", "--id", "third").code == 8
    assert up.node("third", "first")["fan_out"]["over"]["count"] == 1
