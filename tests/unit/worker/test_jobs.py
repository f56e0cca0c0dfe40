from __future__ import annotations

from uuid import UUID, uuid4

from xml_pipeline.envelope.model import Assignment, Envelope, Kind
from xml_pipeline.message_bus.memory import MemoryBroker
from xml_pipeline.message_bus.port import Incoming, Outgoing
from xml_pipeline.worker.jobs import Delivery, Job, Jobs, opaque


def _assignment(message: UUID, attempt: int = 1) -> Assignment:
    envelope = Envelope("api", "a", uuid4(), b"<a.x></a.x>")
    return Assignment(message, attempt, Kind.REQUEST, uuid4(), 1, 30.0, 0, (), envelope)


async def _delivery(tag: int) -> Delivery:
    consumer = await MemoryBroker().connect().subscribe([])
    return Delivery("a", consumer, Incoming(tag, 1, "q", "", "q", b"", {}, redelivered=False))


async def test_a_redelivery_joins_what_is_in_hand() -> None:
    jobs, message = Jobs(), uuid4()
    first, second = await _delivery(1), await _delivery(2)
    job = jobs.take("a", _assignment(message), first)
    assert job is not None
    assert jobs.take("a", _assignment(message), second) is None
    assert job.deliveries == [first, second]


async def test_another_attempt_is_another_job() -> None:
    jobs, message = Jobs(), uuid4()
    assert jobs.take("a", _assignment(message, 1), await _delivery(1)) is not None
    assert jobs.take("a", _assignment(message, 2), await _delivery(2)) is not None
    assert len(jobs) == 2


async def test_a_turn_that_was_published_is_known() -> None:
    jobs, message = Jobs(), uuid4()
    job = jobs.take("a", _assignment(message), await _delivery(1))
    assert job is not None
    turn = Outgoing("", "ingress", b"<turn/>")
    jobs.published(job, turn)
    again = jobs.take("a", _assignment(message), await _delivery(2))
    assert again is not None
    assert jobs.turn_of(again) is turn


async def test_published_turns_are_bounded() -> None:
    jobs = Jobs()
    kept: list[Job] = []
    for tag in range(20):
        job = jobs.take("a", _assignment(uuid4()), await _delivery(tag))
        assert job is not None
        jobs.published(job, Outgoing("", "ingress", b"x" * 1024 * 1024))
        kept.append(job)
    known = [job for job in kept if jobs.turn_of(job)]
    assert known == kept[-8:]


def test_an_opaque_name_is_stable_and_of_one_listener() -> None:
    secret = uuid4()
    assert opaque("a", secret) == opaque("a", secret)
    assert opaque("a", secret) != opaque("b", secret)
    assert secret.hex[:8] not in opaque("a", secret)
