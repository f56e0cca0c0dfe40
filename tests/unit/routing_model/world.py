"""Routers, workers and gateways on the model's database, one step of one of them at a time, as chance wills."""

from __future__ import annotations

from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any
from uuid import UUID, uuid5

from tests.support import routing as given
from tests.unit.routing_model.database import Blocked, Database, Deadlock, Key, Transaction, UniqueViolation
from tests.unit.routing_model.store import ModelStore, Shortcut, Stored, messages_of, new_inbox_row
from xml_pipeline.envelope.codec import encode_envelope
from xml_pipeline.envelope.model import API, Envelope, Kind, Outcome, Output, Turn
from xml_pipeline.organism.model import Organism
from xml_pipeline.routing.items import Inject, Item, Overdue, TurnReport
from xml_pipeline.routing.transaction import BatchConflict, route
from xml_pipeline.routing.windows import fill_windows
from xml_pipeline.storage.routing_rows import ListenerRow, ThreadRow

SPACE = UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")
THREADS = tuple(uuid5(SPACE, f"thread {n}") for n in range(3))
WINDOWS = {"ann": 1, "bob": 2, "tool": 2}
LAST_HOP = 3
MOST_TRIES = 30

ORGANISM: Organism = given.organism(
    given.listener("ann", peers=("ann", "bob", "tool"), attempts=3),
    given.listener("bob", peers=("ann", "tool"), attempts=2, accepts_errors=False),
    given.listener("tool", peers=("ann",), agent=False, attempts=2),
)


class Broken(AssertionError):
    """What may never be, was."""


@dataclass(eq=False, slots=True)
class Task:
    """One transaction on its way. `items` are acknowledged when it ends, and come again when it is killed."""

    steps: Coroutine[Any, Any, None]
    transaction: list[Transaction]
    items: tuple[Item, ...] = ()
    waits_for: Key | None = None


