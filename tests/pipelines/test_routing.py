"""Which stages of a pipeline run and when: branches, conditions, pipelines within pipelines, `finally`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conftest import Up, eventually
from history import tasks

pytestmark = pytest.mark.once


def written(up: Up, text: str, name: str = "pipeline.yaml") -> Path:
    """A pipeline file; `FOLDER` in it is the test's folder."""
    file = up.folder / name
    file.write_text(text.replace("FOLDER", str(up.folder)))
    return file


def statuses(state: Any) -> dict[str, str]:
    return {node["id"]: node["status"] for node in state["nodes"]}


def listed(up: Up, run: str) -> Any:
    return next(one for one in up.command("ps", "--json").json if one["run"] == run)


# Each branch waits until all three have begun: one after the other none would end.
MEET = """
touch FOLDER/began-$1
i=0
until test -e FOLDER/began-a && test -e FOLDER/began-b && test -e FOLDER/began-c; do
  i=$((i + 1))
  test $i -lt 3000 || exit 9
  sleep 0.02
done
echo "\\"$1\\""
"""
THREE = """
name: three-at-once
defaults: { retry: { attempts: 1 } }
stages:
  - uses: data.set
    with: { text: a contract about a mill }
  - id: models
    parallel:
      a: { uses: shell.run, with: { command: [sh, FOLDER/meet.sh, a] } }
      b: { uses: shell.run, with: { command: [sh, FOLDER/meet.sh, b] } }
      c: { uses: shell.run, resource: accelerator, with: { command: [sh, FOLDER/meet.sh, c] } }
  - id: merge
    uses: data.set
    with: { said: "{{ models.a.json ~ models.b.json ~ models.c.json }}" }
"""


def test_branches_run_at_the_same_time_and_are_merged(up: Up) -> None:
    written(up, MEET, "meet.sh")
    run = up.run(written(up, THREE), "--id", "three")
    assert run["outputs"] == {"said": "abc"}
    by_stage = {task.stage: task for task in tasks(up, "three")}
    branches = [by_stage[name] for name in "abc"]
    assert max(task.started for task in branches) < min(task.ended for task in branches)
    assert by_stage["set"].ended <= min(task.started for task in branches)
    assert max(task.ended for task in branches) <= by_stage["merge"].started


ROUTED = """
name: routed
inputs:
  text: string
stages:
  - id: classify
    uses: llm.generate
    with:
      url: "fake:"
      model: fake
      prompt: "What is this? {{ inputs.text }}"
      schema: { type: object, properties: { type: { enum: [legal, medical, other] } } }
  - id: legal
    when: classify.json.type == "legal"
    uses: shell.run
    with: { command: "echo legal >> FOLDER/taken" }
  - id: medical
    when: classify.json.type == "medical"
    uses: shell.run
    with: { command: "echo medical >> FOLDER/taken" }
  - id: other
    when: classify.json.type not in ["legal", "medical"]
    uses: shell.run
    with: { command: "echo other >> FOLDER/taken" }
"""


def test_content_decides_which_branch_is_taken(up: Up) -> None:
    file = written(up, ROUTED)
    for text, taken in [("a legal contract", "legal"), ("a medical report", "medical")]:
        state = up.run(file, "--input", f"text={text}")["state"]
        others = {"legal", "medical", "other"} - {taken}
        expected = {taken: "done"} | dict.fromkeys(others, "skipped")
        assert {id: now for id, now in statuses(state).items() if id != "classify"} == expected
    assert (up.folder / "taken").read_text().split() == ["legal", "medical"]


CHILD = """
name: child
inputs:
  number: integer
  times: { type: integer, default: 3 }
stages:
  - id: work
    uses: shell.run
    with: { command: [sh, -c, "echo $(($0 * $1))", "{{ inputs.number }}", "{{ inputs.times }}"] }
outputs: { product: "{{ work.json }}" }
"""
PARENT = """
name: parent
inputs: { number: { default: 7 } }
stages:
  - id: child
    call: { pipeline: child.yaml, with: { number: "{{ inputs.number }}" } }
outputs: "{{ child.product }}"
"""


