"""A timedelta as an XSD duration of days, hours, minutes and seconds."""

from __future__ import annotations

import re
from datetime import timedelta

_DURATION = re.compile(
    r"(?P<sign>-?)P(?:(?P<days>\d+)D)?(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?"
    r"(?:(?P<seconds>\d+)(?:\.(?P<fraction>\d{1,6}))?S)?)?"
)


def write_duration(value: timedelta) -> str:
    """Write `value`, exact to the microsecond."""
    sign, value = ("-", -value) if value < timedelta() else ("", value)
    fraction = f".{value.microseconds:06d}" if value.microseconds else ""
    return f"{sign}P{value.days}DT{value.seconds}{fraction}S"


def read_duration(text: str) -> timedelta:
    """Read a duration without years and months; raise ValueError on anything else."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ValueError("a duration is written like P1DT2H3M4.5S")
    parts = {name: int(found[name] or 0) for name in ("days", "hours", "minutes", "seconds")}
    microseconds = int((found["fraction"] or "0").ljust(6, "0"))
    try:
        value = timedelta(microseconds=microseconds, **parts)
    except OverflowError:
        raise ValueError("the duration is too long") from None
    return -value if found["sign"] else value
