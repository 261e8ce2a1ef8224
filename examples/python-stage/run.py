"""Builds the same pipeline in Python, starts it and follows it: python run.py"""

from __future__ import annotations

import asyncio

from steps import count_words, summarize

from tidemill import Client, Pipeline

pipeline = (
    Pipeline("python-stage")
    .input("folder", type="string", default="notes")
    .input("longest", type="integer", default=3)
    .stage("documents.load", path="{{ inputs.folder }}")
    .map(lambda each: each.stage(count_words), id="counts", tolerate="50%")
    .stage(summarize, longest="{{ inputs.longest }}")
    .outputs("{{ summarize }}")
)


async def main() -> None:
    client = await Client.connect()
    run = await client.start(pipeline)
    async for state in run.follow():
        print(", ".join(f"{node.id}: {node.status.value}" for node in state.nodes))
    print(await run.result())


if __name__ == "__main__":
    asyncio.run(main())
