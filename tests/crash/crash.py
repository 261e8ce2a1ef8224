"""Kills the engine and the worker at random moments under load, then checks that nothing was lost or repeated.

    python tests/crash/crash.py                  # short: what CI runs
    python tests/crash/crash.py --full           # what `make crash` runs
    python tests/crash/crash.py --kills 1000     # in rounds of 100, with large values and backups beside
    python tests/crash/crash.py --seed 1234      # the same workflows and the same plan of kills

The seed fixes what is drawn, not what the operating system does in between, so a failure may need a few
runs with its seed to come back. `--keep FOLDER` keeps the engine's file, the ledger and the logs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path

from temporalio.client import Client
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig

import audit
import ballast
import ledger
from ballast import Ballast
from backups import Backups, damage
from kills import Kills, Progress
from load import Case, Driver, draw
from processes import Engine, WorkerProcess

ROUND = 100


@dataclass(frozen=True)
class Form:
    """How much is done in one run of the harness."""

    workflows: int
    engine_kills: int
    worker_kills: int
    heavy: bool = False
    """With large values beside the load, so that tables are written all the time, and with backups."""
    settle_limit_s: float = 180


SHORT = Form(workflows=60, engine_kills=6, worker_kills=2)
FULL = Form(workflows=200, engine_kills=30, worker_kills=5)


def round_of(kills: int) -> Form:
    """One round of the long form. A round has a file of its own and is checked before the next one."""
    return Form(workflows=6 * kills, engine_kills=kills, worker_kills=kills // 10, heavy=True)


@dataclass
class Report:
    seed: int
    violations: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        verdict = f"FAILED: {len(self.violations)} violations" if self.violations else "PASSED"
        shown = [f"  - {violation}" for violation in self.violations[:40]]
        return "\n".join([*self.lines, *shown, f"crash test {verdict} (seed {self.seed})"])


def say(text: str) -> None:
    print(text, flush=True)


def _quiet_runtime() -> Runtime:
    """The SDK warns of each call that it repeats; here that is what is meant to happen."""
    return Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(filter="error")))


@dataclass
class Heavy:
    """What the long form does beside the workflows."""

    weight: Ballast
    backups: Backups
    running: asyncio.Task[None]

    @staticmethod
    async def begin(engine: Engine, folder: Path, runtime: Runtime) -> Heavy:
        client = await Client.connect(engine.address, namespace=ballast.NAMESPACE, runtime=runtime)
        weight = Ballast(client)
        return Heavy(weight, Backups(folder, engine), asyncio.create_task(weight.run()))

    async def end(self) -> None:
        """Raises what went wrong with the large values."""
        self.running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.running


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

    engine = Engine(folder, *(["--namespace", ballast.NAMESPACE] if form.heavy else []))
    worker = WorkerProcess(folder, engine.address)
    heavy = None
    try:
        engine.start()
        await engine.ready()
        worker.start()
        runtime = _quiet_runtime()
        client = await Client.connect(engine.address, runtime=runtime)
        driver = Driver(client, random.Random(rng.random()))
        began = time.monotonic()
        progress = Progress(len(plan))
        kills = Kills(engine, worker, rng, cases)
        if form.heavy:
            heavy = await Heavy.begin(engine, folder, runtime)
            kills.backups = heavy.backups
        await _under_load(form, cases, driver, progress, kills.run(plan, progress), report)
        if heavy:
            await heavy.end()
        engine.check_alive()
        worker.check_alive()
        loaded_s = time.monotonic() - began
        await _audit(cases, client, engine, worker, report, heavy)
        executions = ledger.read(worker.ledger)
        report.lines.append(
            f"{progress.closed} of {form.workflows} workflows closed in {loaded_s:.0f} s; "
            f"{driver.acknowledged} operations acknowledged, {driver.repeated} sent again; "
            f"{engine.kills} kills of the engine, {worker.kills} of the worker; "
            f"{len(executions)} activity executions in the ledger"
        )
        died = ", ".join(f"{times} {aim}" for aim, times in sorted(kills.aims.items()))
        report.lines.append(f"the engine died: {died}")
        if heavy:
            report.lines.append(
                f"{len(heavy.weight.kept)} large values kept, {len(heavy.weight.deleted)} deleted; "
                f"{heavy.backups.verified} backups verified, {heavy.backups.broken_off} broken off"
            )
    finally:
        if heavy:
            heavy.running.cancel()
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


async def _audit(
    cases: list[Case],
    client: Client,
    engine: Engine,
    worker: WorkerProcess,
    report: Report,
    heavy: Heavy | None,
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
    if heavy:
        checks["large values are there until they are deleted"] = await heavy.weight.violations()
        checks["backups are whole, or not there"] = heavy.backups.violations
    engine.kill()
    checks["doctor finds no damage"] = await damage(engine.data_file)
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
    parser.add_argument(
        "--kills", type=int, metavar="N", help=f"kill the engine N times, in rounds of {ROUND}"
    )
    parser.add_argument("--workflows", type=int)
    parser.add_argument("--engine-kills", type=int)
    parser.add_argument("--worker-kills", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="run in this folder and leave it"
    )
    args = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if args.seed is None else args.seed
    if args.kills:
        forms = [round_of(min(ROUND, args.kills - done)) for done in range(0, args.kills, ROUND)]
    else:
        forms = [_chosen(args, FULL if args.full else SHORT)]
    reports = []
    with tempfile.TemporaryDirectory(prefix="tidemill-crash-") as temporary:
        for number, form in enumerate(forms):
            folder = (args.keep or Path(temporary)) / f"round-{number + 1}"
            folder.mkdir(parents=True)
            report = asyncio.run(run(form, seed + number, folder))
            say(str(report))
            reports.append(report)
            if not args.keep:
                shutil.rmtree(folder)
    if len(forms) > 1:
        violations = sum(len(report.violations) for report in reports)
        say(f"{len(forms)} rounds, {args.kills} kills, {violations} violations, first seed {seed}")
    return 1 if any(report.violations for report in reports) else 0


def _chosen(args: argparse.Namespace, base: Form) -> Form:
    def either(given: int | None, default: int) -> int:
        return default if given is None else given

    return Form(
        either(args.workflows, base.workflows),
        either(args.engine_kills, base.engine_kills),
        either(args.worker_kills, base.worker_kills),
    )


if __name__ == "__main__":
    sys.exit(main())
