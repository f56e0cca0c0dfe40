"""Long work in the event loop, in slices: what waits for the database goes on between two of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

T = TypeVar("T")

# A slice of a batch takes half a millisecond, as a statement of a transaction does.
_SLICE = 64


async def in_slices(items: Sequence[T]) -> AsyncIterator[Sequence[T]]:
    """The items in their order, some at a time; everybody else's turn comes after each."""
    for start in range(0, len(items), _SLICE):
        yield items[start : start + _SLICE]
        await asyncio.sleep(0)
