"""Limits that all workers share: what a provider allows, its outages, and how much runs at a time."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from conftest import BINARY, PATIENCE, Up, eventually, free_port
from fake_openai import serving
from provider import AtATime, Counted

# Workers are processes of their own, so that what they share is only the engine.
pytestmark = pytest.mark.apart

EMBED = """
name: limited
inputs:
  rows: { type: string }
  url: { type: string }
stages:
  - uses: documents.load
    with: { path: "{{ inputs.rows }}", part: { items: 500, bytes: 16777216 } }
  - uses: text.split
  - id: embed
    uses: embed.text
    with: { model: { openai: { url: "{{ inputs.url }}", model: m } }, batch: 32 }
    limit: provider
    window: 32
outputs: { embedded: "{{ embed.count }}" }
"""
ASK = """
name: ask
inputs:
  url: { type: string }
  prompt: { type: string }
  model: { type: string, default: m }
defaults:
  timeout: { heartbeat: 8s }
stages:
  - id: ask
    uses: llm.generate
    resource: gate
    with: { url: "{{ inputs.url }}", model: "{{ inputs.model }}", prompt: "{{ inputs.prompt }}" }
    limit: { name: gate, weight: WEIGHT }
"""


class Workers:
    """Workers beside the one that runs already."""

    def __init__(self, up: Up) -> None:
        self.up = up
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, count: int, *options: str) -> None:
        for _ in range(count):
            log = self.up.folder / f"worker{len(self.processes)}.log"
            with log.open("wb") as out:
                process = subprocess.Popen(
                    [
                        *(str(BINARY), "worker", "--no-interpreter"),
                        *("--data", str(self.up.data), "--engine", self.up.engine),
                        *("--namespace", self.up.namespace, *options),
                    ],
                    stdout=out,
                    stderr=out,
                    cwd=self.up.folder,
                    env={**os.environ, **self.up.environment},
                )
            self.processes.append(process)

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait(timeout=PATIENCE)


@pytest.fixture
def workers(up: Up) -> Iterator[Workers]:
    workers = Workers(up)
    yield workers
    workers.kill()


def set_limit(up: Up, name: str, *options: str) -> None:
    answer = up.command("limit", "set", name, *options)
    assert answer.code == 0, f"{answer.err}\n{up.log()}"


def show(up: Up, name: str) -> Any:
    answer = up.command("limit", "show", name, "--json")
    assert answer.code == 0, answer.err
    return answer.json


def begin(up: Up, file: Path, run: str, **inputs: str) -> None:
    options = [part for name, value in inputs.items() for part in ("--input", f"{name}={value}")]
    answer = up.command("run", file, "--detach", "--id", run, *options)
    assert answer.code == 0, answer.err


def end(up: Up, run: str, patience: float = PATIENCE) -> None:
    answer = up.command("logs", run, "--follow", patience=patience)
    assert answer.code == 0, f"{answer.err}\n{answer.out}\n{up.log()}"


def write_rows(up: Up, count: int, draw: random.Random) -> Path:
    """Texts of many lengths, of words of many lengths: their tokens can only be estimated."""
    rows = up.folder / "rows.jsonl"
    with rows.open("w") as out:
        for number in range(count):
            words = ("w" * draw.randint(1, 9) for _ in range(draw.randint(5, 45)))
            out.write(json.dumps({"text": f"{number} " + " ".join(words)}) + "\n")
    return rows


def test_eight_workers_use_what_a_provider_allows_and_no_more(
    up: Up, workers: Workers, full: bool, draw: random.Random
) -> None:
    items, window_s, tokens = (142_000, 60, 500_000) if full else (4_000, 10, 30_000)
    rows = write_rows(up, items, draw)
    file = up.write(EMBED)
    workers.start(7)
    set_limit(
        up,
        "provider",
        *("--tokens-per-minute", str(tokens * 60 // window_s), "--window", f"{window_s}s"),
    )
    with serving() as server:
        provider = Counted(server, tokens, window_s)
        inputs = ["--input", f"rows={rows}", "--input", f"url={server.url}"]
        done = up.run(file, *inputs, patience=3600.0)
        embedded = len(server.texts)
    # Workers tell what they sent within a moment.
    eventually(lambda: show(up, "provider")["totals"]["sent"].get("tokens", 0) >= provider.sent)
    limit = show(up, "provider")
    print(
        f"{embedded} items in {provider.last - provider.first:.1f} s: "
        f"{provider.share_used():.3f} of the cap used, "
        f"{provider.refused} of {provider.answered + provider.refused} answers were 429, at the most "
        f"{provider.most} of {tokens} tokens offered in a window, "
        f"{limit['totals']['asks']} asks"
    )
    assert done["outputs"]["embedded"] == items == len(set(server.texts))
    assert embedded == items, "nothing was sent twice"
    assert provider.share_used() >= 0.9
    assert provider.share_refused() < 0.01
    if provider.refused == 0:
        assert limit["totals"]["sent"]["tokens"] == provider.sent, "what was really used"


def test_a_provider_that_is_down_is_left_alone_and_found_again(up: Up) -> None:
    set_limit(up, "provider", "--breaker-failures", "3", "--breaker-open", "500ms")
    rows = write_rows(up, 300, random.Random(1))
    port = free_port()
    file = up.write(EMBED)
    begin(up, file, "run", rows=str(rows), url=f"http://127.0.0.1:{port}/v1")
    # It opens, and again after trials that failed.
    eventually(lambda: show(up, "provider")["totals"]["opened"] >= 3)
    failed = show(up, "provider")["totals"]["failed"]

    with ExitStack() as stack:
        server = stack.enter_context(serving(port))
        seen: list[str] = []

        def before(texts: list[str]) -> None:
            if not seen:
                seen.append(show(up, "provider")["breaker"]["state"])

        server.before = before
        end(up, "run")
        assert seen == ["half_open"], "the first request that came through was the trial"
        assert len(server.texts) == len(set(server.texts)) == 300
    # Workers tell how requests went within a moment.
    eventually(lambda: show(up, "provider")["totals"]["answered"] == -(-300 // 32))
    after = show(up, "provider")
    assert after["breaker"]["state"] == "closed"
    # Requests that were under way, and then one for each time that it opened.
    assert after["totals"]["failed"] <= failed + 3


def test_no_more_run_than_may_and_a_killed_holder_keeps_nothing(up: Up, workers: Workers) -> None:
    workers.start(3, "--offer", "gate=4")
    set_limit(up, "gate", "--concurrent", "2", "--lease", "3s")
    file = up.write(ASK.replace("WEIGHT", "1"))
    with serving() as server:
        provider = AtATime(server)
        provider.gate.clear()
        runs = [f"run-{number}" for number in range(12)]
        for run in runs:
            begin(up, file, run, url=server.url, prompt=run)
        eventually(lambda: len(provider.under_way) == 2)
        eventually(lambda: len(show(up, "gate")["waiting"]) == 10)
        holder = show(up, "gate")["running"][0]
        killed = holder["task"].split("/")[0]
        # A worker is called by its process and its host.
        victims = [
            process
            for process in workers.processes
            if f"-{process.pid}@" in holder["worker"]
        ]
        assert len(victims) == 1, holder
        victims[0].kill()
        # What the dead one had asked is over soon, as far as the server knows; it asks again only when
        # its run has missed its heartbeats.
        provider.gate.set()
        for run in runs:
            end(up, run)
        assert provider.most == 2
        again = [i for i, asked in enumerate(provider.log) if killed in asked][-1]
        both = [set(asked) for asked in provider.log[2:again] if killed not in asked]
        assert any(len(asked) == 2 for asked in both), "its slot was free before it ran again"
    limit = show(up, "gate")
    assert limit["running"] == limit["waiting"] == []


def test_weights_add_up_and_who_is_heavy_is_not_passed(up: Up, workers: Workers) -> None:
    workers.start(2, "--offer", "gate=8")
    set_limit(up, "gate", "--concurrent", "3", "--lease", "20s")
    light = up.write(ASK.replace("WEIGHT", "1"), "light.yaml")
    heavy = up.write(ASK.replace("WEIGHT", "3"), "heavy.yaml")
    with serving() as server:
        provider = AtATime(server)
        provider.weights = {"large": 3}
        provider.gate.clear()
        for number in range(2):
            begin(up, light, f"early-{number}", url=server.url, prompt=f"early-{number}")
        eventually(lambda: len(provider.under_way) == 2)
        begin(up, heavy, "heavy", url=server.url, prompt="heavy", model="large")
        eventually(lambda: len(show(up, "gate")["waiting"]) == 1)
        for number in range(6):
            begin(up, light, f"late-{number}", url=server.url, prompt=f"late-{number}")
        eventually(lambda: len(show(up, "gate")["waiting"]) == 7)
        provider.gate.set()
        for run in ["heavy", *(f"late-{number}" for number in range(6))]:
            end(up, run)
        began = [asked[-1] for asked in provider.log]
        assert provider.most == 3
        assert began.index("heavy") == 2, "it came before all that came after it"

    answer = up.command("limit", "set", "gate", "--concurrent", "2")
    assert answer.code == 0, answer.err
    refused = up.command("run", heavy, "--input", "url=fake:", "--input", "prompt=x")
    assert refused.code == 8
    assert "its weight is 3 and its limit lets 2 run at a time" in refused.err + refused.out


def test_limits_are_made_shown_and_removed(up: Up) -> None:
    file = up.write(ASK.replace("WEIGHT", "1").replace("resource: gate", "resource: cpu"))
    asking = ["run", file, "--input", "url=fake:", "--input", "prompt=x"]
    missing = up.command(*asking)
    assert missing.code == 8
    assert "limit `gate` does not exist: make it with `tidemill limit set gate" in (
        missing.err + missing.out
    )
    wrong: list[tuple[list[str], int, str]] = [
        (["set", "gate"], 7, "it limits nothing"),
        (["set", "a b", "--concurrent", "1"], 7, "is no name of a limit"),
        (["set", "gate", "--concurrent", "0"], 7, "allow 1 at least"),
        (["set", "gate", "--tokens-per-minute", "x"], 2, "invalid value"),
        (["show", "gate"], 1, "does not exist"),
        (["remove", "gate"], 1, "does not exist"),
    ]
    for arguments, code, text in wrong:
        answer = up.command("limit", *arguments)
        assert (answer.code, text in answer.err) == (code, True), (arguments, answer)

    set_limit(up, "gate", "--requests-per-minute", "600", "--breaker-failures", "5")
    set_limit(up, "gate", "--concurrent", "2", "--tokens-per-minute", "9000")
    eventually(lambda: [limit["name"] for limit in list_limits(up)] == ["gate"])
    config = list_limits(up)[0]["config"]
    assert (config["concurrent"], config["tokens_per_minute"]) == (2, 9000)
    assert "requests_per_minute" not in config, "what is not named is not limited"
    done = up.command(*asking)
    assert done.code == 0, done.err
    text = up.command("limit", "show", "gate").out
    assert "9000 tokens/min, 2 at a time, leased for 1m" in text, text

    removed = up.command("limit", "remove", "gate")
    assert removed.code == 0, removed.err
    assert up.command("limit", "show", "gate").code == 1
    eventually(lambda: list_limits(up) == [])
    assert up.command(*asking).code == 8
    set_limit(up, "gate", "--concurrent", "1")
    assert up.command(*asking).code == 0


def list_limits(up: Up) -> Any:
    answer = up.command("limit", "list", "--json")
    assert answer.code == 0, answer.err
    return answer.json
