"""What decides in a run: a tape of bytes. Zeros are the dull choices, so that hypothesis shrinks to a short story."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class Chance:
    """One byte for each choice; behind the end of the tape all choices are dull."""

    tape: bytes
    read: int = 0

    @property
    def over(self) -> bool:
        """Whether the tape has come to its end."""
        return self.read >= len(self.tape)

    def below(self, limit: int) -> int:
        """A number from 0."""
        byte = 0 if self.over else self.tape[self.read]
        self.read += 1
        return byte % limit

    def pick(self, options: Sequence[T]) -> T:
        """One of these; the first is the dull one."""
        return options[self.below(len(options))]

    def happens(self, percent: float) -> bool:
        """Whether something that is not dull happens."""
        return self.below(256) >= 256 - 2.56 * percent
