"""What listeners and organisms may be called."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from xml_pipeline.envelope.model import API, SYSTEM

RESERVED = frozenset({API, SYSTEM})
MAX_NAME = 64
_LISTENER = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_ORGANISM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def listener_name_fault(name: str) -> str | None:
    """Say what is wrong with the name of a listener; None if nothing is."""
    if name.lower() in RESERVED:
        return f"the name {name!r} is reserved"
    if len(name) > MAX_NAME:
        return f"the name is longer than {MAX_NAME} characters"
    if not _LISTENER.fullmatch(name):
        return f"the name {name!r} must begin with a letter and hold only letters, digits, '_', '.' and '-'"
    return None


def organism_name_fault(name: str) -> str | None:
    """Say what is wrong with the name of an organism, which all its exchanges and queues begin with."""
    if len(name) > MAX_NAME:
        return f"the name is longer than {MAX_NAME} characters"
    if not _ORGANISM.fullmatch(name):
        return f"the name {name!r} must begin with a letter or digit and hold only letters, digits, '_', '.' and '-'"
    if name.lower().startswith("amq."):
        return "names that begin with 'amq.' are the broker's own"
    return None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Give a hint to append: the known word that is closest, or all of them."""
    words = sorted(known)
    close = get_close_matches(word, words, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there are: {', '.join(words)}" if words else ""
