"""What the checks are well with."""

from __future__ import annotations

import pytest

from tests.integration.doctor.asking import change


@pytest.fixture
async def months(database_url: str) -> None:
    """What a usage service would have made."""
    await change(database_url, *(f"select make_usage_month(now() + interval '{n} months', null)" for n in range(3)))
