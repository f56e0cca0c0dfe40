"""An example of a payload: each field has its own example, its default, or a value that its constraints allow."""

from __future__ import annotations

from xml_pipeline.payload.json_form import from_json
from xml_pipeline.payload.shapes import MISSING, Many, Mapped, Member, Nullable, Record, Scalar, Shape, Value

Inside = frozenset[Record]


def sample(shape: Shape, name: str = "text", inside: Inside = frozenset()) -> Value:
    """Make plain values for the model to validate; a class that holds itself is shown once."""
    if isinstance(shape, Nullable):
        return None if _leads_back(shape, inside) else sample(shape.inner, name, inside)
    if isinstance(shape, Scalar):
        return _named(shape, name)
    if isinstance(shape, Many):
        return [sample(shape.item, name, inside) for _ in range(_count(shape, inside))]
    if isinstance(shape, Mapped):
        count = _count(shape, inside)
        return {_named(shape.key, "key"): sample(shape.value, "value", inside) for _ in range(count)}
    values = {member.name: _member(member, inside | {shape}) for member in shape.members}
    return {key: value for key, value in values.items() if value is not MISSING}


def _member(member: Member, inside: Inside) -> Value:
    if member.examples:
        return from_json(member.examples[0], member.shape, member.name, [])
    if _is_telling(member.default) or (not member.required and _leads_back(member.shape, inside)):
        return MISSING
    return sample(member.shape, member.name, inside)


def _is_telling(default: Value) -> bool:
    """Tell whether a default shows what the field is like: None, nothing and empty texts do not."""
    return default is not MISSING and default is not None and default not in ("", 0, [], (), {}, set())


def _leads_back(shape: Shape, inside: Inside) -> bool:
    if isinstance(shape, Record):
        return shape in inside
    if isinstance(shape, Nullable):
        return _leads_back(shape.inner, inside)
    if isinstance(shape, Many):
        return shape.minimum == 0 and _leads_back(shape.item, inside)
    return isinstance(shape, Mapped) and shape.minimum == 0 and _leads_back(shape.value, inside)


def _count(shape: Many | Mapped, inside: Inside) -> int:
    return max(shape.minimum, 0 if shape.maximum == 0 or _leads_back(shape, inside) else 1)


def _named(shape: Scalar, name: str) -> Value:
    """Let a free text say which field it is in."""
    return name.replace("_", " ") if shape.sample is None else shape.sample
