"""Payload objects in and out of XML in a child; each class is compiled when it is first needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

from lxml import etree

from xml_pipeline.envelope.codec import MAX_TURN_BYTES, canonical, payload_tag
from xml_pipeline.envelope.model import HUH_TAG, SYSTEM_ERROR_TAG, Kind, Output
from xml_pipeline.envelope.parser import parse
from xml_pipeline.envelope.system import Huh, SystemError  # noqa: A004 the name is the payload's
from xml_pipeline.envelope.text import encode_text, uncarriable
from xml_pipeline.errors import Fault, InvalidInput, InvalidPayload, InvalidXml, UnsupportedPayload
from xml_pipeline.organism.model import Organism
from xml_pipeline.payload import PayloadType
from xml_pipeline.worker.handler_api import HandlerResponse
from xml_pipeline.worker.words import short_reason

_LONGEST_NAME = 200
_MOST_BYTES = MAX_TURN_BYTES - 1024 * 1024
_SYSTEM_TAGS: dict[type, str] = {Huh: HUH_TAG, SystemError: SYSTEM_ERROR_TAG}


class Rubbish(Exception):
    """A handler returned something that is no HandlerResponse, None or list of them."""


class Payloads:
    """The payload types of one organism."""

    def __init__(self, organism: Organism) -> None:
        self._classes = _classes(organism)
        self._types: dict[tuple[type[Any], str], PayloadType] = {}

    def read(self, payload: bytes) -> object:
        """The object of a payload element. Raises InvalidPayload."""
        tag = payload_tag(payload)
        cls = self._classes.get(tag)
        if cls is None:
            raise InvalidPayload([Fault(tag, "no class of this organism has this element")])
        return self._type(cls, tag).from_xml(payload)

    def write(self, payload: object, owner: str) -> bytes:
        """Canonical XML of an object as a payload of the listener `owner`. Raises InvalidPayload, and Rubbish."""
        cls = type(payload)
        tag = _SYSTEM_TAGS.get(cls) or f"{owner}.{cls.__name__}".lower()
        try:
            known = self._type(cls, tag)
        except UnsupportedPayload as error:
            raise Rubbish(f"the payload of a HandlerResponse is a {cls.__name__}: {error}") from None
        return known.to_xml(payload)

    def _type(self, cls: type[Any], tag: str) -> PayloadType:
        known = self._types.get((cls, tag))
        if known is None:
            known = self._types[cls, tag] = PayloadType(cls, tag)
        return known


def _classes(organism: Organism) -> dict[str, type[Any]]:
    classes: dict[str, type[Any]] = {tag: cls for cls, tag in _SYSTEM_TAGS.items()}
    for listener in organism.listeners.values():
        classes[listener.root_tag] = listener.payload_class
        classes.update({response.root_tag: response.cls for response in listener.responses})
    return classes


class Replies(Sequence[object]):
    """Earlier answers of a call, read when they are looked at: most handlers wait for the last one."""

    def __init__(self, payloads: Sequence[bytes], read: Callable[[bytes], object]) -> None:
        self._payloads = payloads
        self._read = read
        self._objects: dict[int, object] = {}

    def __len__(self) -> int:
        return len(self._payloads)

    @overload
    def __getitem__(self, index: int) -> object: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[object]: ...

    def __getitem__(self, index: int | slice) -> object:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self._payloads))[index]
        if place not in self._objects:
            self._objects[place] = self._read(self._payloads[place])
        return self._objects[place]


def outputs_of(
    result: object, agent: str, payloads: Payloads, *, max_outputs: int, max_bytes: int
) -> tuple[Output, ...]:
    """What a handler returned, as outputs; more than `max_outputs` are cut to one more, which the router refuses.

    Raises Rubbish.
    """
    responses = _responses(result)
    outputs = tuple(_output(response, agent, payloads, max_bytes) for response in responses[: max_outputs + 1])
    size = sum(len(output.payload or b"") for output in outputs)
    if size > _MOST_BYTES:
        raise Rubbish(f"the handler's outputs have {size} bytes; at most {_MOST_BYTES} are allowed in one turn")
    return outputs


def _responses(result: object) -> Sequence[HandlerResponse]:
    if result is None:
        return ()
    several = result if isinstance(result, list | tuple) else (result,)
    for one in several:
        if not isinstance(one, HandlerResponse):
            raise Rubbish(f"the handler returned {_name(one)}: it may return HandlerResponse, a list of them, or None")
        if one.to is not None and not _is_name(one.to):
            raise Rubbish("the handler returned a HandlerResponse whose `to` is no name of a listener")
    return several


def _name(value: object) -> str:
    return type(value).__name__


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME and uncarriable(value) is None


def _output(response: HandlerResponse, agent: str, payloads: Payloads, max_bytes: int) -> Output:
    kind = Kind.RESPONSE if response.to is None else Kind.REQUEST
    try:
        payload = _payload(response, agent, payloads, max_bytes)
    except InvalidInput as error:
        return Output(kind, response.to, None, malformed=short_reason(str(error)))
    return Output(kind, response.to, payload)


def _payload(response: HandlerResponse, agent: str, payloads: Payloads, max_bytes: int) -> bytes:
    given = response.payload
    if isinstance(given, str | bytes):
        return _written_by_hand(given, max_bytes)
    if given is None or isinstance(given, type):
        raise Rubbish(f"the payload of a HandlerResponse is {given!r}, no payload object")
    written = payloads.write(given, response.to or agent)
    if len(written) > max_bytes:
        raise InvalidPayload([Fault("", f"{len(written)} bytes; the limit is {max_bytes}")])
    return written


def _written_by_hand(given: str | bytes, max_bytes: int) -> bytes:
    element = parse(encode_text(given) if isinstance(given, str) else given, max_bytes=max_bytes)
    if etree.QName(element).namespace is not None:
        raise InvalidXml("a payload has no namespace")
    return canonical(element)
