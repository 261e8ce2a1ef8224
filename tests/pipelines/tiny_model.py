"""A BERT of a few kilobytes with random weights: a local model whose files a test may change."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

WIDTH = 8
LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
POSITIONS = 128


def write(folder: Path, seed: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "bert",
        "vocab_size": len(VOCABULARY),
        "hidden_size": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 2 * WIDTH,
        "max_position_embeddings": POSITIONS,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    (folder / "model.safetensors").write_bytes(weights(random.Random(seed)))
    return folder


def tokenizer() -> dict[str, object]:
    special = [
        {"id": i, "content": word, "special": True, "normalized": False}
        | dict.fromkeys(["single_word", "lstrip", "rstrip"], False)
        for i, word in enumerate(VOCABULARY[:4])
    ]
    return {
        "version": "1.0",
        "added_tokens": special,
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {word: i for i, word in enumerate(VOCABULARY)},
        },
    }


def weights(draw: random.Random) -> bytes:
    """In the format of safetensors: the header's length, the header, the numbers."""
    layer = "encoder.layer.0"
    shapes: dict[str, list[int]] = {
        "embeddings.word_embeddings.weight": [len(VOCABULARY), WIDTH],
        "embeddings.position_embeddings.weight": [POSITIONS, WIDTH],
        "embeddings.token_type_embeddings.weight": [2, WIDTH],
        f"{layer}.intermediate.dense.weight": [2 * WIDTH, WIDTH],
        f"{layer}.intermediate.dense.bias": [2 * WIDTH],
        f"{layer}.output.dense.weight": [WIDTH, 2 * WIDTH],
        f"{layer}.output.dense.bias": [WIDTH],
    }
    for part in ["self.query", "self.key", "self.value", "output.dense"]:
        shapes[f"{layer}.attention.{part}.weight"] = [WIDTH, WIDTH]
        shapes[f"{layer}.attention.{part}.bias"] = [WIDTH]
    for norm in ["embeddings", f"{layer}.attention.output", f"{layer}.output"]:
        shapes[f"{norm}.LayerNorm.weight"] = [WIDTH]
        shapes[f"{norm}.LayerNorm.bias"] = [WIDTH]
    header: dict[str, object] = {}
    body = b""
    for name, shape in shapes.items():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        numbers = struct.pack(f"<{count}f", *(draw.uniform(-1, 1) for _ in range(count)))
        offsets = [len(body), len(body) + len(numbers)]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
        body += numbers
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body
