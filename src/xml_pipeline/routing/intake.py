"""Deliveries -> items: what came from the broker is parsed once, and believed as little as possible."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID, uuid4

from xml_pipeline.envelope.codec import decode_assignment, decode_ingress
from xml_pipeline.envelope.model import Turn
from xml_pipeline.errors import InvalidXml
from xml_pipeline.message_bus.port import Incoming
from xml_pipeline.routing.current import Current
from xml_pipeline.routing.items import Inject, Item, Junk, Returned, TurnReport
from xml_pipeline.tracing.ids import HEADER

_ENVELOPE_START = b"<message "
_ASSIGNMENT_START = b"<assignment "


class Intake:
    """Reads deliveries by the limits that are in force."""

    def __init__(self, current: Current) -> None:
        self._current = current

    def ingress(self, deliveries: Sequence[Incoming]) -> list[Item]:
        """What came on ingress: turns, and injects by the id of their inbox row."""
        return [_read(delivery, self._max_bytes) for delivery in deliveries]

    def dead(self, deliveries: Sequence[Incoming]) -> list[Item]:
        """What the broker dead-lettered: an assignment is a lost delivery; turns and injects count as ever."""
        return [_read_dead(delivery, self._max_bytes) for delivery in deliveries]

    @property
    def _max_bytes(self) -> int:
        return self._current.configured.organism.limits.max_envelope_bytes


def _read(delivery: Incoming, max_envelope_bytes: int) -> Item:
    message_id = _message_id(delivery)
    if message_id is not None and delivery.body.startswith(_ENVELOPE_START):
        # Not parsed here: the router uses the bytes of the inbox row, whatever these are.
        return Inject(message_id, delivery.body)
    try:
        content = decode_ingress(delivery.body, max_payload_bytes=max_envelope_bytes)
    except InvalidXml as error:
        return _junk(delivery, str(error))
    if isinstance(content, Turn):
        return TurnReport(content, delivery.body, delivery.headers.get(HEADER))
    if message_id is None:
        return _junk(delivery, "An envelope that no gateway has accepted.", "not-accepted")
    return Inject(message_id, delivery.body)


def _read_dead(delivery: Incoming, max_envelope_bytes: int) -> Item:
    if not delivery.body.startswith(_ASSIGNMENT_START):
        return _read(delivery, max_envelope_bytes)
    try:
        assignment = decode_assignment(delivery.body)
    except InvalidXml as error:
        return _junk(delivery, str(error))
    return Returned(assignment.message_id, assignment.attempt)


def _message_id(delivery: Incoming) -> UUID | None:
    try:
        return UUID(str(delivery.headers["message-id"]))
    except (KeyError, ValueError):
        return None


def _junk(delivery: Incoming, reason: str, code: str = "unreadable") -> Junk:
    return Junk(uuid4(), reason, delivery.body, code)
