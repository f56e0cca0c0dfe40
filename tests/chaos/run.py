"""One run: start, load, strike, heal, go on, drain, check."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import asyncpg

from tests.chaos.checker import Allowed, Verdict, check
from tests.chaos.crew import COUNTS, Crew, Place, Wire, as_usual
from tests.chaos.facts import depths, read_facts_now
from tests.chaos.ground import Ground, make_organism, queues_of
from tests.support.broker import unique_organism
from tests.support.fleet import ROOT, Fleet
from tests.support.processes import end, spawn, tail
from xml_pipeline.audit.closing import close_books
from xml_pipeline.storage.database import Database

DRAIN_SECONDS = 150.0
BEFORE_SECONDS = 4.0
AFTER_SECONDS = 6.0


@dataclass(slots=True)
class Stage:
    """What a fault finds on it. `healed_at` and `struck_at` are times of day; a fault may set them itself."""

    ground: Ground
    organism: str
    folder: Path
    database_url: str
    amqp_url: str
    chance: Random
    crew: Crew
    wire: Wire
    struck_at: float = 0.0
    healed_at: float = 0.0
    notes: list[str] = field(default_factory=list)
    shortcomings: list[str] = field(default_factory=list)  # what a fault itself found wrong
    spared: frozenset[int] = frozenset()  # the numbers of places that no fault may touch

    def require(self, count: int, what: str) -> None:
        """A fault says what it has done; one that did nothing has not been tried."""
        self.notes.append(f"{count} {what}")
        if count == 0:
            self.shortcomings.append(f"the fault had no effect: 0 {what}")

    def victims(self, name: str) -> list[Place]:
        """The services of this name that a fault may break."""
        return [place for place in self.crew.of(name) if place.number not in self.spared]

    def victim(self, name: str) -> Place:
        """Any of them."""
        return self.chance.choice(self.victims(name))

    def ask(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Ask the database, on a connection of its own."""
        return asyncio.run(self._ask(query, arguments))

    async def _ask(self, query: str, arguments: tuple[object, ...]) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.database_url, timeout=10)
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()

    def count(self, query: str, *arguments: object) -> int:
        """A number from the database."""
        return int(self.ask(query, *arguments)[0][0])


