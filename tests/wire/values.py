"""Builds and reads the protocol's small values: payloads, durations, failures."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.common.v1 import Payload, Payloads, RetryPolicy
from temporalio.api.failure.v1 import ApplicationFailureInfo, CanceledFailureInfo, Failure


def payload(value: Any) -> Payload:
    """`value` as a JSON payload, the form that every SDK reads."""
    return Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(value).encode())


def payloads(*values: Any) -> Payloads:
    return Payloads(payloads=[payload(value) for value in values])


def read(encoded: Payloads | Payload) -> Any:
    """The only value in `encoded`."""
    if isinstance(encoded, Payloads):
        (encoded,) = encoded.payloads
    return json.loads(encoded.data)


def seconds(length: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(length * 1e9))
    return duration


def in_seconds(length: Duration) -> float:
    return length.ToNanoseconds() / 1e9


def nanos(instant: Timestamp) -> int:
    return instant.ToNanoseconds()


def application_failure(
    message: str = "boom",
    *,
    type: str = "Boom",
    non_retryable: bool = False,
    next_retry_delay: Duration | None = None,
) -> Failure:
    info = ApplicationFailureInfo(
        type=type, non_retryable=non_retryable, next_retry_delay=next_retry_delay
    )
    return Failure(message=message, source="wire", application_failure_info=info)


def canceled_failure() -> Failure:
    return Failure(message="canceled", canceled_failure_info=CanceledFailureInfo())


def retry(
    attempts: int = 0,
    *,
    first: float = 0.05,
    coefficient: float = 1.0,
    maximum: float | None = None,
    fatal: tuple[str, ...] = (),
) -> RetryPolicy:
    """A retry policy; times are in seconds, `attempts` 0 means without limit."""
    return RetryPolicy(
        maximum_attempts=attempts,
        initial_interval=seconds(first),
        backoff_coefficient=coefficient,
        maximum_interval=None if maximum is None else seconds(maximum),
        non_retryable_error_types=fatal,
    )
