"""A new user: `tidemill new`, and then what the README of the template says, word for word."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import tiny_model
from conftest import BINARY, Answer, Up, eventually
from fake_openai import serving

FETCH = ["python3", "mkdir", "mv"]
"""Commands that fetch the embedding model, which takes the network: a small one is there instead."""


class User:
    """A shell in the folder of a template. `tidemill` is on the path, as for any user."""

    def __init__(self, up: Up, folder: Path) -> None:
        self.up = up
        self.folder = folder
        self.said: dict[str, str] = {}
        """What stands for the words in capitals."""
        tools = up.folder / "bin"
        tools.mkdir(exist_ok=True)
        if not (tools / "tidemill").exists():
            (tools / "tidemill").symlink_to(BINARY.resolve())
        self.path = f"{tools}:{os.environ['PATH']}"

    def types(self, line: str) -> Answer:
        for word, meaning in self.said.items():
            line = line.replace(word, meaning)
        environment = {
            **os.environ,
            "PATH": self.path,
            "TIDEMILL_ENGINE": self.up.engine,
            "TIDEMILL_NAMESPACE": self.up.namespace,
            "TIDEMILL_DATA": str(self.up.data),
        }
        done = subprocess.run(
            ["sh", "-c", line],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def works(self, line: str) -> str:
        answer = self.types(line)
        assert answer.code == 0, f"{line}\n{answer.err}"
        return answer.out

    def own(self, lines: list[str]) -> list[str]:
        """What is left to type when the model is there and `tidemill up` runs."""
        left = [line for line in lines if line.split()[0] not in FETCH and line != "tidemill up"]
        assert all(line.split()[0] == "tidemill" for line in left), left
        return left

    @property
    def readme(self) -> list[str]:
        """The commands of the README, in order."""
        text = (self.folder / "README.md").read_text()
        return [line.strip() for line in re.findall(r"^    (\S.*)$", text, re.MULTILINE)]


def made(up: Up, template: str, folder: str) -> User:
    """A pipeline from the template, which is checked and drawn as it is."""
    user = User(up, up.folder)
    said = user.works(f"tidemill new {template} {folder}")
    user.folder = up.folder / folder
    for name in ("pipeline.yaml", "README.md"):
        assert (user.folder / name).is_file() and name in said
    user.works("tidemill check pipeline.yaml")
    assert user.works("tidemill graph pipeline.yaml").strip()
    # What the README links to is there for who has no repository.
    text = (user.folder / "README.md").read_text()
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert link.startswith("http") or (user.folder / link).exists(), link
    # A second time nothing is overwritten.
    again = user.types(f"tidemill new {template} .")
    assert again.code == 1 and "is there already" in again.err
    return user


def test_semantic_search_and_then_answers_from_it(up: Up) -> None:
    # In the folder in which `tidemill up` runs, as the README has it.
    user = made(up, "semantic-search", ".")
    tiny_model.write(up.data / "models" / "all-MiniLM-L6-v2")
    lines = user.readme
    assert "tidemill up" in lines
    said = [user.works(line) for line in user.own(lines)]
    assert len(said) == 4
    for search in said[1::2]:
        assert "tide-mills.md" in search
    # Its own words: a changed file, and only that, is embedded again.
    (user.folder / "docs" / "own.md").write_text("My own words about sluices.")
    assert '"documents": 2' in user.works(lines[-2])
    assert "own.md" in user.works('tidemill search --index fake "My own words about sluices."')

    with serving() as server:
        server.answer = lambda body: "The weight of the water."
        user = made(up, "rag-answer", "answers")
        user.said = {"http://127.0.0.1:8000/v1": server.url, "MODEL": "some-model"}
        fake, real = (json.loads(user.works(line)) for line in user.own(user.readme))
        assert fake["sources"] == real["sources"] == ["tide-mills.md"]
        assert "shuts the gate" in fake["answer"]
        assert real["answer"] == "The weight of the water."
        (asked,) = server.chats
        assert asked["model"] == "some-model"
        assert "tide mill" in asked["messages"][-1]["content"]


def test_batch_inference(up: Up) -> None:
    with serving() as server:
        user = made(up, "batch-inference", "batch")
        user.said = {"http://127.0.0.1:8000/v1": server.url, "MODEL": "some-model"}
        run, ps, show, retry, mended, real, larger = user.own(user.readme)
        assert '"described": 198' in user.works(run)
        (first,) = json.loads(user.works(f"{ps} --json"))
        assert first["run"] in user.works(ps)
        user.said["RUN"] = first["run"]
        assert "2 failed" in user.works(show)
        # What makes them fail is still there.
        assert user.types(retry).code == 8
        pipeline = user.folder / "pipeline.yaml"
        text = pipeline.read_text()
        pipeline.write_text(text.replace('test $(($0 % 100)) -ne "$1" && ', ""))
        assert pipeline.read_text() != text
        assert '"described": 2' in user.works(mended)
        assert '"described": 200' in user.works(real)
        assert len(server.chats) == 200
        assert '"described": 1000' in user.works(larger)


def test_human_review(up: Up) -> None:
    user = made(up, "human-review", ".")
    run, ps, show, approve = user.own(user.readme)
    user.said["RUN"] = user.works(run).strip()
    eventually(lambda: "tidemill approve" in user.works(show))
    assert user.said["RUN"] in user.works(ps)
    user.works(approve)
    user.works("tidemill logs RUN --follow")
    assert "The mill is open on Sundays." in (up.folder / "published.txt").read_text()


def test_every_template_is_walked() -> None:
    listed = subprocess.run([BINARY, "new", "--help"], capture_output=True, text=True, check=True)
    found = set(re.findall(r"^ +- ([a-z-]+):", listed.stdout, re.MULTILINE))
    assert found == {"semantic-search", "rag-answer", "batch-inference", "human-review"}
