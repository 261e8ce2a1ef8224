"""Pipelines whose index is in PostgreSQL with pgvector: a real server, killed workers."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import EXAMPLES, REPOSITORY, Up, chunks, eventually

pytestmark = pytest.mark.once

SERVER = REPOSITORY / "tests/servers/postgres.py"
STAGES = """
stages:
  - uses: documents.load
    with: { path: "{{ inputs.folder }}", part: { items: 2, bytes: 1000000 } }
  - uses: vector.changed
    with: { index: INDEX }
  - uses: text.split
    with: { size: 200, overlap: 0 }
  - uses: embed.text
    with: { model: "fake:32" }
    window: 2
  - uses: vector.upsert
    with: { index: INDEX }
  - uses: vector.prune
    input: "{{ load }}"
    with: { index: INDEX }
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of a server, which stops when the test's end closes its standard input."""
    process = subprocess.Popen(
        [sys.executable, SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin and process.stdout
    url = process.stdout.readline().strip()
    assert url, "PostgreSQL did not start"
    yield url
    process.stdin.close()
    assert process.wait(timeout=60) == 0


def pipeline(up: Up, name: str, index: object) -> Path:
    head = f"name: {name}\ninputs:\n  folder: {{ type: string }}"
    return up.write(head + STAGES.replace("INDEX", json.dumps(index)), f"{name}.yaml")


def found(up: Up, index: object, text: str, k: int) -> list[tuple[str, str, float]]:
    name = index if isinstance(index, str) else json.dumps(index)
    answer = up.command("search", text, "--index", name, "--json", "-k", str(k))
    assert answer.code == 0, answer.err
    rows = answer.json["matches"]
    return sorted((row["document"], row["text"], round(row["score"], 4)) for row in rows)


def test_killed_at_any_moment_postgres_holds_what_the_embedded_index_does(
    up: Up, postgres: str
) -> None:
    docs = up.folder / "docs"
    shutil.copytree(EXAMPLES / "semantic-search" / "docs", docs)
    index = {"pgvector": {"url": postgres, "table": "killed"}}
    folder = ["--input", f"folder={docs}"]
    embedded = pipeline(up, "embedded", "documents")
    in_postgres = pipeline(up, "postgres", index)
    up.run(embedded, *folder)
    expected = chunks(up)
    assert len(expected) == len(set(expected)) > 50

    answer = up.command("run", in_postgres, "--detach", "--id", "killed", *folder)
    assert answer.code == 0, answer.err

    def done() -> int:
        steps = [step for node in up.state("killed")["nodes"] for step in node.get("steps", [])]
        return steps[-1]["chunks_done"] if steps else 0

    for least in (1, 4, 8):
        eventually(lambda least=least: done() >= least)
        up.kill(signal.SIGKILL, "worker")
        up.start()
        eventually(lambda: up.command("show", "killed").code == 0)
    logs = up.command("logs", "killed", "--follow")
    assert logs.code == 0, logs.err

    # All of them, each once, with the same neighbours as in the embedded index.
    everything = found(up, index, "the tide", 1000)
    assert [(document, text) for document, text, _ in everything] == expected
    assert everything == found(up, "documents", "the tide", 1000)

    # What changed and what is gone is followed; nothing else is written again.
    changed, gone = sorted(path for path in docs.iterdir() if path.suffix == ".md")[:2]
    changed.write_text("Only this sentence is left.")
    gone.unlink()
    for file in (embedded, in_postgres):
        state = up.run(file, *folder)["state"]
        upsert = next(node for node in state["nodes"] if node.get("steps"))
        assert upsert["steps"][0]["items"] == 1, "one document has changed"
    after = found(up, index, "the tide", 1000)
    assert [(document, text) for document, text, _ in after] == chunks(up)
    assert [text for document, text, _ in after if document == changed.name] == [
        "Only this sentence is left."
    ]


def test_a_database_that_is_not_there_is_named(up: Up, postgres: str) -> None:
    docs = up.folder / "docs"
    docs.mkdir()
    (docs / "one.txt").write_text("One sentence.")
    index = {"pgvector": {"url": postgres.replace("/postgres?", "/nowhere?"), "table": "t"}}
    refused = up.command("run", pipeline(up, "wrong", index), "--input", f"folder={docs}")
    assert refused.code == 8
    assert "nowhere" in refused.err and "the extension pgvector" in refused.err
