"""Why a stage failed, in the terms in which it is decided what comes next."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal


class StageError(Exception):
    """A failure whose kind the engine's side knows. Anything else that a stage raises counts as
    `Failed`: it is tried again as the pipeline's retry policy says."""

    kind: str = "Failed"
    """The `type` of the activity's failure on the wire."""

    retryable: bool = True

    def __init__(self, message: str, *, retry_after: timedelta | float | None = None) -> None:
        """`retry_after`: try again no sooner than this; a number is seconds."""
        super().__init__(message)
        self.message = message
        if isinstance(retry_after, (int, float)):
            retry_after = timedelta(seconds=retry_after)
        self.retry_after: timedelta | None = retry_after


class Invalid(StageError):
    """The parameters or the input are wrong: trying again is useless. Say where, and what to do."""

    kind = "Invalid"
    retryable = False


class Retryable(StageError):
    """Something is missing or not reachable at this moment."""

    kind = "Unavailable"


class RateLimited(StageError):
    """Asked too often; `retry_after` is what whoever refused said."""

    kind = "RateLimited"


Shortage = Literal["transient", "batch", "model"]

_SHORTAGES: dict[Shortage, str] = {
    "transient": "memory is short at this moment",
    "batch": "the batch needs more memory than there is",
    "model": "the model needs more memory than there is",
}


class OutOfMemory(StageError):
    """Memory is short, on a device or in the process. The kind of shortage says what follows:

    - `transient`: others hold the memory. The task is tried again later, elsewhere if possible.
    - `batch`: the batch is too large. Half of it is tried, and the size that fitted is remembered.
    - `model`: the model alone needs more than there is. It is never tried again.

    Python's `MemoryError` and PyTorch's `OutOfMemoryError` are the second in a call of a batch, and
    the first elsewhere.
    """

    kind = "OutOfMemory"

    def __init__(
        self,
        message: str = "",
        *,
        kind: Shortage = "transient",
        needed: int | None = None,
        available: int | None = None,
        retry_after: timedelta | float | None = 5,
    ) -> None:
        """`needed` and `available`: bytes, for the message."""
        numbers = [
            f"{_size(amount)} {what}"
            for amount, what in ((needed, "needed"), (available, "available"))
            if amount is not None
        ]
        said = message or _SHORTAGES[kind]
        if numbers:
            said = f"{said} ({', '.join(numbers)})"
        super().__init__(said, retry_after=None if kind == "model" else retry_after)
        self.shortage: Shortage = kind
        if kind == "model":
            self.kind, self.retryable = "ModelTooLarge", False


def _size(amount: int) -> str:
    power = min(max(amount, 1).bit_length() - 1, 49) // 10
    return f"{amount / 1024**power:.4g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


class ArtifactStoreUnavailable(StageError):
    """The artifact store is not reachable: the run waits until it is, however long that takes."""

    kind = "ArtifactStoreUnavailable"


class Cancelled(StageError):
    """The run was cancelled, or the worker stops."""

    kind = "Cancelled"


class RunFailed(Exception):
    """A run ended without a result."""

    def __init__(self, run_id: str, message: str, *, status: str = "failed") -> None:
        super().__init__(
            f"run {run_id} {status}: {message}" if message else f"run {run_id} {status}"
        )
        self.run_id = run_id
        self.status = status
        """`failed`, `canceled`, `terminated` or `timed out`."""
        self.message = message


class CompileError(Exception):
    """A pipeline was refused by `tidemill check`; the message is what it printed."""


class EngineUnreachable(Exception):
    """No engine answers at the address."""

    def __init__(self, address: str, cause: str) -> None:
        super().__init__(
            f"no engine answers at {address} ({cause}). Start one with `tidemill up`, or name its "
            "address: TIDEMILL_ENGINE=HOST:PORT, or --engine HOST:PORT of a command."
        )
        self.address = address
