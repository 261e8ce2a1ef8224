"""Writes JSON values as YAML: block style, strings quoted where YAML would read something else."""

from __future__ import annotations

import json
import re
from typing import Any

from .data import is_list, is_object

_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./ %-]*")
# What YAML 1.1 or 1.2 take for something other than text.
_WORDS = {"true", "false", "yes", "no", "on", "off", "y", "n", "null", "none"}


def dump(value: Any) -> str:
    """A YAML document."""
    return "\n".join(_block(value, "")) + "\n"


def _block(value: Any, indent: str) -> list[str]:
    if is_object(value) and value:
        lines: list[str] = []
        for key, one in value.items():
            head = f"{indent}{_scalar(key)}:"
            if _is_nested(one):
                lines += [head, *_block(one, indent + "  ")]
            else:
                lines.append(f"{head} {_scalar(one)}")
        return lines
    if is_list(value) and value:
        lines = []
        for one in value:
            if _is_nested(one):
                first, *rest = _block(one, indent + "  ")
                lines += [f"{indent}- {first.lstrip()}", *rest]
            else:
                lines.append(f"{indent}- {_scalar(one)}")
        return lines
    return [indent + _scalar(value)]


def _is_nested(value: Any) -> bool:
    return (is_object(value) or is_list(value)) and bool(value)


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS and value == value.strip()
        # A JSON string is a double-quoted YAML scalar.
        return value if plain else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)
