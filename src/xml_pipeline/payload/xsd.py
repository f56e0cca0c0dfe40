r"""From a shape to its XSD: a named type for each class, fields in any order, docs as annotations.

What XSD cannot say (`multiple_of`, most of `\w`, bounds of times, validators) is left to the model.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from xml_pipeline.envelope.text import clean_text, escape_attribute, escape_text
from xml_pipeline.payload.shapes import Many, Mapped, Nullable, Record, Scalar, Shape

XS_NS = "http://www.w3.org/2001/XMLSchema"


def write_xsd(root: Record, root_tag: str, *, patterns: bool = True) -> str:
    """Write the schema whose only global element is `root_tag`; with the patterns of its class, or to validate by."""
    writer = _Writer(patterns)
    writer.line(0, f'<xs:schema xmlns:xs="{XS_NS}">')
    writer.line(1, f'<xs:element name="{root_tag}" type="{root.name}"/>')
    writer.seen(root)
    while writer.waiting:
        writer.record(writer.waiting.pop(0))
    writer.line(0, "</xs:schema>")
    return "\n".join(writer.lines) + "\n"


class _Writer:
    def __init__(self, patterns: bool) -> None:
        self.lines: list[str] = []
        self.waiting: list[Record] = []
        self._known: set[str] = set()
        self._patterns = patterns
        self._uniques = count(1)

    def line(self, depth: int, text: str) -> None:
        self.lines.append("  " * depth + text)

    def seen(self, record: Record) -> str:
        if record.name not in self._known:
            self._known.add(record.name)
            self.waiting.append(record)
        return record.name

    def record(self, record: Record) -> None:
        self.line(1, f'<xs:complexType name="{record.name}">')
        self._annotation(2, record.doc)
        self.line(2, "<xs:all>")
        for member in record.members:
            occurs = ' minOccurs="0"' if member.may_be_absent else ""
            self._element(3, member.name, member.shape, occurs, member.doc)
        self.line(2, "</xs:all>")
        self.line(1, "</xs:complexType>")

    def _element(self, depth: int, name: str, shape: Shape, occurs: str = "", doc: str | None = None) -> None:
        nil = ""
        if isinstance(shape, Nullable):
            shape, nil = shape.inner, ' nillable="true"'
        head = f'<xs:element name="{name}"{occurs}{nil}'
        named = self._named_type(shape)
        if named is not None and doc is None:
            self.line(depth, f'{head} type="{named}"/>')
            return
        self.line(depth, f'{head} type="{named}">' if named is not None else f"{head}>")
        self._annotation(depth + 1, doc)
        if named is None:
            self._anonymous_type(depth + 1, shape)
        self.line(depth, "</xs:element>")

    def _named_type(self, shape: Shape) -> str | None:
        if isinstance(shape, Record):
            return self.seen(shape)
        return shape.base if isinstance(shape, Scalar) and not self._facets(shape) else None

    def _facets(self, scalar: Scalar) -> tuple[tuple[str, str], ...]:
        return (
            scalar.facets
            if scalar.pattern is None or not self._patterns
            else (*scalar.facets, ("pattern", scalar.pattern))
        )

    def _anonymous_type(self, depth: int, shape: Shape) -> None:
        if isinstance(shape, Scalar):
            self._restriction(depth, shape)
        elif isinstance(shape, Many):
            self._repeated(depth, lambda inner: self._element(inner, "item", shape.item, _occurs(shape)))
        elif isinstance(shape, Mapped):
            self._repeated(depth, lambda inner: self._entry(inner, shape))
            self.line(depth, f'<xs:unique name="keys-{next(self._uniques)}">')
            self.line(depth + 1, '<xs:selector xpath="entry"/>')
            self.line(depth + 1, '<xs:field xpath="key"/>')
            self.line(depth, "</xs:unique>")

    def _repeated(self, depth: int, write: Callable[[int], None]) -> None:
        self.line(depth, "<xs:complexType>")
        self.line(depth + 1, "<xs:sequence>")
        write(depth + 2)
        self.line(depth + 1, "</xs:sequence>")
        self.line(depth, "</xs:complexType>")

    def _entry(self, depth: int, shape: Mapped) -> None:
        self.line(depth, f'<xs:element name="entry"{_occurs(shape)}>')
        self.line(depth + 1, "<xs:complexType>")
        self.line(depth + 2, "<xs:all>")
        self._element(depth + 3, "key", shape.key)
        self._element(depth + 3, "value", shape.value)
        self.line(depth + 2, "</xs:all>")
        self.line(depth + 1, "</xs:complexType>")
        self.line(depth, "</xs:element>")

    def _restriction(self, depth: int, scalar: Scalar) -> None:
        self.line(depth, "<xs:simpleType>")
        self.line(depth + 1, f'<xs:restriction base="{scalar.base}">')
        for name, value in self._facets(scalar):
            self.line(depth + 2, f'<xs:{name} value="{_ascii(escape_attribute(value))}"/>')
        self.line(depth + 1, "</xs:restriction>")
        self.line(depth, "</xs:simpleType>")

    def _annotation(self, depth: int, doc: str | None) -> None:
        if doc:
            text = escape_text(clean_text(doc))
            self.line(depth, f"<xs:annotation><xs:documentation>{text}</xs:documentation></xs:annotation>")


def _ascii(text: str) -> str:
    return text.encode("ascii", "xmlcharrefreplace").decode()


def _occurs(shape: Many | Mapped) -> str:
    maximum = "unbounded" if shape.maximum is None else shape.maximum
    return f' minOccurs="{shape.minimum}" maxOccurs="{maximum}"'
