"""Any class, made of any of the types that are carried, and any instance of it."""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import dataclass, make_dataclass
from dataclasses import field as dataclass_field
from datetime import date, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree
from pydantic import create_model

from tests.unit.payload.classes import Color, Level
from tests.unit.payload.strategies import decimals, floats, integers, texts
from xml_pipeline.payload import PayloadType

MISSING = object()


@dataclass(frozen=True)
class Typed:
    """A type with the values it may have."""

    type: Any
    values: st.SearchStrategy[Any]
    is_key: bool = False


SCALARS = [
    Typed(str, texts, is_key=True),
    Typed(int, integers, is_key=True),
    Typed(bool, st.booleans(), is_key=True),
    Typed(float, floats),
    Typed(Decimal, decimals.map(Decimal)),
    Typed(date, st.dates(), is_key=True),
    Typed(timedelta, st.timedeltas()),
    Typed(UUID, st.uuids(), is_key=True),
    Typed(bytes, st.binary(max_size=20), is_key=True),
    Typed(Color, st.sampled_from(Color), is_key=True),
    Typed(Level, st.sampled_from(Level)),
]


def _compound(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    keys = st.sampled_from([scalar for scalar in SCALARS if scalar.is_key])
    return st.one_of(
        inner.map(lambda of: Typed(of.type | None, st.none() | of.values)),
        inner.map(lambda of: Typed(list[of.type], st.lists(of.values, max_size=3))),  # type: ignore[name-defined]
        inner.map(lambda of: Typed(tuple[of.type, ...], st.lists(of.values, max_size=3).map(tuple))),  # type: ignore[name-defined]
        keys.map(lambda of: Typed(frozenset[of.type], st.frozensets(of.values, max_size=3))),  # type: ignore[name-defined]
        st.builds(_dict_of, keys, inner),
        st.lists(inner, max_size=3).map(_class_of),
    )


def _dict_of(key: Typed, value: Typed) -> Typed:
    return Typed(dict[key.type, value.type], st.dictionaries(key.values, value.values, max_size=3))  # type: ignore[name-defined]


def _class_of(fields: list[Typed]) -> Typed:
    named = {f"f{number}": field for number, field in enumerate(fields)}
    cls = make_dataclass("Inner", [(name, field.type) for name, field in named.items()])
    return Typed(cls, st.builds(cls, **{name: field.values for name, field in named.items()}))


types = st.recursive(st.sampled_from(SCALARS), _compound, max_leaves=5)


@st.composite
def _classes(draw: st.DrawFn) -> tuple[type[Any], dict[str, Typed]]:
    fields = {f"field_{number}": field for number, field in enumerate(draw(st.lists(types, max_size=4)))}
    defaults = {name: draw(st.just(MISSING) | field.values) for name, field in fields.items()}
    ordered = sorted(fields, key=lambda name: defaults[name] is not MISSING)
    if draw(st.booleans()):
        model = {name: (fields[name].type, ... if defaults[name] is MISSING else defaults[name]) for name in ordered}
        return create_model("Made", **model), fields  # type: ignore[call-overload]
    made = [(name, fields[name].type, _default(defaults[name])) for name in ordered]
    return make_dataclass("Made", made), fields


def _default(value: Any) -> Any:
    if value is MISSING:
        return dataclass_field()
    if isinstance(value, Hashable):
        return dataclass_field(default=value)
    return dataclass_field(default_factory=lambda: value)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(_classes(), st.data())
def test_any_instance_of_any_class_survives(made: tuple[type[Any], dict[str, Typed]], data: st.DataObject) -> None:
    cls, fields = made
    payload_type = PayloadType(cls, "a.made")
    schema = etree.XMLSchema(etree.fromstring(payload_type.xsd.encode()))
    example = payload_type.example_xml()
    assert example is not None
    assert schema.validate(etree.fromstring(example)), schema.error_log
    obj = cls(**{name: data.draw(field.values) for name, field in fields.items()})
    written = payload_type.to_xml(obj)
    assert schema.validate(etree.fromstring(written)), schema.error_log
    assert payload_type.from_xml(written) == obj
    assert payload_type.from_json(json.loads(json.dumps(payload_type.to_json(obj)))) == obj
