"""The usual case: events of holds that are held. What to ask of the database for them, and what came of it; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from xml_pipeline.ledger.decisions import kind_of, microseconds, tokens_of
from xml_pipeline.ledger.intake import LedgerMessage
from xml_pipeline.ledger.model import Changes, Pricing
from xml_pipeline.llm.pricing import PriceUsed
from xml_pipeline.message_bus.messages import UsageEvent
from xml_pipeline.storage.ledger_rows import Booking, Measured, Settled


def lone_events(messages: Sequence[LedgerMessage]) -> list[UsageEvent]:
    """The events whose call has no other message in the batch."""
    count = Counter([message.call_id.int for message in messages])
    return [message for message in messages if isinstance(message, UsageEvent) and count[message.call_id.int] == 1]


def measure(event: UsageEvent, pricing: Pricing, prices: dict[int, PriceUsed]) -> Measured:
    """The event with its cost: as of the time that it says, which the hold has to confirm. Notes the price."""
    tokens = tokens_of(event)
    cost = pricing(event.provider, event.model, tokens, event.granted_at)
    price = cost.price
    if price is not None:
        prices[price.id] = price
    return Measured(
        event.call_id,
        event.model,
        event.provider,
        tokens,
        microseconds(event.latency_ms),
        cost.amount,
        cost.uncached,
        None if price is None else price.id,
        kind_of(event),
        event.granted_at,
    )


def settled_bookings(measured: Sequence[Measured], settled: Iterable[Settled]) -> list[Booking]:
    """The bookings of what the database says that it settled."""
    return [_booking(measured[row.place], row) for row in settled]


def positions_left(messages: Sequence[LedgerMessage], settled: Iterable[Booking]) -> list[int]:
    """The positions of the messages that the settled calls leave to be decided."""
    done = {booking.call_id.int for booking in settled}
    return [position for position, message in enumerate(messages) if message.call_id.int not in done]


def with_decided(usual: Changes, decided: Changes, positions: Sequence[int]) -> Changes:
    """Both together: `decided` are changes of the batch's messages at `positions`, and book nothing."""
    return Changes(
        replies={positions[place]: reply for place, reply in decided.replies.items()},
        settled=usual.settled,
        granted=decided.granted,
        moved=decided.moved,
        budgets=usual.budgets | decided.budgets,
        prices=usual.prices,
        crossings=usual.crossings,
        kills=decided.kills,
    )


def _booking(measured: Measured, settled: Settled) -> Booking:
    return Booking(
        measured.call_id,
        settled.message_id,
        settled.thread_id,
        settled.agent_id,
        measured.model,
        measured.provider,
        measured.tokens,
        measured.latency_us,
        measured.cost,
        measured.uncached_cost,
        measured.price_id,
        measured.kind,
        settled.period,
        measured.granted_at,
    )