def test_a_pipeline_within_a_pipeline_has_typed_inputs_and_outputs(up: Up) -> None:
    written(up, CHILD, "child.yaml")
    file = written(up, PARENT, "parent.yaml")
    assert up.run(file, "--id", "one")["outputs"] == 21

    # Before anything runs: an input that the child does not have.
    wrong = written(up, PARENT.replace("number:", "numbr:"), "wrong.yaml")
    refused = up.command("check", wrong)
    assert refused.code == 7 and "wrong.yaml:6:" in refused.err and "number" in refused.err
    # In the run, where the value is known: no stage of the child begins.
    answer = up.command("run", file, "--id", "two", "--json", "--input", 'number="seven"')
    assert answer.code == 8 and "inputs.number" in answer.err and "integer" in answer.err
    children = [one for one in up.command("ps", "--json").json if one["parent"] == "two"]
    assert children == [] or not tasks(up, "two/child")


def test_lineage_joins_parent_and_child(up: Up) -> None:
    written(up, CHILD, "child.yaml")
    parent = PARENT.replace('" } }\n', '", times: 2 } }\n')
    up.run(written(up, parent, "parent.yaml"), "--id", "one")
    assert listed(up, "one/child")["parent"] == "one"
    assert listed(up, "one/child")["pipeline"] == "child"
    assert up.node("one", "child")["child"] == "one/child"
    child = up.command("show", "one/child", "--json").json
    assert child["parent"] == "one"
    assert child["plan"] == listed(up, "one/child")["plan"]


WAITS = """
name: waits
stages:
  - id: wait
    uses: shell.run
    with: { command: "echo $$ > FOLDER/pid.new; mv FOLDER/pid.new FOLDER/pid; exec sleep 3600" }
    # A task hears of its cancellation with a heartbeat.
    timeout: { heartbeat: 1s }
finally:
  - id: clean
    uses: shell.run
    with: { command: [sh, -c, "echo $0 >> FOLDER/cleaned", "{{ run.id }}"] }
"""


def test_the_end_of_the_parent_ends_the_child(up: Up) -> None:
    written(up, WAITS, "waits.yaml")
    file = written(up, "name: parent\nstages: [{ call: waits.yaml }]\n", "parent.yaml")
    assert up.command("run", file, "--detach", "--id", "one").code == 0
    pid = up.folder / "pid"
    eventually(pid.exists)
    assert up.command("cancel", "one", "--wait").code == 0
    assert listed(up, "one")["status"] == "cancelled"
    assert listed(up, "one/waits")["status"] == "cancelled"
    assert (up.folder / "cleaned").read_text().split() == ["one/waits"]
    eventually(lambda: not Path(f"/proc/{pid.read_text().strip()}").exists())


ENDS = """
name: ends
inputs: { command: string }
stages:
  - id: work
    uses: shell.run
    with: { command: "{{ inputs.command }}" }
    retry: { attempts: 1 }
    timeout: { heartbeat: 1s }
  - id: after
    uses: data.set
    with: { reached: true }
finally:
  - id: tell
    uses: shell.run
    with:
      command: [sh, -c, 'echo "$0 $1" >> FOLDER/ends', "{{ run.status }}", "{{ run.error or 'no error' }}"]
"""


def test_finally_runs_however_the_run_ends(up: Up) -> None:
    file = written(up, ENDS)
    begun = up.folder / "begun"
    for id, command, code in [
        ("good", "true", 0),
        ("bad", "exit 3", 8),
        ("ended", f"touch {begun}; exec sleep 3600", 0),
    ]:
        detach = ["--detach"] if id == "ended" else []
        answer = up.command("run", file, *detach, "--id", id, "--input", f"command={command}")
        assert answer.code == code, answer.err
    eventually(begun.exists)
    assert up.command("cancel", "ended", "--wait").code == 0
    good, bad, ended = (up.folder / "ends").read_text().splitlines()
    assert (good, ended) == ("done no error", "canceled no error")
    assert bad.startswith("failed") and "`work`" in bad
    for id, expected in [
        ("good", {"work": "done", "after": "done", "tell": "done"}),
        ("bad", {"work": "failed", "after": "waiting", "tell": "done"}),
        ("ended", {"work": "canceled", "after": "canceled", "tell": "done"}),
    ]:
        assert statuses(up.command("show", id, "--json").json) == expected


def test_a_stage_may_fail_where_that_is_allowed(up: Up) -> None:
    text = """
name: allowed
stages:
  - id: optional
    uses: shell.run
    with: { command: "exit 3" }
    retry: { attempts: 1 }
    allow_failure: true
  - uses: data.set
    with: { found: "{{ optional.stdout if optional else 'nothing' }}" }
"""
    run = up.run(written(up, text), "--id", "one")
    assert run["outputs"] == {"found": "nothing"}
    assert statuses(run["state"]) == {"optional": "failed_allowed", "set": "done"}
    assert "3" in up.node("one", "optional")["error"]


