"""What a batch makes of what it found: pure, so that the same snapshot and items always give the same changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from xml_pipeline.envelope.model import Outcome, Turn
from xml_pipeline.organism.model import Organism, Retry
from xml_pipeline.routing import letters
from xml_pipeline.routing.calls import Climbed, fail, settle
from xml_pipeline.routing.injects import bury_junk, route_inject
from xml_pipeline.routing.items import Inject, Item, Junk, Orphaned, Overdue, Returned, TurnReport
from xml_pipeline.routing.outputs import apply_outputs
from xml_pipeline.routing.system_messages import (
    HANDLER_FAILED,
    LOST,
    TIMEOUT,
    ErrorPayload,
    not_reachable,
    shortened,
    system_error,
)
from xml_pipeline.routing.working import Mishap, Note, PayloadCheck, Working
from xml_pipeline.storage.routing_rows import Changes, MessageRow, Snapshot, TurnRow

# As `retry.on` names them.
_OUTCOMES = {HANDLER_FAILED: "error", TIMEOUT: "timeout", LOST: "lost"}


@dataclass(frozen=True, slots=True)
class Decision:
    """The changes to write, and what to tell about them afterwards. `causes`: the item that each insert came of."""

    changes: Changes
    notes: Sequence[Note]
    mishaps: Sequence[Mishap]
    causes: Mapping[UUID, Item] = field(default_factory=dict)


def decide(snapshot: Snapshot, items: Sequence[Item], organism: Organism, check: PayloadCheck) -> Decision:
    """Apply the items in their order to a copy of the snapshot."""
    work = Working(snapshot, organism, check)
    for item in items:
        work.item = item
        _apply(work, item)
    return Decision(work.changes(), tuple(work.notes), tuple(work.mishaps), work.causes)


def retry_delay(retry: Retry, attempt: int) -> float:
    """Seconds to wait after the failure of an attempt, the first being 1; the database adds the jitter."""
    return float(min(retry.max_backoff, retry.backoff * 2 ** min(attempt - 1, 32)))


def _apply(work: Working, item: Item) -> None:
    match item:
        case Inject():
            route_inject(work, item)
        case TurnReport(turn=turn):
            _turn(work, turn)
        case Overdue():
            _overdue(work, item)
        case Returned():
            _returned(work, item)
        case Orphaned():
            _orphaned(work, item)
        case Junk():
            bury_junk(work, item)


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
    elif turn.outcome is Outcome.PARKED:
        work.notes.append(Note("message_parked", message.id, f"until there is room for {turn.asked} tokens"))
        work.park(message, turn.asked)
    else:
        code = TIMEOUT if turn.outcome is Outcome.TIMEOUT else HANDLER_FAILED
        reason = turn.reason or "no reason was given"
        _failed(work, message, system_error(code, reason), turn.id)


def _counts(turn: Turn, message: MessageRow) -> bool:
    """The first `ok` of any attempt; anything else only of the attempt that is out."""
    if turn.outcome is Outcome.OK:
        return message.state == "out" or (message.state == "ready" and message.attempt > 0)
    return message.state == "out" and message.attempt == turn.attempt


def _handled(work: Working, message: MessageRow, turn: Turn) -> None:
    work.close(message, "handled", turn.id)
    if message.call_id is None:
        return
    call = work.call(message.call_id)
    apply_outputs(work, message, call, turn.outputs)
    settle(work, call, message)


def _failed(work: Working, message: MessageRow, error: ErrorPayload, turn_id: UUID | None) -> None:
    listener = work.listener(message.to_id)
    if listener is not None and _is_tried_again(listener.retry, error.code, message.tries):
        delay = 0.0 if error.code == LOST else retry_delay(listener.retry, message.tries)
        work.postpone(message, delay, listener.retry.jitter)
        return
    work.close(message, "failed", turn_id)
    work.mishaps.append(Mishap(message.thread_id, message.to_id, error.line))
    climbed = Climbed()
    if message.call_id is not None:
        climbed = fail(work, work.call(message.call_id), error, message)
    work.dead_letters.append(letters.of_message(message, error, climbed))


def _is_tried_again(retry: Retry, code: str, tries: int) -> bool:
    return tries < retry.attempts and _OUTCOMES.get(code) in retry.on


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


def _turn_row(turn: Turn, counted: bool) -> TurnRow:
    reason = None if turn.reason is None else shortened(turn.reason)
    return TurnRow(turn.id, turn.message_id, turn.attempt, turn.outcome.value, counted, reason, turn.duration_ms)
