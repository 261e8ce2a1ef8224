"""Sentence embedding with a Python batch stage on PyTorch, beside the bare PyTorch loop.

    torch_embedding.py .models/all-MiniLM-L6-v2 [--texts 2000] [--batch 32] [--lanes 1]

Needs torch, tokenizers, safetensors, the package in `python`, and the `tidemill` binary
(TIDEMILL_BIN, or the release build). The model is a folder with a sentence-transformers BERT. One
run maps over all texts; the loop calls the same model with batches of the same size, sorted by
length, before and after it. The last line is one JSON object:

device          the name of the GPU where there is one, else cpu
busy            of the time from the first call's begin to the last one's end, the share in which a
                call was at work
ratio_to_loop   throughput of the run, from its start to its result, over that of the loop
items_per_s     of the run
loop_items_per_s
fill, calls     of the stage's batches
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F  # noqa: N812
from measured import BINARY, Server
from safetensors.torch import load_file
from temporalio.client import Client as EngineClient
from tokenizers import Tokenizer

from tidemill import (
    Batch,
    Client,
    Loaded,
    Options,
    Worker,
    compile_pipeline,
    stage,
)

PIPELINE = """
name: torch-embedding
inputs:
  texts: { type: integer }
stages:
  - uses: python.call
    with: { function: make_texts, count: "{{ inputs.texts }}" }
  - id: vectors
    map:
      over: "{{ make_texts }}"
      chunk: 256
      window: 4
      stages:
        - uses: python.call
          with: { function: embed }
outputs: { vectors: "{{ vectors.count }}" }
"""


class Encoder:
    """A BERT that makes sentences vectors: tokens in, mean of the last layer out, of length 1."""

    def __init__(self, folder: Path, device: str) -> None:
        self.device = device
        kind = torch.float16 if device == "cuda" else torch.float32
        weights = load_file(folder / "model.safetensors")
        self.weights = {
            name.removeprefix("bert."): one.to(device, kind)
            for name, one in weights.items()
            if one.is_floating_point()
        }
        config = json.loads((folder / "config.json").read_text())
        self.layers: int = config["num_hidden_layers"]
        self.heads: int = config["num_attention_heads"]
        self.epsilon: float = config["layer_norm_eps"]
        limit = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(limit)
        self.tokenizer.enable_padding()

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.layer_norm(x, x.shape[-1:], weight, bias, self.epsilon)

    @torch.inference_mode()
    def encode(self, texts: list[str]) -> list[list[float]]:
        encoded = self.tokenizer.encode_batch(texts)
        ids = torch.tensor([one.ids for one in encoded], device=self.device)
        mask = torch.tensor([one.attention_mask for one in encoded], device=self.device)
        of = self.weights
        x = of["embeddings.word_embeddings.weight"][ids]
        x = x + of["embeddings.position_embeddings.weight"][: ids.shape[1]]
        x = self.norm("embeddings.LayerNorm", x + of["embeddings.token_type_embeddings.weight"][0])
        seen = mask.bool()[:, None, None, :]
        for layer in range(self.layers):
            at = f"encoder.layer.{layer}"
            query, key, value = (
                self.linear(f"{at}.attention.self.{one}", x)
                .unflatten(-1, (self.heads, -1))
                .transpose(1, 2)
                for one in ("query", "key", "value")
            )
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
            mixed = self.linear(f"{at}.attention.output.dense", mixed.transpose(1, 2).flatten(2))
            x = self.norm(f"{at}.attention.output.LayerNorm", x + mixed)
            wide = F.gelu(self.linear(f"{at}.intermediate.dense", x))
            wide = self.linear(f"{at}.output.dense", wide)
            x = self.norm(f"{at}.output.LayerNorm", x + wide)
        parts = mask[:, :, None].to(x.dtype)
        means = (x * parts).sum(1) / parts.sum(1)
        # Reading the result waits for the device.
        vectors: list[list[float]] = F.normalize(means.float()).tolist()
        return vectors


def some_texts(count: int) -> list[str]:
    """The same each time, of 8 to 60 words."""
    chance = random.Random(7)
    words = ["tide", "mill", "turns", "water", "night", "stone", "flour", "gate", "wheel", "moon"]
    return [" ".join(chance.choices(words, k=chance.randint(8, 60))) for _ in range(count)]


async def run(arguments: argparse.Namespace, encoder: Encoder) -> dict[str, Any]:
    """One run through engine, interpreter and a worker in this process."""
    spans: list[tuple[float, float]] = []

    @stage
    def make_texts(count: int) -> list[str]:
        return some_texts(count)

    batch = Batch(arguments.batch, cost=len, lanes=arguments.lanes)

    @stage(batch=batch, load=lambda: encoder)
    def embed(items: list[str], model: Loaded[Encoder]) -> list[list[float]]:
        begun = time.monotonic()
        vectors = model.encode(items)
        spans.append((begun, time.monotonic()))
        return vectors

    os.environ["TIDEMILL_BIN"] = str(BINARY)
    server = Server("--offer", "cpu=1")
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "pipeline.yaml"
            file.write_text(PIPELINE)
            plan = compile_pipeline(file)
        engine = await EngineClient.connect(server.engine)
        options = Options(artifacts=server.data / "artifacts")
        async with Worker(engine, [make_texts, embed], options) as worker:
            begun = time.monotonic()
            started = await Client(engine).start(plan, {"texts": arguments.texts})
            outputs = await started.result()
            seconds = time.monotonic() - begun
            stats = worker.stats()["embed"]
        if outputs != {"vectors": arguments.texts}:
            sys.exit(f"the run made {outputs} of {arguments.texts} texts")
    finally:
        server.stop()
    return {
        "busy": round(covered(spans) / (max(e for _, e in spans) - min(b for b, _ in spans)), 3),
        "items_per_s": round(arguments.texts / seconds, 1),
        "fill": round(stats.fill, 3),
        "calls": stats.calls,
    }


def covered(spans: list[tuple[float, float]]) -> float:
    """Seconds in which one call at least was at work."""
    total, until = 0.0, 0.0
    for begun, ended in sorted(spans):
        total += max(0.0, ended - max(begun, until))
        until = max(until, ended)
    return total


def loop(encoder: Encoder, texts: list[str], size: int) -> float:
    """Items per second of the bare loop."""
    ordered = sorted(texts, key=len)
    begun = time.monotonic()
    for at in range(0, len(ordered), size):
        encoder.encode(ordered[at : at + size])
    return len(texts) / (time.monotonic() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="a folder with a sentence-transformers BERT")
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--threads", type=int, help="of PyTorch on a CPU (default: its own)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    encoder = Encoder(arguments.model, arguments.device)
    texts = some_texts(arguments.texts)
    loop(encoder, texts[: 4 * arguments.batch], arguments.batch)
    # Before and after, since a machine is not always equally fast.
    before = loop(encoder, texts, arguments.batch)
    found = asyncio.run(run(arguments, encoder))
    bare = (before + loop(encoder, texts, arguments.batch)) / 2
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"
    line = {
        "device": name,
        "busy": found["busy"],
        "ratio_to_loop": round(found["items_per_s"] / bare, 3),
        "items_per_s": found["items_per_s"],
        "loop_items_per_s": round(bare, 1),
        "fill": found["fill"],
        "calls": found["calls"],
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
