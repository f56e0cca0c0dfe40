"""Organisms, turns and injects for tests of the router, made without YAML and without handlers that run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from uuid import UUID, uuid4

from xml_pipeline.envelope.codec import encode_envelope, payload_tag
from xml_pipeline.envelope.model import API, Envelope, Kind, Outcome, Output, Turn
from xml_pipeline.organism.model import RETRIED, Limits, Listener, Organism, ResponseType, Retry
from xml_pipeline.routing.items import TurnReport
from xml_pipeline.routing.system_messages import ERROR_TAGS
from xml_pipeline.storage.inbox import Inject as Accepted


@dataclass(frozen=True, slots=True)
class Question:
    """What listeners of these tests take."""

    text: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What they answer."""

    text: str = ""


def listener(
    name: str,
    *,
    peers: tuple[str, ...] = (),
    agent: bool = True,
    responds: bool = True,
    attempts: int = 3,
    backoff: float = 0.5,
    on: tuple[str, ...] = RETRIED,
    window: int | None = None,
    timeout: float = 30.0,
    accepts_errors: bool = True,
    accepts_huh: bool = True,
) -> Listener:
    """A listener that takes `<name.question>` and answers with `<name.answer>`."""
    return Listener(
        name=name,
        description=f"Listens as {name}",
        payload_class=Question,
        handler=repr,
        root_tag=f"{name}.question",
        schema=None,
        is_agent=agent,
        peers=peers,
        responses=(ResponseType(Answer, f"{name}.answer", ""),) if responds else (),
        accepts_errors=accepts_errors,
        accepts_huh=accepts_huh,
        timeout=timeout,
        retry=Retry(attempts, backoff, on=on),
        window=window,
    )


def organism(*listeners: Listener, limits: Limits | None = None, name: str = "tested") -> Organism:
    """An organism of these listeners."""
    made = Organism(name, {one.name: one for one in listeners}, text=repr(listeners))
    return made if limits is None else replace(made, limits=limits)


class TagCheck:
    """A payload is right when its root is; errors are right from everybody."""

    def request_fault(self, to: str, payload: bytes) -> str | None:
        """Roots of requests end in `.question`."""
        return None if payload_tag(payload) == f"{to}.question" else f"not a {to}.question"

    def response_fault(self, responder: str, payload: bytes) -> str | None:
        """Roots of responses end in `.answer`."""
        tag = payload_tag(payload)
        return None if tag == f"{responder}.answer" or tag in ERROR_TAGS else f"not a {responder}.answer"


def question(to: str, text: str = "") -> bytes:
    """A request's payload."""
    return f"<{to}.question><text>{text}</text></{to}.question>".encode()


def reply(responder: str, text: str = "") -> bytes:
    """A response's payload."""
    return f"<{responder}.answer><text>{text}</text></{responder}.answer>".encode()


def ask(to: str, text: str = "") -> Output:
    """An output: a request."""
    return Output(Kind.REQUEST, to, question(to, text))


def respond(payload: bytes) -> Output:
    """An output: the response to the caller."""
    return Output(Kind.RESPONSE, None, payload)


def ok(message_id: UUID, *outputs: Output, attempt: int = 1) -> TurnReport:
    """A turn that ended well."""
    return TurnReport(Turn(uuid4(), message_id, attempt, Outcome.OK, outputs), b"<turn/>")


def failed(message_id: UUID, *, attempt: int = 1, outcome: Outcome = Outcome.ERROR, reason: str = "boom") -> TurnReport:
    """A turn that did not."""
    return TurnReport(Turn(uuid4(), message_id, attempt, outcome, (), reason), b"<turn/>")


def parked(message_id: UUID, tokens: int, *, attempt: int = 1) -> TurnReport:
    """A turn that ended with a call that no budget covers."""
    return TurnReport(Turn(uuid4(), message_id, attempt, Outcome.PARKED, asked=tokens), b"<turn/>")


def inject(to: str, thread: UUID | None = None, *, payload: bytes | None = None) -> Accepted:
    """An inject as a gateway stores it."""
    thread = thread or uuid4()
    body = encode_envelope(Envelope(API, to, thread, payload or question(to)))
    return Accepted(uuid4(), thread, to, b"hash", body)
