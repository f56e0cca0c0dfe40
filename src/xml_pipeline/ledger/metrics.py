"""What a usage service counts: after each commit, summed up for a batch. And what it reads to tell of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from decimal import Decimal

from xml_pipeline.ledger.model import Changes
from xml_pipeline.message_bus.port import Bus
from xml_pipeline.metrics import catalogue
from xml_pipeline.metrics.labels import NONE, FewNames
from xml_pipeline.metrics.reading import Reading
from xml_pipeline.metrics.registry import Metrics
from xml_pipeline.metrics.snapshot import Snapshot
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.ledger import USAGE_REFUSED
from xml_pipeline.storage.ledger_rows import Booking, HoldState, Kind
from xml_pipeline.storage.observing import Books, read_books

CORRECTED = "corrected"
_ENDS = (HoldState.SETTLED, HoldState.RELEASED, HoldState.EXPIRED)
_READ = (
    *(catalogue.HOLDS_OPEN, catalogue.HOLDS_OVERDUE, catalogue.BUDGET_SPENT, catalogue.BUDGET_HELD),
    *(catalogue.BUDGET_LIMIT, catalogue.BUDGET_COST, catalogue.WEBHOOKS_DUE),
)


class LedgerMetrics:
    """The counters of one usage service."""

    def __init__(self, metrics: Metrics) -> None:
        self._replies = metrics.counter(catalogue.HOLD_REPLIES)
        self._ended = metrics.counter(catalogue.HOLDS_ENDED)
        self._bookings = metrics.counter(catalogue.BOOKINGS)
        self._tokens = metrics.counter(catalogue.TOKENS)
        self._cost = metrics.counter(catalogue.COST)
        self._seconds = metrics.histogram(catalogue.BOOKING)
        self._messages = metrics.histogram(catalogue.BOOKING_MESSAGES)
        self._refused = metrics.counter(catalogue.DEAD_LETTERS).labels(NONE, USAGE_REFUSED)
        self._agents, self._models = FewNames(), FewNames()
        for state in ("granted", "denied", "wait"):
            self._replies.labels(state)
        for end in _ENDS:
            self._ended.labels(end)
        for kind in (*Kind, CORRECTED):
            self._bookings.labels(kind)

    def booked(self, messages: int, seconds: float, changes: Changes) -> None:
        """A batch is booked."""
        self._messages.observe(messages)
        self._seconds.observe(seconds)
        self.changed(changes)

    def changed(self, changes: Changes) -> None:
        """Something was booked, granted, denied or ended."""
        for state, count in Counter(reply.state for reply in changes.replies.values()).items():
            self._replies.labels(state).inc(count)
        for end, count in _ended(changes).items():
            self._ended.labels(end).inc(count)
        new = [*changes.settled, *changes.booked.values()]
        for kind, count in Counter(booking.kind for booking in new).items():
            self._bookings.labels(kind).inc(count)
        self._bookings.labels(CORRECTED).inc(len(changes.corrected))
        self._spend(new, changes)

    def refused(self) -> None:
        """Something on the queue became a dead letter."""
        self._refused.inc()

    def _spend(self, new: Iterable[Booking], changes: Changes) -> None:
        spent: dict[tuple[str, str], tuple[int, int, Decimal]] = defaultdict(lambda: (0, 0, Decimal(0)))
        for booking in new:
            prompt, completion, cost = spent[booking.agent_id, booking.model]
            tokens = booking.tokens
            spent[booking.agent_id, booking.model] = (
                prompt + tokens.prompt_tokens,
                completion + tokens.completion_tokens,
                cost + booking.cost,
            )
        for call_id, booking in changes.corrected.items():
            self._add(booking, *_more(booking, changes.replaced[call_id]))
        for (agent, model), sums in spent.items():
            self._add_to(agent, model, *sums)

    def _add(self, booking: Booking, prompt: int, completion: int, cost: Decimal) -> None:
        self._add_to(booking.agent_id, booking.model, prompt, completion, cost)

    def _add_to(self, agent: str, model: str, prompt: int, completion: int, cost: Decimal) -> None:
        labels = self._agents.label(agent), self._models.label(model)
        self._tokens.labels(*labels, "prompt").inc(prompt)
        self._tokens.labels(*labels, "completion").inc(completion)
        self._cost.labels(*labels).inc(float(cost))


@contextmanager
def observe(metrics: Metrics, bus: Bus, db: Database, queue: str) -> Iterator[None]:
    """In here, read the books and the depth of the usage queue whenever somebody wants to know."""

    async def books() -> list[Reading]:
        async with db.begin() as connection:
            return list(_of_books(await read_books(connection)))

    async def depth() -> list[Reading]:
        ready = await bus.depth(queue) if bus.connected else None
        return [] if ready is None else [Reading(catalogue.QUEUE, ("usage",), ready)]

    with (
        metrics.read_snapshot(_READ, Snapshot("books", books)),
        metrics.read_snapshot((catalogue.QUEUE,), Snapshot("usage-queue", depth)),
    ):
        yield


def _of_books(books: Books) -> Iterator[Reading]:
    yield Reading(catalogue.HOLDS_OPEN, (), books.holds)
    yield Reading(catalogue.HOLDS_OVERDUE, (), books.overdue)
    yield Reading(catalogue.BUDGET_SPENT, (), books.spent)
    yield Reading(catalogue.BUDGET_HELD, (), books.held)
    yield Reading(catalogue.BUDGET_COST, (), float(books.cost))
    yield Reading(catalogue.WEBHOOKS_DUE, (), books.webhooks)
    if books.limit is not None:
        yield Reading(catalogue.BUDGET_LIMIT, (), books.limit)


def _ended(changes: Changes) -> Counter[HoldState]:
    """Those that a batch granted and ended at once were granted all the same."""
    ended: Counter[HoldState] = Counter(state for state in changes.moved.values() if state is not HoldState.HELD)
    ended.update(hold.state for hold in changes.granted.values() if hold.state is not HoldState.HELD)
    ended[HoldState.SETTLED] += len(changes.settled)
    return ended


def _more(booking: Booking, before: Booking) -> tuple[int, int, Decimal]:
    """What a corrected booking has beyond the one before; nothing where it has less."""
    now, then = booking.tokens, before.tokens
    return (
        max(0, now.prompt_tokens - then.prompt_tokens),
        max(0, now.completion_tokens - then.completion_tokens),
        max(Decimal(0), booking.cost - before.cost),
    )
