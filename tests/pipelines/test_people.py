"""Questions to people: approve or reject, a choice of ways, a form, and nobody there."""

from __future__ import annotations

import json
from typing import Any

from conftest import Up, eventually


def ask(up: Up, text: str, run: str) -> None:
    """Starts a pipeline and waits for its question."""
    answer = up.command("run", up.write(text), "--detach", "--id", run)
    assert answer.code == 0, answer.err
    eventually(lambda: any(node["status"] == "asking" for node in up.state(run)["nodes"]))


def ended(up: Up, run: str) -> Any:
    assert up.command("logs", run, "--follow").code == 0
    return {node["id"]: node for node in up.state(run)["nodes"]}


APPROVE = """
name: approve
stages:
  - uses: data.set
    with: { sum: 900 }
  - id: sure
    approve: "Pay {{ set.sum }}?"
  - id: pay
    uses: data.set
    with: { paid: "{{ set.sum }}", by: "{{ sure.by }}" }
"""


def test_approve_or_reject(up: Up) -> None:
    for run in ("yes", "no"):
        ask(up, APPROVE, run)
        asked = up.node(run, "sure")
        assert asked["message"] == "Pay 900?" and asked["choices"] == ["approve", "reject"]
    assert up.command("approve", "yes", "--by", "ada").code == 0
    assert ended(up, "yes")["pay"]["output"] == {"paid": 900, "by": "ada"}
    rejected = up.command("approve", "no", "--reject", "--by", "bob", "--comment", "too much")
    assert rejected.code == 0, rejected.err
    nodes = ended(up, "no")
    assert nodes["sure"]["status"] == "failed" and nodes["pay"]["status"] == "waiting"
    assert "bob" in nodes["sure"]["error"] and "too much" in nodes["sure"]["error"]
    # A question is answered once.
    again = up.command("approve", "yes")
    assert again.code != 0 and "yes" in again.err


CHOOSE = """
name: choose
stages:
  - id: way
    approve: { message: Which way?, choices: [north, south] }
  - { id: north, uses: data.set, when: way.choice == "north", with: { went: north } }
  - { id: south, uses: data.set, when: way.choice == "south", with: { went: south } }
"""


def test_the_answer_chooses_a_branch(up: Up) -> None:
    ask(up, CHOOSE, "one")
    wrong = up.command("approve", "one", "--choice", "west")
    assert wrong.code == 7 and "north, south" in wrong.err
    assert up.command("approve", "one", "way", "--choice", "south").code == 0
    nodes = ended(up, "one")
    assert (nodes["north"]["status"], nodes["south"]["status"]) == ("skipped", "done")
    assert nodes["south"]["output"] == {"went": "south"}


FORM = """
name: form
stages:
  - id: order
    approve:
      message: How many?
      choices: [order]
      form:
        type: object
        properties: { count: { type: integer, minimum: 1 }, note: { type: string } }
        required: [count]
        additionalProperties: false
  - uses: data.set
    with: { twice: "{{ order.form.count * 2 }}" }
"""


def test_a_form_is_typed(up: Up) -> None:
    ask(up, FORM, "one")
    for form, words in [
        ({"count": "three"}, ["form.count", "integer"]),
        ({"count": 0}, ["form.count", "minimum"]),
        ({}, ["form.count", "missing"]),
        ({"count": 1, "nte": "x"}, ["form.nte"]),
    ]:
        answer = up.command("approve", "one", "--choice", "order", "--form", json.dumps(form))
        assert answer.code == 7, form
        assert all(word in answer.err for word in words), answer.err
    not_json = up.command("approve", "one", "--choice", "order", "--form", "{count: 3}")
    assert not_json.code != 0 and "JSON" in not_json.err
    # None of these answered the question.
    assert up.node("one", "order")["status"] == "asking"
    right = up.command("approve", "one", "--choice", "order", "--form", '{"count": 3}')
    assert right.code == 0, right.err
    assert ended(up, "one")["set"]["output"] == {"twice": 6}


TIMEOUT = """
name: timeout
stages:
  - id: sure
    approve: { message: Delete it?, choices: [delete, keep], timeout: 1s, default: keep }
  - { id: delete, uses: data.set, when: sure.choice == "delete", with: { deleted: true } }
  - id: tell
    uses: data.set
    when: sure.timed_out
    with: { told: nobody answered }
"""


def test_the_default_is_taken_when_nobody_answers(up: Up) -> None:
    ask(up, TIMEOUT, "one")
    nodes = ended(up, "one")
    assert nodes["sure"]["output"]["choice"] == "keep"
    assert nodes["sure"]["output"]["timed_out"] is True
    assert nodes["delete"]["status"] == "skipped"
    assert nodes["tell"]["output"] == {"told": "nobody answered"}
    late = up.command("approve", "one", "--choice", "delete")
    assert late.code != 0
