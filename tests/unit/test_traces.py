"""Spans as values: whose they are, under what, and that none says what was said."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest

from tests.support import routing as given
from tests.support.routing_scene import THREAD, Scene, four_listeners
from xml_pipeline.envelope.model import Assignment, Envelope, Kind, Outcome
from xml_pipeline.message_bus.messages import HoldRequest
from xml_pipeline.message_bus.port import Incoming
from xml_pipeline.routing.decisions import Decision
from xml_pipeline.routing.items import Inject, Overdue, TurnReport
from xml_pipeline.routing.traces import route_spans
from xml_pipeline.routing.transaction import Routed
from xml_pipeline.routing.windows import NO_FILL
from xml_pipeline.server.live.traces import accepted_spans
from xml_pipeline.storage.routing_rows import Snapshot
from xml_pipeline.tracing.ids import (
    SENT_HEADER,
    attempt_span,
    call_span,
    inject_span,
    message_span,
    read_traceparent,
    thread_span,
    trace_of,
    write_traceparent,
)
from xml_pipeline.tracing.port import OFF, Link, Span
from xml_pipeline.worker.jobs import Job
from xml_pipeline.worker.traces import attempt_spans
from xml_pipeline.worker.trail import OpenCall, trail_of
from xml_pipeline.worker.wire import Done

TRACE = trace_of(THREAD)
CLIENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def _routed(decision: Decision) -> list[Span]:
    return list(route_spans(Routed(Snapshot({}), decision, {}, {}, NO_FILL), 1, 2))


class TestRoute:
    def test_an_inject_is_under_its_acceptance(self) -> None:
        scene = four_listeners()
        id_ = scene.accepted("ann")
        (span,) = _routed(scene.decide(Inject(id_)))
        assert (span.trace_id, span.span_id, span.parent_id) == (TRACE, message_span(id_), inject_span(id_))
        assert (span.start_ns, span.end_ns, span.error) == (1, 2, None)

    def test_what_a_turn_produced_is_under_the_span_that_the_worker_tells(self) -> None:
        parent, told = self._asked(write_traceparent(TRACE, 77, sampled=True))
        assert parent == 77
        assert told.attributes["organism.from"] == "ann"

    @pytest.mark.parametrize("header", [None, 5, "junk", write_traceparent(TRACE + 1, 77, sampled=True)])
    def test_a_worker_that_tells_nothing_or_another_trace_is_not_believed(self, header: str | int | None) -> None:
        scene, message = self._scene()
        report = given.ok(message, given.ask("bob"))
        (span,) = _routed(scene.decide(TurnReport(report.turn, b"", header)))
        assert (span.trace_id, span.parent_id) == (TRACE, attempt_span(message, 1))

    def test_an_error_for_a_lost_message_is_under_that_message(self) -> None:
        scene = four_listeners()
        message = scene.out(scene.call("ann", "bob", scene.call("api", "ann")))
        (span,) = _routed(scene.decide(Overdue(message.id, 1)))
        assert span.parent_id == message_span(message.id)

    def test_what_is_redriven_is_linked_to_what_failed(self) -> None:
        scene = four_listeners()
        call = scene.call("api", "bob")
        message = scene.out(call)
        decision = scene.decide(given.failed(message.id))
        scene.apply(decision.changes)
        redrive = scene.redrive(scene.letter(decision.changes.dead_letters[0]), "bob")
        (span,) = _routed(scene.decide(redrive))
        assert span.parent_id == inject_span(redrive.message_id)
        assert span.links == (Link(TRACE, message_span(message.id)),)

    def test_the_same_batch_again_is_the_same_spans(self) -> None:
        scene, message = self._scene()
        report = given.ok(message, given.ask("bob"), given.ask("bob"))
        assert _routed(scene.decide(report)) == _routed(scene.decide(report))

    def _scene(self) -> tuple[Scene, UUID]:
        scene = four_listeners()
        return scene, scene.out(scene.call("api", "ann")).id

    def _asked(self, header: str) -> tuple[int | None, Span]:
        scene, message = self._scene()
        (span,) = _routed(scene.decide(TurnReport(given.ok(message, given.ask("bob")).turn, b"", header)))
        return span.parent_id, span


def _job(*, attempt: int = 1, redelivered: bool = False, sent: int | None = None) -> Job:
    envelope = Envelope("api", "ann", THREAD, b"<ann.question></ann.question>")
    assignment = Assignment(uuid4(), attempt, Kind.REQUEST, uuid4(), 1, 30.0, 0, (), envelope)
    headers: dict[str, str | int] = {} if sent is None else {SENT_HEADER: sent}
    incoming = Incoming(1, 1, "q", "", "q", b"", headers, redelivered)
    job = Job("ann", assignment)
    job.trail = trail_of(assignment, incoming, OFF)
    job.trail.started_ns = 50
    return job


def _ended(job: Job, outcome: Outcome = Outcome.OK, reason: str | None = None) -> dict[str, Span]:
    return {span.name: span for span in attempt_spans(job, Done(1, outcome, (), reason), 90)}


class TestAttempt:
    def test_it_waited_and_was_handled_under_its_message(self) -> None:
        job = _job(sent=20)
        spans = _ended(job)
        assert spans.keys() == {"wait ann", "handle ann"}
        wait, handle = spans["wait ann"], spans["handle ann"]
        assert wait.parent_id == handle.parent_id == message_span(job.assignment.message_id)
        assert (wait.start_ns, wait.end_ns, handle.start_ns, handle.end_ns) == (20, 50, 50, 90)
        assert (handle.span_id, handle.links) == (attempt_span(job.assignment.message_id, 1), ())

    def test_a_clock_that_is_ahead_makes_no_time_negative(self) -> None:
        wait = _ended(_job(sent=70))["wait ann"]
        assert wait.start_ns == wait.end_ns == 50

    def test_a_retry_is_linked_to_the_attempt_before(self) -> None:
        job = _job(attempt=3)
        handle = _ended(job)["handle ann"]
        assert handle.span_id == attempt_span(job.assignment.message_id, 3)
        assert handle.links == (Link(TRACE, attempt_span(job.assignment.message_id, 2)),)

    def test_what_is_redelivered_is_a_span_of_its_own_linked_to_the_first(self) -> None:
        job = _job(attempt=2, redelivered=True)
        handle = _ended(job)["handle ann"]
        first = attempt_span(job.assignment.message_id, 2)
        assert handle.links == (Link(TRACE, first),)
        assert handle.span_id != first
        parent = read_traceparent(job.trail.traceparent)
        assert parent is not None
        assert (parent.trace_id, parent.span_id, parent.sampled) == (TRACE, handle.span_id, False)

    @pytest.mark.parametrize(
        ("outcome", "error"),
        [(Outcome.OK, None), (Outcome.PARKED, None), (Outcome.ERROR, "error"), (Outcome.TIMEOUT, "timeout")],
    )
    def test_how_it_ended_is_told_and_not_why(self, outcome: Outcome, error: str | None) -> None:
        handle = _ended(_job(), outcome, "there is no <what was said>")["handle ann"]
        assert (handle.error, handle.attributes["organism.outcome"]) == (error, outcome.value)
        assert "said" not in repr(handle)

    def test_a_call_that_it_left_open_is_told_as_such(self) -> None:
        job, call = _job(), uuid4()
        asked = HoldRequest(
            call_id=call, message_id=uuid4(), model="m", provider="p", prompt_bound=9, max_completion=7, lifetime=60
        )
        job.trail.calls[call] = OpenCall(asked, 60)
        chat = _ended(job, Outcome.TIMEOUT)["chat m"]
        assert (chat.span_id, chat.parent_id, chat.error) == (call_span(call), job.trail.span_id, "unsettled")
        assert (chat.start_ns, chat.end_ns) == (60, 90)


class TestAccepted:
    def _spans(self, **more: object) -> Sequence[Span]:
        return list(accepted_spans("inject", THREAD, ID, "ann", (1, 2), **more))  # type: ignore[arg-type]

    def test_a_thread_that_begins_is_the_root(self) -> None:
        root, inject = self._spans(begins=True)
        assert (root.span_id, root.parent_id) == (thread_span(THREAD), None)
        assert (inject.span_id, inject.parent_id, inject.links) == (inject_span(ID), root.span_id, ())

    def test_a_later_inject_is_under_the_same_root(self) -> None:
        (inject,) = self._spans()
        assert (inject.trace_id, inject.parent_id) == (TRACE, thread_span(THREAD))

    @pytest.mark.parametrize("flags", ["00", "01"])
    def test_a_client_with_a_trace_sees_its_request_there(self, flags: str) -> None:
        request, inject = self._spans(client=CLIENT[:-2] + flags)
        assert (request.trace_id, request.parent_id) == (0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7)
        assert request.links == (Link(TRACE, inject_span(ID)),)
        assert inject.links == (Link(request.trace_id, request.span_id),)
        # Who does not record its own trace wants no span in it; the thread's is recorded as its sampler says.
        assert (request.sampled, inject.sampled) == (flags == "01", None)

    def test_a_header_that_is_none_is_ignored(self) -> None:
        (inject,) = self._spans(client="00-not-a-header")
        assert inject.links == ()


ID = uuid4()
