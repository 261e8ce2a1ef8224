"""The stages of `examples/python-stage`, as the interpreter has them run."""

from __future__ import annotations

from typing import Any

from conftest import Perform
from engine import ROOT

from tidemill import Artifacts, Item, Stage
from tidemill.__main__ import load
from tidemill.data import Part, encode

FOLDER = ROOT / "examples" / "python-stage"


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
