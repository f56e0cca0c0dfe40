"""What a handler gets beside its payload, and what it may return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xml_pipeline.envelope.model import Kind


@dataclass(frozen=True, slots=True)
class HandlerResponse:
    """One thing to send: a request to the peer `to`, or, without `to`, the response to the caller of this call.

    `payload` is a payload object, or one XML element as text or UTF-8 bytes, as a model writes it: that is parsed
    safely and checked against the schema like any other.
    """

    payload: object
    to: str | None = None

    @classmethod
    def respond(cls, payload: object) -> HandlerResponse:
        """The response to the caller of the running call."""
        return cls(payload=payload, to=None)


@dataclass(frozen=True, slots=True)
class HandlerMetadata:
    """One message to a handler.

    `kind` is `request`, `response` or `error` (then the payload is a `Huh` or a `SystemError`). `thread_id` and
    `call` are opaque: the same for all messages of a thread, or of a call, and of no use to any other agent.
    `from_id` is the immediate caller or responder. `remaining` counts the requests of this call that are not
    answered yet, fixed when the message was routed; `replies` are the payloads of the answers before this one.
    `timeout` is in seconds, `attempt` counts from 1. `traceparent` names the span of this run, for the header of that
    name of requests that the handler makes elsewhere.
    """

    kind: Kind
    thread_id: str
    call: str
    from_id: str
    agent: str
    remaining: int = 0
    replies: Sequence[object] = ()
    prompt: str | None = None
    attempt: int = 1
    timeout: float = 30.0
    traceparent: str = ""
