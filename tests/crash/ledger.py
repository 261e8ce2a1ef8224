"""The side-effect ledger: one line for each time that an activity's code ran.

The file is opened with O_APPEND and synced after each line, so that neither a killed worker nor two
workers at once can lose or tear a record. What is in it happened, whatever the engine remembers.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Execution:
    """One run of an activity's code."""

    workflow_id: str
    run_id: str
    activity_id: str
    attempt: int
    dispatched: float
    """When the engine handed the attempt out, by the engine's clock, in seconds since 1970."""


class Ledger:
    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def record(self, execution: Execution) -> None:
        line = json.dumps(asdict(execution)) + "\n"
        os.write(self._file, line.encode())
        os.fsync(self._file)


def read(path: Path) -> list[Execution]:
    """All executions, in the order in which they were recorded.

    A worker killed inside its write may leave a line without an end; its activity did not report a
    result, so the line says nothing that the checks need.
    """
    lines = path.read_text().splitlines()
    executions = []
    for line in lines:
        try:
            executions.append(Execution(**json.loads(line)))
        except json.JSONDecodeError:
            continue
    return executions
