"""What is logged of tasks and items that fail."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from temporalio.exceptions import ApplicationError

from .errors import StageError

_CALLERS = {str(Path(__file__).with_name(name)) for name in ("batch.py", "served.py", "task.py")}

logger = logging.getLogger("tidemill")


def short_failures() -> None:
    """One line for a failure that says what is wrong, and the traceback of the stage's function for
    any other."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    logging.getLogger("temporalio.activity").addFilter(shorten)
    logger.setLevel(logging.INFO)


def shorten(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, ApplicationError):
        task: Any = getattr(record, "temporal_activity", {})
        record.msg = "%s (run %s, attempt %s)"
        record.args = (error.message, task.get("workflow_id"), task.get("attempt"))
        cause = error.__cause__
        record.exc_info = None
        if cause is not None and not isinstance(cause, StageError):
            record.exc_info = within_function(cause)
    return True


def within_function(error: BaseException) -> tuple[type[BaseException], BaseException, Any]:
    """What to log of an exception: its traceback begins in the stage's function."""
    first = at = error.__traceback__
    while at is not None:
        if at.tb_frame.f_code.co_filename in _CALLERS:
            first = at.tb_next
        at = at.tb_next
    while first is not None and _is_of_threads(first.tb_frame.f_code.co_filename):
        first = first.tb_next
    return type(error), error, first or error.__traceback__


def _is_of_threads(file: str) -> bool:
    return not {"asyncio", "concurrent"}.isdisjoint(Path(file).parts)
