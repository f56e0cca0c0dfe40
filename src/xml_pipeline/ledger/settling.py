"""The usual case: events of holds that are held. What to ask of the database for them, and what came of it; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from xml_pipeline.ledger.decisions import THRESHOLDS, Pricing, crossings, milliseconds
from xml_pipeline.ledger.intake import LedgerMessage
from xml_pipeline.ledger.model import Changes
from xml_pipeline.message_bus.messages import UsageEvent
from xml_pipeline.storage.ledger_rows import Booking, Kind, Measured, Settled, Settlement

# Budgets that are used less have reached no threshold.
LOWEST_THRESHOLD = min(THRESHOLDS)


def lone_events(messages: Sequence[LedgerMessage]) -> list[UsageEvent]:
    """The events whose call has no other message in the batch."""
    count = Counter([message.call_id.int for message in messages])
    return [message for message in messages if isinstance(message, UsageEvent) and count[message.call_id.int] == 1]


def measure(event: UsageEvent, pricing: Pricing) -> Measured:
    """The event with its cost: as of the time that it says, which the hold has to confirm."""
    cost = pricing(event.provider, event.model, event.prompt_tokens, event.completion_tokens, event.granted_at)
    return Measured(
        event.call_id,
        event.model,
        event.provider,
        event.prompt_tokens,
        event.completion_tokens,
        milliseconds(event.latency_ms),
        cost.amount,
        cost.priced,
        event.granted_at,
    )


def settled_changes(measured: Sequence[Measured], settlement: Settlement) -> Changes:
    """What the database says that it did."""
    return Changes(
        settled=[_booking(measured[row.place], row) for row in settlement.settled],
        crossings=[
            crossing for budget, added in settlement.budgets for crossing in crossings(budget.spent - added, budget)
        ],
    )


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
        budgets=decided.budgets,
        crossings=usual.crossings,
    )


def _booking(measured: Measured, settled: Settled) -> Booking:
    return Booking(
        measured.call_id,
        settled.message_id,
        settled.thread_id,
        settled.agent_id,
        measured.model,
        measured.provider,
        measured.prompt_tokens,
        measured.completion_tokens,
        measured.latency_ms,
        measured.cost,
        measured.priced,
        Kind.MEASURED,
        settled.period,
        measured.granted_at,
    )
