"""The statements that give usage events another cost; budgets and rollups are moved by those that book."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.storage import budget_tree
from xml_pipeline.storage.budget_rows import Budget
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.ledger import read_bookings
from xml_pipeline.storage.ledger_rows import Booking


@dataclass(frozen=True, slots=True)
class Selection:
    """The events of a model whose calls were granted from `since` on and before `until`, of one provider or of all."""

    model: str
    since: datetime
    until: datetime
    provider: str | None = None

    def has(self, booking: Booking) -> bool:
        """Whether the booking is one of them."""
        return (
            booking.model == self.model
            and self.since <= booking.granted_at < self.until
            and self.provider in (None, booking.provider)
        )


_SELECTED = text(
    """
    select call_id, thread_id from usage_events
    where model = :model and granted_at >= :since and granted_at < :until
        and (cast(:provider as text) is null or provider = :provider)
    """
)
# This reader holds no lock, and waits for each batch.
_NO_HURRY = text("set local idle_in_transaction_session_timeout = 0")

_SAVE = text(
    """
    update usage_events e set cost = new.cost, uncached_cost = new.uncached_cost, price_id = new.price_id
    from unnest(cast(:calls as uuid[]), cast(:times as timestamptz[]), cast(:costs as numeric[]),
                cast(:uncached as numeric[]), cast(:prices as bigint[]))
        as new (call_id, granted_at, cost, uncached_cost, price_id)
    where e.call_id = new.call_id and e.granted_at = new.granted_at
    """
)

_BEGIN_RECORD = text(
    """
    insert into audit_log (actor, action, subject, detail)
    values (:actor, 'reprice', :subject, cast(:detail as jsonb)) returning id
    """
)
_UPDATE_RECORD = text("update audit_log set detail = cast(:detail as jsonb) where id = :id")


async def selected_calls(db: Database, selection: Selection, size: int) -> AsyncGenerator[Mapping[UUID, UUID], None]:
    """The calls of the events that there are when it begins, in batches, each with its thread.

    Raises DatabaseUnavailable.
    """
    async with db.snapshot() as connection:
        await connection.execute(_NO_HURRY)
        rows = await connection.stream(_SELECTED, asdict(selection), execution_options={"yield_per": size})
        async for batch in rows.partitions(size):
            yield {row[0]: row[1] for row in batch}


async def read_selected(
    connection: AsyncConnection, selection: Selection, calls: Mapping[UUID, UUID], *, lock: bool
) -> tuple[list[Booking], dict[UUID, Budget]]:
    """The bookings of these calls as they are now, and the budgets that paid for them; with `lock` nobody moves them.

    A booking that was corrected since the calls were selected may be another model's by now: those are left out.
    """
    threads = set(calls.values())
    budgets = await budget_tree.lock_budgets(connection, threads) if lock else {}
    found = await read_bookings(connection, calls)
    return [booking for booking in found.values() if selection.has(booking)], budgets


async def save_costs(connection: AsyncConnection, bookings: Sequence[Booking]) -> None:
    """Write cost, cost without a cache and price of bookings whose budgets are locked."""
    parameters = {
        "calls": [booking.call_id for booking in bookings],
        "times": [booking.granted_at for booking in bookings],
        "costs": [booking.cost for booking in bookings],
        "uncached": [booking.uncached_cost for booking in bookings],
        "prices": [booking.price_id for booking in bookings],
    }
    await connection.execute(_SAVE, parameters)


async def record_repricing(
    connection: AsyncConnection, id_: int | None, *, actor: str, subject: str, detail: Mapping[str, object]
) -> int:
    """Note what has been done so far, in the entry `id_` of the audit log, or in a new one; its id."""
    written = json.dumps(dict(detail))
    if id_ is None:
        values = {"actor": actor, "subject": subject, "detail": written}
        return int(await connection.scalar(_BEGIN_RECORD, values))
    await connection.execute(_UPDATE_RECORD, {"id": id_, "detail": written})
    return id_
