"""What a router counts: after each commit, from what that changed; most of it once for a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from xml_pipeline.envelope.model import Outcome
from xml_pipeline.metrics import catalogue
from xml_pipeline.metrics.labels import NONE, known
from xml_pipeline.metrics.registry import Metrics
from xml_pipeline.organism.model import Organism
from xml_pipeline.routing.current import Current
from xml_pipeline.routing.system_messages import HANDLER_FAILED, INVALID_PAYLOAD, LOST, NOT_REACHABLE, TIMEOUT
from xml_pipeline.routing.transaction import Routed
from xml_pipeline.storage.routing_rows import Changes, Released

IGNORED = "ignored"
_AFTER = ("error", "timeout", LOST)
_CODES = (HANDLER_FAILED, TIMEOUT, LOST, NOT_REACHABLE, INVALID_PAYLOAD, "invalid-xml", "unroutable")
_JUNK_CODES = ("unreadable", "not-accepted", "unroutable")


class RouterMetrics:
    """The counters of one router."""

    def __init__(self, metrics: Metrics, current: Current) -> None:
        self._current = current
        self._known: Organism | None = None
        self._turns = metrics.counter(catalogue.TURNS)
        self._retries = metrics.counter(catalogue.RETRIES)
        self._dead_letters = metrics.counter(catalogue.DEAD_LETTERS)
        self._waits = metrics.histogram(catalogue.QUEUE_WAIT)
        self._seconds = metrics.histogram(catalogue.ROUTER_BATCH)
        self._items = metrics.histogram(catalogue.ROUTER_BATCH_ITEMS)
        self._again = metrics.counter(catalogue.ROUTER_AGAIN)
        for reason in ("conflict", "held", "split"):
            self._again.labels(reason)
        self._begin(current.configured.organism)

    def batch(self, items: int, seconds: float) -> None:
        """A batch has come to its end."""
        self._items.observe(items)
        self._seconds.observe(seconds)

    def again(self, reason: str) -> None:
        """A batch begins anew: conflict, held or split."""
        self._again.labels(reason).inc()

    def routed(self, routed: Routed) -> None:
        """A transaction was committed."""
        organism = self._current.configured.organism
        if organism is not self._known:
            self._begin(organism)
        changes = routed.decision.changes
        self._count_turns(routed, organism)
        if changes.postponements:
            self._count_retries(routed, organism)
        for letter in changes.dead_letters:
            self._dead_letters.labels(known(letter.listener, organism.listeners), letter.code).inc()
        self.released(routed.fill.released)

    def released(self, released: Iterable[Released]) -> None:
        """These are out now. Who is tried again has waited for that, and not for a place."""
        listeners = self._current.configured.organism.listeners
        waits = {name: self._waits.labels(known(name, listeners)) for name in {message.to_id for message in released}}
        for message in released:
            if message.attempt == 1:
                waits[message.to_id].observe(message.waited)

    def _begin(self, organism: Organism) -> None:
        """All that may be counted begins at 0: what appears with its first value has not risen to it."""
        self._known = organism
        for name in organism.listeners:
            for outcome in (*Outcome, IGNORED):
                self._turns.labels(name, outcome)
            for after in _AFTER:
                self._retries.labels(name, after)
            for code in _CODES:
                self._dead_letters.labels(name, code)
            self._waits.labels(name)
        for code in _JUNK_CODES:
            self._dead_letters.labels(NONE, code)

    def _count_turns(self, routed: Routed, organism: Organism) -> None:
        messages = routed.snapshot.messages
        counts = Counter(
            (
                message.to_id if (message := messages.get(turn.message_id)) else None,
                turn.outcome if turn.counted else IGNORED,
            )
            for turn in routed.decision.changes.turns
        )
        for (listener, outcome), count in counts.items():
            self._turns.labels(known(listener, organism.listeners), outcome).inc(count)

    def _count_retries(self, routed: Routed, organism: Organism) -> None:
        outcomes = _outcomes(routed.decision.changes)
        for postponed in routed.decision.changes.postponements:
            listener = known(routed.snapshot.messages[postponed.message_id].to_id, organism.listeners)
            self._retries.labels(listener, outcomes.get(postponed.message_id, LOST)).inc()


def _outcomes(changes: Changes) -> dict[object, str]:
    return {turn.message_id: turn.outcome for turn in changes.turns if turn.counted}
