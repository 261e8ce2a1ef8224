"""A data file in which a byte changed: the engine refuses to start or to answer, and doctor names it."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from damage import DAMAGED, Sound, make, places

WORKFLOWS = 30
FLIPS = 40
SEED = 5


def test_a_changed_byte_is_named_and_never_served(tmp_path: Path) -> None:
    asyncio.run(change_bytes(tmp_path))


async def change_bytes(folder: Path) -> None:
    rng = random.Random(SEED)
    whole = await make(folder / "whole", stop=True, workflows=WORKFLOWS)
    sound = await Sound.of(whole.data_file, folder)
    refused = 0
    for number, byte in enumerate(places(whole.data_file, rng, FLIPS)):
        met = await sound.changed(folder / f"flip-{number}", byte, rng.randrange(8))
        assert met.verdict != "served wrong", (byte, met)
        assert met.verdict != "ends otherwise" or "not a Tidemill data file" in met.example, met
        refused += met.verdict in ("refused at the start", "an error when read")
        # What is on a free page is nobody's; a file without SQLite's mark is not looked at.
        if byte.kind not in ("free page", "file header"):
            assert met.doctor == DAMAGED, (byte, met)
    assert refused > FLIPS // 4, f"{refused} of {FLIPS} were met at all"
