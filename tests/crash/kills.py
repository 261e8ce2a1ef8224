"""When the engine and the worker are killed."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from backups import Backups
from load import Case
from processes import Engine, WorkerProcess

OPEN_AT_ONCE = 40
BUSY_LIMIT_S = 20
WRITE_LIMIT_S = 10


class Aim(StrEnum):
    """What the engine does in the moment of its death."""

    ANYTHING = "at work"
    START = "as it started"
    TABLES = "as it wrote its tables"
    CHECKPOINT = "as it wrote the data file"
    BACKUP = "during a backup"


PLAIN = {Aim.ANYTHING: 6, Aim.START: 2, Aim.TABLES: 2}
HEAVY = {Aim.ANYTHING: 3, Aim.START: 2, Aim.TABLES: 2, Aim.CHECKPOINT: 2, Aim.BACKUP: 1}

BACKUP_EVERY = 25
"""Between so many kills and the next, a backup is made that nothing disturbs."""


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


@dataclass
class Kills:
    engine: Engine
    worker: WorkerProcess
    rng: random.Random
    cases: list[Case]
    backups: Backups | None = None
    """With these, kills fall into backups too, and some backups are left alone."""
    aims: Counter[Aim] = field(default_factory=Counter)
    """How the engine died, how many times."""

    async def run(self, plan: list[str], progress: Progress) -> None:
        weights = PLAIN if self.backups is None else HEAVY
        for number, victim in enumerate(plan, start=1):
            async with progress.moved:
                await progress.moved.wait_for(lambda: progress.started > progress.closed)
            if self.backups is not None and number % BACKUP_EVERY == 0:
                await self.backups.make(self._acknowledged())
            if victim == "engine":
                [aim] = self.rng.choices(list(weights), list(weights.values()))
                self.aims[aim] += 1
                backup = await self._kill_engine(aim)
            else:
                aim, backup = Aim.ANYTHING, None
                await self._kill_worker()
            down = time.monotonic()
            if victim == "engine":
                self.engine.start()
                await self.engine.ready()
            else:
                self.worker.start()
            back_ms = (time.monotonic() - down) * 1e3
            if backup is not None:
                await backup
            await progress.count("kills")
            print(
                f"  kill {number}/{len(plan)}: {victim} {aim}, back after {back_ms:.0f} ms; "
                f"{progress.started} started, {progress.closed} closed",
                flush=True,
            )

    async def _kill_engine(self, aim: Aim) -> asyncio.Task[None] | None:
        engine, backup = self.engine, None
        match aim:
            case Aim.ANYTHING:
                await self._until_busy()
                await asyncio.sleep(self.rng.uniform(0.0, 1.5))
            case Aim.START:
                engine.kill()
                engine.start()
                await asyncio.sleep(self.rng.uniform(0.0, 0.1))
            case Aim.TABLES:
                await _until_written(Path(f"{engine.data_file}-wal"))
                await asyncio.sleep(self.rng.uniform(0.0, 0.01))
            case Aim.CHECKPOINT:
                await _until_written(engine.data_file)
                await asyncio.sleep(self.rng.uniform(0.0, 0.03))
            case Aim.BACKUP:
                assert self.backups is not None
                await self._until_busy()
                backup = self.backups.begin(self._acknowledged())
                await asyncio.sleep(self.rng.uniform(0.0, 0.15))
        engine.kill()
        return backup

    async def _kill_worker(self) -> None:
        await self._until_busy()
        await asyncio.sleep(self.rng.uniform(0.0, 1.5))
        self.worker.kill()

    def _acknowledged(self) -> set[str]:
        return {case.first_run_id for case in self.cases if case.first_run_id}

    async def _until_busy(self) -> None:
        """Waits for an activity to run: the SDK's pollers come back seconds after the engine does."""
        before = self.worker.ledger.stat().st_size
        deadline = time.monotonic() + BUSY_LIMIT_S
        while self.worker.ledger.stat().st_size == before and time.monotonic() < deadline:
            await asyncio.sleep(0.02)


async def _until_written(file: Path) -> None:
    """Waits for a write to a file of the engine; where there is none for long, any moment will do."""
    before = _changed(file)
    deadline = time.monotonic() + WRITE_LIMIT_S
    while _changed(file) == before and time.monotonic() < deadline:
        await asyncio.sleep(0.001)


def _changed(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
