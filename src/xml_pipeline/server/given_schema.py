"""A schema that a listener brings itself, whatever its class: JSON is checked as the XML that it would be."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import structlog
from lxml import etree

from xml_pipeline.errors import Fault, InvalidPayload

log = structlog.get_logger(__name__)

_ELEMENT = "{http://www.w3.org/2001/XMLSchema}element"
_NO_SUCH_ROOT = etree.ErrorTypes.SCHEMAV_CVC_ELT_1


class GivenSchema:
    """A compiled schema. It says nothing of payloads whose root it does not declare. From any thread."""

    def __init__(self, schema: etree.XMLSchema, text: str | None) -> None:
        self.text = text
        self._schema = schema
        self._order = _order(text)
        self._lock = threading.Lock()

    def check_json(self, root_tag: str, payload: Mapping[str, Any]) -> None:
        """Raise InvalidPayload where the payload, written as XML field by field, does not fit."""
        try:
            root = self._element(root_tag, payload)
        except ValueError as error:
            raise InvalidPayload([Fault("", str(error))]) from None
        self.check(root)

    def check(self, root: etree._Element) -> None:
        """Raise InvalidPayload with a fault for each place that does not fit."""
        with self._lock:
            fits = self._schema.validate(root)
            findings = [] if fits else list(self._schema.error_log)
        if findings and findings[0].type != _NO_SUCH_ROOT:
            raise InvalidPayload([Fault(_path(entry.path), entry.message) for entry in findings])

    def _element(self, tag: str, value: object) -> etree._Element:
        element = etree.Element(tag)
        if isinstance(value, Mapping):
            for key in sorted(value, key=lambda name: self._order.get(name, len(self._order))):
                element.extend(self._element(str(key), item) for item in _items(value[key]))
        else:
            element.text = str(value).lower() if isinstance(value, bool) else str(value)
        return element


def given_schema(schema: object) -> GivenSchema | None:
    """The schema of a listener as text, bytes, lxml document or compiled; None where it is none of them."""
    if isinstance(schema, etree.XMLSchema):
        return GivenSchema(schema, None)
    try:
        text = _text(schema)
        return None if text is None else GivenSchema(etree.XMLSchema(etree.fromstring(text.encode())), text)
    except (etree.XMLSyntaxError, etree.XMLSchemaParseError, ValueError) as error:
        log.info("schema.not_compiled", reason=str(error))
        return None


def _text(schema: object) -> str | None:
    if isinstance(schema, bytes):
        return schema.decode()
    if isinstance(schema, etree._Element | etree._ElementTree):
        return etree.tostring(schema, encoding="unicode")
    return schema if isinstance(schema, str) else None


def schema_text(schema: object) -> str | None:
    """The XSD itself, where there is one to show."""
    try:
        return _text(schema)
    except UnicodeDecodeError:
        return None


def _order(text: str | None) -> dict[str, int]:
    """Where each element's name comes first in the schema: JSON objects have no order, sequences have."""
    if text is None:
        return {}
    names = dict.fromkeys(found.get("name", "") for found in etree.fromstring(text.encode()).iter(_ELEMENT))
    return {name: index for index, name in enumerate(names)}


def _items(value: object) -> Iterator[object]:
    """A list is its element again and again, null is none."""
    if isinstance(value, list):
        yield from value
    elif value is not None:
        yield value


def _path(path: str | None) -> str:
    """`/root/items[2]/name` as `items[2].name`: the path of a field."""
    return ".".join((path or "").strip("/").split("/")[1:])
