"""The payload types of an organism, by the root tags that stand for them on the wire."""

from __future__ import annotations

from lxml import etree

from xml_pipeline.envelope.model import HUH_TAG, SYSTEM_ERROR_TAG
from xml_pipeline.envelope.parser import parse
from xml_pipeline.envelope.system import Huh, SystemError  # noqa: A004 - the payload class of that name
from xml_pipeline.errors import Fault, InvalidPayload, NotFound
from xml_pipeline.organism.model import Organism
from xml_pipeline.payload.payload_type import PayloadType


class Catalog:
    """Every payload type that one configuration knows, compiled. Raises UnsupportedPayload when a class is none."""

    def __init__(self, organism: Organism) -> None:
        self._types = {HUH_TAG: PayloadType(Huh, HUH_TAG), SYSTEM_ERROR_TAG: PayloadType(SystemError, SYSTEM_ERROR_TAG)}
        self._requests: dict[str, PayloadType] = {}
        self._responses: dict[str, frozenset[str]] = {}
        for name, listener in organism.listeners.items():
            self._requests[name] = self._add(listener.payload_class, listener.root_tag)
            tags = [self._add(response.cls, response.root_tag).root_tag for response in listener.responses]
            self._responses[name] = frozenset(tags)

    def find(self, tag: str) -> PayloadType | None:
        """Give the payload type of a root tag; None if this configuration has none."""
        return self._types.get(tag)

    def payload_type(self, listener: str) -> PayloadType:
        """Give what a listener takes; raise NotFound."""
        found = self._requests.get(listener)
        if found is None:
            raise NotFound(f"there is no listener {listener!r}")
        return found

    def validate_request(self, to: str, payload: bytes | etree._Element) -> None:
        """Check a request to `to`; raise InvalidPayload, or NotFound if there is no such listener."""
        expected = self.payload_type(to)
        element = _element(payload)
        if element.tag != expected.root_tag:
            raise _wrong_root(element, [expected.root_tag])
        expected.validate(element)

    def validate_response(self, responder: str, payload: bytes | etree._Element) -> None:
        """Check a response of `responder`, one of its own or an error; raise InvalidPayload."""
        element = _element(payload)
        own = self._responses.get(responder, frozenset())
        if element.tag not in own and element.tag not in (HUH_TAG, SYSTEM_ERROR_TAG):
            raise _wrong_root(element, sorted(own))
        self._types[str(element.tag)].validate(element)

    def _add(self, cls: type, tag: str) -> PayloadType:
        found = self._types.get(tag)
        if found is None:
            found = self._types[tag] = PayloadType(cls, tag)
        return found


def _element(payload: bytes | etree._Element) -> etree._Element:
    return parse(payload, max_bytes=len(payload)) if isinstance(payload, bytes) else payload


def _wrong_root(element: etree._Element, expected: list[str]) -> InvalidPayload:
    wanted = " or ".join(f"<{tag}>" for tag in expected) or "no response at all"
    return InvalidPayload([Fault("/", f"the root is <{element.tag!s}>; expected {wanted}")])
