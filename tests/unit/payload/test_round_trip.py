"""Whatever an object holds, it comes back from XML, and from JSON, as it was."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given

from tests.unit.payload.classes import Nothing, Point, Scalars, Shapes, Tree
from tests.unit.payload.strategies import points, scalars, shapes, trees
from xml_pipeline.envelope.codec import canonical
from xml_pipeline.envelope.parser import parse
from xml_pipeline.errors import InvalidPayload
from xml_pipeline.payload import PayloadType


@dataclass
class Money:
    amount: Decimal


@dataclass
class Moment:
    at: datetime


TYPES = {cls: PayloadType(cls, f"a.{cls.__name__}".lower()) for cls in (Scalars, Shapes, Point, Tree, Nothing)}


def survives(obj: Any) -> None:
    payload_type = TYPES[type(obj)]
    data = payload_type.to_xml(obj)
    assert canonical(parse(data)) == data
    payload_type.validate(data)
    back = payload_type.from_xml(data)
    assert back == obj
    assert repr(back) == repr(obj) or type(obj) is not Point  # -0.0 == 0.0
    plain = json.loads(json.dumps(payload_type.to_json(obj)))
    assert payload_type.from_json(plain) == obj


@given(scalars)
def test_scalars(obj: Scalars) -> None:
    survives(obj)


@given(shapes)
def test_shapes(obj: Shapes) -> None:
    survives(obj)


@given(points)
def test_dataclasses(obj: Point) -> None:
    survives(obj)


@given(trees)
def test_what_holds_itself(obj: Tree) -> None:
    survives(obj)


def test_nothing() -> None:
    survives(Nothing())
    assert TYPES[Nothing].to_xml(Nothing()) == b"<a.nothing></a.nothing>"


def test_none_an_empty_text_and_an_empty_list_are_three_things() -> None:
    point = Point(1.0)
    seen = set()
    for options, label in ((None, None), ([], ""), ([""], " ")):
        obj = Shapes(
            texts=[], maybe=[None, ""], nested=[[], []], options=options, given=[], number=None, required=None,
            table={}, point=Point(1.0, label=label),
        )  # fmt: skip
        survives(obj)
        seen.add(TYPES[Shapes].to_xml(obj))
    assert len(seen) == 3
    assert TYPES[Point].to_xml(point) == b"<a.point><x>1.0</x><y>0.0</y></a.point>"


def test_no_number() -> None:
    back = TYPES[Point].from_xml(TYPES[Point].to_xml(Point(math.nan)))
    assert math.isnan(back.x)
    plain = json.loads(json.dumps(TYPES[Point].to_json(Point(math.nan, math.inf)), allow_nan=False))
    assert plain == {"x": "NaN", "y": "INF", "label": None}
    again = TYPES[Point].from_json(plain)
    assert math.isnan(again.x)
    assert again.y == math.inf


def test_whitespace_and_carriage_returns() -> None:
    text = " \r\n\t\r leading and trailing \n "
    data = TYPES[Point].to_xml(Point(1.0, label=text))
    assert b"&#xD;" in data
    assert b"\r" not in data
    assert TYPES[Point].from_xml(data).label == text


def test_digits_are_kept() -> None:
    payload_type = PayloadType(Money, "a.money")
    for digits in ("1.10", "0.000", "-0.0", "100000000000000000000000000000.000000000000000000001"):
        assert str(payload_type.from_xml(payload_type.to_xml(Money(amount=Decimal(digits)))).amount) == digits


def test_an_offset_that_xml_does_not_know_is_the_same_instant() -> None:
    odd = datetime(2020, 1, 1, 12, tzinfo=timezone(timedelta(hours=5, minutes=53, seconds=28)))
    obj = Moment(odd)
    payload_type = PayloadType(Moment, "a.moment")
    back = payload_type.from_xml(payload_type.to_xml(obj))
    assert back.at == odd
    assert back.at.tzinfo == UTC
    with pytest.raises(InvalidPayload, match="at"):
        payload_type.to_xml(Moment(datetime.min.replace(tzinfo=timezone(timedelta(hours=20)))))
