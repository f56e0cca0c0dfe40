"""What a listener takes, as the API tells it and checks it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from lxml import etree

from xml_pipeline.envelope.text import check_text
from xml_pipeline.errors import Fault, InvalidPayload, InvalidXml, XmlPipelineError
from xml_pipeline.payload import PayloadType
from xml_pipeline.server import models
from xml_pipeline.server.pump import text_of

log = structlog.get_logger(__name__)

_MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class InputContract:
    """A listener's input: `xsd` None takes any JSON object; `payload_type` None where the class gives no schema."""

    name: str
    description: str
    is_agent: bool
    peers: tuple[str, ...]
    payload_class: str
    root_tag: str
    xsd: str | None
    payload_type: PayloadType | None

    def check(self, payload: Mapping[str, Any]) -> None:
        """Raise InvalidPayload with a fault for each place where the payload is wrong."""
        check_json(payload)
        if self.xsd is not None and self.payload_type is not None:
            self.payload_type.from_json(dict(payload))

    @property
    def example(self) -> str | None:
        """A payload that fits, as XML."""
        return self.payload_type.example_xml() if self.payload_type and self.xsd is not None else None

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
    peers = getattr(listener, "peers", None)
    return InputContract(
        name=name,
        description=text_of(getattr(listener, "description", None)),
        is_agent=getattr(listener, "is_agent", False) is True,
        peers=tuple(text_of(peer) for peer in peers) if isinstance(peers, list | tuple | set | frozenset) else (),
        payload_class=qualified_name(cls),
        root_tag=root_tag,
        xsd=_schema_text(getattr(listener, "schema", None), payload_type),
        payload_type=payload_type,
    )


def qualified_name(cls: object) -> str:
    """`module.Class`."""
    if cls is None:
        return ""
    module = text_of(getattr(cls, "__module__", None))
    name = text_of(getattr(cls, "__qualname__", None)) or text_of(getattr(cls, "__name__", None))
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


def _schema_text(schema: object, payload_type: PayloadType | None) -> str | None:
    if schema is None:
        return None
    if isinstance(schema, str):
        return schema
    if isinstance(schema, bytes):
        return schema.decode()
    if isinstance(schema, etree._Element | etree._ElementTree):
        return etree.tostring(schema, encoding="unicode")
    return payload_type.xsd if payload_type else None
