"""Labels that stay few, whatever comes."""

from __future__ import annotations

from collections.abc import Container

OTHER = "other"
NONE = "none"
# Of what handlers name themselves, such as models.
MOST_NAMES = 100


def known(name: str | None, names: Container[str]) -> str:
    """A name that is configured; `other` for what was, or never was; `none` for none."""
    if name is None:
        return NONE
    return name if name in names else OTHER


class FewNames:
    """The first names that come are labels; once there are too many, the next are `other`."""

    def __init__(self, most: int = MOST_NAMES) -> None:
        self._most = most
        self._names: set[str] = set()

    def label(self, name: str) -> str:
        """Of a name that may be anything."""
        if name not in self._names:
            if len(self._names) >= self._most:
                return OTHER
            self._names.add(name)
        return name
