"""What a listener takes, as the API tells it and checks it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from xml_pipeline.envelope.parser import parse
from xml_pipeline.envelope.text import check_text
from xml_pipeline.errors import Fault, InvalidPayload, InvalidXml, XmlPipelineError
from xml_pipeline.payload import PayloadType
from xml_pipeline.server import models
from xml_pipeline.server.given_schema import GivenSchema, given_schema, schema_text
from xml_pipeline.server.pump import text_of

log = structlog.get_logger(__name__)

_MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class InputContract:
    """A listener's input. Without `checked` any JSON object is taken; `xsd` is its schema, where that can be shown.

    `payload_type`: what its class gives, if that can be a payload. `given`: the schema it brings, if that is another.
    """

    name: str
    description: str
    is_agent: bool
    peers: tuple[str, ...]
    payload_class: str
    root_tag: str
    xsd: str | None
    payload_type: PayloadType | None
    checked: bool
    given: GivenSchema | None = field(default=None, compare=False)

    def check(self, payload: Mapping[str, Any]) -> None:
        """Raise InvalidPayload with a fault for each place where the payload is wrong."""
        check_json(payload)
        if not self.checked:
            return
        if self.payload_type is not None:
            value = self.payload_type.from_json(dict(payload))
            if self.given is not None:
                self.given.check(parse(self.payload_type.to_xml(value)))
        elif self.given is not None:
            self.given.check_json(self.root_tag, payload)

    @property
    def example(self) -> str | None:
        """A payload that fits, as XML."""
        return self.payload_type.example_xml() if self.payload_type and self.checked else None

    def config(self) -> models.AgentConfig:
        """How it is configured."""
        return models.AgentConfig(
            name=self.name,
            description=self.description,
            is_agent=self.is_agent,
            peers=list(self.peers),
            payload_class=self.payload_class,
        )

    def capability(self) -> models.CapabilityInfo:
        """What it can be asked."""
        return models.CapabilityInfo(
            name=self.name,
            description=self.description,
            is_agent=self.is_agent,
            peers=list(self.peers),
            root_tag=self.root_tag,
        )

    def detail(self) -> models.CapabilityDetail:
        """What it can be asked, with the input contract."""
        return models.CapabilityDetail(
            **self.capability().model_dump(),
            payload_class=self.payload_class,
            schema_xsd=self.xsd,
            example_xml=self.example,
        )


def contract_of(name: str, listener: object) -> InputContract:
    """The input contract of a listener as a pump has it; any class, any kind of schema."""
    cls = getattr(listener, "payload_class", None)
    class_name = text_of(getattr(cls, "__name__", None), "payload")
    root_tag = text_of(getattr(listener, "root_tag", None)) or f"{name}.{class_name}".lower()
    payload_type = _payload_type(cls, root_tag)
    schema = getattr(listener, "schema", None)
    peers = getattr(listener, "peers", None)
    return InputContract(
        name=name,
        description=text_of(getattr(listener, "description", None)),
        is_agent=getattr(listener, "is_agent", False) is True,
        peers=tuple(text_of(peer) for peer in peers) if isinstance(peers, list | tuple | set | frozenset) else (),
        payload_class=qualified_name(cls),
        root_tag=root_tag,
        xsd=_xsd(schema, payload_type),
        payload_type=payload_type,
        checked=schema is not None,
        given=None if payload_type and schema == payload_type.xsd else given_schema(schema),
    )


def qualified_name(cls: object) -> str:
    """`module.Class`."""
    if cls is None:
        return ""
    module = text_of(getattr(cls, "__module__", None))
    name = text_of(getattr(cls, "__name__", None))
    return f"{module}.{name}" if module else name


def check_json(payload: Mapping[str, Any]) -> None:
    """Refuse what XML cannot carry, wherever in the object it is; raises InvalidPayload."""
    faults = tuple(_faults(payload, "", 0))
    if faults:
        raise InvalidPayload(faults)


def _faults(value: object, path: str, depth: int) -> Iterator[Fault]:
    if depth > _MAX_DEPTH:
        yield Fault(path, f"nested deeper than {_MAX_DEPTH}")
    elif isinstance(value, str):
        yield from _text_faults(value, path)
    elif isinstance(value, float) and not math.isfinite(value):
        yield Fault(path, "is not a finite number")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _text_faults(str(key), path)
            yield from _faults(item, f"{path}.{key}" if path else str(key), depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _faults(item, f"{path}[{index}]", depth + 1)


def _text_faults(text: str, path: str) -> Iterator[Fault]:
    try:
        check_text(text)
    except InvalidXml as error:
        yield Fault(path, str(error))


def _payload_type(cls: object, root_tag: str) -> PayloadType | None:
    if not isinstance(cls, type):
        return None
    try:
        return PayloadType(cls, root_tag)
    except (XmlPipelineError, TypeError, ValueError) as error:
        log.info("contract.no_schema", root_tag=root_tag, reason=str(error))
        return None


def _xsd(schema: object, payload_type: PayloadType | None) -> str | None:
    """As the listener has it, or as its class gives it where the listener's cannot be shown."""
    if schema is None:
        return None
    return schema_text(schema) or (payload_type.xsd if payload_type else None)
