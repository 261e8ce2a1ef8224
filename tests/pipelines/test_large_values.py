"""Values too large for history: it holds references, and a store that is away is waited for."""

from __future__ import annotations

import json

from conftest import Up, eventually
from history import events

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
