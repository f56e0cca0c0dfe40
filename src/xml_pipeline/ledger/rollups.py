"""What bookings add to rollups: pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

from xml_pipeline.storage.ledger_rows import Booking
from xml_pipeline.storage.rollup_rows import (
    GRAINS,
    LatencyKey,
    LatencySums,
    RollupKey,
    Sums,
    TagKey,
    TagSums,
    bucket_of,
    start_of,
)


@dataclass(slots=True)
class Rollups:
    """What is added, by kind of rollup."""

    usage: dict[RollupKey, Sums] = field(default_factory=dict)
    tags: dict[TagKey, TagSums] = field(default_factory=dict)
    latencies: dict[LatencyKey, LatencySums] = field(default_factory=dict)

    def add(self, booking: Booking, tags: Iterable[UUID], sign: int) -> None:
        """Add a booking of a thread with these tags, or with `sign` -1 take it away."""
        for grain in GRAINS:
            start = start_of(grain, booking.granted_at)
            key = RollupKey(booking.period, grain, start, booking.agent_id, booking.model, booking.provider)
            self.usage.setdefault(key, Sums()).add(booking, sign)
            for tag in tags:
                tag_key = TagKey(booking.period, grain, start, tag, booking.model, booking.provider)
                self.tags.setdefault(tag_key, TagSums()).add(booking, sign)
        if booking.latency_us is not None:
            day = start_of("day", booking.granted_at)
            bucket = LatencyKey(day, booking.model, booking.provider, bucket_of(booking.latency_us))
            self.latencies.setdefault(bucket, LatencySums()).requests += sign