@dataclass(slots=True)
class World:
    """`chance` decides everything."""

    chance: Random
    shortcuts: frozenset[Shortcut] = frozenset()
    db: Database = field(default_factory=Database)
    tasks: list[Task] = field(default_factory=list)
    ingress: list[Item] = field(default_factory=list)
    injects: int = 0
    turns: int = 0
    deadlocks: int = 0
    ends: Counter[UUID] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        for thread in THREADS:
            self.db.rows["thread", thread] = ThreadRow(thread, "active", 0, 0, 0, (), None)
        for name, window in WINDOWS.items():
            agent = ORGANISM.listeners[name].is_agent
            self.db.rows["listener", name] = ListenerRow(name, agent, paused=False, window=window)

    def run(self, steps: int) -> None:
        """So many steps by chance, then everything to its end. Raises Broken."""
        try:
            for _ in range(steps):
                self._step()
            self._finish()
        finally:
            for task in self.tasks:
                task.steps.close()

    def _step(self) -> None:
        actions = [self._advance] * 6 + [self._route, self._work, self._inject]
        rare = [self._sweep, self._sweep, self._kill, self._pause, self._crash, self._lose]
        self.chance.choice(actions * 3 + rare)()

    # What moves

    def _advance(self) -> None:
        free = [task for task in self.tasks if self._may_go_on(task)]
        if free:
            self._go_on(self.chance.choice(free))
        elif self.tasks:
            self._break_deadlock()

    def _may_go_on(self, task: Task) -> bool:
        holder = None if task.waits_for is None else self.db.locks.get(task.waits_for)
        return holder is None or holder is task.transaction[-1]

    def _go_on(self, task: Task) -> None:
        try:
            point = task.steps.send(None)
        except StopIteration:
            self.tasks.remove(task)
            self._check_commit()
        else:
            task.waits_for = point.key if isinstance(point, Blocked) else None

    def _break_deadlock(self) -> None:
        self.deadlocks += 1
        task = self.chance.choice(self.tasks)
        task.waits_for = None
        point = task.steps.throw(Deadlock())
        task.waits_for = point.key if isinstance(point, Blocked) else None

    def _begin(self, make: Any, items: tuple[Item, ...] = ()) -> None:
        transactions: list[Transaction] = []
        self.tasks.append(Task(make(transactions), transactions, items))

    # Routers

    def _route(self) -> None:
        routers = sum(bool(task.items) for task in self.tasks)
        if routers >= 2 or not self.ingress:
            return
        self.chance.shuffle(self.ingress)
        most = self.chance.randint(1, 5)
        items, self.ingress = tuple(self.ingress[:most]), self.ingress[most:]
        self._begin(lambda transactions: self._batch(items, transactions), items)

    async def _batch(self, items: tuple[Item, ...], transactions: list[Transaction]) -> None:
        for _ in range(MOST_TRIES):
            store = ModelStore(self.db, self.shortcuts)
            transactions.append(store.transaction)
            try:
                await route(store, items, ORGANISM, given.TagCheck())
            except (BatchConflict, UniqueViolation, Deadlock):
                store.transaction.roll_back()
            else:
                store.transaction.commit()
                return
        raise Broken("a batch never gets through")

    def _sweep(self) -> None:
        if Shortcut.RELEASE_ON_TURNS_ONLY not in self.shortcuts:
            self._begin(self._fill)
        untaken = [row.id for row in self.db.table("inbox").values() if not row.taken]
        self.ingress += [Inject(id_) for id_ in untaken]

    async def _fill(self, transactions: list[Transaction]) -> None:
        store = ModelStore(self.db, self.shortcuts)
        transactions.append(store.transaction)
        try:
            await fill_windows(store, tuple(WINDOWS), ORGANISM)
            store.transaction.commit()
        except Deadlock:
            store.transaction.roll_back()

    def _crash(self) -> None:
        """A router dies: before its commit, or after it and before it could publish or acknowledge anything."""
        dying = [task for task in self.tasks if task.items]
        if not dying:
            return
        task = self.chance.choice(dying)
        task.steps.close()
        task.transaction[-1].roll_back() if task.transaction else None
        self.tasks.remove(task)
        self.ingress += task.items

    # Workers: whatever is out is handled, perhaps again, perhaps otherwise

    def _work(self) -> None:
        out = self._out()
        if out:
            self._handle(self.chance.choice(out))

    def _handle(self, stored: Stored) -> None:
        self.turns += 1
        id_ = uuid5(SPACE, f"turn {self.turns}")
        outcome = self.chance.choices((Outcome.OK, Outcome.ERROR), (5, 1))[0]
        outputs = self._outputs(stored) if outcome is Outcome.OK else ()
        turn = TurnReport(Turn(id_, stored.new.id, stored.attempt, outcome, outputs))
        self.ingress += [turn] * self.chance.choice((1, 1, 2))

    def _outputs(self, stored: Stored) -> tuple[Output, ...]:
        name = stored.new.to_id
        answer = given.respond(given.reply(name))
        if stored.new.hop >= LAST_HOP or stored.new.kind != "request":
            return self.chance.choice(((answer,), (answer,), ()))
        peers = ORGANISM.listeners[name].peers
        asks = tuple(given.ask(self.chance.choice(peers)) for _ in range(self.chance.randint(1, 2)))
        wrong = Output(Kind.REQUEST, "nobody", b"<wrong/>")
        return self.chance.choice((asks, asks, (answer,), (*asks, answer), (wrong,), ()))

    def _lose(self) -> None:
        out = self._out()
        if out:
            stored = self.chance.choice(out)
            self.ingress.append(Overdue(stored.new.id, stored.attempt))

    def _out(self) -> list[Stored]:
        return [stored for stored in messages_of(self.db.rows) if stored.state == "out"]

    # Gateways

    def _inject(self) -> None:
        if self.injects >= 7:
            return
        self.injects += 1
        id_ = uuid5(SPACE, f"inject {self.injects}")
        thread, to = self.chance.choice(THREADS), self.chance.choice(("ann", "bob"))
        self._begin(lambda transactions: self._accept(id_, thread, to, transactions))

    async def _accept(self, id_: UUID, thread: UUID, to: str, transactions: list[Transaction]) -> None:
        transaction = Transaction(self.db)
        transactions.append(transaction)
        rows = await transaction.statement()
        key = ("thread", thread)
        row = rows[key]
        if Shortcut.INJECT_WITHOUT_THREAD_LOCK not in self.shortcuts:
            row = await transaction.lock(key)
        if row.status == "killed":
            transaction.roll_back()
            return
        await transaction.statement()
        await transaction.lock(("inbox", id_))
        body = encode_envelope(Envelope(API, to, thread, given.question(to)))
        transaction.writes["inbox", id_] = new_inbox_row(id_, thread, to, body)
        await transaction.lock(key)
        transaction.writes[key] = replace(row, open=row.open + 1, status="active")
        transaction.commit()
        self.ingress += [Inject(id_)] * self.chance.choice((0, 1, 1, 2))

    def _kill(self) -> None:
        if self.chance.random() < 0.1:
            thread = self.chance.choice(THREADS)
            self._begin(lambda transactions: self._end(thread, transactions))

    async def _end(self, thread: UUID, transactions: list[Transaction]) -> None:
        transaction = Transaction(self.db)
        transactions.append(transaction)
        await transaction.statement()
        await transaction.lock(("thread", thread))
        rows = await transaction.statement()
        mine = [("message", stored.new.id) for stored in messages_of(rows) if stored.new.thread_id == thread]
        killed = {"state": "closed", "outcome": "killed"}
        await transaction.update(rows, mine, lambda row: row.state != "closed", lambda row: replace(row, **killed))
        rows = await transaction.statement()
        inbox = [key for key, row in rows.items() if key[0] == "inbox" and row.thread_id == thread]
        await transaction.update(rows, inbox, lambda row: not row.taken, lambda row: replace(row, taken=True))
        rows = await transaction.statement()
        transaction.writes["thread", thread] = replace(rows["thread", thread], open=0, status="killed")
        transaction.commit()

    def _pause(self) -> None:
        name, paused = self.chance.choice(tuple(WINDOWS)), self.chance.choice((True, False))
        self._begin(lambda transactions: self._set_paused(name, paused, transactions))

    async def _set_paused(self, name: str, paused: bool, transactions: list[Transaction]) -> None:
        transaction = Transaction(self.db)
        transactions.append(transaction)
        rows = await transaction.statement()
        await transaction.update(rows, [("listener", name)], lambda _: True, lambda row: replace(row, paused=paused))
        transaction.commit()

    # To the end, and what has to hold

    def _finish(self) -> None:
        """Resume everybody, then go on fairly until nothing moves any more."""
        self._drain()
        for name in WINDOWS:
            self._begin(lambda transactions, name=name: self._set_paused(name, False, transactions))
        for _ in range(400):
            self._drain()
            self._sweep()
            self._drain()
            out = self._out()
            if not out and not self.ingress:
                break
            for stored in out:
                self._handle(stored)
        self._check_end()

    def _drain(self) -> None:
        while self.tasks or self.ingress:
            self._route()
            self._advance()

    def _check_commit(self) -> None:
        messages = messages_of(self.db.rows)
        out = Counter(stored.new.to_id for stored in messages if stored.state == "out")
        if any(out[name] > window for name, window in WINDOWS.items()):
            raise Broken(f"beyond a window: {out}")
        open_ = Counter(stored.new.thread_id for stored in messages if stored.state != "closed")
        open_.update(row.thread_id for row in self.db.table("inbox").values() if not row.taken)
        for thread in self.db.table("thread").values():
            if thread.open != open_[thread.id]:
                raise Broken(f"{thread.open} counted as open, {open_[thread.id]} are")
            if (thread.status == "active") != (thread.open > 0) and thread.slots > 0 and thread.status != "killed":
                raise Broken(f"{thread.status} with {thread.open} open")

    def _check_end(self) -> None:
        messages = messages_of(self.db.rows)
        if stuck := [stored.state for stored in messages if stored.state != "closed"]:
            raise Broken(f"never ended: {stuck}")
        if any(not row.taken for row in self.db.table("inbox").values()):
            raise Broken("an inject was never taken")
        killed = {thread.id for thread in self.db.table("thread").values() if thread.status == "killed"}
        answers = Counter(stored.new.answers for stored in messages)
        for call in self.db.table("call").values():
            if answers[call.id] > 1:
                raise Broken("a call was answered twice")
            if call.thread_id not in killed and (call.open or call.pending or (call.awaited and not call.answered)):
                raise Broken(f"a call is left over: {call}")
        for thread in self.db.table("thread").values():
            if thread.slots != sum(stored.new.thread_id == thread.id for stored in messages):
                raise Broken("slots have holes")
