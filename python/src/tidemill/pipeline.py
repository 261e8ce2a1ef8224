"""Pipelines as code: a builder for the same specification that YAML files have.

It does not check anything: `tidemill check` does, so that there is one compiler. What a stage takes
is said in the reference of stages; keys here are those of the YAML form.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import yaml
from .data import is_object
from .errors import CompileError
from .stage import Stage


class Stages:
    """A list of stages in the making: of a pipeline, of a branch, or within a `map`."""

    def __init__(self) -> None:
        self._stages: list[dict[str, Any]] = []

    def stage(
        self,
        uses: str | Stage[..., Any],
        *,
        id: str | None = None,
        input: str | None = None,
        needs: Sequence[str] | None = None,
        when: str | None = None,
        allow_failure: bool | None = None,
        resource: str | None = None,
        retry: Mapping[str, Any] | None = None,
        timeout: str | Mapping[str, Any] | None = None,
        cache: bool | str | Mapping[str, Any] | None = None,
        chunk: int | None = None,
        window: int | None = None,
        tolerate: str | float | None = None,
        **parameters: Any,
    ) -> Stages:
        """Adds a stage. `uses` is a stage type, or a `@stage` function, which a Python worker has
        to serve. Other keywords are its `with`; a parameter that has the name of a key above goes
        into `with_`, a dictionary. Raises ValueError for `cache` of a function that is not
        `@stage(pure=True)`."""
        extra: dict[str, Any] = {**(parameters.pop("with_", None) or {})}
        if isinstance(uses, Stage):
            if cache and not uses.pure:
                raise ValueError(
                    f"stage {uses.name} cannot be cached, since it is not said to be pure: write "
                    "@stage(pure=True) if equal input gives equal output, or leave out `cache`"
                )
            extra["function"] = uses.name
            uses = "python.call"
        entry: dict[str, Any] = {"uses": uses}
        entry.update(
            _given(
                id=id,
                input=input,
                needs=None if needs is None else list(needs),
                when=when,
                allow_failure=allow_failure,
                resource=resource,
                retry=retry,
                timeout=timeout,
                cache=cache,
                chunk=chunk,
                window=window,
                tolerate=tolerate,
            )
        )
        given = {**parameters, **extra}
        if given:
            entry["with"] = given
        self._stages.append(entry)
        return self

    def approve(
        self,
        message: str,
        *,
        id: str | None = None,
        needs: Sequence[str] | None = None,
        when: str | None = None,
        choices: Sequence[str] | None = None,
        form: Mapping[str, Any] | None = None,
        timeout: str | None = None,
        default: str | None = None,
    ) -> Stages:
        """Adds a wait for a person. `form` is the JSON Schema of what goes with the answer,
        `default` the answer when nobody gave one within `timeout`."""
        entry: dict[str, Any] = {
            "approve": {
                "message": message,
                **_given(
                    choices=None if choices is None else list(choices),
                    form=form,
                    timeout=timeout,
                    default=default,
                ),
            }
        }
        entry.update(_given(id=id, needs=None if needs is None else list(needs), when=when))
        self._stages.append(entry)
        return self

    def map(
        self,
        build: Callable[[Stages], Any],
        *,
        over: str | None = None,
        id: str | None = None,
        when: str | None = None,
        chunk: int | None = None,
        window: int | None = None,
        tolerate: str | float | None = None,
    ) -> Stages:
        """Adds stages that run for each item of a collection or list: `build` adds them to what it
        is given."""
        inner = Stages()
        build(inner)
        fan = _given(over=over, chunk=chunk, window=window, tolerate=tolerate)
        entry: dict[str, Any] = {"map": {**fan, "stages": inner.to_list()}}
        entry.update(_given(id=id, when=when))
        self._stages.append(entry)
        return self

    def parallel(self, **branches: Callable[[Stages], Any]) -> Stages:
        """Adds branches that run side by side; each builds its stages on what it is given."""
        made: dict[str, Any] = {}
        for name, build in branches.items():
            inner = Stages()
            build(inner)
            made[name] = inner.to_list()
        self._stages.append({"parallel": made})
        return self

    def call(
        self, pipeline: str, *, id: str | None = None, when: str | None = None, **inputs: Any
    ) -> Stages:
        """Adds a run of another pipeline, named by its file."""
        entry: dict[str, Any] = {
            "call": {"pipeline": pipeline, **({"with": inputs} if inputs else {})}
        }
        entry.update(_given(id=id, when=when))
        self._stages.append(entry)
        return self

    def to_list(self) -> list[dict[str, Any]]:
        return self._stages


class Pipeline(Stages):
    """A pipeline in the making: `Pipeline("index").input("folder", type="string").stage(...)`."""

    def __init__(self, name: str, description: str = "") -> None:
        super().__init__()
        self.name = name
        self.description = description
        self._inputs: dict[str, Any] = {}
        self._defaults: dict[str, Any] = {}
        self._finally = Stages()
        self._outputs: Any = None

    def input(self, name: str, schema: Mapping[str, Any] | None = None, **keys: Any) -> Pipeline:
        """An input of a run: JSON Schema, as a mapping or as keywords such as `default=`."""
        self._inputs[name] = {**(schema or {}), **keys}
        return self

    def defaults(
        self,
        *,
        resource: str | None = None,
        retry: Mapping[str, Any] | None = None,
        timeout: str | Mapping[str, Any] | None = None,
    ) -> Pipeline:
        """What all stages have that do not say otherwise."""
        self._defaults.update(_given(resource=resource, retry=retry, timeout=timeout))
        return self

    def at_last(self, build: Callable[[Stages], Any]) -> Pipeline:
        """The stages of `finally:`, which run when all others have ended, however they did."""
        build(self._finally)
        return self

    def outputs(self, value: Any = None, **keys: Any) -> Pipeline:
        """What a run returns: JSON with templates in its strings."""
        self._outputs = keys if value is None else value
        return self

    # The narrower type lets calls be chained in any order.

    def stage(self, uses: str | Stage[..., Any], **keys: Any) -> Pipeline:
        super().stage(uses, **keys)
        return self

    def approve(self, message: str, **keys: Any) -> Pipeline:
        super().approve(message, **keys)
        return self

    def map(self, build: Callable[[Stages], Any], **keys: Any) -> Pipeline:
        super().map(build, **keys)
        return self

    def parallel(self, **branches: Callable[[Stages], Any]) -> Pipeline:
        super().parallel(**branches)
        return self

    def call(self, pipeline: str, **keys: Any) -> Pipeline:
        super().call(pipeline, **keys)
        return self

    def to_dict(self) -> dict[str, Any]:
        """The specification, as a YAML file would have it."""
        spec: dict[str, Any] = {"name": self.name}
        last = self._finally.to_list()
        spec.update(
            _given(
                description=self.description or None,
                inputs=self._inputs or None,
                defaults=self._defaults or None,
            )
        )
        spec["stages"] = self.to_list()
        spec.update(_given(**{"finally": last or None}, outputs=self._outputs))
        return spec

    def to_yaml(self) -> str:
        return yaml.dump(self.to_dict())

    def compile(self, *, folder: Path | str | None = None) -> Compiled:
        """See `compile_pipeline`."""
        return compile_pipeline(self, folder=folder)


@dataclass(frozen=True)
class Compiled:
    """A checked pipeline."""

    plan: Mapping[str, Any]
    hash: str
    """Equal for pipelines that do the same, whether they were YAML or code."""
    warnings: tuple[str, ...] = ()


def compile_pipeline(
    pipeline: Pipeline | Path | str, *, folder: Path | str | None = None
) -> Compiled:
    """Checks a pipeline, or a file of one, with `tidemill check`. Pipelines that it calls are
    looked for beside the file, or in `folder`. Raises `CompileError` with all that is wrong."""
    if not isinstance(pipeline, Pipeline):
        return _check(Path(pipeline))
    with tempfile.TemporaryDirectory(prefix="tidemill-") as temporary:
        place = Path(folder) if folder is not None else Path(temporary)
        handle, name = tempfile.mkstemp(prefix=f"{pipeline.name}-", suffix=".yaml", dir=place)
        file = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as opened:
                opened.write(pipeline.to_yaml())
            return _check(file)
        finally:
            file.unlink(missing_ok=True)


def binary() -> str:
    """The `tidemill` binary: `TIDEMILL_BIN`, or the one on the path. Raises `CompileError`."""
    found = os.environ.get("TIDEMILL_BIN") or shutil.which("tidemill")
    if not found:
        raise CompileError(
            "the `tidemill` binary is needed to check a pipeline and is not on the path: install "
            "it, or set TIDEMILL_BIN to its file"
        )
    return found


def _check(file: Path) -> Compiled:
    command = [binary(), "check", "--json", str(file)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CompileError(f"{command[0]} cannot be run: {error}") from error
    lines = done.stdout.strip().splitlines()
    try:
        answer: Any = json.loads(lines[-1])
    except (IndexError, ValueError):
        raise CompileError(done.stderr.strip() or f"{command[0]} check said nothing") from None
    findings = [_finding(one) for one in list[Any](answer.get("diagnostics") or [])]
    if "plan" not in answer:
        raise CompileError("\n".join(findings) or done.stderr.strip())
    return Compiled(answer["plan"], str(answer["hash"]), tuple(findings))


def _finding(value: Any) -> str:
    if not is_object(value):
        return str(value)
    text = f"{value.get('file')}:{value.get('line')}:{value.get('column')}: {value.get('message')}"
    return f"{text} ({value['help']})" if value.get("help") else text


def _given(**keys: Any) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if value is not None}
