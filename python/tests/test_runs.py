"""Pipelines that a real interpreter runs, with stages that a Python worker serves."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from engine import BINARY, ROOT, Engine
from up import Up, compiled

from tidemill import Client, Compiled, Invalid, RunFailed, stage

README_BATCH = "import vectors as v; print(v.vectors(['a', 'bc'], v.Model()))"

CACHED = """
name: cached
inputs:
  words: { type: array, items: { type: string } }
stages:
  - id: long
    uses: python.call
    with: { function: repeat, times: 30000 }
    input: "{{ inputs.words[0] }}"
    cache: { ttl: 1h }
  - id: loud
    map:
      over: "{{ inputs.words }}"
      chunk: 1
      tolerate: 100%
      stages:
        - uses: python.call
          with: { function: shout }
          cache: 1h
outputs: { long: "{{ long }}" }
"""


async def statuses(client: Client, plan: Compiled, inputs: dict[str, Any]) -> dict[str, str]:
    run = await client.start(plan, inputs)
    last = [state async for state in run.follow(every=0.05)][-1]
    await run.result()
    return {one.id: one.status.value for one in last.nodes}


async def test_results_of_pure_functions_are_used_again(
    up: Up, client: Client, engine: Engine, tmp_path: Path
) -> None:
    called: list[str] = []

    @stage(pure=True)
    def repeat(input: str, times: int) -> str:
        called.append(f"repeat {input}")
        return f"{input} " * times

    @stage(pure=True, retry=1)
    def shout(input: str) -> str:
        called.append(f"shout {input}")
        if input == "no":
            raise Invalid("not this one")
        return input.upper()

    plan = compiled(tmp_path, CACHED)
    inputs = {"words": ["sea", "no"]}
    async with up.serve(client, repeat, shout):
        first = await statuses(client, plan, inputs)
        assert first == {"long": "done", "loud": "done"}
        assert sorted(called) == ["repeat sea", "shout no", "shout sea"]
        called.clear()

        # The chunk in which an item failed is tried again.
        assert (await statuses(client, plan, inputs))["long"] == "kept"
        assert called == ["shout no"]
        called.clear()

        report = await asyncio.to_thread(up.collect_garbage, engine)
        assert (report["runs"], report["cache_entries"]) == (2, 0)
        assert report["kept_objects"] >= 2
        run = await client.start(plan, inputs)
        assert (await run.result())["long"]["bytes"] == 120_002
        assert called == ["shout no"]
        called.clear()

        await statuses(client, plan, {"words": ["tide"]})
        assert sorted(called) == ["repeat tide", "shout tide"]


async def test_a_function_that_is_not_said_to_be_pure_fails_a_cached_stage(
    up: Up, client: Client, tmp_path: Path
) -> None:
    @stage
    def repeat(input: str, times: int) -> str:
        return input * times

    @stage
    def shout(input: str) -> str:
        return input

    plan = compiled(tmp_path, CACHED)
    async with up.serve(client, repeat, shout):
        run = await client.start(plan, {"words": ["sea"]})
        with pytest.raises(RunFailed, match=r"repeat.*@stage\(pure=True\)"):
            await run.result()


@pytest.mark.usefixtures("client")
async def test_the_readme_runs_word_for_word(up: Up, tmp_path: Path) -> None:
    text = (ROOT / "python" / "README.md").read_text()
    blocks: list[str] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    files = {one.splitlines()[0].removeprefix("# "): one for one in blocks}
    [command] = [one.strip() for one in text.splitlines() if " worker steps" in one]
    assert command.startswith("python -m tidemill worker steps.py")
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    plain, cached = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "pipeline.yaml").write_text(f"name: greet\n{plain}")
    (tmp_path / "cached.yaml").write_text(f"name: cached\n{cached}")
    variables = {
        **os.environ,
        "TIDEMILL_ENGINE": up.engine.address,
        "TIDEMILL_DATA": str(up.data),
        "TIDEMILL_BIN": str(BINARY),
    }
    worker = await asyncio.create_subprocess_exec(
        sys.executable, *command.split()[1:], cwd=tmp_path, env=variables,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert worker.stdout is not None
        assert (await worker.stdout.readline()).startswith(b"serving shout on python")
        for command, said in [
            ([sys.executable, "run.py"], "HELLO ADA!"),
            ([str(BINARY), "run", "pipeline.yaml", "--json"], "HELLO!!!"),
            ([str(BINARY), "check", "cached.yaml"], "1 nodes"),
            ([sys.executable, "-c", "import embedding; print(embedding.embed)"], "<stage embed>"),
            ([sys.executable, "-c", README_BATCH], "[[1.0], [2.0]]"),
        ]:
            process = await asyncio.create_subprocess_exec(
                *command, cwd=tmp_path, env=variables, stdout=asyncio.subprocess.PIPE
            )
            out, _ = await process.communicate()
            assert process.returncode == 0
            assert said in out.decode()
    finally:
        worker.terminate()
        await worker.wait()
