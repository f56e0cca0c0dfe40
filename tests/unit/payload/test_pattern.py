"""A pattern that is carried over means to XSD what it means to pydantic."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree
from pydantic import BaseModel, Field, TypeAdapter, ValidationError, create_model

from xml_pipeline.envelope.schema import SchemaValidator
from xml_pipeline.envelope.text import clean_text, escape_attribute
from xml_pipeline.payload.pattern import to_xsd

CARRIED = [
    "^a+$",
    "a",
    "^a",
    "a$",
    "^[A-Z]{2}-\\d+$",
    "^.+@.+$",
    "^(red|green)$",
    "red|green",
    "^(?:a|b)*c?$",
    "^[^,;]+$",
    "^\\d{3}\\.\\d{1,2}$",
    "^[a-z0-9_.-]+$",
    "^a.b$",
    "^\\/x\\\\$",
    "^$",
    "",
    "^\\w+$",
    "^[\\w.-]+$",
    "^[^\\s\\d]*$",
    "\\S\\s\\D",
    "^\\W$",
    "a\\$",
]
LEFT = [
    "\\bx\\b", "(?i)x", "^a|b$", "a+?", "x*+", "(?=x)", "[[:alpha:]]", "[\\W]", "(a", "a)", "^*", "\\pL",
    "[a&&b]", "\\x41", "^^a", "a$$",
]  # fmt: skip


@pytest.mark.parametrize("pattern", LEFT)
def test_what_is_left_to_the_model(pattern: str) -> None:
    assert to_xsd(pattern) is None


def _model(pattern: str) -> TypeAdapter[BaseModel]:
    return TypeAdapter(create_model("Model", text=(str, Field(pattern=pattern))))


def _schema(pattern: str) -> SchemaValidator:
    translated = to_xsd(pattern)
    assert translated is not None
    return SchemaValidator(
        '<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema"><xs:element name="a"><xs:simpleType>'
        f'<xs:restriction base="xs:string"><xs:pattern value="{escape_attribute(translated)}"/></xs:restriction>'
        "</xs:simpleType></xs:element></xs:schema>"
    )


@pytest.mark.parametrize("pattern", CARRIED)
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(data=st.data())
def test_both_agree(pattern: str, data: st.DataObject) -> None:
    model, schema = _known(pattern)
    matching = st.from_regex(re.compile(pattern)).map(clean_text)
    near = st.text(st.sampled_from("abc-_.,;@/\\ \n\r\t1234567890AZredgn٣"), max_size=8)
    text = data.draw(matching | near)
    element = etree.Element("a")
    element.text = text
    try:
        model.validate_python({"text": text})
    except ValidationError:
        accepted = False
    else:
        accepted = True
    fits = not schema.validate(element)
    assert fits or not accepted
    if text.isascii() or not re.search(r"\\[dDwWsS]", pattern):
        assert fits == accepted


_KNOWN: dict[str, tuple[TypeAdapter[BaseModel], SchemaValidator]] = {}


def _known(pattern: str) -> tuple[TypeAdapter[BaseModel], SchemaValidator]:
    if pattern not in _KNOWN:
        _KNOWN[pattern] = (_model(pattern), _schema(pattern))
    return _KNOWN[pattern]
