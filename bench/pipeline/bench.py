"""What a pipeline costs beside its models: rows of JSON through load, split, embed and upsert.

Starts `tidemill up` on a new folder, runs `pipeline.yaml` with an embedder that costs nothing, and
reads what the process used. The last line is one JSON object:

items           rows that went through
per_s           rows per second, wall clock
cpu_ms_per_item CPU of engine, interpreter and worker together, milliseconds per row
history_events  events of the longest run in the chain
rss_mb          peak resident memory of the process
artifact_bytes  bytes in the artifact store at the end, per row
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from measured import Server, size_of  # noqa: E402

TEXT = "The tide comes in twice a day, fills the pond, and turns the wheel on its way out. "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--part", type=int, default=1000, help="rows of a chunk")
    parser.add_argument("--text", type=int, default=2, help="sentences of a row")
    parser.add_argument("--keep", action="store_true", help="leave the data folder")
    arguments = parser.parse_args()

    server = Server(keep=arguments.keep)
    try:
        rows = server.folder / "rows.jsonl"
        with rows.open("w") as out:
            for i in range(arguments.items):
                out.write(json.dumps({"text": f"Row {i}. " + TEXT * arguments.text}) + "\n")
        before = server.up.cpu_seconds()
        seconds = server.run(
            HERE / "pipeline.yaml", "bench", {"rows": rows, "part": arguments.part}
        )
        cpu = server.up.cpu_seconds() - before
        events, _ = server.history("bench")
        result = {
            "items": arguments.items,
            "per_s": round(arguments.items / seconds, 1),
            "cpu_ms_per_item": round(1000 * cpu / arguments.items, 4),
            "history_events": events,
            "rss_mb": round(server.up.peak_rss_mb(), 1),
            "artifact_bytes": round(size_of(server.data / "artifacts") / arguments.items, 1),
        }
    finally:
        server.stop()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
