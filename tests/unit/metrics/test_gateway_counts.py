"""Injects as their callers see them."""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.support.scrape import told
from xml_pipeline.metrics.registry import Metrics
from xml_pipeline.server.live import metrics as gateway
from xml_pipeline.server.live.metrics import GatewayMetrics
from xml_pipeline.storage.backlog import Full
from xml_pipeline.storage.budget_rows import Level
from xml_pipeline.storage.inbox import Accepted, Answer, Inject, Refusal
from xml_pipeline.storage.spent_budgets import Exhausted


def row() -> Inject:
    return Inject(uuid4(), uuid4(), "ann", b"", b"")


def accepted(inject: Inject, *, repeated: bool = False) -> Accepted:
    return Accepted(inject.id, inject.thread_id, repeated)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        *((refusal, refusal.value) for refusal in (*Refusal, *Full)),
        (Exhausted(Level.THREAD, None, 10, 10), "budget-exhausted"),
        (Accepted(uuid4(), uuid4()), "accepted"),
        (Accepted(uuid4(), uuid4(), repeated=True), "repeated"),
    ],
    ids=str,
)
async def test_every_answer_has_its_outcome(answer: Answer, outcome: str) -> None:
    metrics = Metrics()
    GatewayMetrics(metrics, ()).decided(row(), answer, 0.1)
    now = await told(metrics)
    assert now.total("organism_injects_total", listener="ann", outcome=outcome) == 1
    assert now.total("organism_injects_total") == 1


async def test_an_answer_is_measured_once_at_the_gateway_that_accepted_the_inject() -> None:
    metrics, now = Metrics(), [100.0]
    counts = GatewayMetrics(metrics, ("ann",), clock=lambda: now[0])
    mine, again = row(), row()
    counts.decided(mine, accepted(mine), 0.1)
    counts.decided(again, accepted(again, repeated=True), 0.1)
    now[0] += 2.5
    for message_id in (mine.id, mine.id, again.id, uuid4()):
        counts.answered(str(message_id), "response")
    said = await told(metrics)
    assert said.total("organism_answer_seconds_count", listener="ann", kind="response") == 1
    assert said.total("organism_answer_seconds_sum") == 2.5


async def test_injects_that_are_never_answered_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "MOST_UNANSWERED", 3)
    metrics = Metrics()
    counts = GatewayMetrics(metrics, ())
    rows = [row() for _ in range(5)]
    for one in rows:
        counts.decided(one, accepted(one), 0.1)
    for one in rows:
        counts.answered(str(one.id), "response")
    assert (await told(metrics)).total("organism_answer_seconds_count") == 3
