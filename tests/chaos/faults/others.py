"""What needs nothing to die: events that come again, queues that go, handlers that block, clocks that are wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from random import Random

import aio_pika
import httpx
from aio_pika.abc import AbstractIncomingMessage

from tests.chaos.checker import Allowed
from tests.chaos.clients import TARGETS
from tests.chaos.crew import Wire, Wiring, broken
from tests.chaos.facts import depths
from tests.chaos.ground import Ground
from tests.chaos.history import Entry, History, Told
from tests.chaos.run import Fault, Stage
from tests.chaos.tools.clock import faketime_environment, remove_leftovers
from tests.support.processes import SupportError
from xml_pipeline.message_bus.messages import UsageEvent
from xml_pipeline.message_bus.topology import Names

REPEATED_EVENTS = 40
TIMES = 100
BLOCKERS = 2
_BLOCKED = "select count(*) from messages where to_id = 'blocker' and outcome = 'failed'"
CALLS_UNDER_WAY = 15
# At most so many seconds before each statement of a router's transactions.
SLOW = 0.06
HOUR = 3600.0


@contextmanager
def wrong_clocks(ground: Ground, chance: Random) -> Iterator[Wire]:
    """The first of each service has a clock that is an hour off, one way or the other."""

    def how(name: str, number: int) -> Wiring:
        if number != 0:
            return Wiring()
        environment = faketime_environment(chance.choice((-HOUR, HOUR)))
        if environment is None:
            raise SupportError("this fault needs libfaketime: install the package libfaketime")
        return Wiring(environment)

    try:
        yield how
    finally:
        remove_leftovers()


@contextmanager
def nothing(stage: Stage) -> Iterator[None]:
    """The load alone."""
    yield


@contextmanager
def slow_routers(ground: Ground, chance: Random) -> Iterator[Wire]:
    """Routers pause at random between their statements, so that they come in between each other's."""
    yield lambda name, number: broken("--slow", str(SLOW)) if name == "router" else Wiring()


_SETTLED = """
select call_id, message_id, granted_at, model, provider, prompt_tokens, completion_tokens,
       latency_us / 1000.0 as latency_ms
from usage_events where kind = 'measured' order by granted_at desc limit $1
"""


@contextmanager
def usage_repeated(stage: Stage) -> Iterator[None]:
    """Events that were booked come a hundred times more, shuffled."""
    rows = stage.ask(_SETTLED, REPEATED_EVENTS)
    events = [
        UsageEvent(**{**row, "latency_ms": float(row["latency_ms"])}).model_dump_json().encode()
        for row in map(dict, rows)
        for _ in range(TIMES)
    ]
    stage.chance.shuffle(events)
    asyncio.run(_publish(stage, Names(stage.organism).usage, events))
    stage.healed_at = time.time()
    stage.require(len(rows), f"events came {TIMES} times more")
    yield


async def _publish(stage: Stage, queue: str, bodies: Sequence[bytes]) -> None:
    connection = await aio_pika.connect(stage.amqp_url)
    async with connection:
        channel = await connection.channel(publisher_confirms=True)
        for body in bodies:
            await channel.default_exchange.publish(aio_pika.Message(body), routing_key=queue)


@contextmanager
def usage_queue_missing(stage: Stage) -> Iterator[None]:
    """The ledger dies while calls are under way, and its queue is deleted: their usage finds no queue.

    What was in the queue comes back with it, so that whatever is lost was lost by a publisher.
    """
    queue = Names(stage.organism).usage
    _inject_some(stage, "slow", CALLS_UNDER_WAY)
    stage.crew.wait(0.5)
    with stage.crew.gone(stage.victims("usage"), at_once=True):
        kept = asyncio.run(_taken_and_deleted(stage, queue))
        stage.crew.wait(4.0)
    stage.crew.wait_for(lambda: _exists(stage, queue), limit=20.0)
    stage.healed_at = time.time()
    asyncio.run(_publish(stage, queue, kept))
    yield


async def _taken_and_deleted(stage: Stage, name: str) -> list[bytes]:
    """A consumer takes all there is while the queue is deleted: a quorum queue cannot be deleted only when empty."""
    connection = await aio_pika.connect(stage.amqp_url)
    kept: list[bytes] = []

    async def keep(message: AbstractIncomingMessage) -> None:
        kept.append(message.body)

    async with connection:
        taking, deleting = await connection.channel(), await connection.channel()
        await (await taking.get_queue(name)).consume(keep, no_ack=True)
        await asyncio.sleep(0.2)
        deleted = await deleting.queue_delete(name)
        await asyncio.sleep(0.2)
    stage.notes.append(f"{len(kept)} messages kept")
    if deleted.message_count:
        stage.shortcomings.append(f"the fault itself lost {deleted.message_count} messages with the queue")
    return kept


def _exists(stage: Stage, queue: str) -> bool:
    return depths(stage.amqp_url, [queue])[queue] >= 0


@contextmanager
def handlers_block(stage: Stage) -> Iterator[None]:
    """Some handlers hold up their event loops for a minute."""
    _inject_some(stage, "block", BLOCKERS)
    stage.healed_at = time.time()
    yield
    stage.require(stage.count(_BLOCKED), "handlers blocked and were ended")


def _inject_some(stage: Stage, what: str, count: int) -> None:
    """Requests beside those of the clients, in the same history, all at once."""
    with History(stage.folder / "history.jsonl") as history, ThreadPoolExecutor(count) as pool:
        for _ in range(count):
            topic = f"{stage.organism}-{what}-{stage.chance.getrandbits(64):x}-"
            pool.submit(_inject, stage.crew.urls[-1], history, what, topic)


def _inject(url: str, history: History, what: str, topic: str) -> None:
    history.write(Entry(Told.INVOKE, what, topic, topic))
    body = {"to": TARGETS[what], "payload": {"topic": topic}}
    try:
        answer = httpx.post(f"{url}/api/v1/inject", json=body, timeout=10.0)
    except httpx.TransportError:
        history.write(Entry(Told.UNKNOWN, what, topic, topic))
        return
    if not answer.is_success:
        told = Told.UNKNOWN if answer.is_server_error else Told.FAIL
        history.write(Entry(told, what, topic, topic, status=answer.status_code))
        return
    ids = answer.json()
    history.write(Entry(Told.OK, what, topic, topic, ids["threadId"], ids["messageId"]))


FAULTS = (
    Fault(
        "calm",
        "Nothing happens: what the others are held against",
        nothing,
        hold=4.0,
        allowed=Allowed(twice=False, errors=False),
    ),
    Fault(
        "slow-routers",
        "Two routers that come in between each other's statements: whatever their order, nothing is lost or doubled",
        nothing,
        hold=12.0,
        wire=slow_routers,
        short=True,
    ),
    Fault(
        "clocks-wrong",
        "One of each service with its clock an hour off: deadlines and holds are by the database's clock",
        nothing,
        hold=20.0,
        wire=wrong_clocks,
    ),
    Fault(
        "usage-repeated",
        "A usage event that comes a hundred times, shuffled, is booked once",
        usage_repeated,
        hold=2.0,
    ),
    Fault(
        "usage-queue-missing",
        "A publish that finds no queue is published again, not taken for delivered",
        usage_queue_missing,
        hold=2.0,
    ),
    Fault(
        "handlers-block",
        "A handler that blocks its event loop for a minute ends alone: what ran beside it runs again",
        handlers_block,
        hold=15.0,
        target=10.0,  # 5 s until a blocked event loop is ended, and a new process
        allowed=Allowed(expired=True),
    ),
)
