"""The parser takes plain UTF-8 XML, and nothing that could surprise whoever reads it next."""

from __future__ import annotations

import threading

import pytest
from lxml import etree

from xml_pipeline.envelope import parser
from xml_pipeline.envelope.codec import canonical
from xml_pipeline.envelope.parser import MAX_ATTRIBUTES, MAX_CHILDREN, MAX_DEPTH, MAX_NAMESPACES, parse
from xml_pipeline.errors import InvalidXml

BILLION_LAUGHS = b"""<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;">
<!ENTITY lol3 "&lol2;&lol2;&lol2;&lol2;&lol2;&lol2;&lol2;&lol2;&lol2;&lol2;">]><lolz>&lol3;</lolz>"""


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(BILLION_LAUGHS, id="billion laughs"),
        pytest.param(b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>', id="external entity"),
        pytest.param(b'<!DOCTYPE a [<!ENTITY x "v">]><a>before&x;after</a>', id="text around a dropped entity"),
        pytest.param(b'<!DOCTYPE a SYSTEM "http://127.0.0.1:1/a.dtd"><a/>', id="external subset"),
        pytest.param(b'<!DOCTYPE a [<!ATTLIST a b CDATA "given">]><a/>', id="default attribute"),
        pytest.param(b"<!DOCTYPE a><a/>", id="bare"),
        pytest.param(b" \n<!--c--><?pi?> <!DOCTYPE a><a/>", id="behind comments and instructions"),
        pytest.param(b'\xef\xbb\xbf<?xml version="1.0"?><!DOCTYPE a><a/>', id="behind a byte order mark"),
        pytest.param(b"<!-- > --><!DOCTYPE a><a/>", id="behind a comment with a bracket"),
    ],
)
def test_no_doctype(data: bytes) -> None:
    with pytest.raises(InvalidXml, match="DOCTYPE"):
        parse(data)


def test_the_word_doctype_in_text_is_text() -> None:
    assert parse(b"<a><![CDATA[<!DOCTYPE b>]]></a>").text == "<!DOCTYPE b>"
    assert parse(b"<!--<!DOCTYPE b>--><a>x</a>").text == "x"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"<a>&lol;</a>", id="undeclared entity"),
        pytest.param(b"<a>&nbsp;</a>", id="entity of HTML"),
        pytest.param(b"<a>\x00</a>", id="NUL"),
        pytest.param(b"<a>\x0b</a>", id="vertical tab"),
        pytest.param(b"<a>&#0;</a>", id="reference to NUL"),
        pytest.param(b"<a>&#xFFFE;</a>", id="reference to U+FFFE"),
        pytest.param(b"<a>\xef\xbf\xbf</a>", id="U+FFFF"),
        pytest.param(b"<a>\xed\xa0\x80</a>", id="encoded surrogate"),
        pytest.param(b"<a>\xc0\xaf</a>", id="overlong"),
        pytest.param(b"<a>\xff</a>", id="no UTF-8"),
        pytest.param("<a>é</a>".encode("latin-1"), id="latin-1"),
        pytest.param(b"<a><b></a></b>", id="crossed"),
        pytest.param(b"<a/><b/>", id="two roots"),
        pytest.param(b"<a/>text", id="text behind"),
        pytest.param(b'<a x="1" x="2"/>', id="attribute twice"),
        pytest.param(b"<p:a/>", id="unbound prefix"),
        pytest.param(b"", id="empty"),
        pytest.param(b"   ", id="blank"),
        pytest.param(b'{"to": "greeter"}', id="JSON"),
        pytest.param(b"\x00" * 100, id="NULs"),
    ],
)
def test_what_is_not_well_formed(data: bytes) -> None:
    with pytest.raises(InvalidXml):
        parse(data)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param("<a>é</a>".encode("utf-16"), id="UTF-16 with mark"),
        pytest.param("<a>é</a>".encode("utf-16-be"), id="UTF-16 without mark"),
        pytest.param("<a>é</a>".encode("utf-32"), id="UTF-32"),
        pytest.param(b'<?xml version="1.0" encoding="utf-7"?><a>+ADw-script+AD4-</a>', id="UTF-7"),
        pytest.param(b'<?xml version="1.0" encoding="latin-1"?><a/>', id="latin-1"),
        pytest.param(b"<?xml version='1.0' encoding = 'UTF-16'?><a/>", id="declared UTF-16"),
        pytest.param(b'<?xml version="1.1"?><a/>', id="XML 1.1"),
        pytest.param(b'\xef\xbb\xbf<?xml version="1.0" encoding="ascii"?><a/>', id="behind a byte order mark"),
    ],
)
def test_no_other_encoding_and_version(data: bytes) -> None:
    with pytest.raises(InvalidXml):
        parse(data)


