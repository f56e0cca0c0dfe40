"""Any object as a JSON object that can be sent: pumps log what they have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_jsonable_python

from xml_pipeline.server.problems import printable


def json_object(value: object) -> dict[str, Any]:
    """Mappings, models and dataclasses with their fields; anything else as `value`; None as nothing."""
    found = json_value(value)
    if isinstance(found, dict):
        return found
    return {} if found is None else {"value": found}


def json_value(value: object) -> object:
    """As JSON has it: bytes as base64, no number that is not finite, no lone surrogate; what JSON has not as text."""
    if isinstance(value, str):
        return printable(str(value))
    if isinstance(value, Mapping):
        return {printable(str(key)): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_value(item) for item in value]
    fields = getattr(value, "__dataclass_fields__", None)
    if isinstance(fields, Mapping):
        return {name: json_value(getattr(value, name, None)) for name in fields}
    return _scalar(value)


def _scalar(value: object) -> object:
    try:
        return to_jsonable_python(value, fallback=str, bytes_mode="base64", inf_nan_mode="null")
    except ValueError:
        return printable(str(value))
