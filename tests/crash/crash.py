"""Kills the engine and the worker at random moments under load, then checks that nothing was lost or repeated.

    python tests/crash/crash.py                  # short: what CI runs
    python tests/crash/crash.py --full           # what `make crash` runs
    python tests/crash/crash.py --seed 1234      # the same workflows and the same plan of kills

The seed fixes what is drawn, not what the operating system does in between, so a failure may need a few
runs with its seed to come back. `--keep FOLDER` keeps the engine's file, the ledger and the logs.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import sys
import tempfile
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path

from temporalio.client import Client
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig

import audit
import ledger
from load import Case, Driver, draw
from processes import Engine, WorkerProcess

OPEN_AT_ONCE = 40
BUSY_LIMIT_S = 20


@dataclass(frozen=True)
class Form:
    """How much is done in one run of the harness."""

    workflows: int
    engine_kills: int
    worker_kills: int
    settle_limit_s: float = 180


SHORT = Form(workflows=60, engine_kills=6, worker_kills=2)
FULL = Form(workflows=200, engine_kills=30, worker_kills=5)


@dataclass
class Report:
    seed: int
    violations: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        verdict = f"FAILED: {len(self.violations)} violations" if self.violations else "PASSED"
        shown = [f"  - {violation}" for violation in self.violations[:40]]
        return "\n".join([*self.lines, *shown, f"crash test {verdict} (seed {self.seed})"])


@dataclass
class Progress:
    """How far the kills are, so that the load lasts as long as they do."""

    total_kills: int
    kills: int = 0
    started: int = 0
    closed: int = 0
    moved: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def count(self, what: str) -> None:
        async with self.moved:
            setattr(self, what, getattr(self, what) + 1)
            self.moved.notify_all()

    def may_start(self, workflows: int) -> bool:
        """Spreads the starts over the kills, with at most OPEN_AT_ONCE workflows open."""
        head = min(OPEN_AT_ONCE, workflows // 3)
        quota = head + (workflows - head) * (self.kills + 1) / (self.total_kills + 1)
        return self.started < quota and self.started - self.closed < OPEN_AT_ONCE


def say(text: str) -> None:
    print(text, flush=True)


def _quiet_runtime() -> Runtime:
    """The SDK warns of each call that it repeats; here that is what is meant to happen."""
    return Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(filter="error")))


async def run(form: Form, seed: int, folder: Path) -> Report:
    """One run of the harness in an empty folder."""
    report = Report(seed)
    say(
        f"crash test: {form.workflows} workflows, {form.engine_kills} kills of the engine, "
        f"{form.worker_kills} of the worker, seed {seed}"
    )
    rng = random.Random(seed)
    cases = draw(rng, form.workflows)
    plan = ["engine"] * form.engine_kills + ["worker"] * form.worker_kills
    rng.shuffle(plan)

    engine = Engine(folder)
    worker = WorkerProcess(folder, engine.address)
    try:
        engine.start()
        await engine.ready()
        worker.start()
        client = await Client.connect(engine.address, runtime=_quiet_runtime())
        driver = Driver(client, random.Random(rng.random()))
        began = time.monotonic()
        progress = Progress(len(plan))
        await _under_load(
            form, cases, driver, progress, _kill_all(plan, rng, engine, worker, progress), report
        )
        engine.check_alive()
        worker.check_alive()
        loaded_s = time.monotonic() - began
        await _audit(cases, client, engine, worker, report)
        executions = ledger.read(worker.ledger)
        report.lines.append(
            f"{progress.closed} of {form.workflows} workflows closed in {loaded_s:.0f} s; "
            f"{driver.acknowledged} operations acknowledged, {driver.repeated} sent again; "
            f"{engine.kills} kills of the engine, {worker.kills} of the worker; "
            f"{len(executions)} activity executions in the ledger"
        )
    finally:
        worker.end()
        engine.end()
    return report


async def _under_load(
    form: Form,
    cases: list[Case],
    driver: Driver,
    progress: Progress,
    kills: Coroutine[None, None, None],
    report: Report,
) -> None:
    """Runs the cases beside the kills, until all cases closed or the time to settle is over."""

    async def one(case: Case) -> None:
        try:
            await driver.run(case)
        except Exception as error:
            report.violations.append(f"{case.workflow_id}: {type(error).__name__}: {error}")
        await progress.count("closed")

    async def load() -> None:
        async with asyncio.TaskGroup() as group:
            for case in cases:
                async with progress.moved:
                    await progress.moved.wait_for(lambda: progress.may_start(form.workflows))
                await progress.count("started")
                group.create_task(one(case))

    loading = asyncio.create_task(load())
    try:
        await kills
        say(f"all kills done, {form.workflows - progress.closed} workflows still to close")
        await asyncio.wait_for(loading, form.settle_limit_s)
    except TimeoutError:
        stuck = [case.workflow_id for case in cases if case.result is None]
        report.violations.append(
            f"not closed {form.settle_limit_s:.0f} s after the last kill: {', '.join(stuck)}"
        )
    finally:
        loading.cancel()


async def _kill_all(
    plan: list[str], rng: random.Random, engine: Engine, worker: WorkerProcess, progress: Progress
) -> None:
    for number, victim in enumerate(plan, start=1):
        async with progress.moved:
            await progress.moved.wait_for(lambda: progress.started > progress.closed)
        # One kill of the engine in five falls into its start, while it still recovers from the last one.
        during_start = victim == "engine" and rng.random() < 0.2
        if during_start:
            engine.kill()
            engine.start()
            await asyncio.sleep(rng.uniform(0.0, 0.1))
            engine.kill()
        else:
            await _until_busy(worker)
            await asyncio.sleep(rng.uniform(0.0, 1.5))
            (engine if victim == "engine" else worker).kill()
        down = time.monotonic()
        if victim == "engine":
            engine.start()
            await engine.ready()
        else:
            worker.start()
        await progress.count("kills")
        say(
            f"  kill {number}/{len(plan)}: {victim}{' (and again while it started)' if during_start else ''}, "
            f"back after {(time.monotonic() - down) * 1e3:.0f} ms; "
            f"{progress.started} started, {progress.closed} closed"
        )


async def _until_busy(worker: WorkerProcess) -> None:
    """Waits for an activity to run: the SDK's pollers come back seconds after the engine does."""
    before = worker.ledger.stat().st_size
    deadline = time.monotonic() + BUSY_LIMIT_S
    while worker.ledger.stat().st_size == before and time.monotonic() < deadline:
        await asyncio.sleep(0.02)


