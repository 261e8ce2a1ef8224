"""What the engine did to its files, and what a disk may hold of it when the power fails.

A disk holds what was synced, and of the rest any part, in sectors of 512 bytes: those of one write
may be there without the others, those of a later write without an earlier one. Only within a sector
there is an order. Names (created, renamed, removed) are there when their folder was synced; of the later
ones any part, those of one name in order. A size is like a name. That is more than most file systems
lose, and what POSIX promises. After a sync that failed, what it was to write is lost unless it is written again,
though a later sync succeeds and reads show it: so Linux does.
"""

from __future__ import annotations

import random
import re
import struct
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

SECTOR = 512
PAGE = 4096
"""Of the system's cache."""
NOTE = struct.Struct("=QQIiIcB2x")


@dataclass(frozen=True)
class Note:
    """One entry of the trace; see shim.c."""

    time_ns: int
    offset: int
    fd: int
    sync: int
    op: str
    flag: int
    data: bytes

    @property
    def names(self) -> list[str]:
        return self.data.decode().split("\0")


def notes(trace: BinaryIO) -> Iterator[Note]:
    """As many as there are whole; the next call goes on after them."""
    while True:
        begin = trace.tell()
        head = trace.read(NOTE.size)
        if len(head) == NOTE.size:
            time_ns, offset, length, fd, sync, op, flag = NOTE.unpack(head)
            data = trace.read(length)
            if len(data) == length:
                yield Note(time_ns, offset, fd, sync, op.decode(), flag, data)
                continue
        trace.seek(begin)
        return


def read(path: Path) -> Iterator[Note]:
    with path.open("rb") as file:
        yield from notes(file)
        if file.read(1):
            raise ValueError(f"{path} ends within a note")


@dataclass(eq=False)
class Change:
    """A write, or a truncation (`data` is None), that was not synced yet."""

    offset: int
    data: bytes | None


