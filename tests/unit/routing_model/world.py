"""Routers, workers, gateways and usage services, interleaved as chance wills; each of them may die at each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from tests.unit.routing_model import invariants
from tests.unit.routing_model.broker import INGRESS, USAGE, Broker
from tests.unit.routing_model.chance import Chance
from tests.unit.routing_model.clients import Clients, Gateway, Request
from tests.unit.routing_model.database import Database
from tests.unit.routing_model.invariants import Answered, Broken
from tests.unit.routing_model.ledger import Ledger, books_on_the_model
from tests.unit.routing_model.operators import Operator
from tests.unit.routing_model.organism import ORGANISM, THREADS, WINDOWS
from tests.unit.routing_model.router import Router
from tests.unit.routing_model.rows import Shortcuts, Stored, messages_of
from tests.unit.routing_model.scheduler import Scheduler
from tests.unit.routing_model.worker import Provider, Worker, usage_event
from xml_pipeline.envelope.model import Outcome, Turn
from xml_pipeline.message_bus.messages import UsageEvent
from xml_pipeline.routing.items import Returned, TurnReport
from xml_pipeline.storage.ledger_rows import HoldState
from xml_pipeline.storage.routing_rows import ListenerRow

MOST_WORKERS = 4
MOST_GATEWAYS = 2
# Seconds: less than any wait, more than some, more than all of them.
TICKS = (0.5, 2.0, 5.0, 60.0)
ROUNDS = 200

Move = Callable[[], None]


@dataclass(slots=True)
class World:
    """`tape` decides everything."""

    tape: bytes
    shortcuts: Shortcuts = frozenset()
    db: Database = field(default_factory=Database)
    provider: Provider = field(default_factory=Provider)
    started: int = 0
    chance: Chance = field(init=False)
    broker: Broker = field(init=False)
    clients: Clients = field(init=False)
    scheduler: Scheduler = field(init=False)
    routers: list[Router] = field(init=False)
    ledgers: list[Ledger] = field(init=False)

    def __post_init__(self) -> None:
        self.chance = Chance(self.tape)
        self.broker = Broker(self.chance)
        self.clients = Clients(self.chance)
        self.scheduler = Scheduler(self.db, self.chance, forgiving=bool(self.shortcuts))
        parts = (self.db, self.broker, self.chance, self.shortcuts)
        self.routers = [Router(f"router {number}", *parts) for number in (1, 2)]
        self.ledgers = [Ledger(f"usage {number}", *parts) for number in (1, 2)]
        for name, window in WINDOWS.items():
            agent = ORGANISM.listeners[name].is_agent
            self.db.put({("listener", name): ListenerRow(name, agent, paused=False, window=window)})
        self.db.changes.clear()

    def run(self) -> None:
        """As far as the tape goes, then everything to its end. Raises Broken, with the story of how it came to it."""
        moves = self._moves()
        try:
            with books_on_the_model():
                while self.chance.next_move():
                    self.chance.pick(moves)()
                self._finish()
        except Exception as error:
            error.add_note(f"What happened:\n{self.scheduler.trace}")
            raise
        finally:
            self.scheduler.close()

    def _moves(self) -> Sequence[Move]:
        usual = [self.scheduler.advance] * 16 + [self._route, self._work, self._inject, self._book, self._book]
        rare = [self._tick, self._sweep, self._sweep, self._expire, self._redrive, self._seldom, self._seldom]
        return [self._rest, *usual * 4, *rare]

    def _rest(self) -> None:
        """The dullest move."""

    def _seldom(self) -> None:
        usual = [self._crash] * 6 + [self._pause] * 2 + [self._top_up] * 3
        rare = [self._reset, self._purge, self._return, self._stray, self._forge, self._kill, self._delete]
        self.chance.pick([self._rest, *usual, *rare])()

    # What the processes take up

    def _route(self) -> None:
        router = self.chance.pick(self.routers)
        if self.broker.queues[INGRESS] and not self.scheduler.is_busy(router.name, "route"):
            self.scheduler.begin(router.name, "route", router.batch())

    def _sweep(self) -> None:
        router = self.chance.pick(self.routers)
        if not self.scheduler.is_busy(router.name, "sweep"):
            self.scheduler.begin(router.name, "sweep", router.sweep())

    def _book(self) -> None:
        ledger = self.chance.pick(self.ledgers)
        if self.broker.queues[USAGE] and not self.scheduler.is_busy(ledger.name, "book"):
            self.scheduler.begin(ledger.name, "book", ledger.batch())

    def _expire(self) -> None:
        ledger = self.chance.pick(self.ledgers)
        if not self.scheduler.is_busy(ledger.name, "expire holds"):
            self.scheduler.begin(ledger.name, "expire holds", ledger.sweep())

    def _work(self) -> None:
        waiting = [name for name in WINDOWS if self.broker.queues[name]]
        if waiting and self.scheduler.count("handle") < MOST_WORKERS:
            worker = Worker(self._new("worker"), self.broker, self.chance, self.provider)
            listener = self.chance.pick(waiting)
            self.scheduler.begin(worker.name, "handle", worker.handle(listener), listener)

    def _inject(self) -> None:
        if self.scheduler.count("accept") < MOST_GATEWAYS and (self.clients.wait() or self.chance.happens(10)):
            self._accept(self.clients.some())

    def _accept(self, requests: Sequence[Request]) -> None:
        self.scheduler.begin(self._new("gateway"), "accept", self._gateway().accept(requests), *requests)

    def _kill(self) -> None:
        if self.chance.happens(25):
            thread = self.chance.pick(THREADS)
            self.scheduler.begin(self._new("gateway"), "kill", self._operator().kill(thread), thread)

    def _pause(self) -> None:
        self._set_paused(self.chance.pick(tuple(WINDOWS)), self.chance.pick((False, True)))

    def _set_paused(self, name: str, paused: bool) -> None:
        what = "pause" if paused else "resume"
        self.scheduler.begin(self._new("gateway"), what, self._operator().pause(name, paused), name)

    def _top_up(self) -> None:
        if parked := self._parked():
            self._top_up_one(self.chance.pick(parked).new.thread_id, self.chance.pick((10, 60)))

    def _top_up_one(self, budget: UUID, tokens: int) -> None:
        self.scheduler.begin(self._new("gateway"), "top up", self._operator().top_up(budget, tokens), budget)

    def _parked(self) -> list[Stored]:
        return [row for row in messages_of(self.db.view()) if row.parked_for is not None]

    def _reset(self) -> None:
        self.scheduler.begin(self._new("gateway"), "reset the usage", self._operator().reset_usage())

    def _redrive(self) -> None:
        if letters := self._letters():
            self._redrive_one(self.chance.pick(letters))

    def _redrive_one(self, letter: UUID) -> None:
        self.scheduler.begin(self._new("gateway"), "redrive", self._operator().redrive(letter), letter)

    def _delete(self) -> None:
        if letters := self._letters():
            letter = self.chance.pick(letters)
            self.scheduler.begin(self._new("gateway"), "delete", self._operator().delete(letter), letter)

    def _letters(self) -> list[UUID]:
        return list(self.db.view().table("letter"))

    def _operator(self) -> Operator:
        return Operator(self.db, self.broker, self.clients, self.shortcuts)

    def _gateway(self) -> Gateway:
        return Gateway(self.db, self.broker, self.clients, self.shortcuts)

    def _new(self, kind: str) -> str:
        self.started += 1
        return f"{kind} {self.started}"

    # What comes over them

    def _tick(self) -> None:
        seconds = self.chance.pick(TICKS)
        self.db.clock += seconds
        self.scheduler.trace.add("the clock", f"moves by {seconds} s")

    def _crash(self) -> None:
        if not self.scheduler.tasks:
            return
        owner = self.scheduler.pick(self.scheduler.tasks).owner
        self.scheduler.kill(owner)
        self.broker.gone(owner)
        for router in self.routers:
            if router.name == owner:
                router.unnoted = []

    def _purge(self) -> None:
        queue = self.chance.pick((*WINDOWS, INGRESS, USAGE))
        self.scheduler.trace.add("somebody", "purges the queue", queue, *self.broker.queues[queue])
        self.broker.purge(queue)

    def _return(self) -> None:
        """The broker dead-letters an assignment."""
        queue = self.chance.pick(tuple(WINDOWS))
        for delivery in self.broker.queues[queue][:1]:
            self.scheduler.trace.add("the broker", "gives up", delivery)
            self.broker.queues[queue].remove(delivery)
            self.broker.queues[INGRESS].append(Returned(delivery.released.id, delivery.released.attempt))

    def _stray(self) -> None:
        """Usage of a call that no hold is known of, of which two workers say that it is of their message."""
        messages = messages_of(self.db.view())
        if messages:
            call = self.provider.new_id("call")
            self.provider.without_hold[call] = used = Answered(3, 4)
            self.db.strayed.add(call)
            for _ in range(2):
                message = self.chance.pick(messages).new.id
                self.broker.deliver(USAGE, usage_event(call, message, self.db.now, used))

    def _forge(self) -> None:
        """A turn of a message that perhaps nobody was given."""
        messages = messages_of(self.db.view())
        if messages:
            message = self.chance.pick(messages).new.id
            turn = Turn(self.provider.new_id("turn"), message, 1, self.chance.pick((Outcome.OK, Outcome.ERROR)))
            self.broker.deliver(INGRESS, TurnReport(turn))

    # To the end

    def _finish(self) -> None:
        """The tape is over. Resume everybody, go on fairly until nothing moves any more; redrive; once more."""
        self._drain()
        for name in WINDOWS:
            self._set_paused(name, False)
        self._come_to_rest()
        for letter in self._letters():
            self._redrive_one(letter)
        self._come_to_rest()

    def _come_to_rest(self) -> None:
        for _ in range(ROUNDS):
            self._round()
            if self._is_quiet():
                break
        self._check_end()

    def _round(self) -> None:
        if again := self.clients.unanswered():
            self._accept(again)
        self._make_room()
        self._drain()
        self._sweep()
        self.scheduler.complete()
        invariants.check_filled(self.db)
        self._expire()
        self._drain()
        self.db.clock += TICKS[-1]

    def _make_room(self) -> None:
        """What is parked waits for ever otherwise."""
        view = self.db.view()
        for row in self._parked():
            for budget in (row.new.thread_id, *view.get("budget", row.new.thread_id).ancestors):
                self._top_up_one(budget, row.parked_for or 0)

    def _drain(self) -> None:
        while self.scheduler.tasks or not self.broker.idle:
            for take_up in (self._route, self._work, self._book):
                take_up()
            self.scheduler.advance_all()

    def _is_quiet(self) -> bool:
        view = self.db.view()
        held = any(hold.state is HoldState.HELD for hold in view.table("hold").values())
        open_ = any(row.state != "closed" for row in view.table("message").values())
        untaken = any(not row.taken for row in view.table("inbox").values())
        return not (held or open_ or untaken or self.clients.unanswered())

    def _check_end(self) -> None:
        if unanswered := self.clients.unanswered():
            raise Broken(f"clients that never get an answer: {unanswered}")
        promised = self.broker.promised
        turns = [one.turn.id for one in promised if isinstance(one, TurnReport)]
        used = [one.call_id for one in promised if isinstance(one, UsageEvent)]
        view = self.db.view()
        accepted = [id_ for id_, yes in self.clients.answers.items() if yes]
        invariants.check_end(self.db, accepted, self.scheduler.letters.values())
        invariants.check_promises(view, turns, used)
        invariants.check_usage(view, self.provider.answered, self.provider.without_hold)
        if any(hold.state is HoldState.HELD for hold in view.table("hold").values()):
            raise Broken("a hold that never ended")
