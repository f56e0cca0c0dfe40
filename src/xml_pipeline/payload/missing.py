"""Which elements a payload lacks: the validator lists what may come next, which misleads whoever must mend it."""

from __future__ import annotations

from collections.abc import Iterator

from lxml import etree

from xml_pipeline.errors import Fault
from xml_pipeline.payload.shapes import Many, Mapped, Nullable, Record, Shape

_UNHELPFUL = "Missing child element(s)."


def name_missing(faults: list[Fault], element: etree._Element, shape: Record) -> list[Fault]:
    """Put a fault for each missing element in the place of those that only say that some are missing."""
    if not any(fault.message.startswith(_UNHELPFUL) for fault in faults):
        return faults
    found = list(_missing(element, shape, f"/{element.tag!s}"))
    rest = [fault for fault in faults if not found or not fault.message.startswith(_UNHELPFUL)]
    return [*found, *rest]


def _missing(element: etree._Element, shape: Shape, path: str) -> Iterator[Fault]:
    if isinstance(shape, Nullable):
        yield from _missing(element, shape.inner, path)
    elif isinstance(shape, Many):
        for number, child in enumerate(element, 1):
            yield from _missing(child, shape.item, f"{path}/item[{number}]")
    elif isinstance(shape, Mapped):
        for number, entry in enumerate(element, 1):
            for value in entry.iterchildren("value"):
                yield from _missing(value, shape.value, f"{path}/entry[{number}]/value")
    elif isinstance(shape, Record):
        yield from _missing_members(element, shape, path)


def _missing_members(element: etree._Element, shape: Record, path: str) -> Iterator[Fault]:
    children = {child.tag: child for child in element}
    for member in shape.members:
        child = children.get(member.name)
        if child is not None:
            yield from _missing(child, member.shape, f"{path}/{member.name}")
        elif not member.may_be_absent:
            yield Fault(f"{path}/{member.name}", "this element is missing")
