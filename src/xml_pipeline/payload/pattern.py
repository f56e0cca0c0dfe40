r"""From a regular expression as pydantic reads it to one as XSD reads it.

XSD's are anchored at both ends, pydantic's at neither. Only what means the same to both is carried over: literals,
`.`, `\d`, classes, groups, alternatives, quantifiers. The rest (`\w`, look-around, `\b`, flags) is left to the model.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"""
      (?P<escape>  \\ [.\\?*+(){}\[\]|^$\-/@#&~'"<>:;,_=!%`\ ] )
    | (?P<special> \\ [dnrt] )
    | (?P<class>   \[ \^? (?: \\ [.\\?*+(){}\[\]|^$\-/dnrt] | [^\\\[\]^&~] )+ \] )
    | (?P<count>   [*+?] | \{ \d{1,4} (?: , \d{0,4} )? \} )
    | (?P<open>    \( (?! \? ) | \( \? : )
    | (?P<close>   \) )
    | (?P<or>      \| )
    | (?P<any>     \. )
    | (?P<literal> [^\\.?*+(){}\[\]|^$] )
    """,
    re.VERBOSE,
)
_ANYTHING = r"[\s\S]*"
_PLAIN_ESCAPES = frozenset(".\\?*+(){}[]|^-")


def to_xsd(pattern: str) -> str | None:
    """Translate `pattern`; None where XSD cannot say it, or not surely the same."""
    starts = pattern.startswith("^")
    ends = pattern.endswith("$") and not pattern.endswith("\\$")
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
    if kind == "class":
        return text.replace(r"\/", "/").replace(r"\$", "$")
    return text
