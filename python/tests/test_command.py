"""`python -m tidemill worker`: what it finds, what it says when it finds nothing, how it stops."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest
from engine import Engine, free_port

from tidemill.__main__ import Refused, load, main

STEPS = """
from tidemill import stage

@stage
def one(input: str) -> str:
    return input

@stage(name="text.two")
async def two(input: str) -> str:
    return input

both = [one, two]
plain = len
"""


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with stages, in the current folder."""
    name = f"steps_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(STEPS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def test_finds_the_stages_of_a_module_a_file_and_an_attribute(steps: str, tmp_path: Path) -> None:
    assert [one.name for one in load(steps)] == ["one", "text.two"]
    assert [one.name for one in load(f"{steps}:two")] == ["text.two"]
    assert [one.name for one in load(f"{steps}:both")] == ["one", "text.two"]
    assert [one.name for one in load(str(tmp_path / f"{steps}.py"))] == ["one", "text.two"]


def test_says_what_to_do_when_there_is_nothing_to_serve(steps: str, tmp_path: Path) -> None:
    (tmp_path / "empty_module.py").write_text("")
    (tmp_path / "broken_module.py").write_text("1 / 0")
    (tmp_path / "needy_module.py").write_text("import surely_not_there")
    for name, message in [
        ("no_such_module", "there is no module no_such_module"),
        ("no_such_file.py", "there is no file no_such_file.py"),
        ("empty_module", "mark functions with @tidemill.stage"),
        ("broken_module", "ZeroDivisionError"),
        ("needy_module", "imports surely_not_there, which is not there: install it"),
        (f"{steps}:three", "has no `three`"),
        (f"{steps}:plain", "no stage"),
    ]:
        with pytest.raises(Refused) as refused:
            load(name)
        assert message in str(refused.value)


def test_a_missing_engine_is_named_with_the_command_that_starts_one(
    steps: str, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"127.0.0.1:{free_port()}"
    assert main(["worker", steps, "--engine", address]) == 1
    said = capsys.readouterr().err
    assert f"no engine answers at {address}" in said
    assert "tidemill up" in said


def test_a_missing_namespace_and_a_wrong_store_are_named(
    engine: Engine, steps: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["worker", steps, "--engine", engine.address, "--artifacts"]
    assert main([*arguments, str(tmp_path / "a"), "--namespace", "nowhere"]) == 1
    assert "has no namespace nowhere" in capsys.readouterr().err
    assert main([*arguments, str(tmp_path)]) == 1
    assert "not an artifact store and not empty" in capsys.readouterr().err


async def test_serves_until_sigterm(engine: Engine, steps: str, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tidemill", "worker", steps,
        "--engine", engine.address, "--artifacts", str(tmp_path / "a"), "--slots", "2",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    store = tmp_path / "a"
    assert line == f"serving one, text.two on python of {engine.address}, artifacts in {store}\n"
    process.send_signal(signal.SIGTERM)
    said, _ = await process.communicate()
    assert said.decode() == "stopping: running tasks may end\n"
    assert process.returncode == 0
