"""Runs the workflow's code and its steps: python worker.py HOST:PORT"""

from __future__ import annotations

import asyncio
import sys

from temporalio.client import Client
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig
from temporalio.worker import Worker

from pipeline import TASK_QUEUE, HelloDurable, work


async def main(address: str) -> None:
    # The SDK warns about each call that it repeats while the engine is down; that is expected here.
    runtime = Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(filter="error")))
    client = await Client.connect(address, runtime=runtime)
    async with Worker(client, task_queue=TASK_QUEUE, workflows=[HelloDurable], activities=[work]):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
