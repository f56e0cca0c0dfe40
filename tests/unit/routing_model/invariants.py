"""What has to hold after every commit, and in the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from tests.unit.routing_model.database import Change, Database, View
from tests.unit.routing_model.organism import ORGANISM, WINDOWS
from tests.unit.routing_model.rows import Letter, Stored, has_room, messages_of
from xml_pipeline.storage.budget_rows import Budget
from xml_pipeline.storage.ledger_rows import Booking, Hold, HoldState, Kind
from xml_pipeline.storage.rollup_rows import RollupKey, start_of
from xml_pipeline.storage.routing_rows import ThreadRow, TurnRow

_MOVES = {
    "waiting": {"waiting", "ready", "out", "closed"},
    "ready": {"ready", "out", "closed"},
    "out": {"out", "ready", "closed"},
    "closed": {"closed"},
}
_BOOKED_AS = {HoldState.EXPIRED: Kind.EXPIRED}


class Broken(AssertionError):
    """What may never be, was."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What the provider of the model did: tokens that are gone."""

    prompt_tokens: int
    completion_tokens: int


def check_commit(db: Database, changes: Sequence[Change]) -> None:
    """After each commit. Raises Broken."""
    view = db.view()
    tables = {change.key[0] for change in changes}
    recorded: list[TurnRow] = [change.after for change in changes if change.key[0] == "turn"]
    for change in changes:
        if change.key[0] == "message" and change.before is not None:
            _check_move(change.before, change.after, db.clock)
            turns = [turn for turn in recorded if turn.counted and turn.message_id == change.before.new.id]
            _check_cause(change.before, change.after, turns, db.clock)
    if tables & {"message", "inbox", "thread"}:
        messages = messages_of(view)
        _check_windows(messages)
        _check_threads(view, messages)
    if tables & {"hold", "booking", "budget", "rollup"}:
        check_books(view)
        check_limits(view, db.strayed)


def _check_move(before: Stored, after: Stored, clock: float) -> None:
    if after.state not in _MOVES[before.state]:
        raise Broken(f"{before.new.id} went from {before.state} to {after.state}")
    if before.state == "closed" and (before.outcome, after.outcome) != ("failed", "redriven"):
        raise Broken(f"{before.new.id} ended as {before.outcome}, and again as {after.outcome}")
    if after.attempt != before.attempt and not (after.attempt == before.attempt + 1 and after.state == "out"):
        raise Broken(f"{before.new.id}: attempt {after.attempt} of {after.state} after {before.attempt}")
    if before.state in ("waiting", "ready") and after.state == "out" and not before.is_due(clock):
        raise Broken(f"{before.new.id} went out before it was due")
    if after.parked_for is not None and after.state != "ready":
        raise Broken(f"{before.new.id} is parked and {after.state}")
    if after.attempt - after.parks > ORGANISM.listeners[after.new.to_id].retry.attempts:
        raise Broken(f"{before.new.id}: one attempt too many")


def _check_cause(before: Stored, after: Stored, turns: Sequence[TurnRow], clock: float) -> None:
    """An attempt ends by a turn that counts, by its deadline, or with its thread."""
    ended = (
        after.state == "closed" or after.attempt != before.attempt or (before.state, after.state) == ("out", "ready")
    )
    if not ended or before.state == "closed" or after.outcome == "killed":
        return
    for turn in turns:
        if turn.outcome == "ok" and before.attempt == 0:
            raise Broken(f"a turn of {before.new.id} counts, which nobody was given")
        if turn.outcome != "ok" and (before.state, before.attempt) != ("out", turn.attempt):
            raise Broken(f"{turn.outcome} of attempt {turn.attempt} ended attempt {before.attempt} of {before.new.id}")
    # One that was published again meanwhile, in the same attempt, was overdue when its router read it.
    if before.state == "out" and before.confirmed and not turns and not before.deadline < clock:
        raise Broken(f"attempt {before.attempt} of {before.new.id} was given up before its deadline")


