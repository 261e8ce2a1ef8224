"""Batches across runs, through the real interpreter."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from up import Up, compiled

from tidemill import Batch, Client, Compiled, Options, Run, RunFailed, Worker, stage

ONE = """
name: one
inputs:
  number: { type: integer }
stages:
  - id: work
    uses: python.call
    with: { function: work }
    input: "{{ inputs.number }}"
    retry: { attempts: %d }
    timeout: { heartbeat: 1s }
outputs: "{{ work }}"
"""

MAPPED = """
name: mapped
inputs:
  numbers: { type: array, items: { type: integer } }
stages:
  - id: each
    map:
      over: "{{ inputs.numbers }}"
      chunk: 10
      window: 4
      tolerate: 50%
      stages:
        - id: work
          uses: python.call
          with: { function: work }
outputs: { done: "{{ each.count }}" }
"""

HANGS = """
import sys, threading
from tidemill import Batch, stage

calls = 0

@stage(batch=Batch(items=8, delay=60))
def work(items: list[int]) -> list[int]:
    global calls
    calls += 1
    if calls == 2:
        print("in the middle", flush=True)
        threading.Event().wait()
    return items
"""


async def started(client: Client, plan: Compiled, numbers: Sequence[int]) -> list[Run]:
    return await asyncio.gather(*(client.start(plan, {"number": one}) for one in numbers))


async def results(runs: list[Run]) -> list[Any]:
    """Of each its result, or why it has none."""
    return await asyncio.gather(*(run.result() for run in runs), return_exceptions=True)


async def test_sixty_four_runs_of_one_item_are_two_calls(
    up: Up, client: Client, tmp_path: Path
) -> None:
    calls: list[list[int]] = []

    # Nothing leaves before it is full: the worker has to take that many tasks, and at once.
    @stage(batch=Batch(items=32, delay=60))
    def work(items: list[int]) -> list[int]:
        calls.append(items)
        return [2 * one for one in items]

    plan = compiled(tmp_path, ONE % 1)
    async with up.serve(client, work) as worker:
        outcomes = await results(await started(client, plan, range(64)))
        stats = worker.stats()["work"]
    assert outcomes == [2 * one for one in range(64)]
    assert [len(one) for one in calls] == [32, 32]
    assert (stats.batches, stats.items, stats.fill) == (2, 64, 1.0)


async def test_a_poison_item_fails_its_run_and_no_other(
    up: Up, client: Client, tmp_path: Path
) -> None:
    @stage(batch=Batch(items=32, delay=60))
    async def work(items: list[int]) -> list[int]:
        await asyncio.sleep(0)
        if 13 in items:
            raise ValueError("13 is no number")
        return items

    plan = compiled(tmp_path, ONE % 1)
    async with up.serve(client, work) as worker:
        outcomes = await results(await started(client, plan, range(32)))
        stats = worker.stats()["work"]
    failed = [one for one in outcomes if isinstance(one, RunFailed)]
    assert [one.message for one in failed] == ["stage `work` failed: ValueError: 13 is no number"]
    assert outcomes[:13] + outcomes[14:] == [*range(13), *range(14, 32)]
    assert (stats.batches, stats.splits) == (1, 5)


async def test_a_batch_that_is_too_large_is_halved_and_chunks_share_calls(
    up: Up, client: Client, tmp_path: Path
) -> None:
    class OutOfMemoryError(RuntimeError):
        __module__ = "torch"

    sizes: list[int] = []

    @stage(batch=Batch(items=32, delay=60))
    def work(items: list[int]) -> list[Any]:
        sizes.append(len(items))
        if len(items) > 8:
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return [ValueError("odd") if one == 5 else one for one in items]

    plan = compiled(tmp_path, MAPPED)
    async with up.serve(client, work):
        # Four chunks of ten are under way at a time: thirty-two of them are the first call.
        run = await client.start(plan, {"numbers": [*range(40)]})
        assert await run.result() == {"done": 39}
    assert sizes == [32, 16, 8, 8, 8, 8, 8]


async def test_a_worker_that_is_killed_in_mid_batch_loses_no_item(
    up: Up, client: Client, tmp_path: Path
) -> None:
    plan = compiled(tmp_path, ONE % 5)
    (tmp_path / "hangs.py").write_text(HANGS)
    store = up.data / "artifacts"
    hanging = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tidemill", "worker", "hangs.py",
        "--engine", up.engine.address, "--artifacts", str(store),
        cwd=tmp_path, env=dict(os.environ), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert hanging.stdout is not None
    assert (await hanging.stdout.readline()).startswith(b"serving work")
    runs = await started(client, plan, range(16))
    ended = [asyncio.ensure_future(one.result()) for one in runs]
    assert await hanging.stdout.readline() == b"in the middle\n"
    acknowledged = [
        await one for _, one in zip(range(8), asyncio.as_completed(ended), strict=False)
    ]
    hanging.kill()
    await hanging.wait()

    again: list[int] = []

    @stage(batch=Batch(items=8, delay=60))
    def work(items: list[int]) -> list[int]:
        again.extend(items)
        return items

    async with Worker(client.engine, [work], Options(artifacts=store)):
        assert await asyncio.gather(*ended) == [*range(16)]
    # What was acknowledged did not run again.
    assert sorted([*acknowledged, *again]) == [*range(16)]
