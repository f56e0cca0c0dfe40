"""A usage service of the model: the real transactions of `ledger.books`, and how the service calls them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from unittest.mock import patch
from uuid import UUID

from tests.unit.routing_model import ledger_statements
from tests.unit.routing_model.broker import USAGE, Broker
from tests.unit.routing_model.chance import Chance
from tests.unit.routing_model.database import Database, Deadlock, UniqueViolation, step
from tests.unit.routing_model.invariants import Broken
from tests.unit.routing_model.ledger_statements import LedgerTransaction
from tests.unit.routing_model.organism import MAX_TOKENS
from tests.unit.routing_model.rows import Shortcut, Shortcuts
from xml_pipeline.ledger import books
from xml_pipeline.ledger.intake import LedgerMessage
from xml_pipeline.ledger.model import Changes, Rules
from xml_pipeline.llm.pricing import Prices
from xml_pipeline.organism.budgets import Budgets
from xml_pipeline.organism.model import Price
from xml_pipeline.storage.database import Database as RealDatabase

PRICING = Prices([Price("m", prompt=1, completion=2)]).cost
# Two threads that spend all that they may have more than the organism has.
RULES = Rules(MAX_TOKENS, Budgets(organism=MAX_TOKENS * 7 // 4))
MOST_MESSAGES = 4
MOST_TRIES = 20
_CONFLICTS = (UniqueViolation, Deadlock, books.Conflict)


@contextmanager
def books_on_the_model() -> Iterator[None]:
    """Let `ledger.books` speak to the model's database."""
    statements = ("in_slices", "lock_budgets_of", "settling_columns", "settle_holds", "read_state", "read_periods")
    replaced: dict[str, Any] = {name: getattr(ledger_statements, name) for name in statements}
    replaced |= dict.fromkeys(("rows", "tree", "rollups"), ledger_statements)
    with patch.multiple(books, **replaced):
        yield


@dataclass(slots=True)
class Ledger:
    """One process."""

    name: str
    db: Database
    broker: Broker
    chance: Chance
    shortcuts: Shortcuts

    async def batch(self) -> None:
        """What has arrived: booked, answered, and only then acknowledged."""
        messages = self.broker.take(USAGE, self.name, 1 + self.chance.below(MOST_MESSAGES))
        if Shortcut.USAGE_ACK_BEFORE_COMMIT in self.shortcuts:
            self.broker.ack(self.name, USAGE, messages)
        await self._tell(messages, await self._book(messages))
        if Shortcut.USAGE_ACK_BEFORE_COMMIT not in self.shortcuts:
            self.broker.ack(self.name, USAGE, messages)

    async def sweep(self) -> None:
        """Book what nobody settled. In vain where somebody else was quicker: the next one does it."""
        try:
            await books.sweep(self._books(), rules=RULES, pricing=PRICING)
        except _CONFLICTS:
            return

    async def _book(self, messages: Sequence[LedgerMessage]) -> Changes:
        for _ in range(MOST_TRIES):
            try:
                return await books.book(self._books(), messages, rules=RULES, pricing=PRICING)
            except _CONFLICTS:
                continue
        raise Broken("a batch of usage never gets through")

    async def _tell(self, messages: Sequence[LedgerMessage], changes: Changes) -> None:
        if changes.refused:
            raise Broken(f"usage is refused: {changes.refused}")
        for position, reply in changes.replies.items():
            call: UUID = messages[position].call_id
            await step("answer", reply)
            if not self.chance.happens(10):
                self.broker.replies[call] = reply

    def _books(self) -> RealDatabase:
        return cast(RealDatabase, _Books(self.db, self.shortcuts))


@dataclass(frozen=True, slots=True)
class _Books:
    """As much of a database as `ledger.books` asks for."""

    db: Database
    shortcuts: Shortcuts

    def begin(self) -> LedgerTransaction:
        """A transaction that ends as its block does."""
        return LedgerTransaction(self.db, shortcuts=self.shortcuts)
