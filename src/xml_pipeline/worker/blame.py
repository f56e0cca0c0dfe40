"""Who is to blame for the death of a child. A pure decision."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

# A run that was there at so many deaths that nobody explained runs alone the next time.
DEATHS_UNTIL_ALONE = 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """`guilty` fails. Suspects and neighbours run again, uncounted: suspects alone, so that the next death is clear.

    `explained`: the death is no mark against those who run again.
    """

    guilty: int | None
    suspects: frozenset[int] = frozenset()
    explained: bool = True


def blame(in_loop: int, in_threads: Collection[int], present: Collection[int], *, alone: bool) -> Verdict:
    """Decide by what the marker said last: the run whose step the event loop executed (0: none), and runs in threads.

    `present` are the runs of the child that had not ended; `alone` says that it was a child for one run only.
    """
    if alone and len(present) == 1:
        return Verdict(next(iter(present)))
    candidates = frozenset({in_loop, *in_threads} & set(present))
    if len(candidates) == 1:
        return Verdict(next(iter(candidates)))
    return Verdict(None, suspects=candidates, explained=bool(candidates))
