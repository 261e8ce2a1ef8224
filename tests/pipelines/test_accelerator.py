"""Devices, batches and models, on simulated devices: who runs what where, and what becomes of it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from conftest import BINARY, Up, eventually
from engine_client import connect, for_all
from history import events

SINGLE = """
name: single
inputs: { n: integer, model: string, poison: { type: boolean, default: false } }
defaults:
  timeout: { heartbeat: 2s }
stages:
  - uses: simulate.infer
    id: infer
    input: "{{ inputs }}"
    POLICY
    with: { model: "{{ inputs.model }}", WITH }
outputs: "{{ infer }}"
"""
DEVICE = "accelerator:device=sim:0:90GiB"


def single(with_: str = "latency: 20ms", policy: str = "batch: { items: 32, delay: 200ms }") -> str:
    return SINGLE.replace("WITH", with_).replace("POLICY", policy)


def checked(up: Up, text: str) -> Any:
    answer = up.command("check", up.write(text), "--json")
    assert answer.code == 0, answer.err
    return answer.json


async def _start(up: Up, plan: Any, runs: dict[str, dict[str, Any]]) -> None:
    client = await connect(up)

    async def one(run: str) -> None:
        await client.start_workflow(
            "tidemill.pipeline",
            {"plan": plan["plan"], "inputs": runs[run]},
            id=run,
            task_queue="tidemill-pipelines",
            memo={"pipeline": "single", "plan": plan["hash"]},
        )

    await for_all(runs, one)


def start(up: Up, plan: Any, runs: dict[str, dict[str, Any]]) -> None:
    """Starts runs, all at about the same time."""
    asyncio.run(_start(up, plan, runs))


def outcomes(up: Up, runs: dict[str, Any]) -> dict[str, Any]:
    """What each run gave: its outputs, or the exception that it ended with."""

    async def all_of_them() -> list[Any]:
        client = await connect(up)

        async def one(run: str) -> Any:
            try:
                result: Any = await client.get_workflow_handle(run).result()
            except Exception as error:
                return error
            return result["outputs"]

        return await for_all(runs, one)

    return dict(zip(runs, asyncio.run(all_of_them()), strict=True))


def numbered(count: int, model: str = "m", **more: Any) -> dict[str, dict[str, Any]]:
    return {f"run-{n}": {"n": n, "model": model, **more} for n in range(count)}


@contextmanager
def worker(up: Up, name: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another worker process of the same engine and data folder."""
    place = ["--data", str(up.data), "--engine", up.engine, "--namespace", up.namespace]
    with (up.folder / f"{name}.log").open("ab") as log:
        command = [str(BINARY), "worker", "--no-interpreter", *place, *options]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=up.folder)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_items_of_many_runs_share_calls_and_models_do_not(
    launch: Callable[..., Up],
) -> None:
    up = launch("--offer", "cpu=1", "--offer", DEVICE)
    runs = {f"run-{n}": {"n": n, "model": "ab"[n % 2]} for n in range(64)}
    start(up, checked(up, single()), runs)
    calls: dict[tuple[str, int], int] = {}
    for run, output in outcomes(up, runs).items():
        assert output["n"] == runs[run]["n"]
        assert output["model"] == runs[run]["model"]
        key = (output["model"], output["started_us"])
        calls[key] = calls.get(key, 0) + 1
        assert output["batch"] <= 32
    # The first of each model may leave before the others have arrived.
    assert len(calls) <= 8, calls


def test_a_poisoned_item_fails_alone(launch: Callable[..., Up]) -> None:
    up = launch("--offer", "cpu=1", "--offer", DEVICE)
    runs = numbered(32)
    runs["run-7"]["poison"] = True
    policy = "batch: { items: 32, delay: 1s }\n    retry: { attempts: 1 }"
    start(up, checked(up, single(policy=policy)), runs)
    for run, output in outcomes(up, runs).items():
        if run == "run-7":
            assert isinstance(output, Exception)
            shown = up.command("show", run)
            assert "poisoned" in shown.out + shown.err
        else:
            assert output["n"] == runs[run]["n"], output


