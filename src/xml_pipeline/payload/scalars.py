"""The types whose value is text: how each is written, read, and narrowed in XSD."""

from __future__ import annotations

import base64
import binascii
import enum
import math
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from xml_pipeline.payload.durations import read_duration, write_duration
from xml_pipeline.payload.pattern import to_xsd
from xml_pipeline.payload.pattern_example import example_of
from xml_pipeline.payload.shapes import Scalar, Value

Schema = Mapping[str, Any]
Facets = tuple[tuple[str, str], ...]

_RANGES = {"ge": "minInclusive", "gt": "minExclusive", "le": "maxInclusive", "lt": "maxExclusive"}
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}
_UUID = "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
_MAX_DIGITS = 2000
_UTC_OFFSET = r"(Z|[+\-]\d{2}:\d{2})"


class Unexpressible(Exception):
    """A type that has no place in a payload; the message says which and why."""


def scalar_of(schema: Schema, config: Schema) -> Scalar | None:
    """Make the scalar that a core schema describes; None if it describes none."""
    make = _MAKERS.get(schema["type"])
    return None if make is None else make(schema, config)


def _ranges(schema: Schema, write: Callable[[Any], str]) -> Facets:
    return tuple((facet, write(schema[key])) for key, facet in _RANGES.items() if schema.get(key) is not None)


def _lengths(schema: Schema) -> Facets:
    facets = (("minLength", schema.get("min_length")), ("maxLength", schema.get("max_length")))
    return tuple((name, str(value)) for name, value in facets if value is not None)


def _string(schema: Schema, config: Schema) -> Scalar:
    said = {
        "min_length": schema.get("min_length", config.get("str_min_length") or None),
        "max_length": schema.get("max_length", config.get("str_max_length")),
    }
    changed = any(schema.get(key, config.get(f"str_{key}")) for key in ("strip_whitespace", "to_lower", "to_upper"))
    if changed:  # the model looks at it after the change, a schema before
        said["max_length"] = None
    facets = _lengths(said)
    pattern, translated = schema.get("pattern"), None
    if isinstance(pattern, str) and not changed and config.get("regex_engine", "rust-regex") == "rust-regex":
        translated = to_xsd(pattern)
    sample = _sample_text(schema, said)
    return Scalar("xs:string", _same_text, _same_text, facets, sample, is_text=True, pattern=translated)


def _sample_text(schema: Schema, said: Schema) -> str | None:
    """None for a free text: whoever asks for the sample knows a telling one."""
    pattern = schema.get("pattern")
    fitting = example_of(pattern) if isinstance(pattern, str) else None
    if fitting is not None or (said["min_length"] is None and said["max_length"] is None and pattern is None):
        return fitting
    return "text".ljust(said["min_length"] or 0, "x")[: said["max_length"]]


def _same_text(text: str) -> str:
    if not isinstance(text, str):
        raise TypeError(f"a text is needed, not {type(text).__name__}")
    return text


def _integer(schema: Schema, config: Schema) -> Scalar:
    return Scalar("xs:integer", _write_integer, _read_integer, _ranges(schema, _write_integer), _sample_integer(schema))


def _write_integer(value: int) -> str:
    if not isinstance(value, int):
        raise TypeError(f"a whole number is needed, not {type(value).__name__}")
    return int.__repr__(value)


def _read_integer(text: str) -> int:
    return int(text)


def _sample_integer(schema: Schema) -> object:
    step = schema.get("multiple_of") or 1
    low = schema.get("ge", schema["gt"] + 1 if "gt" in schema else None)
    high = schema.get("le", schema["lt"] - 1 if "lt" in schema else None)
    if low is not None:
        return step * math.ceil(low / step)
    return min(step, step * math.floor(high / step)) if high is not None else step


def _float(schema: Schema, config: Schema) -> Scalar:
    facets = _ranges(schema, _write_float)
    if not schema.get("allow_inf_nan", config.get("allow_inf_nan", True)):
        facets += (("pattern", r"[0-9.eE+\-]+"),)
    sample = _sample_between(schema, float)
    return Scalar("xs:double", _write_float, _read_float, facets, sample, to_json=_float_to_json)