def _check_windows(messages: Sequence[Stored]) -> None:
    out = Counter(stored.new.to_id for stored in messages if stored.state == "out")
    if any(out[name] > window for name, window in WINDOWS.items()):
        raise Broken(f"beyond a window: {out}")


def _check_threads(view: View, messages: Sequence[Stored]) -> None:
    open_ = Counter(stored.new.thread_id for stored in messages if stored.state != "closed")
    open_.update(row.thread_id for row in view.table("inbox").values() if not row.taken)
    for thread in view.table("thread").values():
        if thread.open != open_[thread.id]:
            raise Broken(f"{thread.open} counted as open, {open_[thread.id]} are")
        if thread.status != "killed" and (thread.status == "active") != (thread.open > 0):
            raise Broken(f"a thread is {thread.status} with {thread.open} open")


def check_filled(db: Database) -> None:
    """After a sweep that nobody came in between: what is due waits only for room. Raises Broken."""
    messages = messages_of(db.view())
    due = Counter(row.new.to_id for row in messages if row.state == "ready" and row.is_due(db.clock))
    out = Counter(row.new.to_id for row in messages if row.state == "out")
    if any(row.parked_for is not None and has_room(db.view(), row) for row in messages):
        raise Broken("what is parked has room and does not go on")
    for name, listener in db.view().table("listener").items():
        if due[name] and not listener.paused and out[name] < listener.window:
            raise Broken(f"{due[name]} for {name} are due and there is room, but nothing goes out")


# The books


def check_books(view: View) -> None:
    """available + held + spent = limit, in every budget; one booking for each call. Raises Broken."""
    holds, bookings, budgets = view.table("hold"), view.table("booking"), view.table("budget")
    held: Counter[UUID] = Counter()
    spent: Counter[UUID] = Counter()
    for hold in holds.values():
        _check_hold(hold, bookings.get(hold.call_id))
        if hold.state is HoldState.HELD:
            held.update(dict.fromkeys(_path(budgets, hold.thread_id), hold.size))
    for booking in bookings.values():
        spent.update(dict.fromkeys(_path(budgets, booking.thread_id), booking.spent))
    for budget in budgets.values():
        if (budget.held, budget.spent) != (held[budget.id], spent[budget.id]):
            raise Broken(f"{budget}, but {held[budget.id]} are held and {spent[budget.id]} are booked")
    _check_rollups(view, bookings.values())


def check_limits(view: View, strayed: Collection[UUID]) -> None:
    """No budget is overdrawn, but by calls that had no hold any more: `strayed`. Raises Broken."""
    budgets = view.table("budget")
    bookings = [one for one in view.table("booking").values() if one.call_id in strayed]
    excused = {id_ for one in bookings for id_ in _path(budgets, one.thread_id)}
    for budget in budgets.values():
        if budget.available < 0 and budget.id not in excused:
            raise Broken(f"a budget is overdrawn: {budget}")


def _path(budgets: Mapping[UUID, Budget], thread_id: UUID) -> tuple[UUID, ...]:
    return (*budgets[thread_id].ancestors, thread_id)


def _check_hold(hold: Hold, booking: Booking | None) -> None:
    kind = None if booking is None else booking.kind
    if kind is not _BOOKED_AS.get(hold.state):
        raise Broken(f"the call of a hold that is {hold.state} is booked as {kind}")


def _check_rollups(view: View, bookings: Iterable[Booking]) -> None:
    sums: dict[RollupKey, tuple[int, Decimal]] = {}
    for one in bookings:
        for grain in ("day", "hour"):
            start = start_of(grain, one.granted_at)
            key = RollupKey(one.period, grain, start, one.agent_id, one.model, one.provider)
            tokens, cost = sums.get(key, (0, Decimal(0)))
            sums[key] = (tokens + one.spent, cost + one.cost)
    rolled = {
        key: (row.prompt_tokens + row.completion_tokens, row.cost)
        for key, row in view.table("rollup").items()
        if row.requests
    }
    if rolled != sums:
        raise Broken(f"rollups say {rolled}, the bookings {sums}")


