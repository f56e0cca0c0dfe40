"""From XML to the plain values that a class is made of, by functions compiled once from its shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lxml import etree

from xml_pipeline.payload.shapes import Many, Mapped, Nullable, Record, Scalar, Shape, Value
from xml_pipeline.payload.writer import XSI_NS

_XSI_NIL = f"{{{XSI_NS}}}nil"

Read = Callable[[etree._Element], Any]


class Unreadable(Exception):
    """An element that no value can be made of."""

    def __init__(self, element: etree._Element, message: str) -> None:
        self.path = element.getroottree().getelementpath(element)
        super().__init__(message)


def compile_reader(root: Record) -> Read:
    """Make the function that reads an element into a dict of plain values; it raises Unreadable."""
    return _Compiler().read(root)


class _Compiler:
    def __init__(self) -> None:
        self._records: dict[Record, Read] = {}

    def read(self, shape: Shape) -> Read:
        if isinstance(shape, Scalar):
            return _scalar(shape)
        if isinstance(shape, Nullable):
            return _nullable(self.read(shape.inner))
        if isinstance(shape, Many):
            return self._many(shape)
        if isinstance(shape, Mapped):
            return self._mapped(shape)
        return self._record(shape)

    def _many(self, shape: Many) -> Read:
        read, make = self.read(shape.item), shape.make
        return lambda element: make([read(child) for child in element])

    def _mapped(self, shape: Mapped) -> Read:
        read_key, read_value = self.read(shape.key), self.read(shape.value)

        def read(element: etree._Element) -> dict[Any, Any]:
            values: dict[Any, Any] = {}
            for entry in element:
                parts = {part.tag: part for part in entry}
                key = read_key(parts["key"])
                if key in values:
                    raise Unreadable(entry, "the key is there twice")
                values[key] = read_value(parts["value"])
            return values

        return read

    def _record(self, record: Record) -> Read:
        if record not in self._records:
            self._records[record] = lambda element: self._records[record](element)  # it may hold itself
            self._records[record] = self._fields(record)
        return self._records[record]

    def _fields(self, record: Record) -> Read:
        fields: dict[Any, tuple[str, Read]] = {
            member.name: (member.name, self.read(member.shape)) for member in record.members
        }
        absent = {member.name: None for member in record.members if member.required and member.absent_is_none}

        def read(element: etree._Element) -> dict[str, Any]:
            values: dict[str, Any] = absent.copy()
            for child in element:
                name, read_field = fields[child.tag]
                values[name] = read_field(child)
            return values

        return read


def _nullable(read: Read) -> Read:
    def read_nullable(element: etree._Element) -> Value:
        return None if element.get(_XSI_NIL) in ("true", "1") else read(element)

    return read_nullable


def _scalar(shape: Scalar) -> Read:
    convert = shape.read

    def read(element: etree._Element) -> Value:
        try:
            return convert(element.text or "")
        except (ValueError, KeyError, ArithmeticError) as error:
            raise Unreadable(element, str(error) or "it cannot be read") from error

    return read
