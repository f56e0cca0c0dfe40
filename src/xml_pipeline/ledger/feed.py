"""What the live feed and the callers are told about a committed batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from xml_pipeline.ledger.model import FULL, Changes, Crossing
from xml_pipeline.message_bus.messages import EventFrame
from xml_pipeline.storage.ledger_rows import Booking


def frame(changes: Changes) -> EventFrame | None:
    """One frame with an event for each call that was booked and each threshold that was reached, if any."""
    events = (*_usage_events(changes), *map(budget_event, changes.crossings))
    return EventFrame(events=events) if events else None


def _usage_events(changes: Changes) -> Iterator[dict[str, Any]]:
    for bookings in (changes.settled, changes.booked.values(), changes.corrected.values()):
        yield from map(_usage_event, bookings)


def _usage_event(booking: Booking) -> dict[str, Any]:
    return {
        "event": "usage",
        "threadId": str(booking.thread_id),
        "agentId": booking.agent_id,
        "model": booking.model,
        "provider": booking.provider,
        "kind": booking.kind.value,
        "promptTokens": booking.tokens.prompt_tokens,
        "completionTokens": booking.tokens.completion_tokens,
        "totalTokens": booking.spent,
        "latencyMs": (booking.latency_us or 0) / 1000,
        "cost": float(booking.cost),
        "timestamp": booking.granted_at.isoformat(),
    }


def budget_event(crossing: Crossing) -> dict[str, Any]:
    """What is told of a threshold, on the live feed and to the webhook. `threadId` is null above threads."""
    budget = crossing.budget
    return {
        "event": "budget",
        "scope": budget.level.name.lower(),
        "name": budget.name,
        "threadId": None if budget.thread_id is None else str(budget.thread_id),
        "agentId": budget.agent_id,
        "threshold": crossing.threshold,
        "percentUsed": round(100 * budget.spent / budget.max_tokens, 1) if budget.max_tokens else 100.0,
        "maxTokens": budget.max_tokens,
        "promptTokens": budget.prompt_tokens,
        "completionTokens": budget.completion_tokens,
        "totalTokens": budget.spent,
        "remaining": budget.left,
        "isExhausted": crossing.threshold >= FULL,
    }
