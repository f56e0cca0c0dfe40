"""How calls open, are answered, fail and end. A caller always hears once: an answer, an error, or `no-answer`."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID, uuid5

from xml_pipeline.envelope.model import API, Kind
from xml_pipeline.routing.system_messages import (
    NO_ANSWER,
    ErrorPayload,
    as_system_error,
    system_error,
)
from xml_pipeline.routing.working import Draft, Mishap, Note, Working
from xml_pipeline.storage.routing_rows import CallRow, MessageRow


@dataclass(frozen=True, slots=True)
class Climbed:
    """What an error closed on its way up. `failed`: a request from outside ended in it."""

    calls: tuple[UUID, ...] = ()
    failed: bool = False


def open_call(work: Working, draft: Draft) -> None:
    """Insert a request and open its call, which has the request's own id."""
    listener = work.listener(draft.to_id)
    awaited = listener is not None and listener.responds
    parent = draft.call_id
    if parent is not None and awaited:
        work.call(parent).pending += 1
    work.new_calls[draft.id] = CallRow(draft.id, draft.thread_id, draft.from_id, draft.to_id, parent, awaited)
    draft.call_id = draft.id
    work.insert(draft)


def answer(work: Working, call: CallRow, message_id: UUID, payload: bytes, hop: int) -> None:
    """Resume the caller of a call with its response."""
    _resume(work, call, message_id, Kind.RESPONSE, payload, hop)


def fail(
    work: Working, call: CallRow, error: ErrorPayload, cause: MessageRow, message_id: UUID | None = None
) -> Climbed:
    """Give the caller of a call an error; where it takes none its own call fails, and so on up to `api`.

    `cause`: the handled message that it comes of. `message_id`: the error's own, where it goes to the next caller.
    """
    closed: list[UUID] = []
    while not call.answered:
        closed.append(call.id)
        if takes(work, call.caller, error):
            _resume(work, call, message_id or _answer_id(cause), Kind.ERROR, error.payload, cause.hop + 1)
            return Climbed(tuple(closed), failed=_report(work, call, error))
        parent = _mark_answered(work, call)
        if parent is None:
            return Climbed(tuple(closed))
        call, error, message_id = parent, as_system_error(error), None
    work.notes.append(Note("error_after_answer", call.id, error.code))
    return Climbed(tuple(closed))


def reopen(work: Working, call: CallRow, climbed: Climbed) -> None:
    """Undo what an error closed from `call` upwards, now that something of `call` is open again.

    A call in which nothing is to come any more stays closed, and so does what is above it: nobody would answer.
    """
    while call.id in climbed.calls and call.answered and (call.open or call.pending):
        call.answered = False
        parent = work.parent(call)
        if parent is None:
            if climbed.failed:
                forgive(work, call.thread_id)
            return
        if call.awaited:
            parent.pending += 1
        call = parent


def forgive(work: Working, thread_id: UUID) -> None:
    """A request from outside that had failed goes on."""
    thread = work.thread(thread_id)
    thread.failed -= 1
    if not thread.failed:
        thread.error = None


def settle(work: Working, call: CallRow, cause: MessageRow) -> None:
    """Tell the caller where nothing is left that could still answer."""
    if call.awaited and not call.answered and call.open == 0 and call.pending == 0:
        fail(work, call, system_error(NO_ANSWER, f"{call.callee} ended without an answer."), cause)


def takes(work: Working, name: str, error: ErrorPayload) -> bool:
    """Whether this kind of error can be given to a listener's handler."""
    if name == API:
        return True
    listener = work.listener(name)
    if listener is None:
        return False
    return listener.accepts_huh if error.is_huh else listener.accepts_errors


def _resume(work: Working, call: CallRow, message_id: UUID, kind: Kind, payload: bytes, hop: int) -> None:
    parent = _mark_answered(work, call)
    if parent is not None:
        parent.open += 1
    work.insert(
        Draft(
            id=message_id,
            thread_id=call.thread_id,
            from_id=call.callee,
            to_id=call.caller,
            kind=kind,
            payload=payload,
            call_id=call.parent,
            hop=hop,
            answers=call.id,
            remaining=0 if parent is None else parent.pending,
        )
    )


def _mark_answered(work: Working, call: CallRow) -> CallRow | None:
    call.answered = True
    parent = work.parent(call)
    if parent is not None and call.awaited:
        parent.pending -= 1
    return parent


def _report(work: Working, call: CallRow, error: ErrorPayload) -> bool:
    if call.caller != API:
        return False
    thread = work.thread(call.thread_id)
    thread.failed += 1
    thread.error = error.line
    work.mishaps.append(Mishap(call.thread_id, call.callee, error.line))
    return True


def _answer_id(cause: MessageRow) -> UUID:
    """Not of the call: one that was reopened may fail twice."""
    return uuid5(cause.id, "answer")
