"""The stages of this example: python -m tidemill worker steps.py"""

from __future__ import annotations

import importlib
import math
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, combinations
from typing import Any

from tidemill import Batch, Collection, Invalid, Loaded, stage

try:
    torch: Any = importlib.import_module("torch")
except ImportError:
    torch = None

BUCKETS = 4096


@dataclass
class Sentence:
    text: str
    vector: list[float]


@dataclass
class Pair:
    likeness: float
    sentences: list[str]


class Encoder:
    """Stands for a model of sentences: each word has a random vector, a sentence their mean. With
    PyTorch, on a GPU where there is one; otherwise in Python."""

    def __init__(self, dimensions: int) -> None:
        chance = random.Random(7)
        self.table = [[chance.gauss(0, 1) for _ in range(dimensions)] for _ in range(BUCKETS)]
        if torch is not None:
            self.device = "cuda" if torch.cuda.is_available() else "cpu"
            self.weights = torch.tensor(self.table, device=self.device)

    def encode(self, texts: list[str]) -> list[list[float]]:
        words = [[zlib.crc32(w.encode()) % BUCKETS for w in text.lower().split()] for text in texts]
        if torch is None:
            return [self._mean(each) for each in words]
        flat = torch.tensor([one for each in words for one in each], device=self.device)
        begins = [0, *accumulate(len(each) for each in words[:-1])]
        begins = torch.tensor(begins, device=self.device)
        means = torch.nn.functional.embedding_bag(flat, self.weights, begins, mode="mean")
        return torch.nn.functional.normalize(means).tolist()

    def _mean(self, words: list[int]) -> list[float]:
        total = [sum(column) for column in zip(*(self.table[one] for one in words), strict=True)]
        length = math.sqrt(sum(one * one for one in total)) or 1.0
        return [one / length for one in total]


def encoder(dimensions: int = 64) -> Iterator[Encoder]:
    """Once in a worker, for each value of `dimensions`. After the `yield` it stops."""
    made = Encoder(dimensions)
    yield made
    print(f"the encoder of {dimensions} dimensions is no longer needed", flush=True)


@stage(batch=Batch(items=32, delay=0.02, cost=len, max_cost=4000), load=encoder)
def embed(items: list[str], model: Loaded[Encoder]) -> list[Sentence | Exception]:
    """One call for up to 32 sentences, of whatever runs they are."""
    empty = {place for place, text in enumerate(items) if not text.split()}
    wanted = [text for place, text in enumerate(items) if place not in empty]
    vectors = iter(model.encode(wanted) if wanted else [])
    return [
        Invalid("there is no word in it") if place in empty else Sentence(text, next(vectors))
        for place, text in enumerate(items)
    ]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


@stage
def alike(input: Collection[Sentence], pairs: int = 3) -> list[Pair]:
    """The pairs of sentences that are most alike."""
    found = [
        Pair(round(dot(a.vector, b.vector), 3), sorted([a.text, b.text]))
        for a, b in combinations(input, 2)
    ]
    return sorted(found, key=lambda one: (-one.likeness, one.sentences))[:pairs]
