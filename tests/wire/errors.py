"""Expects an RPC to fail with a given status code and typed detail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import pytest
from google.protobuf.message import Message
from temporalio.api.common.v1 import GrpcStatus
from temporalio.service import RPCError, RPCStatusCode

INVALID = RPCStatusCode.INVALID_ARGUMENT
NOT_FOUND = RPCStatusCode.NOT_FOUND
EXISTS = RPCStatusCode.ALREADY_EXISTS
PRECONDITION = RPCStatusCode.FAILED_PRECONDITION
EXHAUSTED = RPCStatusCode.RESOURCE_EXHAUSTED
DENIED = RPCStatusCode.PERMISSION_DENIED

M = TypeVar("M", bound=Message)


@dataclass
class Refusal:
    """What the server answered; filled in when the `with` block ends."""

    message: str = ""
    status: GrpcStatus = field(default_factory=GrpcStatus)

    def detail(self, kind: type[M]) -> M:
        """The detail of type `kind`; SDKs pick their exception by code and detail together."""
        for packed in self.status.details:
            unpacked = kind()
            if packed.Unpack(unpacked):
                return unpacked
        present = [packed.type_url for packed in self.status.details]
        raise AssertionError(f"no {kind.DESCRIPTOR.full_name} among the details {present}")


@contextmanager
def refused(code: RPCStatusCode, detail: type[Message] | None = None) -> Iterator[Refusal]:
    """Passes if the block's call fails with `code` and, if given, with a detail of that type."""
    refusal = Refusal()
    with pytest.raises(RPCError) as caught:
        yield refusal
    error = caught.value
    assert error.status == code, f"{error.status.name}: {error.message}"
    refusal.message = error.message
    refusal.status.CopyFrom(error.grpc_status)
    if detail is not None:
        refusal.detail(detail)
