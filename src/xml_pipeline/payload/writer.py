"""From an object to its XML, by functions compiled once from its shape. What they write is canonical already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xml_pipeline.envelope.text import escape_text
from xml_pipeline.payload.shapes import Many, Mapped, Member, Nullable, Record, Scalar, Shape, Value

XSI_NS = "http://www.w3.org/2001/XMLSchema-instance"
_NIL = f' xmlns:xsi="{XSI_NS}" xsi:nil="true"'

Content = Callable[[Any], str]
Element = Callable[[Any], str]


class Unwritable(Exception):
    """A value that does not fit its field; `path` leads to it."""

    def __init__(self, message: str) -> None:
        self.path: list[str] = []
        super().__init__(message)

    def at(self, step: str) -> Unwritable:
        """Note that it was found below `step`."""
        self.path.insert(0, step)
        return self


def compile_writer(root: Record, root_tag: str) -> Element:
    """Make the function that writes an object as the element `root_tag`; it raises Unwritable."""
    return _Compiler().element(root_tag, root)


class _Compiler:
    def __init__(self) -> None:
        self._records: dict[Record, Content] = {}

    def element(self, tag: str, shape: Shape) -> Element:
        if isinstance(shape, Nullable):
            return self._nullable(tag, shape)
        content = self._content(shape)
        start, end = f"<{tag}>", f"</{tag}>"
        return lambda value: f"{start}{content(value)}{end}"

    def _nullable(self, tag: str, shape: Nullable) -> Element:
        write, nil = self.element(tag, shape.inner), f"<{tag}{_NIL}></{tag}>"
        return lambda value: nil if value is None else write(value)

    def _content(self, shape: Shape) -> Content:
        if isinstance(shape, Scalar):
            return _scalar(shape)
        if isinstance(shape, Many):
            return self._many(shape)
        if isinstance(shape, Mapped):
            return self._mapped(shape)
        if isinstance(shape, Record):
            return self._record(shape)
        raise TypeError(f"no content of its own: {shape}")

    def _many(self, shape: Many) -> Content:
        write = self.element("item", shape.item)

        def content(values: Value) -> str:
            if isinstance(values, str | bytes | dict) or not hasattr(values, "__iter__"):
                raise Unwritable(f"several values are needed, not {type(values).__name__}")
            items = [_below(f"[{index}]", write, value) for index, value in enumerate(values)]
            return "".join(items if shape.ordered else sorted(items))

        return content

    def _mapped(self, shape: Mapped) -> Content:
        write_key, write_value = self.element("key", shape.key), self.element("value", shape.value)

        def content(values: Value) -> str:
            if not isinstance(values, dict):
                raise Unwritable(f"a dict is needed, not {type(values).__name__}")
            return "".join(
                f"<entry>{_below(f'[{key!r}]', write_key, key)}{_below(f'[{key!r}]', write_value, value)}</entry>"
                for key, value in values.items()
            )

        return content

    def _record(self, record: Record) -> Content:
        if record not in self._records:
            self._records[record] = lambda value: self._records[record](value)  # until it is made: it may hold itself
            self._records[record] = self._fields(record)
        return self._records[record]

    def _fields(self, record: Record) -> Content:
        cls = record.cls
        fields = [(member.name, member.absent_is_none, self._field(member)) for member in record.members]

        def content(value: Value) -> str:
            if not isinstance(value, cls):
                raise Unwritable(f"a {cls.__name__} is needed, not {type(value).__name__}")
            parts = []
            for name, absent_is_none, write in fields:
                field = getattr(value, name)
                if field is not None or not absent_is_none:
                    try:
                        parts.append(write(field))
                    except Unwritable as error:
                        raise error.at(f".{name}") from None
            return "".join(parts)

        return content

    def _field(self, member: Member) -> Element:
        shape = member.shape
        if isinstance(shape, Nullable) and member.absent_is_none:
            shape = shape.inner
        return self.element(member.name, shape)


def _scalar(shape: Scalar) -> Content:
    write, escape = shape.write, shape.is_text

    def content(value: Value) -> str:
        try:
            text = write(value)
        except (ValueError, TypeError, AttributeError, KeyError, ArithmeticError) as error:
            raise Unwritable(_reason(error, value)) from error
        return escape_text(text) if escape else text

    return content


def _reason(error: Exception, value: object) -> str:
    if isinstance(error, KeyError):
        return "it is none of the choices"
    return f"{error}" or f"a {type(value).__name__} does not fit"


def _below(step: str, write: Element, value: Value) -> str:
    try:
        return write(value)
    except Unwritable as error:
        raise error.at(step) from None
