"""The one parser of bytes that came from elsewhere.

UTF-8 alone, no DOCTYPE, hence no entities but the five of XML, nothing fetched, comments and processing instructions
removed, and size, depth, attributes and children bounded. Whatever it returns has a canonical form.
"""

from __future__ import annotations

import re
import threading

from lxml import etree

from xml_pipeline.envelope.text import check_text
from xml_pipeline.errors import InvalidXml

__all__ = ["MAX_ATTRIBUTES", "MAX_BYTES", "MAX_CHILDREN", "MAX_DEPTH", "MAX_NAMESPACES", "check_text", "parse"]

MAX_BYTES = 256 * 1024
MAX_DEPTH = 64
MAX_ATTRIBUTES = 64
MAX_NAMESPACES = 16
MAX_CHILDREN = 4096  # each fault among n siblings costs lxml n steps: 17,000 wrong ones take 4 seconds to tell

_BOM = b"\xef\xbb\xbf"
_ROOT_STARTS = frozenset(b"<" + bytes([letter]) for letter in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
_DECLARATION = re.compile(rb"<\?xml\s[^>]*?\?>")
_ENCODING = re.compile(rb"encoding\s*=\s*[\"']([^\"']*)[\"']")
_VERSION = re.compile(rb"version\s*=\s*[\"']1\.0[\"']")
_PROLOG_DOCTYPE = re.compile(rb"(?:\s|<\?.*?\?>|<!--.*?-->)*+<!DOCTYPE", re.DOTALL)


class _Parsers(threading.local):
    """A parser for each thread: making one costs a quarter of a parse, sharing one would make threads wait."""

    def __init__(self) -> None:
        self.parser = etree.XMLParser(
            encoding="utf-8",
            resolve_entities=False,
            load_dtd=False,
            dtd_validation=False,
            no_network=True,
            remove_comments=True,
            remove_pis=True,
            huge_tree=False,
            recover=False,
        )


_parsers = _Parsers()


def parse(data: bytes, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH) -> etree._Element:
    """Parse a document of at most `max_bytes` and `max_depth` levels; raise InvalidXml with a short reason."""
    if len(data) > max_bytes:
        raise InvalidXml(f"the document has {len(data)} bytes; at most {max_bytes} are allowed")
    has_prolog = data[:2] not in _ROOT_STARTS
    if has_prolog:
        data = _checked_prolog(data)
    try:
        root = etree.fromstring(data, _parsers.parser)
    except etree.XMLSyntaxError as error:
        raise InvalidXml(f"not well-formed: {_first_line(error)}") from None
    if has_prolog and root.getroottree().docinfo.internalDTD is not None:
        raise InvalidXml("a DOCTYPE is not allowed")
    _check_bounds(root, data, max_depth)
    return root


def _first_line(error: etree.XMLSyntaxError) -> str:
    message = str(error.msg or "empty").replace("\n", " ")
    return message.removesuffix(" (<string>, line 1)")


def _checked_prolog(data: bytes) -> bytes:
    """Check what comes before the root element, where it has company; give the document without its mark of UTF-8."""
    if data.startswith(_WIDE_BOMS):
        raise InvalidXml("the encoding must be UTF-8")
    data = data.removeprefix(_BOM)
    if data.startswith(b"<?xml"):
        _check_declaration(data)
    if _PROLOG_DOCTYPE.match(data):
        raise InvalidXml("a DOCTYPE is not allowed")
    return data


def _check_declaration(data: bytes) -> None:
    declaration = _DECLARATION.match(data)
    if declaration is None:
        return  # a processing instruction like <?xml-stylesheet?>, or malformed: the parser will say
    if not _VERSION.search(declaration.group()):
        raise InvalidXml("the XML version must be 1.0")
    encoding = _ENCODING.search(declaration.group())
    if encoding is not None and encoding.group(1).lower() not in (b"utf-8", b"utf8"):
        raise InvalidXml("the encoding must be UTF-8")


def _check_bounds(root: etree._Element, data: bytes, max_depth: int) -> None:
    """Count bytes first: they bound what a document can hold, and spare nearly all of them the walk."""
    if data.count(b"<") >= 2 * max_depth:
        _check_depth(root, max_depth)
        _check_children(root)
    equals = data.count(b"=")
    if equals > MAX_NAMESPACES and data.count(b"xmlns") > MAX_NAMESPACES:
        _check_namespaces(root)
    if equals > MAX_ATTRIBUTES:
        _check_attributes(root)


def _check_depth(root: etree._Element, max_depth: int) -> None:
    level, depth = [root], 0
    while level:
        depth += 1
        if depth > max_depth:
            raise InvalidXml(f"elements are nested deeper than {max_depth}")
        level = [child for element in level for child in element]


def _check_children(root: etree._Element) -> None:
    if any(len(element) > MAX_CHILDREN for element in root.iter()):
        raise InvalidXml(f"an element has more than {MAX_CHILDREN} children")


def _check_attributes(root: etree._Element) -> None:
    if any(len(element.attrib) > MAX_ATTRIBUTES for element in root.iter()):
        raise InvalidXml(f"an element has more than {MAX_ATTRIBUTES} attributes")


def _check_namespaces(root: etree._Element) -> None:
    declared = 0
    for event, _ in etree.iterwalk(root, events=("start-ns", "start")):
        declared = declared + 1 if event == "start-ns" else 0
        if declared > MAX_NAMESPACES:
            raise InvalidXml(f"an element declares more than {MAX_NAMESPACES} namespaces")
