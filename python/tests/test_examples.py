"""The stages of the examples in Python, as the interpreter has them run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Perform
from engine import ROOT
from up import Up

from tidemill import Artifacts, Client, Item, Stage, compile_pipeline
from tidemill.__main__ import load
from tidemill.data import Part, encode

BATCH = ROOT / "examples" / "python-batch"
FOLDER = ROOT / "examples" / "python-stage"


@pytest.fixture(autouse=True)
def own_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Examples have modules of one name."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("steps", None)
    yield
    sys.modules.pop("steps", None)


async def test_sentences_are_embedded_in_batches(up: Up, client: Client) -> None:
    stages = load(str(BATCH / "steps.py"))
    plan = compile_pipeline(BATCH / "pipeline.yaml")
    async with up.serve(client, *stages) as worker:
        run = await client.start(plan)
        pairs = await run.result()
        stats = worker.stats()["embed"]
    assert [one["sentences"] for one in pairs] == [
        ["the mill turns when the tide goes out", "the tide goes out and the mill turns"],
        ["at night the mill grinds flour", "flour is ground at night"],
    ]
    # Six in one chunk: one call.
    assert (stats.calls, stats.items) == (1, 6)


async def test_notes_are_counted_and_summed_up(run: Perform, artifacts: Artifacts) -> None:
    stages: dict[str, Stage[..., Any]] = {one.name: one for one in load(str(FOLDER / "steps.py"))}
    notes = sorted((FOLDER / "notes").iterdir())
    documents = [
        Item(one.name, {"uri": one.name, "text": one.read_text(), "hash": "0", "metadata": {}})
        for one in notes
    ]
    digest = artifacts.put_part(Part(documents)).digest
    counted = (await run(stages["count_words"], {"part": digest}))["part"]
    assert (counted["count"], counted["failed"]) == (3, 1)
    assert counted["first_error"] == "thursday.txt: thursday.txt has no words"

    parts = [{"digest": counted["digest"], "count": counted["count"]}]
    manifest = artifacts.put(encode({"item": "any", "parts": parts})).digest
    reference = {"$collection": manifest, "item": "any", "count": 3, "parts": 1}
    summary = await run(stages["summarize"], {"value": reference}, {"longest": 1})
    assert summary == {"value": {"notes": 3, "words": 41, "longest": ["monday.md"]}}
