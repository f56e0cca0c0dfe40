"""An example of a payload: each field has its own example, its default, or a value that its constraints allow."""

from __future__ import annotations

from typing import Any

from xml_pipeline.payload.json_form import from_json
from xml_pipeline.payload.shapes import MISSING, Many, Mapped, Member, Nullable, Scalar, Shape, Value

_MAX_DEPTH = 4


def sample(shape: Shape, name: str = "text", depth: int = 0) -> Value:
    """Make plain values for the model to validate; past some depth as little as is allowed."""
    if isinstance(shape, Nullable):
        return None if depth > _MAX_DEPTH else sample(shape.inner, name, depth)
    if isinstance(shape, Scalar):
        return _named(shape, name)
    if isinstance(shape, Many):
        return _items(shape, name, depth)
    if isinstance(shape, Mapped):
        count = max(shape.minimum, 0 if depth > _MAX_DEPTH or shape.maximum == 0 else 1)
        return {_named(shape.key, "key"): sample(shape.value, "value", depth + 1) for _ in range(count)}
    values = {member.name: _member(member, depth + 1) for member in shape.members}
    return {key: value for key, value in values.items() if value is not MISSING}


def _member(member: Member, depth: int) -> Value:
    if member.examples:
        return from_json(member.examples[0], member.shape, member.name, [])
    if depth > _MAX_DEPTH and not member.required:
        return MISSING
    if _is_telling(member.default):
        return MISSING
    return sample(member.shape, member.name, depth)


def _is_telling(default: Value) -> bool:
    """Tell whether a default shows what the field is like: None, nothing and empty texts do not."""
    return default is not MISSING and default is not None and default not in ("", 0, 0.0)


def _items(shape: Many, name: str, depth: int) -> list[Any]:
    count = max(shape.minimum, 0 if depth > _MAX_DEPTH or shape.maximum == 0 else 1)
    return [sample(shape.item, name, depth + 1) for _ in range(count)]


def _named(shape: Scalar, name: str) -> Value:
    """Let a free text say which field it is in."""
    if shape.base != "xs:string" or shape.facets or not shape.is_text or shape.to_json is not None:
        return shape.sample
    return name.replace("_", " ")
