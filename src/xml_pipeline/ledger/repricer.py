"""Reprices what is booked, in small transactions: services go on booking between them, and no cost is half moved."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.ledger.model import Pricing
from xml_pipeline.ledger.repricing import Repricing, Totals, moved_budgets, moved_rollups, reprice
from xml_pipeline.storage import ledger, rollups
from xml_pipeline.storage import repricing as rows
from xml_pipeline.storage.budget_rows import Budget
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.repricing import Selection

BATCH = 500


class Repricer:
    """One run over the selected events. `actor` is who the audit log names; a dry run changes nothing."""

    def __init__(
        self, db: Database, selection: Selection, pricing: Pricing, *, actor: str, dry_run: bool = False
    ) -> None:
        self._db = db
        self._selection = selection
        self._pricing = pricing
        self._actor = actor
        self._dry_run = dry_run
        self._record: int | None = None
        self.totals: dict[str, Totals] = {}

    async def run(self) -> Mapping[str, Totals]:
        """Reprice all, and return the totals by provider.

        Raises DatabaseUnavailable and the driver's errors for deadlocks; batches that are done stay done then, and
        another run does the rest.
        """
        async with aclosing(rows.selected_calls(self._db, self._selection, BATCH)) as batches:
            async for calls in batches:
                async with self._db.begin() as connection:
                    await self._reprice(connection, calls)
        return self.totals

    async def _reprice(self, connection: AsyncConnection, calls: Mapping[UUID, UUID]) -> None:
        lock = not self._dry_run
        bookings, budgets = await rows.read_selected(connection, self._selection, calls, lock=lock)
        repricing = reprice(bookings, self._pricing)
        for provider, totals in repricing.totals.items():
            self.totals[provider] = self.totals.get(provider, Totals()) + totals
        if repricing.changed and not self._dry_run:
            await _write(connection, repricing, budgets)
            self._record = await rows.record_repricing(
                connection, self._record, actor=self._actor, subject=self._selection.model, detail=self._detail()
            )

    def _detail(self) -> dict[str, str | int | None]:
        """What the audit log says; of a run that breaks off, what it did."""
        total = sum(self.totals.values(), Totals())
        return {
            "from": self._selection.since.isoformat(),
            "to": self._selection.until.isoformat(),
            "provider": self._selection.provider,
            "rows": total.rows,
            "changed": total.changed,
            "oldCost": str(total.old_cost),
            "newCost": str(total.new_cost),
        }


async def _write(connection: AsyncConnection, repricing: Repricing, budgets: Mapping[UUID, Budget]) -> None:
    """In the order in which all who book write: budgets, events, rollups, prices."""
    await ledger.save_budgets(connection, moved_budgets(repricing, budgets).values())
    await rows.save_costs(connection, repricing.changed)
    sums = moved_rollups(repricing, budgets)
    await rollups.add_rollups(connection, sums.usage)
    await rollups.add_tag_rollups(connection, sums.tags)
    used = {booking.price_id for booking in repricing.changed}
    await ledger.add_prices(connection, {id_: price for id_, price in repricing.prices.items() if id_ in used})
