"""Payloads as JSON: what a class takes, and how it says no."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest

from tests.unit.payload.classes import Aliased, Color, Level, Tree
from tests.unit.payload.faults import faults_of
from xml_pipeline.payload import PayloadType, xml_to_json


def test_json_faults_all_at_once_with_paths() -> None:
    payload_type = PayloadType(Tree, "a.tree")
    found = faults_of(lambda: payload_type.from_json({"name": 1, "children": [{"name": "a"}, {"nmae": "b"}], "x": 1}))
    assert {fault.path for fault in found} == {"name", "children[1].name", "children[1].nmae", "x"}


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({"name": "a\x00b"}, "name"),
        ({"name": "a", "children": [{"name": "\ud800"}]}, "children[0].name"),
        ({"name": "a", "parent": {"name": "\uffff"}}, "parent.name"),
        ({"name": "a", "\x0b": 1}, ""),
        ({"name": "a", "unknown": ["\ufffe"]}, "unknown[0]"),
    ],
)
def test_json_that_xml_cannot_carry(payload: dict[str, Any], path: str) -> None:
    assert faults_of(lambda: PayloadType(Tree, "a.tree").from_json(payload))[0].path == path


def test_json_that_never_ends() -> None:
    deep: dict[str, Any] = {"name": "x"}
    for _ in range(500):
        deep = {"name": "x", "parent": deep}
    assert "nested deeper" in faults_of(lambda: PayloadType(Tree, "a.tree").from_json(deep))[0].message


@pytest.mark.parametrize("payload", [None, [], "text", 1, True])
def test_json_that_is_no_object(payload: Any) -> None:
    faults_of(lambda: PayloadType(Tree, "a.tree").from_json(payload))


def test_json_in_either_spelling() -> None:
    payload_type = PayloadType(Aliased, "a.aliased")
    expected = Aliased(firstName="Ada", born=date(1815, 12, 10))
    for key in ("firstName", "first_name"):
        assert payload_type.from_json({key: "Ada", "born": "1815-12-10"}) == expected
    assert payload_type.from_xml(payload_type.to_xml(expected)) == expected
    assert payload_type.to_json(expected) == {"first_name": "Ada", "born": "1815-12-10"}


def test_json_of_choices_and_bytes() -> None:
    payload_type = PayloadType(Chosen, "a.chosen")
    made = payload_type.from_json({"color": " red", "level": 20, "data": "AAE="})
    assert made == Chosen(Color.SPACED, Level.HIGH, b"\x00\x01")
    assert payload_type.from_json({"color": " red", "level": "20", "data": "AAE="}) == made
    assert faults_of(lambda: payload_type.from_json({"color": "blue", "level": 20, "data": "%"}))[0].path == "data"
    assert {
        fault.path for fault in faults_of(lambda: payload_type.from_json({"color": 1, "level": 2, "data": ""}))
    } == {
        "color",
        "level",
    }


@dataclass
class Chosen:
    color: Color
    level: Level
    data: bytes


def test_any_payload_as_json() -> None:
    data = b"""<x.y><a>1</a><b><item>p</item><item>q</item></b><c><entry><key>k</key><value>v</value></entry></c>
    <d><e/></d><f>1</f><f>2</f></x.y>"""
    assert xml_to_json(data) == {
        "a": "1", "b": ["p", "q"], "c": {"k": "v"}, "d": {"e": ""}, "f": ["1", "2"],
    }  # fmt: skip
    assert xml_to_json(b"<x.y>text</x.y>") == {"text": "text"}
    assert xml_to_json(b"<x.y></x.y>") == {}
