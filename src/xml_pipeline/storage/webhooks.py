"""What is to be told to the webhook: rows that wait until they are delivered, or have waited too long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.storage.ledger_tables import webhook_deliveries


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """News of a budget's threshold, in percent. `body` is what is sent; its id lets receivers drop what comes twice."""

    budget_id: UUID
    threshold: int
    body: Mapping[str, Any]
    id: UUID = field(default_factory=uuid4)


@dataclass(frozen=True, slots=True)
class Delivery:
    """What is to be sent now, for the `attempt`th time. `age`: seconds since it was added."""

    id: UUID
    body: Mapping[str, Any]
    attempt: int
    age: float


# Moving `next_at` is the claim: no transaction stays open while the receiver is waited for, and what a sender that died
# had claimed is due again after `lease` seconds.
_CLAIM = text(
    """
    update webhook_deliveries d
    set attempts = d.attempts + 1, next_at = now() + make_interval(secs => :lease)
    from (
        select id from webhook_deliveries
        where num_nulls(delivered_at, failed_at) = 2 and next_at <= now()
        order by next_at limit :limit for update skip locked
    ) due
    where d.id = due.id
    returning d.id, d.body, d.attempts, extract(epoch from now() - d.created_at)::float8
    """
)

_COUNT_DUE = text(
    "select count(*) from webhook_deliveries where num_nulls(delivered_at, failed_at) = 2 and next_at <= now()"
)

_DELIVERED = text(
    """
    update webhook_deliveries set delivered_at = now(), error = null
    where id = :id and num_nulls(delivered_at, failed_at) = 2
    """
)

# A sender that stood still beyond its lease says nothing about a later attempt.
_FAILED = text(
    """
    update webhook_deliveries
    set error = :error, next_at = now() + make_interval(secs => coalesce(cast(:wait as float8), 0)),
        failed_at = case when cast(:wait as float8) is null then now() end
    where id = :id and attempts = :attempt and num_nulls(delivered_at, failed_at) = 2
    """
)


async def add_deliveries(connection: AsyncConnection, deliveries: Sequence[NewDelivery]) -> None:
    """Have these sent soon after the transaction is committed; one that exists is an IntegrityError."""
    if deliveries:
        rows = [
            {"id": new.id, "budget_id": new.budget_id, "threshold": new.threshold, "body": dict(new.body)}
            for new in deliveries
        ]
        await connection.execute(insert(webhook_deliveries), rows)


async def claim_due(connection: AsyncConnection, *, limit: int, lease: float) -> list[Delivery]:
    """Take what is due, the longest due first. Nobody else gets it for `lease` seconds; then it is due again."""
    rows = await connection.execute(_CLAIM, {"limit": limit, "lease": lease})
    return [Delivery(*row) for row in rows]


async def count_due(connection: AsyncConnection) -> int:
    """How many are due and not sent."""
    count: int = (await connection.execute(_COUNT_DUE)).scalar_one()
    return count


async def note_delivered(connection: AsyncConnection, delivery: Delivery) -> None:
    """The receiver has it."""
    await connection.execute(_DELIVERED, {"id": delivery.id})


async def note_failed(connection: AsyncConnection, delivery: Delivery, *, error: str, wait: float | None) -> None:
    """It did not get there: it is due again in `wait` seconds, or, with None, given up."""
    await connection.execute(_FAILED, {"id": delivery.id, "attempt": delivery.attempt, "error": error, "wait": wait})
