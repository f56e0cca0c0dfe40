"""What a payload class looks like to XML: a tree of shapes, from which schema, reader, writer and example are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Value: TypeAlias = Any  # whatever a field of a payload may hold
MISSING = object()


@dataclass(frozen=True, slots=True)
class Scalar:
    """Text: `base` is its XSD type, `facets` narrow it, `write` and `read` raise ValueError, TypeError or KeyError.

    `to_json` and `from_json` convert where JSON has no such type. `pattern` is of the class, so it may be of any kind:
    it is shown in the XSD, and checked by the class alone.
    """

    base: str
    write: Callable[[Any], str]
    read: Callable[[str], Any]
    facets: tuple[tuple[str, str], ...] = ()
    sample: Any = None
    is_text: bool = False
    to_json: Callable[[Any], Any] | None = None
    from_json: Callable[[Any], Any] | None = None
    pattern: str | None = None


@dataclass(frozen=True, slots=True)
class Nullable:
    """A value that may be None; where the element cannot simply be left out, None is `xsi:nil`."""

    inner: Shape


@dataclass(frozen=True, slots=True)
class Many:
    """A list, tuple or set: one `<item>` for each; `ordered` is false for sets, which are written sorted."""

    item: Shape
    make: Callable[[Iterable[Any]], Any]
    minimum: int = 0
    maximum: int | None = None
    ordered: bool = True


@dataclass(frozen=True, slots=True)
class Mapped:
    """A dict: one `<entry>` with `<key>` and `<value>` for each."""

    key: Scalar
    value: Shape
    minimum: int = 0
    maximum: int | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """One field of a class. `default` is MISSING where there is none; a default factory is called for its value."""

    name: str
    shape: Shape
    alias: str | None = None
    default: Any = MISSING
    default_factory: Callable[[], Any] | None = None
    doc: str | None = None
    examples: tuple[Any, ...] = ()

    @property
    def required(self) -> bool:
        """Whether JSON must name it."""
        return self.default is MISSING and self.default_factory is None

    @property
    def absent_is_none(self) -> bool:
        """Whether None is told by leaving the element out."""
        return self.default is None or (self.required and isinstance(self.shape, Nullable))

    @property
    def may_be_absent(self) -> bool:
        """Whether the element may be left out."""
        return not self.required or self.absent_is_none


@dataclass(slots=True, eq=False)
class Record:
    """A class with fields; filled in after it was made, since it may hold itself."""

    cls: type[Any]
    name: str
    doc: str | None = None
    members: tuple[Member, ...] = field(default=())


Shape: TypeAlias = Scalar | Nullable | Many | Mapped | Record
