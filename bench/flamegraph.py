#!/usr/bin/env python3
"""A flame graph of an engine under load, as one SVG file.

    make bench-engine ARGS="--concurrency 64 --workflows 20000" &
    perf record -F 999 -g --call-graph dwarf,16384 -p $(pgrep -f 'tidemill engine') -- sleep 5
    perf script | bench/flamegraph.py --title "64 outstanding" > flame.svg

Each box is a function, as wide as its share of the samples; above it what it called. The bottom
row is the threads by what they do. Hovering tells name and share; boxes of less than --least
percent are left out.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html import escape

WIDTH = 1200
ROW = 16
CHARACTER = 6.2
"""Pixels of a letter, about."""
GENERIC = re.compile(r"<[^<>]*>|\{\{[a-z#0-9:]*\}\}|\+0x[0-9a-f]+$|::h[0-9a-f]{16}$")
PLUMBING = re.compile(
    r"^(\[unknown\]|core::ops::|std::panic|core::panic|__rust_|std::sys::backtrace|start_thread|clone"
    r"|std::thread::local|tokio::runtime::(context|task::(harness|raw|core))"
    r"|core::future|.*\[inlined\]|alloc::boxed)"
)


Frame = tuple[str, int]
"""A function's short name, and of which kind it is."""


@dataclass
class Box:
    samples: int = 0
    above: dict[Frame, Box] = field(default_factory=dict)

    def add(self, stack: Iterable[Frame]) -> None:
        box = self
        box.samples += 1
        for frame in stack:
            box = box.above.setdefault(frame, Box())
            box.samples += 1


def short(name: str) -> str:
    """A symbol without types of generics, hashes and all but the end of its path."""
    if name.startswith("<") and " as " in name:
        of, _, trait = name[1:].partition(" as ")
        name = f"{of}::{trait.rpartition('>::')[2]}"
    before = None
    while before != name:
        before, name = name, GENERIC.sub("", name)
    parts = [part for part in name.replace("<", "").replace(">", "").split("::") if part]
    return "::".join(parts[-3:])


def stacks(lines: Iterable[str]) -> Iterator[list[Frame]]:
    """Of `perf script`: a head line, a line for each frame from the innermost on, an empty line."""
    thread = ""
    frames: list[Frame] = []
    for line in lines:
        if not line.strip():
            if frames:
                yield [(thread, 0), *reversed(frames)]
            thread, frames = "", []
        elif not thread:
            thread = re.sub(r"[-0-9]+$", "", line.split()[0])
        else:
            name, _, file = line.strip().partition(" ")[2].rpartition(" (")
            if name and not PLUMBING.match(name):
                frames.append((short(name), KERNEL if "[kernel" in file else kind_of(name)))


COLOURS = [
    ("thread", r"^$", "#b8c4ce"),
    ("kernel", r"^$", "#d9d9d9"),
    ("SQLite", r"sqlite3|rusqlite|tidemill_store::sqlite", "#8fb8de"),
    ("allocator and copies", r"alloc|free|memmove|memcpy", "#e58f8f"),
    ("Tidemill", r"tidemill", "#f2b36f"),
    ("protocol", r"h2::|hyper|tonic|http|prost|miniz", "#a9d18e"),
    ("runtime", r"tokio|mio|futures", "#c9b3e0"),
    ("other", r"", "#eee6cf"),
]


KERNEL = 1


def kind_of(symbol: str) -> int:
    """Which of `COLOURS` a function of the process is of."""
    return next(n for n, (_, pattern, _) in enumerate(COLOURS) if re.search(pattern, symbol))


def draw(
    box: Box, frame: Frame, x: float, depth: int, scale: float, least: int
) -> Iterator[tuple[int, str]]:
    """Boxes from here upwards, each with the row it is in."""
    name, kind = frame
    width = box.samples * scale
    y = f"{{y{depth}}}"
    share = 100 * width / WIDTH
    text = escape(name[: int(width / CHARACTER)]) if width > 4 * CHARACTER else ""
    yield (
        depth,
        f'<g><title>{escape(name)} {share:.1f} %</title><rect x="{x:.1f}" y="{y}" '
        f'width="{max(width - 0.5, 0.5):.1f}" height="{ROW - 1}" fill="{COLOURS[kind][2]}"/>'
        f'<text x="{x + 3:.1f}" y="{y}" dy="11">{text}</text></g>',
    )
    for above, child in sorted(box.above.items()):
        if child.samples >= least:
            yield from draw(child, above, x, depth + 1, scale, least)
        x += child.samples * scale


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--title", default="engine")
    parser.add_argument(
        "--least", type=float, default=0.4, help="percent; narrower boxes are left out"
    )
    options = parser.parse_args()
    all_of_it = Box()
    for stack in stacks(sys.stdin):
        all_of_it.add(stack)
    if not all_of_it.samples:
        sys.exit("no samples: pipe in what `perf script` prints")
    scale = WIDTH / all_of_it.samples
    least = max(1, int(all_of_it.samples * options.least / 100))
    boxes, x = [], 0.0
    for thread, box in sorted(all_of_it.above.items(), key=lambda one: -one[1].samples):
        if box.samples >= least:
            boxes += draw(box, thread, x, 0, scale, least)
        x += box.samples * scale
    rows = max(depth for depth, _ in boxes) + 1
    height = (rows + 2) * ROW
    print(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="monospace" font-size="10">'
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>'
        f'<text x="4" y="14" font-size="12">{escape(options.title)}: '
        f"{all_of_it.samples} samples</text>"
    )
    for n, (name, _, shade) in enumerate(COLOURS[1:]):
        print(
            f'<rect x="4" y="{24 + n * ROW}" width="12" height="12" fill="{shade}"/>'
            f'<text x="22" y="{34 + n * ROW}">{name}</text>'
        )
    for depth, box in boxes:
        print(box.replace(f"{{y{depth}}}", str(height - (depth + 1) * ROW)))
    print("</svg>")


if __name__ == "__main__":
    main()
