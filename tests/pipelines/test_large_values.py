"""Values too large for history: it holds references, and a store that is away is waited for."""

from __future__ import annotations

import json

from conftest import Up, eventually
from history import events, payload

SIZE = 10_000_000
PIPELINE = f"""
name: large
stages:
  - id: make
    uses: shell.run
    with: {{ command: "head -c {SIZE} /dev/zero | tr '\\\\0' x", max_bytes: {SIZE} }}
  - id: pause
    approve: {{ message: "Go on?" }}
  - id: count
    uses: shell.run
    with: {{ command: "wc -c", stdin: "{{{{ make }}}}" }}
outputs: "{{{{ count.stdout }}}}"
"""


def test_a_large_value_travels_by_reference_and_its_store_is_waited_for(up: Up) -> None:
    detached = up.command("run", up.write(PIPELINE), "--detach", "--id", "large")
    assert detached.code == 0, detached.err
    eventually(lambda: up.node("large", "pause")["status"] == "asking")
    artifacts, away = up.data / "artifacts", up.folder / "away"
    kept = max(file.stat().st_size for file in artifacts.rglob("*") if file.is_file())
    assert kept >= SIZE

    artifacts.rename(away)
    assert up.command("approve", "large", "pause").code == 0
    eventually(lambda: "artifact store" in (up.node("large", "count").get("message") or ""))
    state = up.node("large", "count")
    assert state["status"] == "running"
    assert str(artifacts) in state["message"]
    assert state["message"] in up.command("show", "large").out
    assert "the artifact store is not available" in up.command("logs", "large").out

    away.rename(artifacts)
    ended = up.command("logs", "large", "--follow")
    assert ended.code == 0, ended.err
    count = up.node("large", "count")
    assert count["status"] == "done" and "message" not in count
    # The whole output of `make` as JSON.
    assert int(count["output"]["stdout"]) > SIZE
    largest = max(len(json.dumps(event)) for event in events(up, "large"))
    assert largest < 16_000, f"an event of history has {largest} bytes"


LOOKS = """
name: looks
inputs: { size: integer }
stages:
  - id: make
    uses: shell.run
    with: { command: "printf '{\\"list\\": [1, 2, 3], \\"text\\": \\"%s\\"}' $(head -c {{ inputs.size }} /dev/zero | tr '\\\\0' x)" }
  - id: count
    uses: shell.run
    with: { command: "wc -c", stdin: "{{ make.json.text }}" }
  - id: each
    map:
      over: "{{ make.json.list }}"
      stages: [ { uses: shell.run, id: add, with: { command: [expr, "{{ item }}", "+", "{{ make.json.text | length }}"] } } ]
  - id: told
    approve: { message: "{{ make.json.text | length }} bytes?" }
outputs: { size: "{{ make.json.text | length }}", count: "{{ count.stdout | trim | int }}", each: "{{ each.count }}" }
"""


def test_a_pipeline_does_not_break_when_its_data_grows(up: Up) -> None:
    file = up.write(LOOKS)
    for size in (1_000, 1_000_000):
        run = f"size-{size}"
        started = up.command("run", file, "--detach", "--id", run, "--input", f"size={size}")
        assert started.code == 0, started.err
        eventually(lambda run=run: "asking" in up.command("show", run, "--json").out)
        assert up.node(run, "told")["message"] == f"{size} bytes?"
        assert up.command("approve", run).code == 0
        ended = up.command("logs", run, "--follow")
        assert ended.code == 0, ended.err
        end = events(up, run)[-1]["workflowExecutionCompletedEventAttributes"]
        outputs = payload(end["result"])["outputs"]
        assert outputs == {"size": size, "count": size, "each": 3}
        largest = max(len(json.dumps(event)) for event in events(up, run))
        assert largest < 32_000, f"an event of history has {largest} bytes"
