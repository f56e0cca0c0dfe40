"""Payload classes of all kinds, for the tests of payloads."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, StringConstraints, field_validator


class Color(enum.Enum):
    """Values that look alike to a careless reader."""

    RED = "red"
    SPACED = " red"
    EMPTY = ""
    LINES = "a\nb"
    MARKUP = "<&>"


class Level(enum.IntEnum):
    """Numbers."""

    LOW = 1
    HIGH = 20


@dataclass
class Point:
    """A place."""

    x: float
    y: float = 0.0
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Tree:
    """Holds itself."""

    name: str
    children: tuple[Tree, ...] = ()
    parent: Tree | None = None


class Scalars(BaseModel):
    """One of each."""

    text: str
    flag: bool
    number: int
    real: float
    exact: Decimal
    moment: datetime
    day: date
    clock: time
    span: timedelta
    id: UUID
    data: bytes
    color: Color
    level: Level
    choice: Literal["a", " a", 1, None]


class Shapes(BaseModel):
    """What holds others."""

    texts: list[str]
    maybe: list[str | None]
    nested: list[list[int]]
    options: list[str] | None = None
    given: list[str] = ["given"]
    number: int | None = 5
    required: int | None
    table: dict[str, int]
    levels: dict[Level, Point | None] = Field(default_factory=dict)
    numbers: tuple[int, ...] = ()
    bag: set[str] = set()
    frozen: frozenset[int] = frozenset()
    point: Point
    tree: Tree | None = None
    moments: dict[datetime, bytes] = {}


class Constrained(BaseModel):
    """What narrows."""

    code: str = Field(pattern=r"^[A-Z]{2}-\d+$", description="Two capitals & a <number>")
    word: str = Field(min_length=2, max_length=4)
    age: int = Field(ge=0, lt=150)
    share: float = Field(gt=0, le=1, allow_inf_nan=False)
    price: Decimal = Field(max_digits=6, decimal_places=2)
    tags: list[Annotated[str, StringConstraints(min_length=1)]] = Field(min_length=1, max_length=3)
    even: int = Field(multiple_of=2, ge=2)
    count: PositiveInt
    day: date = Field(ge=date(2020, 1, 1))
    data: bytes = Field(max_length=4)


class Picky(BaseModel):
    """Says more than a schema can."""

    name: str

    @field_validator("name")
    @classmethod
    def known(cls, name: str) -> str:
        if name != "known":
            raise ValueError("it must be known")
        return name


class Brittle(BaseModel):
    """Has a validator with a fault of its own."""

    name: str

    @field_validator("name")
    @classmethod
    def broken(cls, name: str) -> str:
        raise RuntimeError("a fault in the class")


class Aliased(BaseModel):
    """JSON may say it in camel case."""

    model_config = ConfigDict(strict=True)

    first_name: str = Field(alias="firstName")
    born: date


@dataclass
class Nothing:
    """Has no fields."""


@dataclass
class Documented:
    """Says what <it> is & why."""

    plain: Annotated[int, Field(description="how many")]
    items: list[str] = field(default_factory=list)
