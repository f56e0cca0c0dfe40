"""A run that breaks, told as shortly as it can be: moves are cut out for as long as it still breaks."""

from __future__ import annotations

from tests.unit.routing_model.chance import FRAME
from tests.unit.routing_model.world import World

MOST_RUNS = 600


def run(tape: bytes) -> None:
    """One run. Raises what breaks in the shortest run that was found to break like this one."""
    error = _failure(tape)
    if error is not None:
        raise _shortest(tape, error)


def _shortest(tape: bytes, error: Exception) -> Exception:
    """Cut out ever smaller pieces, as delta debugging does, and begin again for as long as that helps."""
    runs, before = 0, b""
    while tape != before and runs < MOST_RUNS:
        before, size = tape, len(tape) // FRAME // 2
        while size and runs < MOST_RUNS:
            place = 0
            while place < len(tape) and runs < MOST_RUNS:
                shorter = tape[:place] + tape[place + size * FRAME :]
                other, runs = _failure(shorter), runs + 1
                if isinstance(other, type(error)):
                    tape, error = shorter, other
                else:
                    place += size * FRAME
            size //= 2
    return error


def _failure(tape: bytes) -> Exception | None:
    try:
        World(tape).run()
    except Exception as error:
        return error
    return None
