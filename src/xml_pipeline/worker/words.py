"""Texts that come from handlers, made fit for a turn."""

from __future__ import annotations

from xml_pipeline.envelope.text import clean_text

LONGEST_REASON = 500


def short_reason(text: str) -> str:
    """At most 500 characters that XML can carry."""
    clean = clean_text(text[: 2 * LONGEST_REASON])
    return clean if len(clean) <= LONGEST_REASON else clean[: LONGEST_REASON - 1] + "…"


def describe(error: BaseException) -> str:
    """The class and the message of what a handler raised."""
    try:
        text = str(error)
    except Exception:  # the handler's own __str__
        text = "(its text cannot be read)"
    name = type(error).__name__
    return short_reason(f"{name}: {text}" if text else name)
