"""What a handler produced: requests to peers, a response to its caller, or something that cannot pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import uuid5

from xml_pipeline.envelope.codec import payload_tag
from xml_pipeline.envelope.model import HUH_TAG, SYSTEM, Kind, Output
from xml_pipeline.routing.calls import answer, fail, open_call, takes
from xml_pipeline.routing.system_messages import (
    ERROR_TAGS,
    INVALID_PAYLOAD,
    LIMIT,
    ErrorPayload,
    as_system_error,
    huh,
    not_reachable,
    read_error,
    system_error,
)
from xml_pipeline.routing.working import Draft, Note, Working
from xml_pipeline.storage.routing_rows import AuditRow, CallRow, MessageRow


@dataclass(frozen=True, slots=True)
class _Refusal:
    """An output that its sender gets an error for. `request`: it would have been answered otherwise."""

    ordinal: int
    error: ErrorPayload
    request: bool


@dataclass(slots=True)
class _Sender:
    """The listener that handled `message`, within the call it is running."""

    work: Working
    message: MessageRow
    call: CallRow
    refusals: list[_Refusal] = field(default_factory=list)

    @property
    def hop(self) -> int:
        return self.message.hop + 1

    @property
    def exhausted(self) -> str | None:
        """Which limit keeps this thread from growing, None while it may grow."""
        limits = self.work.organism.limits
        if self.hop > limits.max_hops:
            return f"The thread is longer than {limits.max_hops} hops."
        if self.work.thread(self.message.thread_id).slots >= limits.max_messages_per_thread:
            return f"The thread has {limits.max_messages_per_thread} messages."
        return None


def apply_outputs(work: Working, message: MessageRow, call: CallRow, outputs: tuple[Output, ...]) -> None:
    """Route all that one turn produced. Errors for the sender come last, so that their `remaining` is final."""
    sender = _Sender(work, message, call)
    most = work.organism.limits.max_outputs_per_turn
    if len(outputs) > most:
        fail(work, call, system_error(LIMIT, f"More than {most} messages at once."), message)
        return
    for ordinal, output in enumerate(outputs):
        if output.kind is Kind.REQUEST:
            _request(sender, ordinal, output)
        else:
            _response(sender, ordinal, output)
    _refuse(sender)


def _request(sender: _Sender, ordinal: int, output: Output) -> None:
    work, message = sender.work, sender.message
    to = output.to or ""
    if not _reachable(work, message.to_id, to):
        work.audits.append(_blocked(message, to))
        sender.refusals.append(_Refusal(ordinal, not_reachable(), request=True))
        return
    fault = output.malformed if output.payload is None else work.check.request_fault(to, output.payload)
    if fault is not None or output.payload is None:
        sender.refusals.append(_Refusal(ordinal, _complaint(message, fault or "no payload"), request=True))
        return
    if (limit := sender.exhausted) is not None:
        fail(work, sender.call, system_error(LIMIT, limit), message)
        return
    open_call(work, _draft(sender, ordinal, to, output.payload))


def _response(sender: _Sender, ordinal: int, output: Output) -> None:
    work, message, call = sender.work, sender.message, sender.call
    if call.answered:
        work.notes.append(Note("response_after_answer", message.id, str(call.id)))
        return
    fault = output.malformed if output.payload is None else work.check.response_fault(message.to_id, output.payload)
    if fault is not None or output.payload is None:
        sender.refusals.append(_Refusal(ordinal, _complaint(message, fault or "no payload"), request=False))
        return
    message_id = uuid5(message.id, str(ordinal))
    if payload_tag(output.payload) in ERROR_TAGS:
        fail(work, call, read_error(output.payload), message, message_id)
    else:
        answer(work, call, message_id, output.payload, sender.hop)


def _reachable(work: Working, sender: str, to: str) -> bool:
    listener = work.listener(sender)
    return listener is not None and to in listener.peers and work.listener(to) is not None


def _blocked(message: MessageRow, to: str) -> AuditRow:
    detail = {"to": to[:200], "thread": str(message.thread_id), "message": str(message.id)}
    return AuditRow(actor=message.to_id, action="send-blocked", subject=to[:200], detail=detail)


def _complaint(message: MessageRow, fault: str) -> ErrorPayload:
    """A hint to the sender; an error where it was the answer to a hint, so that no huh answers a huh."""
    return system_error(INVALID_PAYLOAD, fault) if message.payload_type == HUH_TAG else huh(fault)


def _refuse(sender: _Sender) -> None:
    later = sum(refusal.request for refusal in sender.refusals)
    for refusal in sender.refusals:
        later -= refusal.request
        _give_back(sender, refusal, later)


def _give_back(sender: _Sender, refusal: _Refusal, later: int) -> None:
    work, message, call, error = sender.work, sender.message, sender.call, refusal.error
    if (limit := sender.exhausted) is not None:
        fail(work, call, system_error(LIMIT, limit), message)
        return
    if not takes(work, message.to_id, error):
        fail(work, call, as_system_error(error), message)
        return
    call.open += 1
    work.insert(
        Draft(
            id=uuid5(message.id, f"{error.tag}:{refusal.ordinal}"),
            thread_id=message.thread_id,
            from_id=SYSTEM,
            to_id=message.to_id,
            kind=Kind.ERROR,
            payload=error.payload,
            call_id=call.id,
            hop=sender.hop,
            remaining=call.pending + later,
        )
    )


def _draft(sender: _Sender, ordinal: int, to: str, payload: bytes) -> Draft:
    message = sender.message
    return Draft(
        id=uuid5(message.id, str(ordinal)),
        thread_id=message.thread_id,
        from_id=message.to_id,
        to_id=to,
        kind=Kind.REQUEST,
        payload=payload,
        call_id=sender.call.id,
        hop=sender.hop,
    )
