"""Pipelines built in code: the same specification as a YAML file, and one compiler for both."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml as reader
from engine import BINARY, ROOT

from tidemill import CompileError, Pipeline, compile_pipeline, stage
from tidemill.yaml import dump

EXAMPLES = [
    one
    for one in sorted((ROOT / "examples").glob("*/pipeline.yaml"))
    # One with stages in Rust has a binary of its own.
    if not one.with_name("Cargo.toml").exists()
]


@stage(name="text.shout")
def shout(input: str, marks: int = 1) -> str:
    return input.upper() + "!" * marks


def everything() -> Pipeline:
    return (
        Pipeline("demo", "Shows every kind of stage.")
        .input("folder", type="string", default="docs")
        .defaults(retry={"attempts": 3})
        .stage("documents.load", path="{{ inputs.folder }}", cache="7d")
        .map(
            lambda each: each.stage(shout, marks=2).stage("data.set", value="{{ item }}"),
            over="{{ load }}",
            id="each",
            tolerate="5%",
        )
        .parallel(
            legal=lambda branch: branch.stage("shell.run", command=["true"]),
            other=lambda branch: branch.stage("data.set", with_={"id": 1}, id="set_id"),
        )
        .approve("Go on?", id="ok", choices=["yes", "no"], timeout="3d", default="no")
        .call("other.yaml", id="sub", topic="{{ ok.choice }}")
        .at_last(lambda last: last.stage("http.request", url="http://x/", when="ok.choice == 'no'"))
        .outputs(count="{{ load.count }}")
    )


def test_builds_the_form_that_yaml_has() -> None:
    assert everything().to_dict() == {
        "name": "demo",
        "description": "Shows every kind of stage.",
        "inputs": {"folder": {"type": "string", "default": "docs"}},
        "defaults": {"retry": {"attempts": 3}},
        "stages": [
            {
                "uses": "documents.load",
                "cache": "7d",
                "with": {"path": "{{ inputs.folder }}"},
            },
            {
                "map": {
                    "over": "{{ load }}",
                    "tolerate": "5%",
                    "stages": [
                        {"uses": "python.call", "with": {"function": "text.shout", "marks": 2}},
                        {"uses": "data.set", "with": {"value": "{{ item }}"}},
                    ],
                },
                "id": "each",
            },
            {
                "parallel": {
                    "legal": [{"uses": "shell.run", "with": {"command": ["true"]}}],
                    "other": [{"uses": "data.set", "id": "set_id", "with": {"id": 1}}],
                }
            },
            {
                "approve": {
                    "message": "Go on?",
                    "choices": ["yes", "no"],
                    "timeout": "3d",
                    "default": "no",
                },
                "id": "ok",
            },
            {"call": {"pipeline": "other.yaml", "with": {"topic": "{{ ok.choice }}"}}, "id": "sub"},
        ],
        "finally": [
            {"uses": "http.request", "when": "ok.choice == 'no'", "with": {"url": "http://x/"}}
        ],
        "outputs": {"count": "{{ load.count }}"},
    }


VALUES: list[Any] = [
    everything().to_dict(),
    {"a": {}, "b": [], "c": None, "d": True, "e": 1.5},
    {
        "words": [
            "yes",
            "no",
            "null",
            "~",
            "1",
            "1e3",
            "0x1f",
            "12:30",
            "",
            " x ",
            "a: b",
            "# c",
        ]
    },
    {"lines": "one\ntwo\n", "odd": "é\u2028\t\"'\\", "key with: colon": "- dash"},
    [[1, [2, 3]], [], {"x": [{"y": 1, "z": [{}]}]}],
    "text",
]


@pytest.mark.parametrize("value", VALUES)
def test_yaml_reads_as_what_was_written(value: Any) -> None:
    assert reader.safe_load(dump(value)) == value


def test_yaml_is_for_people_too() -> None:
    text = Pipeline("demo").stage("documents.load", path="{{ inputs.folder }}", size=2).to_yaml()
    assert text == (
        "name: demo\n"
        "stages:\n"
        "  - uses: documents.load\n"
        "    with:\n"
        '      path: "{{ inputs.folder }}"\n'
        "      size: 2\n"
    )


def fake_binary(folder: Path, answer: object, code: int) -> Path:
    """A program in place of `tidemill` that prints `answer`, whatever it is asked."""
    file = folder / "tidemill"
    text = json.dumps(answer) if answer is not None else ""
    file.write_text(
        f"#!{sys.executable}\nimport sys\nprint({text!r})\n"
        f"print('said aside', file=sys.stderr)\nsys.exit({code})\n"
    )
    file.chmod(0o755)
    return file


def test_what_the_compiler_answers_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = {"file": "f.yaml", "line": 3, "column": 5, "message": "unused", "help": "use it"}

    def compile_with(answer: object, code: int) -> Any:
        monkeypatch.setenv("TIDEMILL_BIN", str(fake_binary(tmp_path, answer, code)))
        return compile_pipeline(everything())

    good = {"plan": {"name": "demo"}, "hash": "sha256:1", "diagnostics": [finding]}
    compiled = compile_with(good, 0)
    assert (compiled.plan, compiled.hash) == ({"name": "demo"}, "sha256:1")
    assert compiled.warnings == ("f.yaml:3:5: unused (use it)",)
    with pytest.raises(CompileError, match=r"f\.yaml:3:5: unused \(use it\)"):
        compile_with({"diagnostics": [finding]}, 1)
    with pytest.raises(CompileError, match="said aside"):
        compile_with(None, 1)


def test_a_missing_binary_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_BIN", str(tmp_path / "nothing"))
    with pytest.raises(CompileError, match="nothing cannot be run"):
        everything().compile()
    monkeypatch.delenv("TIDEMILL_BIN")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompileError, match="TIDEMILL_BIN"):
        everything().compile()


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.parent.name)
def test_the_examples_compile_without_a_warning(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEMILL_BIN", str(BINARY))
    compiled = compile_pipeline(file)
    assert compiled.plan["name"] == file.parent.name
    assert compiled.warnings == ()


def test_code_and_yaml_compile_to_one_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_BIN", str(BINARY))
    folder = ROOT / "examples" / "python-stage"
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    built: Pipeline = runpy.run_path(str(folder / "run.py"))["pipeline"]
    assert built.compile().hash == compile_pipeline(folder / "pipeline.yaml").hash
