"""What gateways accepted: requests from outside, and dead letters that go on their way once more."""

from __future__ import annotations

from uuid import UUID, uuid5

from xml_pipeline.envelope.codec import decode_envelope
from xml_pipeline.envelope.model import API, SYSTEM, Kind
from xml_pipeline.errors import InvalidXml
from xml_pipeline.routing import letters
from xml_pipeline.routing.calls import Climbed, forgive, open_call, reopen
from xml_pipeline.routing.items import Inject, Junk
from xml_pipeline.routing.system_messages import ErrorPayload, huh, not_reachable, shortened
from xml_pipeline.routing.working import Draft, Mishap, Note, Working
from xml_pipeline.storage.routing_rows import DeadLetterRow, InboxRow, LetterRow, OldMessage


def route_inject(work: Working, item: Inject) -> None:
    """Route what stands in the inbox under this id, once."""
    row = work.snapshot.inbox.get(item.message_id)
    if row is None:
        reason = "An envelope that no gateway has accepted."
        bury_junk(work, Junk(uuid5(item.message_id, "forged"), reason, item.body, "not-accepted"))
        return
    if row.taken or row.id in work.taken:
        work.notes.append(Note("inject_again", row.id))
        return
    work.take(row.id, row.thread_id)
    try:
        payload = decode_envelope(row.body).payload
    except InvalidXml as error:
        work.dead_letters.append(letters.of_inbox(work, row, "invalid-xml", shortened(str(error))))
        return
    if work.snapshot.threads[row.thread_id].status == "killed":
        _log_killed(work, row, payload)
    elif row.letter_id is None:
        _request(work, row, payload)
    else:
        _redrive(work, row, work.snapshot.letters[row.letter_id], payload)


def _log_killed(work: Working, row: InboxRow, payload: bytes) -> None:
    """Its thread was killed before a router came to it: it is in the log, since it was accepted, and goes nowhere."""
    draft = Draft(row.id, row.thread_id, API, row.to_id, Kind.REQUEST, payload, None, hop=0)
    letter = None if row.letter_id is None else work.snapshot.letters[row.letter_id]
    if letter is not None and letter.message is not None:
        old = letter.message
        draft.from_id, draft.kind, draft.hop, draft.redrive_of = old.from_id, Kind(old.kind), old.hop, old.id
    work.insert(draft, outcome="killed")


def bury_junk(work: Working, item: Junk) -> None:
    """Keep what cannot be routed."""
    row = None if item.inbox_id is None else work.snapshot.inbox.get(item.inbox_id)
    reason = shortened(item.reason)
    if row is None:
        letter = DeadLetterRow(item.id, None, None, None, item.code, reason, 0, item.body)
    elif row.taken or row.id in work.taken:
        return
    else:
        work.take(row.id, row.thread_id)
        letter = letters.of_inbox(work, row, item.code, reason)
    work.dead_letters.append(letter)


def _request(work: Working, row: InboxRow, payload: bytes, redrive_of: UUID | None = None) -> None:
    draft = Draft(row.id, row.thread_id, API, row.to_id, Kind.REQUEST, payload, None, hop=0, redrive_of=redrive_of)
    refusal = _request_fault(work, row.to_id, payload)
    if refusal is None:
        open_call(work, draft)
    else:
        _refuse(work, draft, refusal)


def _request_fault(work: Working, to: str, payload: bytes) -> ErrorPayload | None:
    if work.listener(to) is None:
        return not_reachable()
    fault = work.check.request_fault(to, payload)
    return None if fault is None else huh(fault)


def _refuse(work: Working, draft: Draft, error: ErrorPayload) -> None:
    """The configuration changed since the gateway accepted it."""
    work.insert(draft, outcome="failed")
    work.dead_letters.append(letters.of_draft(draft, error, Climbed(failed=True)))
    answer_id = uuid5(draft.id, "answer")
    reply = Draft(answer_id, draft.thread_id, SYSTEM, API, Kind.ERROR, error.payload, None, 1, answers=draft.id)
    work.insert(reply)
    thread = work.thread(draft.thread_id)
    thread.failed += 1
    thread.error = error.line
    work.mishaps.append(Mishap(draft.thread_id, draft.to_id, error.line))


def _redrive(work: Working, row: InboxRow, letter: LetterRow, payload: bytes) -> None:
    """Go on in the call that the failure closed; what never had a call is a new request."""
    message = letter.message
    if message is not None and message.call_id is not None:
        _continue(work, row, letter, message, message.call_id, payload)
        return
    if letter.failed:
        forgive(work, row.thread_id)
    _request(work, row, payload, redrive_of=letter.message_id)


def _continue(
    work: Working, row: InboxRow, letter: LetterRow, message: OldMessage, call_id: UUID, payload: bytes
) -> None:
    call, kind = work.call(call_id), Kind(message.kind)
    draft = Draft(row.id, row.thread_id, message.from_id, row.to_id, kind, payload, call_id, message.hop)
    draft.answers, draft.remaining, draft.redrive_of = message.answers, call.pending, message.id
    refusal = _fault(work, draft)
    if refusal is not None:
        # Nothing is reopened, nobody hears of it twice: the new letter stands for the same failure.
        work.insert(draft, outcome="failed")
        work.dead_letters.append(letters.of_draft(draft, refusal, letters.closed_by(letter)))
        work.mishaps.append(Mishap(draft.thread_id, draft.to_id, refusal.line))
        return
    work.insert(draft)
    call.open += 1
    reopen(work, call, letters.closed_by(letter))


def _fault(work: Working, draft: Draft) -> ErrorPayload | None:
    if draft.kind is Kind.REQUEST or work.listener(draft.to_id) is None:
        return _request_fault(work, draft.to_id, draft.payload)
    fault = work.check.response_fault(draft.from_id, draft.payload)
    return None if fault is None else huh(fault)
