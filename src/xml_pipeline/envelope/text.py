"""Text on its way into XML: what cannot be carried is refused or replaced, what has a meaning is escaped."""

from __future__ import annotations

import re

from xml_pipeline.errors import InvalidXml

_UNCARRIABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_CONTROLS = bytes(code for code in range(32) if code not in (9, 10, 13))
_NONCHARACTERS = (b"\xef\xbf\xbe", b"\xef\xbf\xbf")
REPLACEMENT = "\ufffd"


def uncarriable(text: str) -> str | None:
    """Name the first character of `text` that XML cannot carry, like `U+0000 at 4`; None if all can be."""
    found = _UNCARRIABLE.search(text)
    return None if found is None else f"U+{ord(found.group()):04X} at {found.start()}"


def check_text(text: str) -> None:
    """Raise InvalidXml where `text` holds a control character, a lone surrogate, U+FFFE or U+FFFF."""
    found = uncarriable(text)
    if found is not None:
        raise InvalidXml(f"the text holds a character that XML cannot carry: {found}")


def clean_text(text: str) -> str:
    """Put U+FFFD where XML cannot carry a character: for reasons and messages that must not fail."""
    return _UNCARRIABLE.sub(REPLACEMENT, text)


def encode_text(text: str) -> bytes:
    """Encode markup as UTF-8; raise InvalidXml where it holds what XML cannot carry. Fast on what is good."""
    try:
        data = text.encode()
    except UnicodeEncodeError:
        check_text(text)
        raise
    if len(data.translate(None, _CONTROLS)) != len(data) or any(mark in data for mark in _NONCHARACTERS):
        check_text(text)
    return data


def escape_text(text: str) -> str:
    """Escape character data as canonical XML does."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#xD;")


def escape_attribute(text: str) -> str:
    """Escape the value of an attribute as canonical XML does."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return escaped.replace("\t", "&#x9;").replace("\n", "&#xA;").replace("\r", "&#xD;")
