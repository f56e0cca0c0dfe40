"""The services of one run, supervised as compose would: what dies is started again, and no death goes unnoticed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit, urlunsplit

from tests.support.fleet import Fleet, Service
from tests.support.processes import SupportError, tail

COUNTS: Mapping[str, int] = {"gateway": 2, "router": 2, "usage": 2, "agent-worker": 2}
LOOK_SECONDS = 0.05
END_SECONDS = 30.0
# A service that dies at each start is not started for ever.
MOST_CRASHES = 5
_BUGS = ("-m", "tests.chaos.bugs")


@dataclass(slots=True)
class Place:
    """One of the services: what is started there again when it ends. `wiring` are its variables and its program."""

    name: str
    number: int
    wiring: Wiring
    service: Service
    wanted: bool = True
    ended_at: float | None = None  # the time of day at which it was seen to have ended

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.name} {self.number}"


@dataclass(frozen=True, slots=True)
class Wiring:
    """How a service is started: variables of its own, and what runs its script.

    `broker` and `database` are `host:port` of proxies to go through. `mortal`: it is going to die by itself.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = (sys.executable,)
    broker: str | None = None
    database: str | None = None
    mortal: bool = False


Wire = Callable[[str, int], Wiring]


class Crew:
    """Two of each service, unless said otherwise."""

    def __init__(self, fleet: Fleet, wire: Wire, counts: Mapping[str, int] = COUNTS) -> None:
        self.fleet = fleet
        self._wire = wire
        self.places: list[Place] = []
        self.crashes: list[str] = []
        self.restarts = 0
        for name, count in counts.items():
            self.places += [self._place(name, number) for number in range(count)]

    def of(self, name: str) -> list[Place]:
        """The places of one kind of service."""
        return [place for place in self.places if place.name == name]

    @property
    def urls(self) -> list[str]:
        """Where the gateways answer, now and after each restart."""
        return [place.service.url for place in self.of("gateway")]

    def pids(self) -> dict[str, int]:
        """The process of each place, by its label."""
        return {place.label: place.service.process.pid for place in self.places if place.service.alive}

    # What faults do

    def kill(self, place: Place) -> float:
        """SIGKILL, as the kernel would; the time of day. Whoever supervises starts it again."""
        place.wanted = False
        place.service.kill()
        at = time.time()
        self.restart(place)
        return at

    def stop(self, place: Place) -> None:
        """SIGTERM, and wait until it has ended, as it should with 0."""
        place.wanted = False
        place.service.process.terminate()
        self.wait_ended(place)
        if place.service.process.returncode != 0:
            self.crashes.append(f"{place.label} ended its stop with {place.service.process.returncode}")

    def wait_ended(self, place: Place, limit: float = END_SECONDS) -> float:
        """Until a service has ended by itself; the time of day. It is not started again by the supervision."""
        place.wanted = False
        if not self.wait_for(lambda: place.ended_at is not None, limit=limit):
            raise SupportError(f"{place.label} has not ended within {limit:g} s: {tail(place.service.log)}")
        return place.ended_at or time.time()

    def restart(self, place: Place, wiring: Wiring | None = None) -> None:
        """Start it again, a gateway on its port."""
        place.wiring = wiring or place.wiring
        place.service = self._start(place.name, place.wiring, place.service.port)
        place.wanted, place.ended_at = not place.wiring.mortal, None
        self.restarts += 1

    @contextmanager
    def gone(self, places: Sequence[Place], *, at_once: bool = False) -> Iterator[None]:
        """Stopped in order, or killed in one moment, and started again afterwards."""
        for place in places:
            place.wanted = False
        for place in places:
            if at_once:
                place.service.kill()
            else:
                self.stop(place)
        try:
            yield
        finally:
            for place in places:
                self.restart(place)

    def end(self) -> None:
        """Stop all, as they should be stopped: workers first, whose last turns somebody has to take."""
        for name in ("agent-worker", "gateway", "router", "usage"):
            places = self.of(name)
            for place in places:
                place.wanted = False
                place.service.process.terminate()
            for place in places:
                # Told once: a second signal would end it at once.
                self.wait_ended(place)
                if place.service.process.returncode != 0:
                    self.crashes.append(f"{place.label} ended its stop with {place.service.process.returncode}")

    # Supervision

    def supervise(self) -> None:
        """Start again what has ended although nobody wanted it to."""
        for place in self.places:
            if place.service.alive or place.ended_at is not None:
                continue
            place.ended_at = time.time()
            if place.wanted:
                status = place.service.process.returncode
                self.crashes.append(f"{place.label} ended with {status}: {tail(place.service.log, 3)}")
                if len(self.crashes) > MOST_CRASHES:
                    raise SupportError("services keep ending: " + "; ".join(self.crashes))
                self.restart(place)

    def wait(self, seconds: float) -> None:
        """Let time pass, and supervise."""
        self.wait_for(lambda: False, limit=seconds)

    def wait_for(self, condition: Callable[[], bool], *, limit: float, interval: float = LOOK_SECONDS) -> bool:
        """Supervise until the condition holds, at most `limit` seconds; whether it does."""
        deadline = time.monotonic() + limit
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.supervise()
            time.sleep(min(interval, left))
        return True

    def _place(self, name: str, number: int) -> Place:
        wiring = self._wire(name, number)
        return Place(name, number, wiring, self._start(name, wiring, None), wanted=not wiring.mortal)

    def _start(self, name: str, wiring: Wiring, port: int | None) -> Service:
        environment = {
            "ORGANISM_AMQP_URL": _by(self.fleet.amqp_url, wiring.broker),
            "ORGANISM_DATABASE_URL": _by(self.fleet.database_url, wiring.database),
            **wiring.environment,
        }
        return self.fleet.start_one(name, environment=environment, program=wiring.program, port=port)


def _by(url: str, place: str | None) -> str:
    """The same, by way of another place."""
    if place is None:
        return url
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}{at}{place}"))


def as_usual(name: str, number: int) -> Wiring:
    """Nothing special."""
    return Wiring()


def broken(*options: str, wiring: Wiring | None = None) -> Wiring:
    """The same, run by `tests.chaos.bugs` with these options."""
    wiring = wiring or Wiring()
    already = _BUGS[-1] in wiring.program
    return replace(wiring, program=(*wiring.program, *(() if already else _BUGS), *options))
