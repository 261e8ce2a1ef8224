"""The stages of this example: python -m tidemill worker steps.py"""

from __future__ import annotations

from dataclasses import dataclass

from tidemill import Collection, Invalid, context, stage


@dataclass
class Document:
    """What this example looks at of a document."""

    uri: str
    text: str


@dataclass
class Count:
    uri: str
    words: int


@stage
def count_words(item: Document) -> Count:
    """Counts the words of one note. A note without any fails by itself."""
    words = sum(1 for word in item.text.split() if any(map(str.isalpha, word)))
    if not words:
        raise Invalid(f"{item.uri} has no words")
    return Count(item.uri, words)


@stage
def summarize(input: Collection[Count], longest: int = 3) -> dict[str, object]:
    """Reads all counts, part by part."""
    counts = sorted(input, key=lambda one: (-one.words, one.uri))
    context().progress(f"{len(counts)} notes")
    return {
        "notes": len(counts),
        "words": sum(one.words for one in counts),
        "longest": [one.uri for one in counts[:longest]],
    }
