"""Devices, batches and models, on simulated devices: who runs what where, and what becomes of it."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from temporalio.api.enums.v1 import PendingActivityState

from conftest import BINARY, Up, eventually, free_port
from engine_client import connect, for_all
from history import events

pytestmark = pytest.mark.once

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


def test_models_stay_with_their_workers_until_these_are_full(launch: Callable[..., Up]) -> None:
    up = launch("--offer", "cpu=2")
    # Nothing is to spill because this machine is slow.
    patient = checked(up, single(policy="affinity: { wait: 60s }"))
    slots, address = 8, f"127.0.0.1:{free_port()}"
    offers = {name: f"{DEVICE},slots={slots},serve={name}" for name in "ab"}
    with (
        worker(up, "a", "--offer", offers["a"], "--metrics-listen", address),
        worker(up, "b", "--offer", offers["b"]),
    ):
        runs = {f"run-{n}": {"n": n, "model": "ab"[n % 2]} for n in range(40)}
        start(up, patient, runs)
        assert all(output["batch"] for output in outcomes(up, runs).values())
        for name in "ab":
            loaded = (up.folder / f"{name}.log").read_text().count("model loaded")
            assert loaded <= 1, f"worker {name} loaded {loaded} models"

        # All slots of worker a are taken; what is for its model goes to the other after a while.
        long = checked(up, single("latency: 10s", "affinity: { wait: 60s }"))
        busy = {f"busy-{n}": {"n": n, "model": "a"} for n in range(slots)}
        start(up, long, busy)
        eventually(lambda: metric(address, "tidemill_slots_used") == slots)
        # A few it still takes, by polls that were open already.
        spilled = {f"spilled-{n}": {"n": n, "model": "a"} for n in range(3 * slots)}
        start(up, checked(up, single()), spilled)
        eventually(lambda: any(done(up, run) for run in spilled))
        assert not any(done(up, run) for run in busy)
        assert (up.folder / "b.log").read_text().count("model loaded") == 2


def test_a_killed_worker_loses_nothing_and_repeats_only_what_was_not_done(
    launch: Callable[..., Up],
) -> None:
    up = launch("--offer", "cpu=2")
    policy = "batch: { items: 8, delay: 10ms }"
    before = numbered(24)
    under_way = {f"long-{n}": {"n": n, "model": "m"} for n in range(12)}
    with worker(up, "first", "--offer", DEVICE) as first:
        start(up, checked(up, single("latency: 100ms", policy)), before)
        results = outcomes(up, before)
        # Longer than it takes to notice that they have begun, however slow the machine.
        start(up, checked(up, single("latency: 5s", policy)), under_way)
        eventually(lambda: any_began(up, under_way))
        first.kill()
        first.wait()
    assert not any(done(up, run) for run in under_way)
    killed = time.monotonic()
    with worker(up, "second", "--offer", DEVICE):
        results |= outcomes(up, under_way)
        took = time.monotonic() - killed
    runs = before | under_way
    tries = {run: sum(attempts(up, run)) for run in runs}
    assert all(results[run]["n"] == runs[run]["n"] for run in runs)
    assert all(tries[run] == 1 for run in before), "done, and done again"
    assert max(tries[run] for run in under_way) == 2, "the kill hit no task"
    # What waited in a batch that had not begun was the worker's already.
    assert {tries[run] for run in under_way} <= {1, 2}
    print(json.dumps({"tries": sum(tries.values()), "seconds": round(took, 1)}))


def any_began(up: Up, runs: dict[str, Any]) -> bool:
    """Whether a worker has a task of one of the runs."""

    async def ask() -> bool:
        client = await connect(up)

        async def one(run: str) -> bool:
            described = await client.get_workflow_handle(run).describe()
            pending = described.raw_description.pending_activities
            return any(
                it.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED for it in pending
            )

        return any(await for_all(runs, one))

    return asyncio.run(ask())


def attempts(up: Up, run: str) -> list[int]:
    """Which attempt each of its tasks was when a worker last took it; tasks nobody took are missing."""
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


def test_a_model_folder_that_is_none_is_refused(up: Up) -> None:
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


def test_a_pause_for_want_of_memory_leaves_the_worker_and_its_tasks_alone(
    launch: Callable[..., Up],
) -> None:
    up = launch("--offer", "cpu=1")
    half = "device: { share: 0.5 }"
    long = checked(up, single("latency: 8s", half))
    short = checked(up, single("short_calls: 1", half))
    with worker(up, "only", "--offer", DEVICE):
        # It outlasts the pause, and so does the queue that brought it; another is polled by then.
        start(up, long, {"long": {"n": 1, "model": "long"}})
        eventually(lambda: "model loaded" in (up.folder / "only.log").read_text())
        start(up, short, {"short": {"n": 2, "model": "short"}})
        results = outcomes(up, {"long": 1, "short": 2})
        assert (results["long"]["n"], results["short"]["n"]) == (1, 2)
        assert max(attempts(up, "long")) == 1
        # Had the worker begun anew, tasks that run would be handed back.
        start(up, checked(up, single()), {"after": {"n": 3, "model": "m"}})
        assert outcomes(up, {"after": 3})["after"]["n"] == 3
        log = (up.folder / "only.log").read_text()
    assert "short of memory" in log
    assert log.count("worker serves") == 1, log


def test_a_server_that_answers_html_is_refused_at_once(up: Up) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            page = b"<!doctype html><html><body>Welcome</body></html>"
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        file = up.write(f"""
name: ask
stages:
  - uses: llm.generate
    id: ask
    with: {{ url: "{url}", model: m, prompt: hello }}
""")
        answer = up.command("run", file, "--id", "ask")
    finally:
        server.shutdown()
        thread.join()
    assert answer.code == 8, answer.out
    assert "HTML" in answer.err, answer.err
    assert url in answer.err, answer.err
    assert attempts(up, "ask") == [1]


def test_whatever_is_killed_no_slot_and_no_device_stays_taken(
    launch: Callable[..., Up], full: bool, draw: random.Random
) -> None:
    up = launch("--offer", "cpu=2")
    plan = checked(
        up,
        single(
            "latency: 20ms, most_items: 7, short_calls: 1",
            "batch: { items: 32, delay: 50ms }\n    retry: { attempts: 8, delay: 10ms }",
        ),
    )
    rounds = 100 if full else 3
    address = f"127.0.0.1:{free_port()}"
    offer = ["--offer", DEVICE, "--metrics-listen", address]
    kills = 0
    for number in range(rounds):
        runs = {
            f"round-{number}-{n}": {"n": n, "model": f"m{number}", "poison": n == 7}
            for n in range(32)
        }
        start(up, plan, runs)
        with worker(up, "victim", *offer) as victim:
            time.sleep(draw.uniform(0.05, 0.6))
            victim.kill()
            victim.wait()
            kills += 1
        with worker(up, "survivor", *offer):
            results = outcomes(up, runs)
            bad = {run for run, output in results.items() if isinstance(output, Exception)}
            assert bad == {f"round-{number}-7"}, bad
            assert all(results[run]["batch"] <= 7 for run in runs if run not in bad)

            def nothing_is_held() -> bool:
                return metric(address, "tidemill_slots_used") == 0

            eventually(nothing_is_held)
            assert metric(address, "tidemill_batch_queue") == 0
    print(json.dumps({"rounds": rounds, "kills": kills}))


def metric(address: str, name: str) -> float:
    with urllib.request.urlopen(f"http://{address}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name + "{"))
