"""The dead letters of a pump to look at: it keeps none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xml_pipeline.server import models
from xml_pipeline.server.view import LetterQuery, Page


class NoLetters:
    """A letter store in which there is never anything."""

    async def list(self, _query: LetterQuery, _page: Page) -> tuple[list[models.DeadLetterInfo], int]:
        """Nothing."""
        return [], 0

    async def get(self, _letter_id: str) -> models.DeadLetterDetail | None:
        """Unknown."""
        return None

    async def redrive(self, _letter_id: str, _payload: Mapping[str, Any] | None) -> models.RedriveAnswer | None:
        """Unknown."""
        return None

    async def delete(self, _letter_id: str) -> bool:
        """Unknown."""
        return False
