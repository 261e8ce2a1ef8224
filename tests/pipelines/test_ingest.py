"""Documents into an index: nothing twice, nothing lost, nothing of another kind, and found again."""

from __future__ import annotations

import json
import random
import sqlite3
from pathlib import Path
from typing import Any


from artifact_folder import collection
import pytest

from conftest import EXAMPLES, Up, chunks, eventually
from fake_openai import Refused, Server, serving, vector

pytestmark = pytest.mark.once

INGEST = """
name: ingest
inputs:
  folder: { type: string }
  model: {}
defaults: { timeout: { heartbeat: 2s }, retry: { attempts: 1 } }
stages:
  - uses: documents.load
    with: { path: "{{ inputs.folder }}", part: { items: 50 } }
  - uses: vector.changed
    with: { index: documents }
  - uses: text.split
    with: { size: 60, overlap: 0 }
  - uses: embed.text
    with: { model: "{{ inputs.model }}" }
  - uses: vector.upsert
    with: { index: documents }
    tolerate: 20%
  - uses: vector.prune
    input: "{{ load }}"
    with: { index: documents }
"""


def spec(server: Server, model: str = "m") -> str:
    return json.dumps({"openai": {"url": server.url, "model": model}})


def given(folder: Path, model: str) -> list[str]:
    return ["--input", f"folder={folder}", "--input", f"model={model}"]


def corpus(up: Up, documents: int) -> Path:
    folder = up.folder / "docs"
    folder.mkdir()
    for i in range(documents):
        (folder / f"{i:04}.txt").write_text(f"This is document {i}.")
    return folder


def names(up: Up) -> set[str]:
    return {Path(document).name for document, _ in chunks(up)}


def test_one_change_and_one_deletion_cost_one_of_each(up: Up) -> None:
    docs = corpus(up, 1000)
    file = up.write(INGEST)
    with serving() as server:
        up.run(file, *given(docs, spec(server)))
        assert sorted(server.texts) == sorted(f"This is document {i}." for i in range(1000))
        before = chunks(up)
        server.texts.clear()
        (docs / "0500.txt").write_text("This one is new.")
        (docs / "0700.txt").unlink()
        run = up.run(file, *given(docs, spec(server)), "--id", "second")
        assert server.texts == ["This one is new."]
        assert run["outputs"] == {"documents": 1}
        after = chunks(up)
        gone = [row for row in before if row not in after]
        new = [row for row in after if row not in before]
        assert sorted(Path(document).name for document, _ in gone) == ["0500.txt", "0700.txt"]
        assert [(Path(document).name, text) for document, text in new] == [
            ("0500.txt", "This one is new.")
        ]


def test_a_document_stays_pending_until_all_of_it_is_embedded(up: Up) -> None:
    docs = corpus(up, 10)
    # Two chunks; the server refuses the second.
    halves = ["The first paragraph of it is good enough for anyone at all.", "This is poison."]
    (docs / "0003.txt").write_text("\n\n".join(halves))
    file = up.write(INGEST)

    def refuse(texts: list[str]) -> None:
        if any("poison" in text for text in texts):
            raise Refused(400, "the text is not acceptable")

    def broken(texts: list[str]) -> None:
        raise Refused(500, "out of order")

    with serving() as server:
        server.before = refuse
        up.run(file, *given(docs, spec(server)), "--id", "first")
        upsert = next(n for n in up.state("first")["nodes"] if n.get("fan_out"))
        assert upsert["fan_out"]["failed"] == 1
        assert names(up) == {f"{i:04}.txt" for i in range(10)} - {"0003.txt"}
        # It is tried again, and as a whole.
        server.before = lambda texts: None
        server.texts.clear()
        up.run(file, *given(docs, spec(server)), "--id", "second")
        assert sorted(server.texts) == sorted(halves)
        assert names(up) == {f"{i:04}.txt" for i in range(10)}
        # The whole server fails: the run fails, and says so.
        server.before = broken
        (docs / "0005.txt").write_text("A later version.")
        strict = up.write(INGEST.replace("tolerate: 20%", "tolerate: 0%"), "strict.yaml")
        failed = up.command("run", strict, *given(docs, spec(server)), "--id", "third")
        assert failed.code == 8 and "out of order" in failed.err
        server.before = lambda texts: None
        server.texts.clear()
        up.run(file, *given(docs, spec(server)), "--id", "fourth")
        assert server.texts == ["A later version."]


def everything(up: Up) -> Any:
    """All rows of the index but those of the search structures, to compare."""
    with sqlite3.connect(up.data / "indexes" / "documents.db") as index:
        return {
            table: sorted(index.execute(f"SELECT * FROM {table}").fetchall(), key=repr)
            for table in ("documents", "chunks")
        }


