"""The watch over locks does not call short what it has not looked at."""

from __future__ import annotations

import pytest

from tests.support.lock_watch import Locks

LOCK = ("3/1", "messages", "AccessExclusiveLock")
EACH = [number / 10 for number in range(20)]


@pytest.mark.parametrize(
    ("times", "locked", "short"),
    [
        (EACH, [], True),
        (EACH, [0.5, 0.6], True),
        (EACH, EACH[3:15], False),
        ([time for time in EACH if not 0.5 < time < 1.1], [], False),
        (EACH[:1], [], False),
    ],
    ids=["nothing", "a moment", "long", "nobody looked", "one look"],
)
def test_what_is_short(times: list[float], locked: list[float], short: bool) -> None:
    locks = Locks()
    for time in times:
        locks.saw(time, [LOCK] if time in locked else [], [])
    assert locks.short(1.0) is short


def test_whoever_waited_long_was_not_short() -> None:
    locks = Locks()
    for time in EACH:
        locks.saw(time, [], [("gateway", 1.5)] if time == EACH[-1] else [])
    assert not locks.short(1.0)
