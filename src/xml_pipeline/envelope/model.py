"""What travels: envelopes, the turns that workers report, the assignments that routers hand out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

ENVELOPE_NS = "https://xml-pipeline.org/ns/envelope/v1"
TURN_NS = "https://xml-pipeline.org/ns/turn/v1"
ASSIGNMENT_NS = "https://xml-pipeline.org/ns/assignment/v1"

API = "api"
SYSTEM = "system"
HUH_TAG = "huh"
SYSTEM_ERROR_TAG = "SystemError"


class Kind(StrEnum):
    """What a message is to its recipient."""

    REQUEST = "request"
    RESPONSE = "response"
    ERROR = "error"


class Outcome(StrEnum):
    """How one run of a handler ended."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    PARKED = "parked"  # until its budgets have room for the call that it was about to make


@dataclass(frozen=True, slots=True)
class Envelope:
    """One payload on its way: `payload` is the payload element in exclusive canonical form, no namespace.

    `traceparent` names the span that sent it, for whoever looks at it on its way: nothing is decided by it.
    """

    from_id: str
    to_id: str
    thread_id: UUID
    payload: bytes
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """One thing a handler produced: a request to `to`, or a response to its caller (`to` is None).

    `payload` is None where the handler gave XML that the safe parser refused; `malformed` says why.
    """

    kind: Kind
    to: str | None
    payload: bytes | None
    malformed: str | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """The whole outcome of one run of a handler: all of it counts, or nothing.

    `asked`: the tokens that a parked one has to wait for, 0 for others.
    """

    id: UUID
    message_id: UUID
    attempt: int
    outcome: Outcome
    outputs: tuple[Output, ...] = ()
    reason: str | None = None
    duration_ms: int = 0
    asked: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """An earlier response of the same call."""

    from_id: str
    kind: Kind
    payload: bytes


@dataclass(frozen=True, slots=True)
class Assignment:
    """One message handed to a worker, with what its handler may know. `timeout` is in seconds."""

    message_id: UUID
    attempt: int
    kind: Kind
    call: UUID
    config_version: int
    timeout: float
    remaining: int
    replies: tuple[Reply, ...]
    envelope: Envelope