def test_vectors_of_another_model_are_refused_before_anything_is_written(up: Up) -> None:
    docs = corpus(up, 5)
    file = up.write(INGEST)
    with serving() as server:
        up.run(file, *given(docs, spec(server)))
        before = everything(up)
        (docs / "0002.txt").write_text("Changed.")
        (docs / "new.txt").write_text("Added.")
        # The same model's name, other vectors; then another model with vectors of the same size.
        server.dimension = 8
        shorter = up.command("run", file, *given(docs, spec(server)))
        assert shorter.code == 8
        assert "16" in shorter.err and "8" in shorter.err and "documents" in shorter.err
        assert everything(up) == before
        server.dimension = 16
        other = up.command("run", file, *given(docs, spec(server, "other")))
        assert other.code == 8 and "other" in other.err
        assert everything(up) == before
        # With the right one it goes on.
        up.run(file, *given(docs, spec(server)))
        assert {"new.txt", "0002.txt"} <= names(up)


def test_killed_while_the_index_is_written_nothing_is_twice_or_missing(
    up: Up, draw: random.Random
) -> None:
    docs = corpus(up, 3000)
    # Few large transactions, so that a kill falls into one.
    text = INGEST.replace("items: 50", "items: 1500, bytes: 100000000")
    file = up.write(text.replace(", retry: { attempts: 1 }", ""))
    arguments = [*given(docs, "fake:768"), "--id", "killed"]
    assert up.command("run", file, "--detach", *arguments).code == 0
    log = up.data / "indexes" / "documents.db-wal"

    def ended() -> bool:
        return up.command("ps", "--json").json[0]["status"] != "running"

    def grows(log: Path, before: int, more: int) -> bool:
        size = log.stat().st_size if log.exists() else 0
        return size >= before + more or size < before

    for _ in range(3):
        before = log.stat().st_size if log.exists() else 0
        more = draw.randrange(1, 4_000_000)
        eventually(lambda before=before, more=more: grows(log, before, more) or ended())
        up.kill()
        up.start()
        eventually(lambda: up.command("show", "killed").code == 0)
    assert up.command("logs", "killed", "--follow").code == 0
    assert up.state("killed")["nodes"][-1]["status"] == "done"
    rows = chunks(up)
    assert len(rows) == len(set(rows)) == 3000
    assert {text for _, text in rows} == {f"This is document {i}." for i in range(3000)}
    with sqlite3.connect(up.data / "indexes" / "documents.db") as index:
        assert index.execute("PRAGMA integrity_check").fetchone() == ("ok",)


WORDS = "the tide comes in and fills the pond behind the dam until the sea has fallen far enough "


