"""Serves one activity from Python: `python_worker.py ADDRESS TASK_QUEUE`."""

import asyncio
import sys

from temporalio import activity
from temporalio.client import Client
from temporalio.worker import Worker


@activity.defn
async def lengths(words: list[str]) -> list[int]:
    return [len(word) for word in words]


async def main(address: str, task_queue: str) -> None:
    client = await Client.connect(address)
    await Worker(client, task_queue=task_queue, activities=[lengths]).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
