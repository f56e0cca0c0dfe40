"""The configurations that a worker is told of while it is busy: only the newest counts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reload:
    """A version of the configuration, and its text where whoever told of it had that."""

    version: int
    text: str | None


class Reloads:
    """Holds one."""

    def __init__(self) -> None:
        self._newest: Reload | None = None
        self._wanted = asyncio.Event()

    def want(self, reload: Reload) -> None:
        """A newer one takes the place of an older; of one version, the one that brings its text counts."""
        known = self._newest
        if known is None or (reload.version, reload.text is not None) > (known.version, known.text is not None):
            self._newest = reload
            self._wanted.set()

    async def next(self) -> Reload:
        """The newest, as soon as there is one."""
        while self._newest is None:
            self._wanted.clear()
            await self._wanted.wait()
        reload, self._newest = self._newest, None
        return reload
