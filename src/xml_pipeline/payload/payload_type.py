"""A payload class, compiled once: its XSD, its example, and the ways between object, XML and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import structlog
from lxml import etree
from pydantic import ValidationError

from xml_pipeline.envelope.codec import canonical
from xml_pipeline.envelope.parser import MAX_DEPTH, parse
from xml_pipeline.envelope.schema import SchemaValidator
from xml_pipeline.envelope.text import encode_text
from xml_pipeline.errors import Fault, InvalidPayload, InvalidXml, UnsupportedPayload
from xml_pipeline.payload.example import sample
from xml_pipeline.payload.introspect import class_name, describe
from xml_pipeline.payload.json_form import from_json, join, text_faults, to_json
from xml_pipeline.payload.missing import name_missing
from xml_pipeline.payload.reader import Unreadable, compile_reader
from xml_pipeline.payload.shapes import Value
from xml_pipeline.payload.writer import Unwritable, compile_writer
from xml_pipeline.payload.xsd import write_xsd

log = structlog.get_logger(__name__)

_WORDS = {
    "extra_forbidden": "there is no such field",
    "unexpected_keyword_argument": "there is no such field",
    "missing": "the field is missing",
    "missing_argument": "the field is missing",
}


class PayloadType:
    """One class under one root tag. Making it raises UnsupportedPayload where XML cannot express a field."""

    def __init__(self, cls: type[Any], root_tag: str) -> None:
        described = describe(cls)
        self.cls = cls
        self.root_tag = root_tag
        self.xsd = write_xsd(described.record, root_tag)
        self._record = described.record
        self._model_says_more = described.model_says_more
        self._make = described.adapter.validator.validate_python
        self._read = compile_reader(described.record)
        self._write = compile_writer(described.record, root_tag)
        self._schema = _compile(write_xsd(described.record, root_tag, patterns=False), cls)

    def validate(self, payload: bytes | etree._Element) -> None:
        """Check a payload against the XSD and, where the class says more, against the class; raise InvalidPayload."""
        element = self._checked(payload)
        if self._model_says_more:
            self._object(element)

    def from_xml(self, payload: bytes | etree._Element) -> Value:
        """Make the object of a payload; raise InvalidPayload where the XSD or the class refuses it."""
        return self._object(self._checked(payload))

    def to_xml(self, obj: Value) -> bytes:
        """Write an object in canonical form; raise InvalidPayload where it does not fit its fields or XML."""
        try:
            data = encode_text(self._write(obj))
        except Unwritable as error:
            raise InvalidPayload([Fault("".join(error.path).lstrip(".") or self.root_tag, str(error))]) from error
        except InvalidXml as error:
            plain = to_json(obj, self._record)
            raise InvalidPayload(list(text_faults(plain)) or [Fault(self.root_tag, str(error))]) from error
        except RecursionError:
            raise InvalidPayload([_too_deep(self.root_tag)]) from None
        if data.count(b"<") > 2 * MAX_DEPTH:
            _check_bounds(data, self.root_tag)
        return data

    def from_json(self, data: Mapping[str, Any]) -> Value:
        """Make the object that JSON describes; raise InvalidPayload with a fault for each wrong field."""
        if not isinstance(data, Mapping):
            raise InvalidPayload([Fault("", "the payload must be a JSON object")])
        faults = list(text_faults(data))
        if faults:
            raise InvalidPayload(faults)
        values = from_json(data, self._record, "", faults)
        if faults:
            raise InvalidPayload(faults)
        try:
            return self._make(values, strict=False, extra="forbid", by_alias=True, by_name=True)
        except ValidationError as error:
            raise InvalidPayload(_json_faults(error)) from error
        except Exception as error:  # whatever a validator of the class may raise
            raise InvalidPayload([_broken(self.cls, error)]) from error

    def to_json(self, obj: Value) -> dict[str, Any]:
        """Give an object as plain JSON data, which `from_json` takes back."""
        plain: dict[str, Any] = to_json(obj, self._record)
        return plain

    def example_xml(self) -> str | None:
        """Write an example that both XSD and class accept; None where none could be found."""
        return self._example

    @cached_property
    def _example(self) -> str | None:
        try:
            values = sample(self._record)
            data = self.to_xml(self._make(values, strict=False, by_alias=True, by_name=True))
            self.from_xml(data)
        except Exception as error:  # whatever a validator of the class may raise
            log.debug("payload.no_example", payload_class=class_name(self.cls), error=type(error).__name__)
            return None
        return data.decode()

    def _checked(self, payload: bytes | etree._Element) -> etree._Element:
        try:
            element = parse(payload, max_bytes=len(payload)) if isinstance(payload, bytes) else payload
        except InvalidXml as error:
            raise InvalidPayload([Fault("/", str(error))]) from error
        faults = self._schema.validate(element)
        if faults:
            raise InvalidPayload(name_missing(faults, element, self._record))
        return element

    def _object(self, element: etree._Element) -> Value:
        try:
            return self._make(self._read(element), strict=False, by_alias=False, by_name=True)
        except Unreadable as error:
            raise InvalidPayload([Fault(f"/{self.root_tag}/{error.path}", str(error))]) from error
        except ValidationError as error:
            raise InvalidPayload(_xml_faults(error, self.root_tag)) from error
        except Exception as error:  # whatever a validator of the class may raise
            raise InvalidPayload([_broken(self.cls, error)]) from error


def _compile(xsd: str, cls: type[Any]) -> SchemaValidator:
    try:
        return SchemaValidator(xsd)
    except etree.XMLSchemaParseError as error:
        reason = f"its constraints contradict one another or make no schema: {error}"
        raise UnsupportedPayload([Fault(class_name(cls), reason)]) from error


def _check_bounds(data: bytes, root_tag: str) -> None:
    try:
        canonical(parse(data, max_bytes=len(data)))
    except InvalidXml as error:
        raise InvalidPayload([Fault(root_tag, str(error))]) from error


def _too_deep(path: str) -> Fault:
    return Fault(path, f"it is nested deeper than {MAX_DEPTH}")


def _broken(cls: type[Any], error: Exception) -> Fault:
    return Fault(class_name(cls), f"the class could not be made: {type(error).__name__}")


def _json_faults(error: ValidationError) -> list[Fault]:
    faults = []
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        path = ""
        for step in detail["loc"]:
            path = join(path, step)
        faults.append(Fault(path, _words(detail["type"], detail["msg"])))
    return faults


def _xml_faults(error: ValidationError, root_tag: str) -> list[Fault]:
    faults = []
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        steps = (f"item[{step + 1}]" if isinstance(step, int) else str(step) for step in detail["loc"])
        faults.append(Fault("/".join(("", root_tag, *steps)), _words(detail["type"], detail["msg"])))
    return faults


def _words(kind: str, message: str) -> str:
    return _WORDS.get(kind, message.removeprefix("Value error, ").removeprefix("Assertion failed, "))
