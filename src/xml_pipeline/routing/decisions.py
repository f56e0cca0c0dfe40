"""What a batch makes of what it found: pure, so that the same snapshot and items always give the same changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID, uuid5

from xml_pipeline.envelope.codec import decode_envelope
from xml_pipeline.envelope.model import API, SYSTEM, Kind, Outcome, Turn
from xml_pipeline.errors import InvalidXml
from xml_pipeline.organism.model import Organism, Retry
from xml_pipeline.routing.calls import fail, open_call, settle
from xml_pipeline.routing.items import Inject, Item, Junk, Orphaned, Overdue, Returned, TurnReport
from xml_pipeline.routing.outputs import apply_outputs
from xml_pipeline.routing.system_messages import (
    HANDLER_FAILED,
    LOST,
    TIMEOUT,
    ErrorPayload,
    huh,
    not_reachable,
    shortened,
    system_error,
)
from xml_pipeline.routing.working import Draft, Mishap, Note, PayloadCheck, Working
from xml_pipeline.storage.routing_rows import (
    Changes,
    DeadLetterRow,
    InboxRow,
    MessageRow,
    Snapshot,
    TurnRow,
)


@dataclass(frozen=True, slots=True)
class Decision:
    """The changes to write, and what to tell about them afterwards."""

    changes: Changes
    notes: Sequence[Note]
    mishaps: Sequence[Mishap]


def decide(snapshot: Snapshot, items: Sequence[Item], organism: Organism, check: PayloadCheck) -> Decision:
    """Apply the items in their order to a copy of the snapshot."""
    work = Working(snapshot, organism, check)
    for item in items:
        _apply(work, item)
    return Decision(work.changes(), tuple(work.notes), tuple(work.mishaps))


def retry_delay(retry: Retry, attempt: int) -> float:
    """Seconds to wait after the failure of an attempt, the first being 1. Jitter is added by the database."""
    return float(min(retry.max_backoff, retry.backoff * 2 ** min(attempt - 1, 32)))


def _apply(work: Working, item: Item) -> None:
    match item:
        case Inject():
            _inject(work, item)
        case TurnReport(turn=turn):
            _turn(work, turn)
        case Overdue():
            _overdue(work, item)
        case Returned():
            _returned(work, item)
        case Orphaned():
            _orphaned(work, item)
        case Junk():
            _bury_junk(work, item)


def _inject(work: Working, item: Inject) -> None:
    row = work.snapshot.inbox.get(item.message_id)
    if row is None:
        reason = "An envelope that no gateway has accepted."
        _bury_junk(work, Junk(uuid5(item.message_id, "forged"), reason, item.body, "not-accepted"))
        return
    if row.taken or row.id in work.taken:
        work.notes.append(Note("inject_again", row.id))
        return
    if work.snapshot.threads[row.thread_id].status == "killed":
        work.notes.append(Note("inject_into_killed_thread", row.id))
        return
    work.take(row.id, row.thread_id)
    _route_inject(work, row)


def _route_inject(work: Working, row: InboxRow) -> None:
    try:
        payload = decode_envelope(row.body).payload
    except InvalidXml as error:
        work.dead_letters.append(_bury_inject(work, row, "invalid-xml", shortened(str(error))))
        return
    draft = Draft(row.id, row.thread_id, API, row.to_id, Kind.REQUEST, payload, None, hop=0)
    refusal = _inject_fault(work, row.to_id, payload)
    if refusal is None:
        open_call(work, draft)
    else:
        _refuse_inject(work, draft, refusal)


def _inject_fault(work: Working, to: str, payload: bytes) -> ErrorPayload | None:
    if work.listener(to) is None:
        return not_reachable()
    fault = work.check.request_fault(to, payload)
    return None if fault is None else huh(fault)


def _refuse_inject(work: Working, draft: Draft, error: ErrorPayload) -> None:
    """The configuration changed since the gateway accepted it."""
    work.insert(draft, outcome="failed")
    work.dead_letters.append(_dead_letter(draft.id, draft.thread_id, draft.to_id, error, 0, draft.payload))
    answer_id = uuid5(draft.id, "answer")
    reply = Draft(answer_id, draft.thread_id, SYSTEM, API, Kind.ERROR, error.payload, None, 1, answers=draft.id)
    work.insert(reply)
    thread = work.thread(draft.thread_id)
    thread.failed += 1
    thread.error = error.line
    work.mishaps.append(Mishap(draft.thread_id, draft.to_id, error.line))


def _turn(work: Working, turn: Turn) -> None:
    if turn.id in work.seen_turns:
        work.notes.append(Note("turn_again", turn.message_id, str(turn.id)))
        return
    work.seen_turns.add(turn.id)
    message = work.message(turn.message_id)
    counted = message is not None and _counts(turn, message)
    work.turns.append(_turn_row(turn, counted))
    if message is None or not counted:
        work.notes.append(Note("turn_ignored", turn.message_id, f"{turn.outcome.value} of attempt {turn.attempt}"))
    elif turn.outcome is Outcome.OK:
        _handled(work, message, turn)
    else:
        code = TIMEOUT if turn.outcome is Outcome.TIMEOUT else HANDLER_FAILED
        reason = turn.reason or "no reason was given"
        _failed(work, message, system_error(code, reason), turn.id)


def _counts(turn: Turn, message: MessageRow) -> bool:
    """The first `ok` of any attempt; an `error` or `timeout` only of the attempt that is out."""
    if turn.outcome is Outcome.OK:
        return message.state == "out" or (message.state == "ready" and message.attempt > 0)
    return message.state == "out" and message.attempt == turn.attempt


def _handled(work: Working, message: MessageRow, turn: Turn) -> None:
    work.close(message, "handled", turn.id)
    if message.call_id is None:
        return
    call = work.call(message.call_id)
    apply_outputs(work, message, call, turn.outputs)
    settle(work, call, message.hop + 1)


def _failed(work: Working, message: MessageRow, error: ErrorPayload, turn_id: UUID | None) -> None:
    listener = work.listener(message.to_id)
    if listener is not None and message.attempt < listener.retry.attempts:
        work.postpone(message, 0.0 if error.code == LOST else retry_delay(listener.retry, message.attempt))
        return
    work.close(message, "failed", turn_id)
    work.dead_letters.append(_dead_letter(message.id, message.thread_id, message.to_id, error, message.attempt, None))
    work.mishaps.append(Mishap(message.thread_id, message.to_id, error.line))
    if message.call_id is not None:
        fail(work, work.call(message.call_id), error, message.hop + 1)


def _overdue(work: Working, item: Overdue) -> None:
    message = work.message(item.message_id)
    if message is None or message.state != "out" or message.attempt != item.attempt or not message.overdue:
        return
    _failed(work, message, system_error(LOST, "No turn came before the deadline."), None)


def _returned(work: Working, item: Returned) -> None:
    message = work.message(item.message_id)
    if message is not None and message.state == "out" and message.attempt == item.attempt:
        work.returned[message.id] = None


def _orphaned(work: Working, item: Orphaned) -> None:
    message = work.message(item.message_id)
    if message is not None and message.state == "ready" and work.listener(message.to_id) is None:
        _failed(work, message, not_reachable(), None)


def _bury_junk(work: Working, item: Junk) -> None:
    row = None if item.inbox_id is None else work.snapshot.inbox.get(item.inbox_id)
    reason = shortened(item.reason)
    if row is None:
        letter = DeadLetterRow(item.id, None, None, None, item.code, reason, 0, item.body)
    elif row.taken or row.id in work.taken:
        return
    else:
        work.take(row.id, row.thread_id)
        letter = _bury_inject(work, row, item.code, reason)
    work.notes.append(Note("dead_letter", item.id, item.code))
    work.dead_letters.append(letter)


def _bury_inject(work: Working, row: InboxRow, code: str, reason: str) -> DeadLetterRow:
    """An accepted inject that cannot become a message: its thread ends in an error."""
    thread = work.thread(row.thread_id)
    thread.failed += 1
    thread.error = f"{code}: {reason}"
    work.mishaps.append(Mishap(row.thread_id, row.to_id, thread.error))
    letter_id = uuid5(row.id, "dead-letter")
    return DeadLetterRow(letter_id, row.id, row.thread_id, row.to_id, code, reason, 0, row.body)


def _dead_letter(
    message_id: UUID, thread_id: UUID, listener: str, error: ErrorPayload, attempts: int, body: bytes | None
) -> DeadLetterRow:
    letter = uuid5(message_id, "dead-letter")
    return DeadLetterRow(letter, message_id, thread_id, listener, error.code, error.text, attempts, body)


def _turn_row(turn: Turn, counted: bool) -> TurnRow:
    reason = None if turn.reason is None else shortened(turn.reason)
    return TurnRow(turn.id, turn.message_id, turn.attempt, turn.outcome.value, counted, reason, turn.duration_ms)
