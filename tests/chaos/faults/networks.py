"""Connections that lie, break or go dark between services and their broker or database."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from tests.chaos.checker import Allowed
from tests.chaos.crew import Wire, Wiring
from tests.chaos.ground import Ground
from tests.chaos.run import Fault, Stage
from tests.chaos.tools.network import Island, can_isolate
from tests.chaos.tools.proxy.client import Proxy

# Of the services behind a proxy, the first of each kind; the others have the way that they always have.
BEHIND = 0
CONFIRMS = 40
EVERY_COMMIT = 7
BLACKNESS = 26.0
TWO_HEARTBEATS = 20.0


class Proxied:
    """The first of each service reaches broker and database by way of these proxies."""

    def __init__(self, broker: Proxy, database: Proxy) -> None:
        self.broker = broker
        self.database = database

    def __call__(self, name: str, number: int) -> Wiring:
        """How a service is started."""
        if number != BEHIND:
            return Wiring()
        return Wiring(broker=_place(self.broker), database=_place(self.database))


@contextmanager
def proxies(ground: Ground, chance: Random) -> Iterator[Wire]:
    """Proxies before broker and database."""
    with Proxy(ground.broker.amqp_url) as broker, Proxy(ground.databases.server.url()) as database:
        yield Proxied(broker, database)


def _proxied(stage: Stage) -> Proxied:
    if not isinstance(stage.wire, Proxied):
        raise TypeError("this fault needs services that are wired through proxies")
    return stage.wire


@contextmanager
def confirms_swallowed(stage: Stage) -> Iterator[None]:
    """The broker's confirms do not arrive; after some of them the connections are reset."""
    proxy = _proxied(stage).broker
    proxy.swallow_confirms(count=CONFIRMS)
    yield
    proxy.pass_through()
    stats = proxy.stats()
    stage.require(stats.swallowed_confirms, f"confirms swallowed, {stats.resets} connections reset")


@contextmanager
def commits_cut(stage: Stage) -> Iterator[None]:
    """Now and then a COMMIT arrives and its answer does not."""
    proxy = _proxied(stage).database
    proxy.cut_commits(every=EVERY_COMMIT, moment="after")
    yield
    proxy.pass_through()
    stats = proxy.stats()
    stage.require(stats.swallowed_commits, f"answers to COMMIT swallowed, {stats.resets} connections reset")


class Islanders:
    """The first of each service but the gateway, which clients have to reach, lives on an island."""

    def __init__(self, island: Island, ground: Ground) -> None:
        self.island = island
        self._broker = island.proxy_to(ground.broker.amqp_url)
        self._database = island.proxy_to(ground.databases.server.url())

    def __call__(self, name: str, number: int) -> Wiring:
        """How a service is started."""
        if number != BEHIND or name == "gateway":
            return Wiring()
        program = tuple(self.island.command([sys.executable]))
        return Wiring(program=program, broker=_place(self._broker), database=_place(self._database))


@contextmanager
def island(ground: Ground, chance: Random) -> Iterator[Wire]:
    """A network that the kernel can cut, where it may; else proxies that can pretend to."""
    if not can_isolate():
        with proxies(ground, chance) as wire:
            yield wire
        return
    with Island() as made:
        yield Islanders(made, ground)


@contextmanager
def black_hole(stage: Stage) -> Iterator[None]:
    """Nothing passes any more, and nothing is reset."""
    if isinstance(stage.wire, Islanders):
        stage.notes.append("packets dropped by the kernel")
        stage.wire.island.cut()
        yield
        stage.wire.island.heal()
        return
    stage.notes.append("connections held by proxies: this machine allows no network namespaces")
    both = (_proxied(stage).broker, _proxied(stage).database)
    for proxy in both:
        proxy.blackhole()
    yield
    for proxy in both:
        proxy.pass_through()


def _place(proxy: Proxy) -> str:
    return f"{proxy.host}:{proxy.port}"


FAULTS = (
    Fault(
        "confirms-swallowed",
        "Publisher confirms that never arrive, then a reset: what may have arrived is sent again, and counts once",
        confirms_swallowed,
        hold=12.0,
        allowed=Allowed(reruns=True),
        wire=proxies,
    ),
    Fault(
        "commit-answer-swallowed",
        "A COMMIT whose answer never arrives: what may be committed is found so, and done once",
        commits_cut,
        hold=12.0,
        wire=proxies,
        short=True,
    ),
    Fault(
        "black-hole",
        "Half of the services in a network that swallows everything: the other half goes on, and they come back",
        black_hole,
        hold=BLACKNESS,
        target=TWO_HEARTBEATS,
        allowed=Allowed(expired=True, reruns=True),
        wire=island,
    ),
)
