"""Builds a worker's answers to updates, which travel as protocol messages."""

from __future__ import annotations

from typing import Any

from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.message import Message as Proto
from temporalio.api.protocol.v1 import Message
from temporalio.api.update.v1 import Acceptance, Outcome, Rejection, Request, Response

from values import application_failure, payloads


def request_in(message: Message) -> Request:
    """The update request that the server put into `message`."""
    request = Request()
    assert message.body.Unpack(request), message
    return request


def _packed(body: Proto) -> Packed:
    packed = Packed()
    packed.Pack(body)
    return packed


def accept(message: Message) -> Message:
    body = Acceptance(
        accepted_request_message_id=message.id,
        accepted_request_sequencing_event_id=message.event_id,
        accepted_request=request_in(message),
    )
    update = message.protocol_instance_id
    return Message(id=f"{update}/accept", protocol_instance_id=update, body=_packed(body))


def respond(message: Message, result: Any = None) -> Message:
    """Completes the update with `result`; needs an acceptance before it."""
    body = Response(meta=request_in(message).meta, outcome=Outcome(success=payloads(result)))
    update = message.protocol_instance_id
    return Message(id=f"{update}/complete", protocol_instance_id=update, body=_packed(body))


def reject(message: Message) -> Message:
    body = Rejection(
        rejected_request_message_id=message.id,
        rejected_request_sequencing_event_id=message.event_id,
        rejected_request=request_in(message),
        failure=application_failure("refused by the validator", type="Refused"),
    )
    update = message.protocol_instance_id
    return Message(id=f"{update}/reject", protocol_instance_id=update, body=_packed(body))