def _write_float(value: float) -> str:
    number = float(value)
    if math.isfinite(number):
        return repr(number)
    return "NaN" if math.isnan(number) else "INF" if number > 0 else "-INF"


def _read_float(text: str) -> float:
    return float(text)


def _float_to_json(value: float) -> float | str:
    return value if math.isfinite(value) else _write_float(value)


def _sample_between(schema: Schema, make: Callable[[Any], Any]) -> Value:
    low, high = schema.get("ge", schema.get("gt")), schema.get("le", schema.get("lt"))
    if low is not None and high is not None:
        return make((low + high) / 2)
    if low is not None:
        return make(low + 1)
    return make(1) if high is None or high > 1 else make(high - 1)


def _decimal(schema: Schema, config: Schema) -> Scalar:
    if schema.get("allow_inf_nan"):
        raise Unexpressible("a Decimal that may be NaN or infinite cannot be carried; use a float")
    facets = _ranges(schema, lambda bound: _write_decimal(Decimal(str(bound))))
    limits = (("totalDigits", schema.get("max_digits")), ("fractionDigits", schema.get("decimal_places")))
    facets += tuple((name, str(value)) for name, value in limits if value is not None)
    bounds = {key: Decimal(str(schema[key])) for key in _RANGES if key in schema}
    sample = _sample_between(bounds, Decimal)
    return Scalar("xs:decimal", _write_decimal, _read_decimal, facets, sample, to_json=_write_decimal)


def _write_decimal(value: Decimal) -> str:
    if not value.is_finite():
        raise ValueError("it is not a finite number")
    if abs(value.adjusted()) + len(value.as_tuple().digits) > _MAX_DIGITS:
        raise ValueError(f"it needs more than {_MAX_DIGITS} digits")
    return format(value, "f")


def _read_decimal(text: str) -> Decimal:
    return Decimal(text)


def _boolean(schema: Schema, config: Schema) -> Scalar:
    return Scalar("xs:boolean", _write_boolean, lambda text: _BOOLEANS[text.strip()], (), sample=True)


def _write_boolean(value: bool) -> str:
    if value is True or value is False:
        return "true" if value else "false"
    raise TypeError(f"true or false is needed, not {type(value).__name__}")


def _bytes(schema: Schema, config: Schema) -> Scalar:
    return Scalar(
        "xs:base64Binary",
        _write_base64,
        _read_base64,
        _lengths(schema),
        b"bytes".ljust(schema.get("min_length", 0), b"x")[: schema.get("max_length")],
        to_json=_write_base64,
        from_json=_base64_from_json,
    )


def _write_base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _read_base64(text: str) -> bytes:
    return base64.b64decode("".join(text.split()), validate=True)


