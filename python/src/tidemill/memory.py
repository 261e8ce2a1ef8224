"""Failures for want of memory, recognised without a library of arrays having to be installed."""

from __future__ import annotations

import gc
import sys
from typing import Any

from .errors import OutOfMemory, Shortage


def shortage(error: BaseException, otherwise: Shortage) -> OutOfMemory | None:
    """`error` as a shortage of memory, if it is one; of the kind `otherwise` unless it says."""
    if isinstance(error, OutOfMemory):
        return error
    if not isinstance(error, MemoryError) and not _is_of_torch(error):
        return None
    first_line = str(error).partition("\n")[0]
    return OutOfMemory(f"{type(error).__name__}: {first_line}", kind=otherwise)


def _is_of_torch(error: BaseException) -> bool:
    # The same class is torch.OutOfMemoryError and torch.cuda.OutOfMemoryError.
    return any(
        one.__name__ == "OutOfMemoryError" and one.__module__.partition(".")[0] == "torch"
        for one in type(error).__mro__
    )


def release(error: BaseException | None = None) -> None:
    """Gives back what can be: what the frames in which `error` passed hold, PyTorch's cached
    blocks."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
