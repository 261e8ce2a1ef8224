"""The step as a Python function: python -m tidemill worker steps.py"""

from __future__ import annotations

from dataclasses import dataclass

from tidemill import Invalid, stage


@dataclass
class Document:
    """What this step looks at of a document."""

    uri: str
    text: str


@dataclass
class Count:
    uri: str
    words: int


@stage
def count_words(item: Document, shortest: int = 0) -> Count:
    """Counts the words of one document; those with fewer letters than `shortest` do not count."""
    letters = [sum(map(str.isalpha, word)) for word in item.text.split()]
    words = sum(1 for count in letters if count >= max(shortest, 1))
    if not words:
        raise Invalid(f"{item.uri} has no words")
    return Count(item.uri, words)
