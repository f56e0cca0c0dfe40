"""The table of prices: a package, which is as old as its installation at the least."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from xml_pipeline.doctor.model import Finding, ok, warning

PACKAGE = "genai-prices"
MOST_DAYS = 60


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Its version, and when it came here."""

    version: str
    installed: datetime


def look_at_prices() -> PriceTable:
    """The one that services of this installation charge by."""
    distribution = importlib.metadata.distribution(PACKAGE)
    record = Path(str(distribution.locate_file(f"genai_prices-{distribution.version}.dist-info"))) / "METADATA"
    return PriceTable(distribution.version, datetime.fromtimestamp(record.stat().st_mtime, UTC))


def judge_prices(table: PriceTable, now: datetime) -> Finding:
    """Providers change prices every few weeks."""
    days = (now - table.installed).days
    said = f"{PACKAGE} {table.version} was installed {days} days ago"
    if days > MOST_DAYS:
        fix = "upgrade the package, or build the image anew; 'organism reprice' charges again what was booked meanwhile"
        return warning("prices", said, fix)
    return ok("prices", said)