def test_three_kinds_of_no_memory_have_three_outcomes(
    launch: Callable[..., Up],
) -> None:
    up = launch("--offer", "cpu=1", "--offer", DEVICE)
    with worker(up, "other", "--offer", DEVICE):
        # It passes: another attempt, here or at the other worker, goes well.
        plan = checked(up, single("short_calls: 1"))
        start(up, plan, {"short": {"n": 1, "model": "short"}})
        assert outcomes(up, {"short": 1})["short"]["n"] == 1
        assert max(attempts(up, "short")) > 1

        # The batch was too large: smaller ones go well.
        runs = {f"batch-{n}": {"n": n, "model": "b"} for n in range(32)}
        start(up, checked(up, single("most_items: 5")), runs)
        assert all(output["batch"] <= 5 for output in outcomes(up, runs).values())

        # The model is too large: one attempt, and the numbers.
        plan = checked(up, single("model_memory: 200GiB"))
        start(up, plan, {"large": {"n": 1, "model": "large"}})
        assert isinstance(outcomes(up, {"large": 1})["large"], Exception)
        shown = up.command("show", "large")
        assert "200 GiB" in shown.out, shown.out
        assert "90 GiB" in shown.out, shown.out
        assert max(attempts(up, "large")) == 1


def test_what_waits_for_memory_says_so(launch: Callable[..., Up]) -> None:
    up = launch("--offer", "cpu=1", "--offer", DEVICE)
    hold = """
name: hold
inputs: { wait: string }
stages:
  - uses: simulate.work
    id: work
    resource: accelerator
    device: { share: 0.5, memory: MEMORY }
    with: { wait: "{{ inputs.wait }}" }
"""
    first = up.write(hold.replace("MEMORY", "60GiB"), "first.yaml")
    second = up.write(hold.replace("MEMORY", "82GiB"), "second.yaml")
    started = up.command("run", first, "--id", "first", "--input", "wait=60s", "--detach")
    assert started.code == 0, started.err
    eventually(lambda: up.node("first", "work")["status"] == "running")
    started = up.command("run", second, "--id", "second", "--input", "wait=1ms", "--detach")
    assert started.code == 0, started.err

    def reason() -> bool:
        shown = up.command("show", "second").out
        return "needs 82 GiB" in shown and "30 GiB free on sim:0" in shown

    eventually(reason)
    assert up.command("cancel", "first").code == 0
    eventually(lambda: up.node("second", "work")["status"] == "done")


def test_what_no_worker_can_ever_do_is_refused_at_once(
    launch: Callable[..., Up],
) -> None:
    up = launch("--offer", "cpu=1", "--offer", DEVICE)
    pipeline = up.write(single(policy="device: { count: 2, memory: 80GiB }"))

    def refused() -> bool:
        # Workers say what they have with their heartbeats.
        inputs = ["--input", "n=1", "--input", "model=m"]
        answer = up.command("run", pipeline, "--detach", *inputs)
        if answer.code == 0:
            return False
        assert "sim:0" in answer.err, answer.err
        assert "90 GiB" in answer.err, answer.err
        return True

    eventually(refused)


def test_models_stay_with_their_workers_and_a_stall_spills(
    launch: Callable[..., Up],
) -> None:
    up = launch("--offer", "cpu=2")
    # Nothing is to spill because this machine is slow.
    patient = checked(up, single(policy="affinity: { wait: 60s }"))
    offers = {name: f"{DEVICE},serve={name}" for name in "ab"}
    with (
        worker(up, "a", "--offer", offers["a"]) as a,
        worker(up, "b", "--offer", offers["b"]),
    ):
        runs = {f"run-{n}": {"n": n, "model": "ab"[n % 2]} for n in range(40)}
        start(up, patient, runs)
        assert all(output["batch"] for output in outcomes(up, runs).values())
        for name in "ab":
            loaded = (up.folder / f"{name}.log").read_text().count("model loaded")
            assert loaded <= 1, f"worker {name} loaded {loaded} models"
        # Worker a stands still; what is for its model goes to the other after a while.
        a.send_signal(signal.SIGSTOP)
        try:
            start(up, checked(up, single()), {"spilled": {"n": 1, "model": "a"}})
            assert outcomes(up, {"spilled": 1})["spilled"]["n"] == 1
        finally:
            a.send_signal(signal.SIGCONT)


