"""What decides in a run: a tape of frames, one for each move, so that one can be cut out and the others stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

# Bytes of the tape for one move: the seed of all that is chosen in it. With zeros everything is dull.
FRAME = 3


@dataclass(slots=True)
class Chance:
    """The choices of one run. Behind the end of the tape all of them are dull."""

    tape: bytes
    place: int = 0
    move: int = 0
    state: int = 0

    def next_move(self) -> bool:
        """Go on to the next frame; whether there is one."""
        self.state = self.move = int.from_bytes(self.tape[self.place : self.place + FRAME], "little")
        self.place += FRAME
        return self.place <= len(self.tape)

    def below(self, limit: int) -> int:
        """A number from 0."""
        if self.state == 0:
            return 0
        # A linear congruential generator: its upper bits are random enough, and it costs nothing.
        self.state = (self.state * 1103515245 + 12345) & 0x7FFFFFFF
        return (self.state >> 12) % limit

    def pick(self, options: Sequence[T]) -> T:
        """One of these; the first is the dull one."""
        return options[self.below(len(options))]

    def weight(self, move: int) -> int:
        """How much this move favours what another one began: the same whatever other moves are cut out."""
        return ((self.move ^ move) * 2654435761 >> 7) & 0xFFFFFF

    def happens(self, percent: int) -> bool:
        """Whether something that is not dull happens."""
        return self.below(100) >= 100 - percent
