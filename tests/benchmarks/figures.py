"""What a benchmark reports: a figure of ours, and the raw one of the same run that it is held against."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from statistics import median

PACKAGES = ("lxml", "aio-pika", "asyncpg", "sqlalchemy", "pydantic", "fastapi")


@dataclass(frozen=True, slots=True)
class Figure:
    """`value` per second; `ratio` is value / raw, of the same run, where there is something raw to compare with."""

    name: str
    value: float
    raw_name: str | None = None
    raw: float | None = None

    @property
    def ratio(self) -> float | None:
        return self.value / self.raw if self.raw else None

    def __str__(self) -> str:
        own = f"{self.name:<58} {self.value:>12,.0f} /s"
        if self.raw is None or self.ratio is None:
            return own
        return f"{own}   {self.ratio:>6.2f} x {self.raw_name} ({self.raw:,.0f} /s)"


def machine(extra: Iterable[str] = ()) -> str:
    """One line for each thing that the figures depend on."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    lines = [
        f"{os.cpu_count()} CPUs ({platform.machine()}), {system}",
        packages,
        *extra,
    ]
    return "\n".join(lines)


def per_second(count: int, seconds: Iterable[float]) -> float:
    """The median rate of several runs over the same `count`."""
    return count / median(seconds)