def prose(name: str, length: int, commas: int) -> str:
    """A text of so many characters that begins with its name."""
    text = list((f"{name} " + WORDS * 10)[:length])
    for i in range(commas):
        text[(i + 1) * length // (commas + 1)] = ","
    return "".join(text)


def page() -> str:
    """Sections of about the same weight, of which none is more the article than another."""

    def head(level: int, title: str) -> str:
        return f'<div class="titlepage"><h{level} class="title">{title}</h{level}></div>'

    parts = [
        f'<html><head><title>Gates</title></head><body><div class="sect1">{head(2, "Gates of water")}',
        f'<div class="sect2">{head(3, "The gate of a mill pond is the first")}',
        f"<p>{prose('One', 401, 3)}</p><p>{prose('Two', 264, 1)}</p>",
        f'<div class="note"><h3 class="title">Note</h3><p>{prose("Three", 98, 1)}</p></div><p> </p></div>',
        f'<div class="sect2">{head(3, "That of a dock is another one")}<p>{prose("Four", 298, 1)}</p>',
        f'<div class="sect3">{head(4, "Then those of canal locks")}<p>{prose("Five", 419, 1)}</p>',
        f'<pre class="programlisting">{prose("Six", 184, 0)}</pre><p> </p></div></div>',
        "</div></body></html>",
    ]
    return "".join(parts)


def test_the_same_page_is_read_in_the_same_way_each_time(up: Up) -> None:
    docs = up.folder / "docs"
    docs.mkdir()
    for i in range(40):
        (docs / f"{i}.html").write_text(page())
    loads = "name: load\nstages: [{ uses: documents.load, with: { path: docs } }]\n"
    loaded = list(collection(up, up.run(up.write(loads))["outputs"]))
    assert len(loaded) == 40
    (text,) = {item["value"]["text"] for item in loaded}
    # None of it is lost.
    assert all(name in text for name in ["One", "Two", "Three", "Four", "Five", "Six"])


def test_search_finds_what_an_exhaustive_search_finds(up: Up) -> None:
    languages = ["en", "fr", "de"]
    rows = [
        {"text": f"row {i}", "language": languages[i % 3], "year": 1900 + i} for i in range(600)
    ]
    data = up.folder / "rows.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows))
    with serving() as server:
        up.run(up.write(INGEST), *given(data, spec(server)))

        def found(query: str, condition: str = "{}") -> list[str]:
            answer = up.command(
                *["search", query, "-k", "10", "--json", "--model", spec(server)],
                *["--filter", condition],
            )
            assert answer.code == 0, answer.err
            return [match["text"] for match in answer.json["matches"]]

        def nearest(query: str, some: list[dict[str, Any]]) -> list[str]:
            texts = [row["text"] for row in some]
            return sorted(texts, key=lambda text: -cosine(query, text))[:10]

        recalled = 0
        for query in [f"what is {i}?" for i in range(20)]:
            recalled += len(set(found(query)) & set(nearest(query, rows)))
        assert recalled / 200 >= 0.99
        french = [row for row in rows if row["language"] == "fr" and row["year"] < 2100]
        condition = json.dumps({"language": "fr", "year": {"<": 2100}})
        assert set(found("what?", condition)) == set(nearest("what?", french))


def cosine(a: str, b: str) -> float:
    one, other = vector(a, 16), vector(b, 16)
    dot = sum(x * y for x, y in zip(one, other, strict=True))
    return dot / (sum(x * x for x in one) * sum(y * y for y in other)) ** 0.5


def test_citations_lead_to_the_text(up: Up) -> None:
    search, answer = (
        EXAMPLES / name / "pipeline.yaml" for name in ("semantic-search", "rag-answer")
    )
    docs = EXAMPLES / "semantic-search" / "docs"
    up.run(search, "--input", f"folder={docs}", "--input", "model=fake:256")
    question = "What does the gate of the mill pond do when the tide turns?"
    outputs = up.run(answer, "--input", f"question={question}")["outputs"]
    matches = up.command("search", question, "-k", "30", "--json").json["matches"]
    by_uri = {match["uri"]: match["text"] for match in matches}
    assert outputs["sources"] and set(outputs["sources"]) <= set(by_uri)

    def plain(text: str) -> str:
        return " ".join(text.split())

    # A uri is a path within what was loaded; of a row, with its number.
    kinds = set()
    for uri, text in by_uri.items():
        name, _, row = uri.partition("#")
        file = docs / name
        assert file.is_file()
        kinds.add(file.suffix)
        if file.suffix in (".md", ".txt"):
            assert plain(text) in plain(file.read_text())
        elif file.suffix == ".jsonl":
            assert json.loads(file.read_text().splitlines()[int(row) - 1])["text"] == text
    assert kinds >= {".md", ".txt", ".jsonl"}


CLASSIFY = """
name: classify
inputs: { url: string }
stages:
  - id: classify
    uses: llm.generate
    with:
      url: "{{ inputs.url }}"
      model: small
      fallback: [large]
      prompt: What is a sluice?
      schema:
        type: object
        properties: { type: { enum: [gate, wheel] } }
        required: [type]
"""


def test_bad_json_twice_then_the_fallback_answers(up: Up) -> None:
    answers = {
        "small": iter(["A sluice is a gate.", '{"type": "door"}']),
        "large": iter(['{"type": "gate"}']),
    }
    with serving() as server:
        server.answer = lambda body: next(answers[body["model"]])
        run = up.run(up.write(CLASSIFY), "--input", f"url={server.url}", "--id", "one")
        assert run["outputs"]["json"] == {"type": "gate"}
        assert (run["outputs"]["model"], run["outputs"]["attempts"]) == ("large", 3)
        assert [body["model"] for body in server.chats] == ["small", "small", "large"]
        # The first model was told what was wrong; the second begins afresh.
        first, second, third = (body["messages"] for body in server.chats)
        assert second[: len(first)] == first and len(second) == len(first) + 2
        assert "A sluice is a gate." in second[-2]["content"]
        assert third == first
    # Nobody gives a usable answer: the run fails and says what they said.
    with serving() as server:
        server.answer = lambda body: "no"
        text = (
            CLASSIFY.replace("schema:\n", "repair: 0\n      schema:\n")
            + "    retry: { attempts: 1 }\n"
        )
        answer = up.command("run", up.write(text), "--input", f"url={server.url}")
        assert answer.code == 8
        assert "small" in answer.err and "large" in answer.err and "schema" in answer.err
        assert [body["model"] for body in server.chats] == ["small", "large"]
