"""A stalled device: what is on its way there waits without taking more memory, what loads for it
stops, and both go on when the device does."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Up, eventually, free_port

ITEMS = 64
MEGABYTES = 1
"""What each item has grown to when it comes to the device."""
LOADS = """
name: loads
stages:
  - id: all
    map:
      over: "{{ range(ITEMS) | list }}"
      chunk: 1
      window: WINDOW
      stages:
        - uses: shell.run
          id: load
          with: { command: "echo >> LEDGER; head -c SIZE /dev/zero | tr '\\\\0' x" }
        - { uses: simulate.infer, id: infer, with: { model: m } }
"""
OTHER = """
name: other
stages:
  - { uses: simulate.work, id: work, with: { wait: 1ms } }
"""
OFFERS = """
[[offer]]
class = "cpu"
slots = 1

[[offer]]
class = "accelerator"
slots = SLOTS
devices = [{ name = "sim:0:8GiB,latency=1ms,per_item=0ms,stall=FILE" }]
"""


def filled(text: str, **values: object) -> str:
    for name, value in values.items():
        text = text.replace(name, str(value))
    return text


@pytest.mark.apart
@pytest.mark.parametrize(
    ("window", "slots"),
    [
        pytest.param(4, ITEMS, id="the window is full"),
        # What is loaded beyond the slots waits in the artifact store, and its tasks in the engine.
        pytest.param(ITEMS // 2, 4, id="the slots are full"),
    ],
)
def test_loaders_stop_and_memory_stays_while_the_device_is_stalled(
    launch: Callable[..., Up], tmp_path: Path, window: int, slots: int
) -> None:
    stall, ledger, offers = (tmp_path / name for name in ("stall", "ledger", "offers.toml"))
    stall.touch()
    ledger.touch()
    offers.write_text(filled(OFFERS, SLOTS=slots, FILE=stall))
    address = f"127.0.0.1:{free_port()}"
    up = launch("--offers", str(offers), "--metrics-listen", address)
    file = up.write(filled(LOADS, ITEMS=ITEMS, WINDOW=window, LEDGER=ledger, SIZE=MEGABYTES << 20))
    started = up.command("run", file, "--id", "loads", "--detach")
    assert started.code == 0, started.err

    most = min(window, slots)
    eventually(lambda: at_device(address) >= most)
    before = memory(up)
    # There is one slot for all that loads, and tasks get it in the order in which they came: were
    # there more to load, it would be done before this run.
    up.run(up.write(OTHER, "other.yaml"))
    eventually(lambda: loads(ledger) >= window)
    grown = memory(up) - before
    assert (loads(ledger), at_device(address)) == (window, most)
    assert grown < ITEMS * MEGABYTES / 4
    assert up.node("loads", "all")["status"] == "running"

    stall.unlink()
    eventually(lambda: up.node("loads", "all")["status"] != "running")
    ended = up.node("loads", "all")
    assert ended["status"] == "done", ended
    assert ended["output"]["count"] == loads(ledger) == ITEMS


def loads(ledger: Path) -> int:
    """How many items were loaded, by an account apart from the product's."""
    return len(ledger.read_text())


def memory(up: Up) -> int:
    """MiB that the worker takes now."""
    status = Path(f"/proc/{up.processes['worker'].pid}/status").read_text().splitlines()
    line = next(line for line in status if line.startswith("VmRSS:"))
    return int(line.split()[1]) // 1024


def at_device(address: str) -> int:
    """Tasks that have a slot of the accelerator's class: here each is an item."""
    try:
        with urllib.request.urlopen(f"http://{address}/metrics") as answer:
            lines = answer.read().decode().splitlines()
    except urllib.error.URLError:
        return 0  # The worker is about to start.
    start = 'tidemill_slots_used{class="accelerator"} '
    used = (line for line in lines if line.startswith(start))
    return int(float(next(used, "0").split()[-1]))