@dataclass(eq=False)
class File:
    """What is synced, and what was done since."""

    synced: bytearray = field(default_factory=bytearray)
    pending: list[Change] = field(default_factory=list)
    forgotten: dict[int, list[Change]] = field(default_factory=dict)
    """By page: what the system holds and takes for written, because the sync that failed told of it."""

    def write(self, offset: int, data: bytes) -> None:
        # A page that is written again goes to the disk as the system holds it.
        for page in range(offset // PAGE, -(-(offset + len(data)) // PAGE)):
            self.pending += self.forgotten.pop(page, [])
        self.pending.append(Change(offset, data))

    def fail(self, changes: int) -> None:
        """A sync of the first `changes` failed: those that are writes come to the disk by no later sync."""
        covered, self.pending = self.pending[:changes], self.pending[changes:]
        kept = []
        for change in covered:
            if change.data is None:
                kept.append(change)
                continue
            end = change.offset + len(change.data)
            for page in range(change.offset // PAGE, -(-end // PAGE)):
                begin = max(change.offset, page * PAGE)
                part = change.data[begin - change.offset : (page + 1) * PAGE - change.offset]
                self.forgotten.setdefault(page, []).append(Change(begin, part))
        self.pending = kept + self.pending

    def sync(self, changes: int) -> None:
        """The first `changes` of what is pending are on the disk."""
        for change in self.pending[:changes]:
            end = change.offset + len(change.data or b"")
            if change.data is None:
                del self.synced[end:]
            self.synced.extend(bytes(max(0, end - len(self.synced))))
            if change.data is not None:
                self.synced[change.offset : end] = change.data
        del self.pending[:changes]

    def torn(self, rng: random.Random, keep: float) -> bytes:
        """What may be found after a power cut: each sector as it was at some moment."""
        if keep >= 1:
            whole = File(bytearray(self.synced), list(self.pending))
            whole.sync(len(whole.pending))
            return bytes(whole.synced)
        sizes = [len(self.synced)]
        sectors: defaultdict[int, list[tuple[int, bytes]]] = defaultdict(list)
        for change in self.pending:
            if change.data is None:
                sizes.append(change.offset)
                # What is behind the new end reads as zeros, should the file grow again.
                for sector in range(change.offset // SECTOR, max(sizes) // SECTOR + 1):
                    begin = max(change.offset, sector * SECTOR)
                    sectors[sector].append((begin, bytes((sector + 1) * SECTOR - begin)))
                continue
            end = change.offset + len(change.data)
            sizes.append(max(sizes[-1], end))
            for sector in range(change.offset // SECTOR, -(-end // SECTOR)):
                begin = max(change.offset, sector * SECTOR)
                part = change.data[begin - change.offset : (sector + 1) * SECTOR - change.offset]
                sectors[sector].append((begin, part))
        size = sizes[-1] if rng.random() < 0.5 else rng.choice(sizes)
        image = bytearray(self.synced)
        image.extend(bytes(max(sizes) + SECTOR - len(image)))
        for versions in sectors.values():
            # How many of the changes to this sector came to the disk.
            count = sum(rng.random() < keep for _ in versions)
            for begin, part in versions[:count]:
                image[begin : begin + len(part)] = part
        return bytes(image[:size])


@dataclass(eq=False)
class Naming:
    """A name that was made or removed, or two at once when a file was renamed."""

    names: dict[str, File | None]


@dataclass
class Disk:
    """Follows a trace. Syncs of files (or of the folder) whose path matches `lie` do nothing: a broken disk."""

    folder: str
    lie: re.Pattern[str] | None = None
    visible: dict[str, File] = field(default_factory=dict)
    synced: dict[str, File] = field(default_factory=dict)
    namings: list[Naming] = field(default_factory=list)
    time_ns: int = 0
    syncs: Counter[str] = field(default_factory=Counter)
    """By the name of the file, as the others."""
    failed_syncs: Counter[str] = field(default_factory=Counter)
    hollow_syncs: Counter[str] = field(default_factory=Counter)
    """Those that succeeded, though of what a failed one gave up not all had been written again."""
    _open: dict[int, tuple[str, File | None]] = field(default_factory=dict)
    _under_way: dict[tuple[int, int], tuple[File | None, list[Change], list[Naming]]] = field(
        default_factory=dict
    )

    def follow(self, note: Note) -> None:
        self.time_ns = note.time_ns
        match note.op:
            case "p":
                self._open.clear()
                self._under_way.clear()
            case "o":
                self._opened(note)
            case "c":
                self._open.pop(note.fd, None)
            case "w" | "t":
                _, file = self._open[note.fd]
                assert file is not None, "a folder is written"
                if note.op == "w":
                    file.write(note.offset, note.data)
                else:
                    file.pending.append(Change(note.offset, None))
            case "b":
                _, file = self._open[note.fd]
                covered = list(file.pending) if file else []
                self._under_way[note.fd, note.sync] = (file, covered, list(self.namings))
            case "e" | "f":
                self._synced(note)
            case "u":
                self._name({note.names[0]: None})
            case "r":
                old, new = note.names
                self._name({old: None, new: self.visible[old]})
            case "l":
                old, new = note.names
                self._name({new: self.visible[old]})
            case _:
                raise ValueError(f"the trace has an unknown note {note.op!r}")

    def _opened(self, note: Note) -> None:
        path = note.data.decode()
        if path.rstrip("/") == self.folder:
            self._open[note.fd] = (path, None)
            return
        if note.flag & 1:
            self._name({path: File()})
        file = self.visible[path]
        if note.flag & 2 and not note.flag & 1:
            file.pending.append(Change(0, None))
        self._open[note.fd] = (path, file)

    def _name(self, names: dict[str, File | None]) -> None:
        for name, file in names.items():
            if file is None:
                self.visible.pop(name, None)
            else:
                self.visible[name] = file
        self.namings.append(Naming(names))

    def _synced(self, note: Note) -> None:
        path, _ = self._open[note.fd]
        file, changes, namings = self._under_way.pop((note.fd, note.sync))
        if self.lie and self.lie.search(path):
            return
        name = Path(path).name
        if note.op == "f":
            self.failed_syncs[name] += 1
            if file is not None:
                file.fail(_count(file, changes))
            return
        self.syncs[name] += 1
        if file is not None and file.forgotten:
            self.hollow_syncs[name] += 1
        if file is None:
            for naming in namings:
                if naming in self.namings:
                    _apply(self.synced, naming)
                    self.namings.remove(naming)
            return
        file.sync(_count(file, changes))

    def cut(self, rng: random.Random, into: Path) -> str:
        """Writes what may be left into an empty folder. Says what was lost in the whole."""
        keep = rng.choice([0.0, 0.0, 0.3, 0.7, 0.95, 1.0])
        names = dict(self.synced)
        lost: set[str] = set()
        kept_namings = 0
        for naming in self.namings:
            # What came later to a name of which something was lost is lost as well.
            if lost & naming.names.keys() or rng.random() >= (keep or 0.05):
                lost |= naming.names.keys()
                continue
            _apply(names, naming)
            kept_namings += 1
        pending = 0
        for name, file in names.items():
            pending += len(file.pending)
            if name.endswith("-shm"):
                # SQLite never syncs it, and never relies on it after a start.
                if rng.random() < 0.5:
                    (into / Path(name).name).write_bytes(rng.randbytes(32 << 10))
                continue
            (into / Path(name).name).write_bytes(file.torn(rng, keep))
        return (
            f"{keep:.0%} of {pending} changes to {len(names)} files, "
            f"{kept_namings} of {len(self.namings)} names"
        )


def _count(file: File, changes: list[Change]) -> int:
    """How many of the changes are pending still: another sync may have covered some of them meanwhile."""
    covered = set(map(id, changes))
    return sum(id(change) in covered for change in file.pending)


def _apply(names: dict[str, File], naming: Naming) -> None:
    for name, file in naming.names.items():
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file