Strike = Callable[[Stage], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens to an organism. `strike` is entered to break it, and left to heal it.

    `promise` is what people read; `target` is the seconds after which the first turn has to be closed again.
    """

    name: str
    promise: str
    strike: Strike
    hold: float = 0.0  # seconds between breaking and healing
    target: float = 5.0
    allowed: Allowed = field(default_factory=Allowed)
    wire: Callable[[Ground, Random], AbstractContextManager[Wire]] | None = None
    short: bool = False
    patience: float = DRAIN_SECONDS


@dataclass(slots=True)
class Report:
    """What became of one run. Times in seconds; `recovery`: from the heal to the first turn closed after it."""

    fault: str
    seed: int
    verdict: Verdict
    target: float
    recovery: float | None
    gap: float | None
    drain: float | None
    outage: float  # from the strike to the heal
    restarts: int
    seconds: float
    rate: float
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Everything kept, everything ended, and soon enough."""
        return self.verdict.passed and self.drain is not None and self.in_time

    @property
    def in_time(self) -> bool:
        """The first turn came soon after the heal, and nothing stood still for longer than that beside the outage."""
        if self.recovery is None or self.gap is None:
            return False
        return self.recovery <= self.target and self.gap <= self.outage + self.target


class Load:
    """The clients, as a process."""

    def __init__(self, stage: Stage, rate: float, seed: int) -> None:
        self.history = stage.folder / "history.jsonl"
        self.rate = rate
        self._log = stage.folder / "clients.log"
        options = ["--history", str(self.history), "--rate", str(rate), "--seed", str(seed), "--name", stage.organism]
        command = [sys.executable, "-m", "tests.chaos.clients", *options, *stage.crew.urls]
        self._process: subprocess.Popen[bytes] = spawn(command, env=dict(os.environ), cwd=ROOT, log=self._log)

    def stop(self, crew: Crew, limit: float) -> None:
        """No new requests; wait for those under way."""
        self._process.send_signal(signal.SIGTERM)
        crew.wait_for(lambda: self._process.poll() is not None, limit=limit)
        if self._process.poll() != 0:
            self.close()
            raise RuntimeError(f"the clients did not end: {tail(self._log)}")

    def close(self) -> None:
        """End it at once."""
        end(self._process, grace=2.0)


def run_fault(ground: Ground, fault: Fault, seed: int, rate: float, folder: Path) -> Report:
    """One run from a fresh organism to its verdict."""
    began = time.monotonic()
    chance = Random(f"{fault.name} {seed}")
    organism = unique_organism("chaos")
    folder.mkdir(parents=True)
    file = make_organism(organism, folder / "organism")
    database_url = ground.databases.create_database()
    with wired(ground, fault, chance) as wire:
        fleet = Fleet(file, ground.broker.amqp_url, database_url, folder, environment_of(folder))
        try:
            crew = Crew(fleet, wire, COUNTS)
            fleet.wait_running(90.0)
            stage = Stage(ground, organism, folder, database_url, ground.broker.amqp_url, chance, crew, wire)
            return _perform(stage, fault, seed, rate, began)
        finally:
            fleet.stop()
            ground.databases.drop(database_url)


def wired(ground: Ground, fault: Fault, chance: Random) -> AbstractContextManager[Wire]:
    """How the services are started."""
    return nullcontext(as_usual) if fault.wire is None else fault.wire(ground, chance)


def environment_of(folder: Path) -> dict[str, str]:
    """The variables of all services."""
    return {
        "ORGANISM_LLM_LOG": str(folder / "answered.jsonl"),
        "ORGANISM_LOG_LEVEL": "info",
        "ORGANISM_WORKER_PROCESSES": "1",
        "PYTHONPATH": str(ROOT),
    }


def _perform(stage: Stage, fault: Fault, seed: int, rate: float, began: float) -> Report:
    load = Load(stage, rate, seed)
    try:
        stage.crew.wait(BEFORE_SECONDS)
        _strike(stage, fault)
        stage.crew.wait(AFTER_SECONDS)
        load.stop(stage.crew, limit=120.0)
        stopped = time.time()
        drained = _drain(stage, fault.patience)
    finally:
        load.close()
    _settle(stage)
    stage.crew.end()
    return _judge(stage, fault, load, seed, stopped if drained else None, began)


def _strike(stage: Stage, fault: Fault) -> None:
    stage.struck_at = time.time()
    with fault.strike(stage):
        stage.crew.wait(fault.hold)
    stage.healed_at = max(stage.healed_at or time.time(), stage.struck_at)


_OPEN = """
select (select count(*) from threads where open <> 0) + (select count(*) from holds where state = 'held')
"""


def _drain(stage: Stage, limit: float) -> bool:
    """Until nothing is open; whether it came to that within `limit` seconds."""
    return stage.crew.wait_for(lambda: stage.count(_OPEN) == 0, limit=limit, interval=0.25)


_TURNS = "select count(*) from turns"


def _settle(stage: Stage) -> None:
    """Until queues are empty and no turn comes any more: what ran twice has to have its end, too."""
    before = -1

    def still() -> bool:
        nonlocal before
        turns, before = before, stage.count(_TURNS)
        return turns == before and not any(depths(stage.amqp_url, queues_of(stage.organism)).values())

    stage.crew.wait_for(still, limit=15.0, interval=1.0)


def _judge(stage: Stage, fault: Fault, load: Load, seed: int, stopped: float | None, began: float) -> Report:
    """`stopped`: when the load had ended, None where it was never drained."""
    answered = stage.folder / "answered.jsonl"
    queues, crashes = queues_of(stage.organism), stage.crew.crashes
    facts = read_facts_now(stage.database_url, stage.amqp_url, queues, load.history, answered, crashes)
    verdict = check(facts, fault.allowed)
    verdict.off += [*stage.shortcomings, *asyncio.run(audited(stage.database_url))]
    (stage.folder / "expired.txt").write_text("".join(f"{line}\n" for line in verdict.expired_rows))
    return Report(
        fault=fault.name,
        seed=seed,
        verdict=verdict,
        target=fault.target,
        recovery=_first_closed(stage),
        gap=_longest_gap(stage),
        drain=None if stopped is None else max(0.0, _last_closed(stage) - stopped),
        outage=stage.healed_at - stage.struck_at,
        restarts=stage.crew.restarts,
        seconds=time.monotonic() - began,
        rate=load.rate,
        notes=stage.notes,
    )


async def audited(database_url: str) -> list[str]:
    """What differs when the books are closed."""
    db = Database.connect(database_url, pool_size=1, application_name="chaos-audit", command_timeout=None)
    try:
        audit = await close_books(db)
    finally:
        await db.close()
    return [f"audit: {one.check}: {one.key}: {one.expected} expected, {one.found} found" for one in audit.differences]


def failed(fault: Fault, seed: int, rate: float, reason: str) -> Report:
    """A run that came to no verdict."""
    return Report(fault.name, seed, Verdict(off=[reason]), fault.target, None, None, None, 0.0, 0, 0.0, rate)


_HANDLED = "from messages where outcome = 'handled' and closed_at > to_timestamp($1)"
_FIRST = f"select extract(epoch from min(closed_at))::float8 {_HANDLED}"  # noqa: S608 - no input of anybody
_GAP = f"""
select extract(epoch from max(gap))::float8
from (select closed_at - lag(closed_at, 1, to_timestamp($1)) over (order by closed_at) as gap {_HANDLED}) gaps
"""  # noqa: S608 - no input of anybody
_LAST = "select extract(epoch from max(closed_at))::float8 from messages"


def _first_closed(stage: Stage) -> float | None:
    """Seconds from the heal to the first turn that closed a message after it."""
    at = stage.ask(_FIRST, stage.healed_at)[0][0]
    return None if at is None else float(at) - stage.healed_at


def _longest_gap(stage: Stage) -> float | None:
    """The longest time in seconds, from the strike on, in which no turn closed anything."""
    gap = stage.ask(_GAP, stage.struck_at)[0][0]
    return None if gap is None else float(gap)


def _last_closed(stage: Stage) -> float:
    return float(stage.ask(_LAST)[0][0] or 0.0)
