"""Backups of an engine under load: each that succeeds is restored, examined and served."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

from temporalio.client import Client

from processes import Engine, binary


async def tidemill(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(binary()), *map(str, arguments)]
    return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)


async def damage(file: Path) -> list[str]:
    """What doctor finds wrong with a file at rest. Runs that wait for nobody are no damage."""
    examined = await tidemill("engine", "doctor", "--json", file)
    if examined.returncode not in (0, 1):
        return [f"{file.name}: doctor ends with {examined.returncode}: {examined.stderr.strip()}"]
    return [f"{file.name}: {found}" for found in json.loads(examined.stdout)["damage"]]


class Backups:
    def __init__(self, folder: Path, engine: Engine) -> None:
        self._folder = folder / "backups"
        self._folder.mkdir()
        self._engine = engine
        self._number = 0
        self.verified = 0
        self.broken_off = 0
        self.violations: list[str] = []

    async def make(self, acknowledged: set[str]) -> None:
        """One that nothing disturbs must succeed, and hold these runs."""
        target, made = await self._begin()
        if made.returncode != 0:
            self.violations.append(f"backup ends with {made.returncode}: {made.stderr.strip()}")
            return
        await self._verify(target, acknowledged)

    def begin(self, acknowledged: set[str]) -> asyncio.Task[None]:
        """One during which the engine is killed: it is whole, or not there."""

        async def disturbed() -> None:
            target, made = await self._begin()
            if made.returncode == 0:
                await self._verify(target, acknowledged)
                return
            self.broken_off += 1
            if left := list(self._folder.glob(f"{target.name}*")):
                self.violations.append(f"a backup that failed leaves {left}: {made.stderr.strip()}")

        return asyncio.create_task(disturbed())

    async def _begin(self) -> tuple[Path, subprocess.CompletedProcess[str]]:
        self._number += 1
        target = self._folder / f"backup-{self._number}.db"
        made = await tidemill("engine", "backup", target, "--address", self._engine.address)
        return target, made

    async def _verify(self, backup: Path, acknowledged: set[str]) -> None:
        place = backup.with_suffix("")
        place.mkdir()
        engine = Engine(place)
        restored = await tidemill("engine", "restore", backup, "--data-file", engine.data_file)
        if restored.returncode != 0:
            self.violations.append(f"{backup.name} cannot be restored: {restored.stderr.strip()}")
            return
        self.violations += await damage(engine.data_file)
        engine.start()
        try:
            await engine.ready()
            client = await Client.connect(engine.address)
            runs = {listed.run_id async for listed in client.list_workflows()}
        finally:
            engine.end()
        if missing := acknowledged - runs:
            self.violations.append(f"{backup.name} lacks {len(missing)} runs: {sorted(missing)}")
        self.verified += 1
        backup.unlink()
