"""PostgreSQL with pgvector for tests: prints its URL, and stops when its standard input ends."""

from __future__ import annotations

import sys
import tempfile

import pgserver


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="postgres") as folder:
        server = pgserver.get_server(folder, cleanup_mode="stop")
        print(server.get_uri(), flush=True)
        # Whoever started it holds the other end, and need not live to say that it is done.
        sys.stdin.read()
        server.cleanup()


if __name__ == "__main__":
    main()