def test_a_killed_worker_loses_nothing_and_repeats_only_what_was_not_done(
    launch: Callable[..., Up],
) -> None:
    up = launch("--offer", "cpu=2")
    plan = checked(up, single("latency: 500ms", "batch: { items: 8, delay: 10ms }"))
    runs = numbered(48)
    with worker(up, "first", "--offer", DEVICE) as first:
        start(up, plan, runs)

        def some_done() -> bool:
            return sum(done(up, run) for run in runs) >= 8

        eventually(some_done)
        first.kill()
        first.wait()
        killed = time.monotonic()
        before = {run for run in runs if done(up, run)}
        assert before and len(before) < len(runs), len(before)
        with worker(up, "second", "--offer", DEVICE):
            results = outcomes(up, runs)
            took = time.monotonic() - killed
    assert all(results[run]["n"] == runs[run]["n"] for run in runs)
    for run in runs:
        tried = max(attempts(up, run))
        assert tried <= 2, run
        if run in before:
            assert tried == 1, f"{run} was done and is done again"
    print(json.dumps({"runs": len(runs), "done_before": len(before), "seconds": round(took, 1)}))


def attempts(up: Up, run: str) -> list[int]:
    """Which attempt each task's start was that the history tells of."""
    started = [event.get("activityTaskStartedEventAttributes") for event in events(up, run)]
    return [one["attempt"] for one in started if one]


def done(up: Up, run: str) -> bool:
    return up.node(run, "infer")["status"] == "done"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--offer", "accelerator:device=tpu:0"], "tpu:0"),
        (["--offer", "accelerator:device=nvml:0"], "nvml:0"),
        (["--offer", "accelerator:device=sim:0,slots=0"], "1 or more"),
        (["--offer", "accelerator:device=sim:0,memory=lots"], "is not a size"),
        (["--offers", "nowhere.toml"], "nowhere.toml"),
    ],
)
def test_offers_that_cannot_be_are_refused(
    launch: Callable[..., Up], arguments: list[str], said: str
) -> None:
    up = launch("--offer", "cpu=1")
    answer = up.command("worker", *arguments)
    assert answer.code != 0
    assert said in answer.err, answer.err


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("batch: 0", "batch"),
        ("batch: { items: -1 }", "items"),
        ("batch: { delay: soon }", "soon"),
        ("device: { share: 1.5 }", "share"),
        ("device: { count: 0 }", "count"),
        ("priority: 9", "priority"),
    ],
)
def test_wrong_demands_are_refused_with_their_place(up: Up, policy: str, said: str) -> None:
    answer = up.command("check", up.write(single(policy=policy)))
    assert answer.code == 7, answer.out
    assert said in answer.err, answer.err
    assert "pipeline.yaml:10" in answer.err, answer.err


def test_a_model_folder_that_is_none_and_an_address_that_answers_html(up: Up) -> None:
    embed = """
name: embed
stages:
  - uses: data.set
    id: text
    with: { text: tide }
  - uses: embed.text
    id: embed
    input: "{{ [text] }}"
    with: { model: MODEL }
"""
    (up.folder / "empty").mkdir()
    file = up.write(embed.replace("MODEL", "./empty"))
    answer = up.command("run", file, "--id", "empty")
    assert answer.code != 0
    assert "empty" in answer.err + answer.out
    assert "config.json" in answer.err + answer.out