@pytest.mark.parametrize(
    ("stages", "line", "words"),
    [
        (
            """
  - { id: a, uses: data.set, needs: [c] }
  - { id: b, uses: data.set, needs: [a] }
  - { id: c, uses: data.set, needs: [b] }
""",
            4,
            ["a", "b", "c"],
        ),
        (
            """
  - { id: names, uses: data.set, with: { a: 1 } }
  - { id: split, uses: text.split }
""",
            5,
            ["text.split", "collection"],
        ),
    ],
    ids=["cycle", "type"],
)
def test_check_finds_what_is_wrong_without_running(
    up: Up, stages: str, line: int, words: list[str]
) -> None:
    text = f"# A pipeline.\nname: wrong\nstages:{stages}"
    answer = up.command("check", written(up, text))
    assert answer.code == 7
    assert f"pipeline.yaml:{line}:" in answer.err
    assert all(word in answer.err for word in words), answer.err
    (findings,) = [up.command("check", "--json", up.folder / "pipeline.yaml").json["diagnostics"]]
    assert findings[0]["severity"] == "error"
    # Neither is it drawn or run.
    assert up.command("graph", up.folder / "pipeline.yaml").code == 7
    assert up.command("run", up.folder / "pipeline.yaml").code == 7
    assert up.command("ps", "--json").json == []


def test_graphs_are_drawn_without_running(up: Up) -> None:
    file = written(up, THREE)
    assert up.command("check", file).code == 0
    text = up.command("graph", file)
    assert text.code == 0
    assert all(f"─ {id} ─" in text.out for id in ["set", "a", "b", "c", "models", "merge"])
    assert "on accelerator" in text.out
    picture = up.command("graph", file, "--svg")
    assert picture.out.startswith("<svg") and "merge" in picture.out
    assert up.command("ps", "--json").json == []


VERSION_1 = """
name: versioned
stages:
  - id: first
    uses: shell.run
    with: { command: "echo first >> FOLDER/ran; echo 1" }
  - id: wait
    approve: go on?
  - id: last
    uses: shell.run
    with: { command: "echo last-of-v1 >> FOLDER/ran; test -e FOLDER/mended" }
    retry: { attempts: 1 }
"""
VERSION_2 = (
    VERSION_1.replace("last-of-v1 ", "last-of-v{{ inputs.number }} ")
    .replace("id: last", "id: final")
    .replace("stages:", "inputs: { number: { type: integer, default: 2 } }\nstages:")
)


def test_a_run_keeps_the_version_that_it_began_with(up: Up) -> None:
    def asks(run: str) -> bool:
        return '"asking"' in up.command("show", run, "--json").out

    file = written(up, VERSION_1)
    old_plan = up.command("check", file, "--json").json["hash"]
    assert up.command("run", file, "--detach", "--id", "old").code == 0
    eventually(lambda: asks("old"))
    written(up, VERSION_2)
    new_plan = up.command("check", file, "--json").json["hash"]
    assert new_plan != old_plan
    assert up.command("approve", "old").code == 0
    up.command("logs", "old", "--follow")
    old = up.command("show", "old", "--json").json
    assert old["plan"] == old_plan
    assert statuses(old) == {"first": "done", "wait": "done", "last": "failed"}
    assert listed(up, "old")["plan"] == old_plan

    # A rerun takes the run's own plan, or the latest: what was done is kept in both.
    (up.folder / "mended").touch()
    again = up.command("retry", "old", "--id", "again", "--json").json
    assert again["status"] == "done" and again["state"]["plan"] == old_plan
    assert statuses(again["state"]) == {"first": "kept", "wait": "kept", "last": "done"}
    latest = up.command("retry", "old", "--with", file, "--id", "latest", "--json").json
    assert latest["status"] == "done" and latest["state"]["plan"] == new_plan
    assert statuses(latest["state"]) == {"first": "kept", "wait": "kept", "final": "done"}
    ran = (up.folder / "ran").read_text().split()
    assert ran == ["first", "last-of-v1", "last-of-v1", "last-of-v2"]
    # The old run still shows what it was.
    assert up.command("show", "old", "--json").json == old