@pytest.mark.parametrize(
    "data",
    [
        b'<?xml version="1.0"?><a>\xc3\xa9</a>',
        b'<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n<a>\xc3\xa9</a>',
        b"\xef\xbb\xbf<a>\xc3\xa9</a>",
        b" \n<a>\xc3\xa9</a>\n",
    ],
)
def test_utf_8_in_its_forms(data: bytes) -> None:
    assert canonical(parse(data)) == b"<a>\xc3\xa9</a>"


def test_comments_and_instructions_leave_no_seam() -> None:
    root = parse(b"<a>on<!-- hidden -->e<?hidden?> te<![CDATA[xt]]><b/>x<!---->y</a>")
    assert (root.text, root[0].tail, root.xpath("string()")) == ("one text", "xy", "one textxy")
    assert canonical(root) == b"<a>one text<b></b>xy</a>"


def test_size() -> None:
    data = b"<a>%b</a>" % (b"x" * 93)
    assert parse(data, max_bytes=100).text == "x" * 93
    with pytest.raises(InvalidXml, match="at most 99"):
        parse(data, max_bytes=99)
    with pytest.raises(InvalidXml, match="262144"):
        parse(b"<a>%b</a>" % (b"x" * 262144))


def test_depth() -> None:
    def nested(depth: int) -> bytes:
        return b"<a>" * depth + b"</a>" * depth

    assert parse(nested(MAX_DEPTH)).tag == "a"
    with pytest.raises(InvalidXml, match="deeper"):
        parse(nested(MAX_DEPTH + 1))
    with pytest.raises(InvalidXml):
        parse(nested(10_000))
    assert len(parse(b"<a>%b</a>" % (b"<b><c/></b>" * 1000))) == 1000


def test_attributes() -> None:
    def wide(count: int) -> bytes:
        return b"<a><b %b/></a>" % b" ".join(b'a%d="1"' % number for number in range(count))

    assert len(parse(wide(MAX_ATTRIBUTES))[0].attrib) == MAX_ATTRIBUTES
    with pytest.raises(InvalidXml, match="attributes"):
        parse(wide(MAX_ATTRIBUTES + 1))
    assert len(parse(b"<a>%b</a>" % (b'<b c="1"/>' * 1000))) == 1000


def test_children() -> None:
    assert len(parse(b"<a>%b</a>" % (b"<b/>" * MAX_CHILDREN))) == MAX_CHILDREN
    with pytest.raises(InvalidXml, match="children"):
        parse(b"<c><a>%b</a></c>" % (b"<b/>" * (MAX_CHILDREN + 1)))


def test_namespaces() -> None:
    def bound(count: int) -> bytes:
        return b"<a %b/>" % b" ".join(b'xmlns:n%d="urn:n"' % number for number in range(count))

    assert parse(bound(MAX_NAMESPACES)).tag == "a"
    with pytest.raises(InvalidXml, match="namespaces"):
        parse(bound(MAX_NAMESPACES + 1))
    assert len(parse(b"<a>%b</a>" % (b'<b xmlns="urn:n"/>' * 1000))) == 1000


def test_what_has_no_canonical_form_is_refused_as_xml() -> None:
    with pytest.raises(InvalidXml, match="canonical"):
        canonical(parse(b'<a xmlns="relative"/>'))


def test_no_reason_shows_the_document() -> None:
    secret = b"sesame" * 10
    for data in (b"<a>%b", b"%b<a/>", b"<a>&%b;</a>"):
        with pytest.raises(InvalidXml) as caught:
            parse(data % secret)
        assert len(str(caught.value)) < 200


def test_threads_have_parsers_of_their_own() -> None:
    parsers: set[int] = set()
    held: list[etree.XMLParser] = []
    all_there = threading.Barrier(4)

    def work() -> None:
        all_there.wait(10)
        for number in range(200):
            assert parse(b"<a>%d</a>" % number).text == str(number)
        held.append(parser._parsers.parser)
        parsers.add(id(parser._parsers.parser))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(held) == len(parsers) == 4
