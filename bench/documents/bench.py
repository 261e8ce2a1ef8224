"""What it costs to make an index of real documents: a folder of HTML through load, split, embed, upsert.

    bench.py postgresql-doc-15_*_all.deb                       # all pages, vectors that cost nothing
    bench.py FOLDER --pages 150 --model .models/all-MiniLM-L6-v2

Meant for the documentation of PostgreSQL, over a thousand pages: Debian's package postgresql-doc-15. On
Debian, `apt-get download postgresql-doc-15` fetches it; elsewhere any folder of HTML does. Nothing is
installed, and the package is unpacked without Debian's tools.

Embedding runs in a worker process of its own, so that its CPU can be told from everything else: engine,
interpreter, loading, splitting, writing the index. The last line is one JSON object:

pages, chunks        what went through
seconds, chunks_per_s   wall clock
cpu_s_embedding      CPU of the process that embeds; its reading and writing of chunks is in it
cpu_s_other          CPU of the process that does all else
cpu_ms_per_chunk_other
history_events       events of the longest run in the chain
history_bytes        bytes of the whole chain's history
artifact_bytes       bytes in the artifact store at the end
index_bytes          bytes of the vector index
rss_mb_embedding, rss_mb_other   peak resident memory of the two
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sqlite3
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from measured import Server, size_of  # noqa: E402


def unpack(package: Path, folder: Path) -> None:
    """The pages in a Debian package: an `ar` archive with a tar in it."""
    data = package.read_bytes()
    if not data.startswith(b"!<arch>\n"):
        sys.exit(f"{package} is neither a folder nor a Debian package")
    folder.mkdir()
    at = 8
    while at < len(data):
        name, size = data[at : at + 16].decode().strip(" /"), int(data[at + 48 : at + 58])
        at += 60
        if name.startswith("data.tar"):
            with tarfile.open(fileobj=io.BytesIO(data[at : at + size])) as archive:
                for member in archive:
                    page = Path(member.name)
                    content = archive.extractfile(member) if page.suffix == ".html" else None
                    if content is not None:
                        (folder / page.name).write_bytes(content.read())
            return
        at += size + size % 2
    sys.exit(f"{package} holds no files")


def pages_of(source: Path, scratch: Path, wanted: int) -> Path:
    """A folder with the pages; evenly chosen ones where not all are wanted."""
    if source.is_file():
        unpack(source, scratch / "unpacked")
        source = scratch / "unpacked"
    pages = sorted(path for path in source.rglob("*.html") if not path.is_symlink())
    if not pages:
        sys.exit(f"there is no HTML in {source}")
    if wanted and wanted < len(pages):
        pages = [pages[i * len(pages) // wanted] for i in range(wanted)]
    folder = scratch / "pages"
    for page in pages:
        copy = folder / page.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(page, copy)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="a folder of HTML, or a Debian package")
    parser.add_argument("--pages", type=int, default=0, help="so many of them; all unless given")
    parser.add_argument(
        "--model", default="fake:384", help="a model's folder; fake:384 costs nothing"
    )
    parser.add_argument("--keep", action="store_true", help="leave the data folder")
    arguments = parser.parse_args()
    model = Path(arguments.model)

    server = Server("--offer", "cpu", keep=arguments.keep)
    try:
        folder = pages_of(arguments.source, server.folder, arguments.pages)
        embedder = server.worker("--offer", "accelerator", "--no-interpreter")
        before = server.up.cpu_seconds()
        inputs = {"folder": folder, "model": model.resolve() if model.is_dir() else arguments.model}
        seconds = server.run(HERE / "pipeline.yaml", "bench", inputs)
        other, embedding = server.up.cpu_seconds() - before, embedder.cpu_seconds()
        index = server.data / "indexes"
        with sqlite3.connect(index / "bench.db") as connection:
            (chunks,) = connection.execute("SELECT count(*) FROM chunks").fetchone()
        events, size = server.history("bench")
        result = {
            "pages": server.outputs["pages"],
            "chunks": chunks,
            "model": model.name,
            "seconds": round(seconds, 1),
            "chunks_per_s": round(chunks / seconds, 1),
            "cpu_s_embedding": round(embedding, 2),
            "cpu_s_other": round(other, 2),
            "cpu_ms_per_chunk_other": round(1000 * other / chunks, 3),
            "history_events": events,
            "history_bytes": size,
            "artifact_bytes": size_of(server.data / "artifacts"),
            "index_bytes": size_of(index),
            "rss_mb_embedding": round(embedder.peak_rss_mb(), 1),
            "rss_mb_other": round(server.up.peak_rss_mb(), 1),
        }
    finally:
        server.stop()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