def _base64_from_json(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        raise ValueError("bytes are written in base64") from None


def _datetime(schema: Schema, config: Schema) -> Scalar:
    aware = schema.get("tz_constraint")
    facets: Facets = ()
    if aware == "aware":
        facets = (("pattern", f"[^Z+]*{_UTC_OFFSET}"),)
    elif aware == "naive":
        facets = (("pattern", "[0-9-]+T[0-9:.]+"),)
    sample = datetime(2030, 1, 31, 12, 30, tzinfo=UTC if aware == "aware" else None)
    return Scalar("xs:dateTime", _write_datetime, _read_datetime, facets, sample, to_json=_write_datetime)


def _write_datetime(value: datetime) -> str:
    offset = value.utcoffset()
    if offset is not None and (offset % timedelta(minutes=1) or abs(offset) > timedelta(hours=14)):
        value = value.astimezone(UTC)  # XML knows no such offset; the instant is the same
    return value.isoformat()


def _read_datetime(text: str) -> datetime:
    return datetime.fromisoformat(text.strip())


def _date(schema: Schema, config: Schema) -> Scalar:
    facets = (*_ranges(schema, date.isoformat), ("pattern", r"\d{4}-\d{2}-\d{2}"))
    return Scalar("xs:date", _write_date, _read_date, facets, date(2030, 1, 31), to_json=_write_date)


def _write_date(value: date) -> str:
    return date(value.year, value.month, value.day).isoformat()


def _read_date(text: str) -> date:
    return date.fromisoformat(text.strip())


def _time(schema: Schema, config: Schema) -> Scalar:
    facets = (("pattern", r"\d{2}:\d{2}:\d{2}(\.\d{1,6})?([+\-]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?)?"),)
    return Scalar("xs:token", time.isoformat, _read_time, facets, time(12, 30), to_json=time.isoformat)


def _read_time(text: str) -> time:
    return time.fromisoformat(text.strip())


def _duration(schema: Schema, config: Schema) -> Scalar:
    facets = (("pattern", r"-?P(\d+D)?(T(\d+H)?(\d+M)?(\d+(\.\d{1,6})?S)?)?"),)
    return Scalar("xs:duration", write_duration, read_duration, facets, timedelta(hours=1), to_json=write_duration)


def _uuid(schema: Schema, config: Schema) -> Scalar:
    sample = UUID("00000000-0000-4000-8000-000000000000")
    return Scalar("xs:token", _write_uuid, _read_uuid, (("pattern", _UUID),), sample, to_json=_write_uuid)


def _write_uuid(value: UUID) -> str:
    if not isinstance(value, UUID):
        raise TypeError(f"a UUID is needed, not {type(value).__name__}")
    return str(value)


def _read_uuid(text: str) -> UUID:
    return UUID(text.strip())


def _url(schema: Schema, config: Schema) -> Scalar:
    return Scalar("xs:string", str, _same_text, (), "https://example.org/", is_text=True, to_json=str)


def _enumeration(schema: Schema, config: Schema) -> Scalar:
    members: list[enum.Enum] = schema["members"]
    texts = {member: _choice_text(member.value) for member in members}
    by_value = {member.value: text for member, text in texts.items()}  # a model may keep values, not members
    return _choices(texts, {**by_value, **texts}, lambda choice: getattr(choice, "value", choice))


def _literal(schema: Schema, config: Schema) -> Scalar:
    expected = [value for value in schema["expected"] if value is not None]
    texts = {value: _choice_text(value.value if isinstance(value, enum.Enum) else value) for value in expected}
    if len(texts) < len(expected):
        raise Unexpressible("a Literal with values that are equal to one another cannot be told apart")
    return _choices(texts, texts, lambda choice: getattr(choice, "value", choice))


def _choices(texts: Mapping[Any, str], written: Mapping[Any, str], plain: Callable[[Any], Any]) -> Scalar:
    choices = {text: value for value, text in texts.items()}
    if not choices:
        raise Unexpressible("there is nothing to choose from")
    if len(choices) < len(texts):
        raise Unexpressible("two of its values are written the same")
    facets = tuple(("enumeration", text) for text in choices)
    return Scalar(
        "xs:string",
        written.__getitem__,
        choices.__getitem__,
        facets,
        next(iter(texts)),
        is_text=True,
        to_json=lambda choice: _choice_to_json(plain(choice)),
        from_json=lambda value: choices.get(value, value) if isinstance(value, str) else value,
    )


def _choice_text(value: object) -> str:
    for kind, write in _CHOICE_WRITERS.items():
        if isinstance(value, kind):
            return write(value)
    raise Unexpressible(f"a choice of type {type(value).__name__} cannot be written as text")


def _choice_to_json(value: object) -> object:
    return value if isinstance(value, bool | int | str) else _choice_text(value)


_CHOICE_WRITERS: dict[type[Any], Callable[[Any], str]] = {
    str: str,
    bool: _write_boolean,
    int: _write_integer,
    float: _write_float,
    Decimal: _write_decimal,
    datetime: _write_datetime,
    date: _write_date,
    UUID: _write_uuid,
    bytes: _write_base64,
}
_MAKERS: dict[str, Callable[[Schema, Schema], Scalar]] = {
    "str": _string,
    "int": _integer,
    "float": _float,
    "decimal": _decimal,
    "bool": _boolean,
    "bytes": _bytes,
    "datetime": _datetime,
    "date": _date,
    "time": _time,
    "timedelta": _duration,
    "uuid": _uuid,
    "url": _url,
    "multi-host-url": _url,
    "enum": _enumeration,
    "literal": _literal,
}
