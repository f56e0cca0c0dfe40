"""What a gateway counts: injects as their callers see them, and how long their answers take."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from enum import StrEnum

from xml_pipeline.metrics import catalogue
from xml_pipeline.metrics.registry import Metrics
from xml_pipeline.storage import inbox

UNAVAILABLE = "unavailable"
# Injects whose answer is waited for: some never get one, since their thread was killed.
MOST_UNANSWERED = 50_000


class GatewayMetrics:
    """The counters of one gateway."""

    def __init__(
        self, metrics: Metrics, listeners: Collection[str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._injects = metrics.counter(catalogue.INJECTS)
        self._seconds = metrics.histogram(catalogue.INJECT)
        self._answers = metrics.histogram(catalogue.ANSWER)
        self._clock = clock
        self._unanswered: OrderedDict[str, tuple[str, float]] = OrderedDict()
        for listener in listeners:
            for outcome in ("accepted", UNAVAILABLE):
                self._injects.labels(listener, outcome)

    def unavailable(self, row: inbox.Inject) -> None:
        """The database could not take it."""
        self._injects.labels(row.to_id, UNAVAILABLE).inc()

    def decided(self, row: inbox.Inject, answer: inbox.Answer, seconds: float) -> None:
        """An inject was accepted, or not."""
        self._injects.labels(row.to_id, _outcome(answer)).inc()
        self._seconds.observe(seconds)
        if isinstance(answer, inbox.Accepted) and not answer.repeated:
            self._unanswered[str(row.id)] = row.to_id, self._clock()
            if len(self._unanswered) > MOST_UNANSWERED:
                self._unanswered.popitem(last=False)

    def answered(self, message_id: str, kind: str) -> None:
        """The feed brought a response or an error for an inject; only what was accepted here is measured."""
        known = self._unanswered.pop(message_id, None)
        if known is not None:
            listener, accepted_at = known
            self._answers.labels(listener, kind).observe(self._clock() - accepted_at)


def _outcome(answer: inbox.Answer) -> str:
    match answer:
        case inbox.Accepted(repeated=repeated):
            return "repeated" if repeated else "accepted"
        case StrEnum():
            return answer.value
        case _:
            return "budget-exhausted"
