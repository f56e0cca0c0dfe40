"""A short text that a simple pattern matches, for examples."""

from __future__ import annotations

import re
from collections.abc import Iterator

_PIECE = re.compile(
    r"(?P<class>\[\^?(?:\\.|[^\\\]])+\])|(?P<escape>\\.)|(?P<open>\((?:\?:)?)|(?P<close>\))|(?P<or>\|)"
    r"|(?P<count>[*+?]|\{(?P<least>\d+)[^}]*\})|(?P<literal>.)",
    re.DOTALL,
)
_KINDS = {"d": "1", "w": "a", "s": " ", "D": "a", "W": "-", "S": "a", "n": "\n", "t": "\t", "r": "\r"}
_CANDIDATES = "a1A-_.,:; /@#xX0~"


def example_of(pattern: str) -> str | None:
    """Make a text that `pattern` matches; None where it is not simple enough."""
    text = _branch(_pieces(pattern.removeprefix("^").removesuffix("$")))
    try:
        return text if re.search(pattern, text) else None
    except re.error:
        return None


def _pieces(pattern: str) -> Iterator[re.Match[str]]:
    return _PIECE.finditer(pattern)


def _branch(pieces: Iterator[re.Match[str]]) -> str:
    """Follow the first branch up to its end, each piece as seldom as it may be, but shown once where it can."""
    parts: list[str] = []
    taken = True
    for piece in pieces:
        kind = piece.lastgroup if piece.lastgroup != "least" else "count"
        if kind == "close":
            break
        text = _branch(pieces) if kind == "open" else _text(kind, piece.group())
        if kind == "or":
            taken = False
        elif kind == "count" and taken and parts:
            parts[-1] *= int(piece["least"] or 1)
        elif taken and kind != "count":
            parts.append(text)
    return "".join(parts)


def _text(kind: str | None, piece: str) -> str:
    if kind == "escape":
        return _KINDS.get(piece[1], piece[1])
    if kind == "class":
        return _member(piece)
    return "a" if piece == "." and kind == "literal" else piece


def _member(piece: str) -> str:
    try:
        matches = re.compile(piece)
    except re.error:
        return ""
    first = piece[1:2]
    return next((candidate for candidate in (first, *_CANDIDATES) if matches.fullmatch(candidate)), "")
