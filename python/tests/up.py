"""All of `tidemill up`, beside which a test serves stages of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from engine import BINARY, Engine

from tidemill import Client, Compiled, Options, Stage, Worker, compile_pipeline


class Up:
    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.engine = Engine(self.data)

    def serve(self, client: Client, *stages: Stage[..., Any]) -> Worker:
        return Worker(client.engine, stages, Options(artifacts=self.data / "artifacts", slots=2))

    def collect_garbage(self, engine: Engine) -> Any:
        """As if all runs were past their retention: asks an engine that knows none of them."""
        command = [
            str(BINARY), "gc", "--json", "--force", "--grace", "0s",
            "--artifacts", str(self.data / "artifacts"), "--engine", engine.address,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)["report"]


def compiled(folder: Path, text: str) -> Compiled:
    file = folder / "pipeline.yaml"
    file.write_text(text)
    return compile_pipeline(file)
