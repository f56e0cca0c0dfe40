"""Who is to blame for the death of a child. A pure decision."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

# A run that was there at so many deaths that nobody explained runs alone the next time.
DEATHS_UNTIL_ALONE = 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """`guilty` fails, the others run again, uncounted. Where nobody is guilty, the death is a mark against all."""

    guilty: int | None


def blame(in_step: int, present: Collection[int], *, alone: bool) -> Verdict:
    """Decide by what the marker said last: the run whose step the event loop executed, 0 for none.

    `present` are the runs of the child that had not ended; `alone` says that it was a child for one run only.
    """
    if alone and len(present) == 1:
        return Verdict(next(iter(present)))
    return Verdict(in_step if in_step in present else None)