# In the end


def check_end(db: Database, accepted: Iterable[UUID], letters: Collection[Letter]) -> None:
    """When nothing moves any more. `accepted`: as clients were told; `letters`: deleted ones too. Raises Broken."""
    view = db.view()
    messages = messages_of(view)
    if stuck := [stored.state for stored in messages if stored.state != "closed"]:
        raise Broken(f"never ended: {stuck}")
    killed = {thread.id for thread in view.table("thread").values() if thread.status == "killed"}
    _check_injects(view, accepted)
    _check_calls(view, messages, killed, letters)
    _check_turns(view)
    for thread in view.table("thread").values():
        if thread.slots != sum(stored.new.thread_id == thread.id for stored in messages):
            raise Broken("slots have holes")
        if thread.id not in killed:
            _check_failed(thread, view, messages)


def _check_failed(thread: ThreadRow, view: View, messages: Sequence[Stored]) -> None:
    """A thread has failed by those requests from outside whose last answer is an error."""
    last = {stored.new.answers: stored.new.kind for stored in messages if stored.new.thread_id == thread.id}
    calls = [call for call in view.table("call").values() if call.parent is None]
    failed = sum(last.get(call.id) == "error" for call in calls)
    if thread.failed != failed or (thread.status == "error") != (failed > 0):
        raise Broken(f"{failed} requests failed, but the thread is {thread.status} with {thread.failed}")


def _check_injects(view: View, accepted: Iterable[UUID]) -> None:
    """What was accepted is in the log, even of a thread that was killed before a router came to it."""
    for id_ in accepted:
        row = view.get("inbox", id_)
        if row is None or not row.taken:
            raise Broken(f"inject {id_} was accepted, and lost")
        if view.get("message", id_) is None:
            raise Broken(f"inject {id_} was taken, and became no message")


def _check_calls(view: View, messages: Sequence[Stored], killed: set[UUID], letters: Iterable[Letter]) -> None:
    answers = Counter(stored.new.answers for stored in messages if stored.new.redrive_of is None)
    reopened = Counter(call for letter in letters for call in letter.row.calls if letter.redrive_id is not None)
    for call in view.table("call").values():
        if answers[call.id] > 1 + reopened[call.id]:
            raise Broken("a call was answered twice")
        if call.thread_id not in killed and (call.open or call.pending or (call.awaited and not call.answered)):
            raise Broken(f"a call is left over: {call}")


def _check_turns(view: View) -> None:
    counted = Counter(turn.message_id for turn in view.table("turn").values() if turn.counted and turn.outcome == "ok")
    if any(count > 1 for count in counted.values()):
        raise Broken(f"a message took effect twice: {counted}")


def check_promises(view: View, turns: Iterable[UUID], used: Iterable[UUID]) -> None:
    """Turns and usage that the broker confirmed and nobody threw away. Raises Broken."""
    if lost := [id_ for id_ in turns if view.get("turn", id_) is None]:
        raise Broken(f"turns that a router took and lost: {lost}")
    for call in used:
        booking = view.get("booking", call)
        if booking is None or booking.kind is not Kind.MEASURED:
            raise Broken(f"usage of {call} that a service took and lost: {booking}")


def check_usage(view: View, answered: Mapping[UUID, Answered], without_hold: Mapping[UUID, Answered]) -> None:
    """What the provider did, by call; what had no hold may be lost with its event. Raises Broken."""
    bookings = view.table("booking")
    if lost := [call for call in answered if call not in bookings]:
        raise Broken(f"calls that were answered and are not booked: {lost}")
    for booking in bookings.values():
        used = answered.get(booking.call_id) or without_hold.get(booking.call_id)
        true = 0 if used is None else used.prompt_tokens + used.completion_tokens
        if booking.spent < true or (booking.kind is Kind.MEASURED and booking.spent != true):
            raise Broken(f"a call took {true} tokens, but the booking is {booking}")
