"""Pipelines whose artifacts are in an S3 server: large values, killed workers, garbage."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import boto3
import pytest

from conftest import REPOSITORY, Up, chunks, eventually

pytestmark = pytest.mark.once

SERVER = REPOSITORY / "tests/servers/s3.py"
BUCKET = "tidemill"
INDEX = """
name: small-parts
inputs:
  folder: { type: string }
stages:
  - uses: documents.load
    with: { path: "{{ inputs.folder }}", part: { items: 2, bytes: 1000000 } }
  - uses: text.split
    with: { size: 200, overlap: 0 }
  - uses: embed.text
    with: { model: "fake:32" }
    window: 2
  - uses: vector.upsert
    with: { index: documents }
"""
LARGE = """
name: large
stages:
  - id: make
    uses: shell.run
    with: { command: "head -c 10000000 /dev/zero | tr '\\\\0' x", max_bytes: 20000000 }
  - id: measure
    uses: shell.run
    with: { command: [wc, -c] }
outputs: { bytes: "{{ measure.json }}", made: "{{ make }}" }
"""


class Bucket:
    def __init__(self, url: str) -> None:
        self.client = boto3.client("s3", endpoint_url=url)

    def sizes(self, prefix: str) -> dict[str, int]:
        """Objects by their keys."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        found = [found for page in pages for found in page.get("Contents", [])]
        return {one["Key"]: one["Size"] for one in found}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A server, which stops when the test's end closes its standard input. What is started from here
    on finds it."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    process = subprocess.Popen(
        [sys.executable, SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin and process.stdout
    url = process.stdout.readline().strip()
    assert url, "the S3 server did not start"
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    yield Bucket(url)
    process.stdin.close()
    assert process.wait(timeout=60) == 0


def test_artifacts_in_a_bucket_outlive_killed_workers(
    bucket: Bucket, launch: Callable[..., Up]
) -> None:
    up = launch("--artifacts", f"s3://{BUCKET}/some/prefix")
    docs = up.folder / "docs"
    docs.mkdir()
    for i in range(30):
        paragraphs = [f"Document {i}, paragraph {j}: " + f"tide {i * j} " * 20 for j in range(5)]
        (docs / f"{i:03}.txt").write_text("\n\n".join(paragraphs))
    file = up.write(INDEX)
    whole = up.run(file, "--input", f"folder={docs}", "--id", "whole")
    expected = chunks(up)
    assert len(expected) == len(set(expected)) > 100
    shutil.rmtree(up.data / "indexes")

    answer = up.command("run", file, "--detach", "--id", "killed", "--input", f"folder={docs}")
    assert answer.code == 0, answer.err

    def done() -> int:
        steps = [step for node in up.state("killed")["nodes"] for step in node.get("steps", [])]
        return steps[-1]["chunks_done"] if steps else 0

    for least in (1, 5):
        eventually(lambda least=least: done() >= least)
        up.kill(signal.SIGKILL, "worker")
        up.start()
        eventually(lambda: up.command("show", "killed").code == 0)
    assert up.command("logs", "killed", "--follow").code == 0
    assert chunks(up) == expected
    last = up.node("killed", whole["state"]["nodes"][-1]["id"])
    assert last["status"] == "done" and last["steps"][-1]["chunks_done"] == 15

    names = bucket.sizes("")
    assert names and all(name.startswith("some/prefix/") for name in names)
    for run in ("whole", "killed"):
        assert bucket.sizes(f"some/prefix/refs/{run}/"), "the run's marks"
    assert not (up.data / "artifacts").exists()


def test_a_large_value_travels_as_a_reference_and_is_collected_when_nobody_needs_it(
    bucket: Bucket, launch: Callable[..., Up]
) -> None:
    store = f"s3://{BUCKET}/large"
    up = launch("--artifacts", store)
    result = up.run(up.write(LARGE), "--id", "large")
    assert result["outputs"]["bytes"] >= 10_000_000
    assert result["outputs"]["made"]["$artifact"].startswith("sha256:")
    sizes = bucket.sizes("large/objects/")
    assert max(sizes.values()) >= 10_000_000
    assert len(str(result)) < 100_000

    # Everything is a live run's; what nobody has marked goes.
    stray = f"large/objects/00/{'0' * 64}"
    bucket.client.put_object(Bucket=BUCKET, Key=stray, Body=b"stray")
    collect = ["gc", "--artifacts", store, "--grace", "0s", "--json"]
    would = up.command(*collect, "--dry-run")
    assert would.code == 0, would.err
    assert would.json["report"]["objects"] == 1
    assert stray in bucket.sizes("large/objects/")
    done = up.command(*collect)
    assert done.code == 0, done.err
    assert bucket.sizes("large/objects/") == sizes


def test_a_store_that_refuses_is_named_by_the_run_that_waits(
    bucket: Bucket, launch: Callable[..., Up]
) -> None:
    up = launch("--artifacts", f"s3://{BUCKET}-missing/x")
    file = up.write(LARGE)
    assert up.command("run", file, "--detach", "--id", "waits").code == 0

    def said() -> bool:
        return f"{BUCKET}-missing" in up.command("show", "waits").out

    eventually(said)
    # The bucket comes to be, and the run goes on.
    bucket.client.create_bucket(Bucket=f"{BUCKET}-missing")
    assert up.command("logs", "waits", "--follow").code == 0
    eventually(lambda: up.state("waits")["nodes"][-1]["status"] == "done")
