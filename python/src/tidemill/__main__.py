"""`python -m tidemill worker MODULE[:ATTRIBUTE] ...`: serves the stages of Python modules."""

from __future__ import annotations

import argparse
import asyncio
import atexit
import contextlib
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, cast

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client as EngineClient
from temporalio.service import RPCError, RPCStatusCode

from . import log
from .client import connect_engine, default_engine, default_namespace
from .errors import EngineUnreachable
from .stage import Stage
from .worker import DEFAULT_QUEUE, Options, Worker, default_artifacts, unique


class Refused(Exception):
    """The command cannot be carried out; the message says what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    parsed = _parser().parse_args(arguments)
    log.short_failures()
    try:
        stages = unique([one for name in parsed.modules for one in load(name)])
        asyncio.run(_serve(stages, parsed))
    except (Refused, EngineUnreachable, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m tidemill", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    worker = commands.add_parser("worker", help="serve the stages of modules until stopped")
    worker.add_argument(
        "--engine",
        default=default_engine(),
        metavar="HOST:PORT",
        help="the engine's address (default: %(default)s)",
    )
    worker.add_argument("--namespace", default=default_namespace(), help="(default: %(default)s)")
    worker.add_argument(
        "--queue",
        default=DEFAULT_QUEUE,
        metavar="CLASS",
        help="the resource class that pipelines name (default: %(default)s)",
    )
    worker.add_argument(
        "--artifacts",
        default=default_artifacts(),
        metavar="URL",
        help="the artifact store, the same that the engine's other workers use: a folder or "
        "s3://bucket/prefix (default: %(default)s)",
    )
    worker.add_argument(
        "--slots",
        type=_positive,
        default=Options().slots,
        help="tasks at a time (default: cores); those that wait for a batch are not counted",
    )
    worker.add_argument(
        "--grace",
        type=float,
        default=Options().grace.total_seconds(),
        metavar="SECONDS",
        help="time for running tasks to end after SIGTERM (default: %(default)s)",
    )
    worker.add_argument(
        "modules", nargs="+", metavar="MODULE[:ATTRIBUTE]", help="such as steps or app.py:clean"
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} should be a whole number, at least 1")
    return int(text)


def load(name: str) -> list[Stage[..., Any]]:
    """The stages of `module`, or those that `module:attribute` is: one, or a list of them."""
    where, _, attribute = name.partition(":")
    module = _import(where)
    if not attribute:
        values: list[Any] = list(vars(module).values())
        stages: list[Stage[..., Any]] = [one for one in values if isinstance(one, Stage)]
        if not stages:
            raise Refused(f"{where} has no stages: mark functions with @tidemill.stage")
        return stages
    if not hasattr(module, attribute):
        raise Refused(f"{where} has no `{attribute}`")
    value: Any = getattr(module, attribute)
    members: list[Any] = [*value] if isinstance(value, (list, tuple)) else [value]
    for one in members:
        if not isinstance(one, Stage):
            raise Refused(
                f"{name} is a {type(one).__name__} and no stage: mark the function with "
                "@tidemill.stage"
            )
    return cast("list[Stage[..., Any]]", members)


def _import(where: str) -> ModuleType:
    """A module by its name, looked for in the current folder too, or by its file."""
    path = Path(where)
    try:
        if path.suffix == ".py":
            if not path.is_file():
                raise Refused(f"there is no file {path}")
            sys.path.insert(0, str(path.parent.resolve()))
            return importlib.import_module(path.stem)
        sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name is not None and (where == error.name or where.startswith(f"{error.name}.")):
            raise Refused(
                f"there is no module {where}. Run this in the folder that has it, install its "
                "package into this Python environment, or name its file."
            ) from None
        raise Refused(
            f"{where} imports {error.name}, which is not there: install it into the environment of "
            f"{sys.executable}"
        ) from None
    except Refused:
        raise
    except Exception as error:
        lines = "".join(traceback.format_exception(error)).rstrip()
        raise Refused(f"importing {where} failed:\n{lines}") from error


async def _serve(stages: list[Stage[..., Any]], parsed: argparse.Namespace) -> None:
    engine = await connect_engine(parsed.engine, parsed.namespace)
    await _check_namespace(engine, parsed.engine)
    options = Options(
        queue=parsed.queue,
        artifacts=parsed.artifacts,
        slots=parsed.slots,
        grace=timedelta(seconds=parsed.grace),
    )
    worker = Worker(engine, stages, options)
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for one in (signal.SIGTERM, signal.SIGINT):
        # Windows has none; there Ctrl-C ends the process at once.
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(one, told.set)
    names = ", ".join(one.name for one in stages)
    print(
        f"serving {names} on {parsed.queue} of {parsed.engine}, artifacts in {worker.artifacts}",
        flush=True,
    )
    serving = asyncio.create_task(worker.run())
    stopping = asyncio.create_task(told.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not serving.done():
        # A second signal ends the process at once.
        for one in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(one)
        print("stopping: running tasks may end", flush=True)
        await worker.stop()
    try:
        await serving
    except (RPCError, RuntimeError) as error:
        raise Refused(f"the engine at {parsed.engine} refused the worker: {error}") from error


async def _check_namespace(engine: EngineClient, address: str) -> None:
    request = DescribeNamespaceRequest(namespace=engine.namespace)
    try:
        await engine.workflow_service.describe_namespace(request)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise Refused(f"the engine at {address} does not answer: {error.message}") from error
        raise Refused(
            f"the engine at {address} has no namespace {engine.namespace}: name another with "
            "--namespace; `default` is there unless the engine was told otherwise"
        ) from None


def command() -> NoReturn:
    """`main` as a process. Ends it without Python's own finalization: threads of Temporal's SDK may
    still be about, which then crash the interpreter now and then, and a sync function that
    outlasted the grace would hold it up. Exit handlers run; the worker has drained."""
    code = main()
    atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    command()
