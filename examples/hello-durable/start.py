"""Starts the workflow and waits for its result: python start.py HOST:PORT"""

from __future__ import annotations

import asyncio
import sys

from temporalio.client import Client
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig

from pipeline import TASK_QUEUE, HelloDurable


async def main(address: str) -> None:
    runtime = Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(filter="error")))
    client = await Client.connect(address, runtime=runtime)
    handle = await client.start_workflow(
        HelloDurable.run, id="hello-durable", task_queue=TASK_QUEUE
    )
    print(f"started workflow {handle.id}, run {handle.first_execution_run_id}", flush=True)
    print(f"result: {await handle.result()}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
