"""What a worker and its children tell each other, as values; frames are read with suspicion on the parent's side."""

from __future__ import annotations

import re
from dataclasses import dataclass
from uuid import UUID

from xml_pipeline.envelope.model import Kind, Outcome, Output
from xml_pipeline.worker.frames import BadFrame, Frame


@dataclass(frozen=True, slots=True)
class Start:
    """Parent -> child, first of all: the organism to load."""

    text: str
    folder: str


@dataclass(frozen=True, slots=True)
class Run:
    """Parent -> child: run a handler. `run` names it among this worker's; thread and call are opaque already."""

    run: int
    message_id: UUID
    listener: str
    kind: Kind
    from_id: str
    thread: str
    call: str
    attempt: int
    timeout: float
    remaining: int
    payload: bytes
    replies: tuple[bytes, ...] = ()
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Parent -> child: its thread was killed."""

    run: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Either way: are you there."""

    number: int


@dataclass(frozen=True, slots=True)
class LedgerAnswer:
    """Parent -> child: what came of an ask; `body` is a HoldReply in JSON for a hold, else empty."""

    ask: int
    body: bytes = b""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """Child -> parent: the organism is loaded."""

    listeners: tuple[str, ...]
    concurrency: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Child -> parent: the organism cannot be loaded."""

    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """Child -> parent: a run has ended. `stuck`: its code goes on nevertheless, so the child is of no more use."""

    run: int
    outcome: Outcome
    outputs: tuple[Output, ...] = ()
    reason: str | None = None
    duration_ms: int = 0
    stuck: bool = False


@dataclass(frozen=True, slots=True)
class LedgerAsk:
    """Child -> parent: a LedgerMessage in JSON, of a run; answered with a LedgerAnswer."""

    ask: int
    run: int
    body: bytes


_LOOKS_LIKE_XML = re.compile(rb"<[^<>]+>")

ToChild = Start | Run | Cancel | Ping | LedgerAnswer
FromChild = Ready | Failed | Done | LedgerAsk | Ping


def to_child(message: ToChild) -> Frame:
    """The frame of a message to a child."""
    match message:
        case Run():
            return _run_frame(message)
        case Start(text, folder):
            return Frame({"type": "start", "folder": folder}, (text.encode(),))
        case Cancel(run):
            return Frame({"type": "cancel", "run": run})
        case Ping(number):
            return Frame({"type": "ping", "number": number})
        case LedgerAnswer(ask, body, error):
            return Frame({"type": "ledger", "ask": ask, "error": error}, (body,))


def _run_frame(run: Run) -> Frame:
    header: dict[str, object] = {
        "type": "run",
        "run": run.run,
        "message": run.message_id.hex,
        "listener": run.listener,
        "kind": run.kind.value,
        "from": run.from_id,
        "thread": run.thread,
        "call": run.call,
        "attempt": run.attempt,
        "timeout": run.timeout,
        "remaining": run.remaining,
        "traceparent": run.traceparent,
    }
    return Frame(header, (run.payload, *run.replies))


def from_parent(frame: Frame) -> ToChild:
    """The message in a frame from the parent, which is trusted. Raises BadFrame."""
    header = _Header(frame.header)
    match header.text("type"):
        case "run":
            return _run(header, frame.blobs)
        case "start":
            return Start(frame.blobs[0].decode(), header.text("folder"))
        case "cancel":
            return Cancel(header.number("run"))
        case "ping":
            return Ping(header.number("number"))
        case "ledger":
            return LedgerAnswer(header.number("ask"), frame.blobs[0], header.maybe_text("error"))
        case unknown:
            raise BadFrame(f"unknown type {unknown}")


def _run(header: _Header, blobs: tuple[bytes, ...]) -> Run:
    return Run(
        run=header.number("run"),
        message_id=UUID(hex=header.text("message")),
        listener=header.text("listener"),
        kind=Kind(header.text("kind")),
        from_id=header.text("from"),
        thread=header.text("thread"),
        call=header.text("call"),
        attempt=header.number("attempt"),
        timeout=header.real("timeout"),
        remaining=header.number("remaining"),
        payload=blobs[0],
        replies=blobs[1:],
        traceparent=header.text("traceparent"),
    )


def to_parent(message: FromChild) -> Frame:
    """The frame of a message to the parent."""
    match message:
        case Done():
            return _done_frame(message)
        case Ready(listeners, concurrency):
            return Frame({"type": "ready", "listeners": list(listeners), "concurrency": concurrency})
        case Failed(reason):
            return Frame({"type": "failed", "reason": reason})
        case LedgerAsk(ask, run, body):
            return Frame({"type": "ledger", "ask": ask, "run": run}, (body,))
        case Ping(number):
            return Frame({"type": "ping", "number": number})


def _done_frame(done: Done) -> Frame:
    header: dict[str, object] = {
        "type": "done",
        "run": done.run,
        "outcome": done.outcome.value,
        "reason": done.reason,
        "ms": done.duration_ms,
        "stuck": done.stuck,
        "outputs": [[output.kind.value, output.to, output.malformed] for output in done.outputs],
    }
    return Frame(header, tuple(output.payload or b"" for output in done.outputs))


def from_child(frame: Frame) -> FromChild:
    """The message in a frame from a child, which may hold anything at all. Raises BadFrame."""
    header = _Header(frame.header)
    try:
        return _from_child(header, frame.blobs)
    except (ValueError, TypeError, IndexError) as error:
        raise BadFrame(f"not understood: {error}") from None


def _from_child(header: _Header, blobs: tuple[bytes, ...]) -> FromChild:
    match header.text("type"):
        case "done":
            return _done(header, blobs)
        case "ready":
            return Ready(header.texts("listeners"), header.number("concurrency"))
        case "failed":
            return Failed(header.text("reason"))
        case "ledger":
            return LedgerAsk(header.number("ask"), header.number("run"), blobs[0])
        case "ping":
            return Ping(header.number("number"))
        case unknown:
            raise BadFrame(f"unknown type {unknown}")


def _done(header: _Header, blobs: tuple[bytes, ...]) -> Done:
    rows = header.rows("outputs")
    if len(rows) != len(blobs):
        raise BadFrame("outputs and payloads differ in number")
    return Done(
        run=header.number("run"),
        outcome=Outcome(header.text("outcome")),
        outputs=tuple(_output(row, payload) for row, payload in zip(rows, blobs, strict=True)),
        reason=header.maybe_text("reason"),
        duration_ms=header.number("ms"),
        stuck=header.flag("stuck"),
    )


def _output(row: object, payload: bytes) -> Output:
    if not isinstance(row, list) or len(row) != 3:
        raise BadFrame("an output has three fields")
    fields = _Header(dict(zip(("kind", "to", "malformed"), row, strict=True)))
    kind, to, malformed = Kind(fields.text("kind")), fields.maybe_text("to"), fields.maybe_text("malformed")
    if (to is None) != (kind is Kind.RESPONSE):
        raise BadFrame("a request has a target, a response has none")
    if malformed is None and not _LOOKS_LIKE_XML.match(payload):
        raise BadFrame("a payload that is no XML")
    return Output(kind=kind, to=to, payload=payload if malformed is None else None, malformed=malformed)


@dataclass(frozen=True, slots=True)
class _Header:
    """Typed reads of a JSON object; each raises BadFrame."""

    fields: dict[str, object]

    def text(self, name: str) -> str:
        value = self.maybe_text(name)
        if value is None:
            raise BadFrame(f"{name} is missing")
        return value

    def maybe_text(self, name: str) -> str | None:
        value = self.fields.get(name)
        if value is not None and not isinstance(value, str):
            raise BadFrame(f"{name} is no text")
        return value

    def number(self, name: str) -> int:
        value = self.fields.get(name)
        if type(value) is not int or value < 0:
            raise BadFrame(f"{name} is no number")
        return value

    def real(self, name: str) -> float:
        value = self.fields.get(name)
        if not isinstance(value, int | float):
            raise BadFrame(f"{name} is no number")
        return float(value)

    def flag(self, name: str) -> bool:
        return self.fields.get(name) is True

    def rows(self, name: str) -> list[object]:
        value = self.fields.get(name)
        if not isinstance(value, list):
            raise BadFrame(f"{name} is no list")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        rows = self.rows(name)
        if not all(isinstance(row, str) for row in rows):
            raise BadFrame(f"{name} is no list of texts")
        return tuple(str(row) for row in rows)
