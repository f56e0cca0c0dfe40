"""The statements of the routing transaction as the router sees them; each is one statement with its own snapshot."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from xml_pipeline.storage.routing_rows import (
    AuditRow,
    BatchKeys,
    CallRow,
    Closing,
    DeadLetterRow,
    ListenerRow,
    Mailbox,
    NewMessage,
    Parking,
    Postponement,
    Released,
    Room,
    Sent,
    Snapshot,
    ThreadRow,
    TurnRow,
)


class WindowStore(Protocol):
    """What filling windows needs."""

    async def lock_listeners(self, names: Iterable[str]) -> list[ListenerRow]:
        """In name order, after all threads."""
        ...

    async def count_out(self, names: Sequence[str]) -> dict[str, int]:
        """Of these locked listeners."""
        ...

    async def release(self, rooms: Sequence[Room]) -> list[Released]:
        """Move the oldest that are due to `out`."""
        ...


class RoutingStore(WindowStore, Protocol):
    """What a batch needs, in the order in which it is used."""

    async def resolve(self, keys: BatchKeys) -> list[UUID]:
        """Step 1: the threads that the batch is about."""
        ...

    async def lock_threads(self, thread_ids: Sequence[UUID]) -> dict[UUID, ThreadRow]:
        """Step 1: in id order."""
        ...

    async def read(self, keys: BatchKeys, threads: Mapping[UUID, ThreadRow]) -> Snapshot:
        """Step 2: in statements that begin after the locks are held."""
        ...

    async def close(self, closings: Sequence[Closing]) -> set[UUID]:
        """Step 3: which were open."""
        ...

    async def postpone(self, postponements: Sequence[Postponement]) -> set[UUID]:
        """Step 3: which were out in that attempt."""
        ...

    async def park(self, parkings: Sequence[Parking]) -> set[UUID]:
        """Step 3: which were out in that attempt."""
        ...

    async def give_back(self, message_ids: Sequence[UUID]) -> None:
        """Step 3: to be published again."""
        ...

    async def take(self, inbox_ids: Sequence[UUID]) -> set[UUID]:
        """Step 3: which nobody had taken."""
        ...

    async def insert(self, messages: Sequence[NewMessage]) -> dict[UUID, datetime]:
        """Step 3: which were new, and when."""
        ...

    async def save_calls(self, new: Sequence[CallRow], changed: Sequence[CallRow]) -> None:
        """Step 3."""
        ...

    async def save_threads(self, threads: Sequence[ThreadRow], deltas: Mapping[UUID, int]) -> dict[UUID, ThreadRow]:
        """Step 3: the rows as they are now."""
        ...

    async def record(
        self, turns: Sequence[TurnRow], dead_letters: Sequence[DeadLetterRow], audits: Sequence[AuditRow]
    ) -> None:
        """Step 3: what is kept for people."""
        ...

    async def promote(self, mailboxes: Collection[Mailbox]) -> None:
        """Step 4."""
        ...

    async def note_sent(self, sent: Sequence[Sent]) -> None:
        """Last: it never waits."""
        ...
