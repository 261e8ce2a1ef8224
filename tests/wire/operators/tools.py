"""Runs the binary's tools as an operator would."""

from __future__ import annotations

import asyncio
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temporalio.client import Client

from raw import Wire
from server import Server, binary

DAMAGED, IN_USE = 4, 5


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    error: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


async def tidemill(*arguments: str | Path) -> Ran:
    """Runs a command to its end."""
    command = [str(binary()), *map(str, arguments)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    return Ran(done.returncode, done.stdout, done.stderr)


async def doctor(*arguments: str | Path) -> Ran:
    """Examines, for programs."""
    return await tidemill("engine", "doctor", "--json", *arguments)


def data_file(server: Server) -> Path:
    return server.folder / "wire.db"


async def connect(server: Server) -> Wire:
    client = await Client.connect(server.address)
    return Wire(client.workflow_service, "default")
