"""What a stage may use besides its input: `tidemill.context()`."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from .artifacts import Artifacts
from .errors import Cancelled


def _ignore(line: str) -> None:
    pass


@dataclass
class Context:
    """The surroundings of one task."""

    run_id: str = ""
    pipeline: str = ""
    plan: str = ""
    """Hash of the plan that the run is pinned to."""
    stage: str = ""
    """The stage's id in its pipeline."""
    attempt: int = 1
    """Counted from 1."""
    artifacts: Artifacts | None = None
    _report: Callable[[str], None] = _ignore
    _cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def cancelled(self) -> bool:
        """Whether the run was cancelled, the attempt has timed out or the worker stops. A sync
        function that runs long should look at it from time to time; an async one is interrupted."""
        return self._cancelled.is_set()

    def raise_if_cancelled(self) -> None:
        if self.cancelled:
            raise Cancelled("cancelled")

    def progress(self, line: str) -> None:
        """A line for people, such as `120 of 256 embedded`. From any thread."""
        self._report(line)

    def cancel(self) -> None:
        """Tells the function that it should end. For the worker, and for tests."""
        self._cancelled.set()

    def heartbeat(self) -> None:
        """A sign of life. The worker sends them by itself while its event loop runs; only an async
        function that blocks has reason to call it, and should be sync instead."""
        self._report("")


_current: contextvars.ContextVar[Context] = contextvars.ContextVar("tidemill.context")


def context() -> Context:
    """The context of the task that is being run; outside one, as in a test, an empty one."""
    try:
        return _current.get()
    except LookupError:
        return Context()


def enter(one: Context) -> contextvars.Token[Context]:
    return _current.set(one)


def leave(token: contextvars.Token[Context]) -> None:
    _current.reset(token)