async def _audit(
    cases: list[Case], client: Client, engine: Engine, worker: WorkerProcess, report: Report
) -> None:
    runs = await audit.read_runs(client)
    executions = ledger.read(worker.ledger)
    events = sum(len(run.events) for run in runs.values())
    say(f"checking {len(runs)} runs with {events} events against {len(executions)} executions")
    checks = {
        "every acknowledged operation took effect, once": audit.acknowledged(cases, runs),
        "every workflow completed once, with the right result": audit.results(cases, runs),
        "histories are well formed": audit.histories(runs),
        "no recorded activity ran again": audit.side_effects(runs, executions),
        "every history replays": await audit.replays(runs),
    }
    worker.end()
    engine.kill()
    engine.start()
    await engine.ready()
    checks["a last kill and start changes no history"] = audit.unchanged(
        runs, await audit.read_runs(client)
    )
    for name, found in checks.items():
        violations = list(found)
        report.lines.append(f"  {'ok    ' if not violations else 'FAILED'}  {name}")
        report.violations.extend(violations)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--full", action="store_true", help="200 workflows, 30 kills of the engine, 5 of the worker"
    )
    parser.add_argument("--workflows", type=int)
    parser.add_argument("--engine-kills", type=int)
    parser.add_argument("--worker-kills", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="run in this folder and leave it"
    )
    args = parser.parse_args()
    base = FULL if args.full else SHORT

    def chosen(given: int | None, default: int) -> int:
        return default if given is None else given

    form = Form(
        chosen(args.workflows, base.workflows),
        chosen(args.engine_kills, base.engine_kills),
        chosen(args.worker_kills, base.worker_kills),
    )
    seed = chosen(args.seed, secrets.randbelow(1_000_000))
    with tempfile.TemporaryDirectory(prefix="tidemill-crash-") as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        report = asyncio.run(run(form, seed, folder))
    print(report)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
