r"""From a regular expression as pydantic reads it to one as XSD reads it.

XSD's are anchored at both ends, pydantic's at neither. What is carried over never refuses what the model takes. Beyond
ASCII the two know different digits and letters: there `\d`, `\w` and `\s` take anything, and the model says the rest.
Look-around, `\b`, flags, lazy quantifiers and alternatives beside an anchor are left to the model altogether.

The result is for reading. Nothing is validated by it: libxml2 goes astray on some patterns, for a minute on a text of
2,000 letters, while pydantic takes linear time for all.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"""
      (?P<escape>  \\ [.\\?*+(){}\[\]|^$\-/@#&~'"<>:;,_=!%`\ ] )
    | (?P<control> \\ [nrt] )
    | (?P<kind>    \\ [dDwWsS] )
    | (?P<class>   \[ \^? (?: \\ [.\\?*+(){}\[\]|^$\-/nrtdws] | [^\\\[\]^&~] )+ \] )
    | (?P<count>   [*+?] | \{ \d{1,4} (?: , \d{0,4} )? \} )
    | (?P<open>    \( (?! \? ) | \( \? : )
    | (?P<close>   \) )
    | (?P<or>      \| )
    | (?P<any>     \. )
    | (?P<literal> [^\\.?*+(){}\[\]|^$] )
    """,
    re.VERBOSE,
)
_ENDS = re.compile(r"(?<!\\)(?:\\\\)*\$\Z")
_ANYTHING = r"[\s\S]*"
_BEYOND = "\x80-\U0010ffff"
_KINDS = {"d": "0-9", "w": "A-Za-z0-9_", "s": r" \t\n\r"}
_KIND_IN_CLASS = re.compile(r"\\([dws])|\\.")
_PLAIN_ESCAPES = frozenset(".\\?*+(){}[]|^-")


def to_xsd(pattern: str) -> str | None:
    """Translate `pattern`; None where XSD cannot say it, or not surely the same."""
    starts = pattern.startswith("^")
    ends = _ENDS.search(pattern) is not None
    body = pattern[starts : len(pattern) - ends]
    translated = _translate(body)
    if translated is None:
        return None
    text, has_alternatives = translated
    if has_alternatives:
        if starts or ends:
            return None  # `^a|b$` is anchored at one end of each branch
        text = f"({text})"
    return f"{'' if starts else _ANYTHING}{text}{'' if ends else _ANYTHING}"


def _translate(body: str) -> tuple[str, bool] | None:
    parts: list[str] = []
    position, depth, has_alternatives, previous = 0, 0, False, "open"
    while position < len(body):
        token = _TOKEN.match(body, position)
        if token is None or token.lastgroup is None:
            return None
        kind = token.lastgroup
        if kind == "count" and previous in ("count", "open", "or"):
            return None  # lazy and possessive quantifiers, or one of nothing
        depth += (kind == "open") - (kind == "close")
        if depth < 0:
            return None
        has_alternatives |= kind == "or" and depth == 0
        parts.append(_rewrite(kind, token.group()))
        position, previous = token.end(), kind
    return ("".join(parts), has_alternatives) if depth == 0 else None


def _rewrite(kind: str, text: str) -> str:
    if kind == "any":
        return r"[^\n]"
    if kind == "open":
        return "("
    if kind == "escape" and text[1] not in _PLAIN_ESCAPES:
        return text[1]
    if kind == "kind":
        return f"[{_KINDS[text[1]]}{_BEYOND}]" if text[1].islower() else f"[^{_KINDS[text[1].lower()]}]"
    if kind == "class":
        beyond = "" if text.startswith("[^") else _BEYOND
        return _KIND_IN_CLASS.sub(lambda found: _rewrite_in_class(found, beyond), text)
    return text


def _rewrite_in_class(found: re.Match[str], beyond: str) -> str:
    if found.group(1) is not None:
        return _KINDS[found.group(1)] + beyond
    return found.group()[1] if found.group()[1] in "/$" else found.group()
