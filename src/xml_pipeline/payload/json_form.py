"""JSON <-> payload: what JSON has no type for is written as text, as XML writes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lxml import etree

from xml_pipeline.envelope.parser import MAX_BYTES, parse
from xml_pipeline.envelope.text import uncarriable
from xml_pipeline.errors import Fault
from xml_pipeline.payload.shapes import Many, Mapped, Nullable, Record, Scalar, Shape, Value

MAX_JSON_DEPTH = 64


def to_json(value: Value, shape: Shape) -> Value:
    """Give `value` as plain JSON data."""
    if isinstance(shape, Nullable):
        return None if value is None else to_json(value, shape.inner)
    if value is None:
        return None
    if isinstance(shape, Scalar):
        return value if shape.to_json is None else shape.to_json(value)
    if isinstance(shape, Many):
        return [to_json(item, shape.item) for item in value]
    if isinstance(shape, Mapped):
        return {shape.key.write(key): to_json(item, shape.value) for key, item in value.items()}
    return {member.name: to_json(getattr(value, member.name), member.shape) for member in shape.members}


def from_json(data: Value, shape: Shape, path: str, faults: list[Fault]) -> Value:
    """Convert the texts that stand for bytes and choices; leave the rest, right or wrong, to the model."""
    if isinstance(shape, Nullable):
        return None if data is None else from_json(data, shape.inner, path, faults)
    if isinstance(shape, Scalar):
        return _scalar_from_json(data, shape, path, faults)
    if isinstance(shape, Many) and isinstance(data, list):
        return [from_json(item, shape.item, f"{path}[{index}]", faults) for index, item in enumerate(data)]
    if isinstance(shape, Mapped) and isinstance(data, Mapping):
        return {
            _scalar_from_json(key, shape.key, path, faults): from_json(item, shape.value, f"{path}.{key}", faults)
            for key, item in data.items()
        }
    if isinstance(shape, Record) and isinstance(data, Mapping):
        return _record_from_json(data, shape, path, faults)
    return data


def _record_from_json(data: Mapping[Any, Any], shape: Record, path: str, faults: list[Fault]) -> dict[Any, Any]:
    known = {key: member.shape for member in shape.members for key in (member.name, member.alias) if key}
    return {
        key: from_json(item, known[key], join(path, key), faults) if key in known else item
        for key, item in data.items()
    }


def _scalar_from_json(data: Value, shape: Scalar, path: str, faults: list[Fault]) -> Value:
    if shape.from_json is None:
        return data
    try:
        return shape.from_json(data)
    except ValueError as error:
        faults.append(Fault(path, str(error)))
        return data


def join(path: str, step: object) -> str:
    """Append a step to a field path: `items[0].name`."""
    if isinstance(step, int):
        return f"{path}[{step}]"
    return f"{path}.{step}" if path else str(step)


def text_faults(data: Value, path: str = "", depth: int = 0) -> Iterator[Fault]:
    """Find each text that XML cannot carry, and data nested too deep to be carried."""
    if depth > MAX_JSON_DEPTH:
        yield Fault(path, f"it is nested deeper than {MAX_JSON_DEPTH}")
    elif isinstance(data, str):
        found = uncarriable(data)
        if found is not None:
            yield Fault(path, f"the text holds a character that XML cannot carry: {found}")
    elif isinstance(data, Mapping):
        if any(isinstance(key, str) and uncarriable(key) is not None for key in data):
            yield Fault(path, "a key holds a character that XML cannot carry")
        else:
            yield from _text_faults_below(data.items(), path, depth)
    elif isinstance(data, list | tuple):
        yield from _text_faults_below(enumerate(data), path, depth)


def _text_faults_below(items: Iterable[tuple[object, Value]], path: str, depth: int) -> Iterator[Fault]:
    for step, item in items:
        yield from text_faults(item, join(path, step), depth + 1)


def xml_to_json(payload: bytes, *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Give any payload as JSON, without its class: texts are texts, and what occurs twice is a list."""
    content = _generic(parse(payload, max_bytes=max_bytes))
    if isinstance(content, dict):
        return content
    return {"text": content} if content else {}


def _generic(element: etree._Element) -> Value:
    if not len(element):
        return element.text or ""
    if all(child.tag == "item" for child in element):
        return [_generic(child) for child in element]
    if all(_is_entry(child) for child in element):
        return {child[0].text or "": _generic(child[1]) for child in element}
    fields: dict[str, Any] = {}
    for tag in dict.fromkeys(_local(child) for child in element):
        found = [_generic(child) for child in element if _local(child) == tag]
        fields[tag] = found[0] if len(found) == 1 else found
    return fields


def _is_entry(element: etree._Element) -> bool:
    return element.tag == "entry" and [part.tag for part in element] == ["key", "value"]


def _local(element: etree._Element) -> str:
    return etree.QName(element).localname
