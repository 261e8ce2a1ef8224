"""Whatever is killed, and when: each chunk is there once, and what was done is not repeated."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path

import pytest

from artifact_folder import part
from conftest import PATIENCE, Mode, Part, Up, chunks, eventually
from fake_openai import serving
from history import chain, tasks

# A worker that was killed is given up after the heartbeat timeout: half a minute unless a pipeline
# says less.
PIPELINE = """
name: killed
inputs:
  folder: { type: string }
  url: { type: string }
  index: { type: string }
defaults:
  # Each kill is an attempt of what it hits, and all of them may hit the same.
  retry: { attempts: 100 }
  timeout: { heartbeat: 2s }
stages:
  - uses: documents.load
    with: { path: "{{ inputs.folder }}", part: { items: 2, bytes: 1000000 } }
  - uses: text.split
    with: { size: 200, overlap: 0 }
  - id: embed
    uses: embed.text
    with: { model: { openai: { url: "{{ inputs.url }}", model: m } } }
    window: 4
  - uses: vector.upsert
    with: { index: "{{ inputs.index }}" }
"""
VICTIMS: dict[Mode, list[tuple[Part, ...]]] = {
    "together": [("engine",)],
    "apart": [("engine",), ("worker",), ("engine", "worker")],
    "address": [("worker",)],
}


class Ledger:
    """Every text that the model was asked to embed, and when; it outlives whoever is killed."""

    def __init__(self) -> None:
        self.asked: defaultdict[str, list[float]] = defaultdict(list)
        self.requests = 0
        self.under_way = 0
        self.pause_s = 0.0
        self._moved = threading.Condition()

    def write(self, texts: list[str]) -> None:
        with self._moved:
            self.requests += 1
            self.under_way += 1
            for text in texts:
                self.asked[text].append(time.time())
            self._moved.notify_all()
        time.sleep(self.pause_s)
        with self._moved:
            self.under_way -= 1

    def wait_for(self, requests: int) -> bool:
        with self._moved:
            return self._moved.wait_for(lambda: self.requests >= requests, PATIENCE)


def corpus(folder: Path, documents: int) -> Path:
    """No two chunks of it are equal, so that a text says which chunk it is."""
    folder.mkdir()
    for i in range(documents):
        paragraphs = [f"Document {i}, paragraph {j}: " + f"tide {i * j} " * 15 for j in range(5)]
        (folder / f"{i:03}.txt").write_text("\n\n".join(paragraphs))
    return folder


def kill_at_random(
    up: Up, ledger: Ledger, requests: int, kills: int, draw: random.Random
) -> Counter[str]:
    """Kills and restarts parts, each time after the model was asked for some more chunks, which are
    `requests` in all."""
    done: Counter[str] = Counter()
    for _ in range(kills):
        enough = ledger.requests + draw.randint(1, requests // kills // 2)
        assert ledger.wait_for(enough), f"stuck after {dict(done)}: {up.log()}"
        # Into the request, or into what follows it: results, upserts, the chunks after it.
        time.sleep(draw.uniform(0, 0.2))
        victims = draw.choice(VICTIMS[up.mode])
        up.kill(signal.SIGKILL, *victims)
        up.start()
        done[" and ".join(victims)] += 1
    return done


def embedded_after_completion(up: Up, run: str, ledger: Ledger) -> list[str]:
    """Texts that the model was asked for after the completion of their chunk was recorded."""
    embedded = [
        task for id in chain(up, run) for task in tasks(up, run, id) if task.stage == "embed"
    ]
    again = []
    for task in embedded:
        recorded = seconds(task.ended)
        for item in part(up, task.input["input"]["part"]):
            asked = ledger.asked[item["value"]["text"]]
            assert asked, f"a chunk completed of which the model never saw {item}"
            if asked[-1] > recorded:
                again.append(item["value"]["text"])
    return again


def seconds(time: str) -> float:
    whole, _, fraction = time.removesuffix("Z").partition(".")
    moment = datetime.fromisoformat(whole).replace(tzinfo=UTC)
    return moment.timestamp() + float(f"0.{fraction}")


def test_killed_at_random_points_each_chunk_is_there_once(
    up: Up, full: bool, draw: random.Random
) -> None:
    documents, kills = (400, 20) if full else (100, 5)
    docs = corpus(up.folder / "docs", documents)
    file = up.write(PIPELINE)
    with serving() as models:
        inputs = ["--input", f"folder={docs}", "--input", f"url={models.url}"]
        up.run(file, *inputs, "--input", "index=whole", "--id", "whole")
        expected = chunks(up, "whole")
        assert len(expected) == documents * 5 == len(set(models.texts))

        ledger = Ledger()
        # Four at a time: between two kills fewer chunks are done than there are for each kill.
        ledger.pause_s = 0.2
        models.before = ledger.write
        detached = up.command(
            "run", file, "--detach", "--id", "killed", *inputs, "--input", "index=killed"
        )
        assert detached.code == 0, detached.err
        killed = kill_at_random(up, ledger, documents // 2, kills, draw)
        ended = up.command("logs", "killed", "--follow")
        assert ended.code == 0, f"{ended.err}\n{up.log()}"

    assert chunks(up, "killed") == expected
    last = up.state("killed")["nodes"][-1]
    assert last["status"] == "done"
    assert [step["failed"] for step in last["steps"]] == [0, 0, 0]
    assert embedded_after_completion(up, "killed", ledger) == []
    twice = sum(len(asked) > 1 for asked in ledger.asked.values())
    print(f"killed {dict(killed)}; {twice} of {len(expected)} texts asked for more than once")


@pytest.mark.apart
@pytest.mark.kills_engine
def test_a_killed_engine_costs_the_worker_nothing_that_it_did(up: Up, draw: random.Random) -> None:
    # More than the model is asked for until the last kill.
    documents = 120
    docs = corpus(up.folder / "docs", documents)
    file = up.write(PIPELINE.replace("heartbeat: 2s", "heartbeat: 30s"))
    ledger = Ledger()
    ledger.pause_s = 0.1
    with serving() as models:
        models.before = ledger.write
        inputs = ["--input", f"folder={docs}", "--input", f"url={models.url}", "--input", "index=i"]
        assert up.command("run", file, "--detach", "--id", "run", *inputs).code == 0
        for _ in range(3):
            assert ledger.wait_for(ledger.requests + draw.randint(1, 6)), up.log()
            time.sleep(draw.uniform(0, 0.1))
            up.kill(signal.SIGKILL, "engine")
            # What the worker has begun it ends, and keeps the result until somebody takes it.
            eventually(lambda: ledger.under_way == 0)
            up.start()
        ended = up.command("logs", "run", "--follow")
        assert ended.code == 0, f"{ended.err}\n{up.log()}"
    assert len(chunks(up, "i")) == len(ledger.asked) == documents * 5
    assert {len(asked) for asked in ledger.asked.values()} == {1}
