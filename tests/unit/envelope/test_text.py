"""Text that XML cannot carry is refused where it enters; the rest is escaped as canonical XML does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from xml_pipeline.envelope.codec import canonical
from xml_pipeline.envelope.parser import check_text, parse
from xml_pipeline.envelope.text import clean_text, encode_text, escape_attribute, escape_text, uncarriable
from xml_pipeline.errors import InvalidXml

BAD = ["\x00", "\x01", "\x08", "\x0b", "\x0c", "\x0e", "\x1f", "\ud800", "\udfff", "\ufffe", "\uffff"]
GOOD = ["", "\t\n\r", " ~", "\x7f\x85\u2028", "\ud7ff\ue000\ufffd", "\U00010000\U0001f600\U0010ffff"]

any_text = st.text(st.characters())
carriable = any_text.map(clean_text)


@pytest.mark.parametrize("text", BAD)
def test_what_cannot_be_carried(text: str) -> None:
    for check in (check_text, encode_text):
        with pytest.raises(InvalidXml, match=f"U\\+{ord(text):04X} at 2"):
            check(f"ab{text}c")
    assert clean_text(f"ab{text}c") == "ab\ufffdc"


@pytest.mark.parametrize("text", GOOD)
def test_what_can(text: str) -> None:
    check_text(text)
    assert encode_text(text) == text.encode()
    assert clean_text(text) == text


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_the_check_agrees_with_lxml(text: str) -> None:
    element = etree.Element("a")
    try:
        element.text = text
    except (ValueError, UnicodeEncodeError):
        assert uncarriable(text) is not None
    else:
        assert uncarriable(text) is None


@given(carriable)
def test_escapes_are_the_canonical_ones(text: str) -> None:
    data = f'<a b="{escape_attribute(text)}">{escape_text(text)}</a>'.encode()
    root = parse(data)
    assert (root.text or "", root.get("b")) == (text, text)
    assert canonical(root) == data
