"""What every process needs around its work: settings, logs, signals, and a start that fails with one clear line."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog
import uvloop
from pydantic import ValidationError

from xml_pipeline.early_stop import STOP_SIGNALS
from xml_pipeline.errors import InvalidInput, Unavailable, XmlPipelineError
from xml_pipeline.exits import exit_status, explain
from xml_pipeline.health.checks import Phase
from xml_pipeline.health.health import Health
from xml_pipeline.logs import configure_logging
from xml_pipeline.metrics.health import tell_health
from xml_pipeline.metrics.registry import Metrics
from xml_pipeline.organism.load import load_organism
from xml_pipeline.settings import Settings
from xml_pipeline.stopping import WHOLE
from xml_pipeline.tracing.connect import connect_tracing
from xml_pipeline.tracing.port import Tracing

if TYPE_CHECKING:
    from xml_pipeline.message_bus.port import Bus
    from xml_pipeline.organism.model import Organism
    from xml_pipeline.storage.database import Database

log = structlog.get_logger(__name__)


class SettingMissing(InvalidInput):
    """A setting without which this process cannot work."""

    code = "setting-missing"


@dataclass(slots=True)
class Runtime:
    """A process of an organism. `stop` is set by the first SIGINT or SIGTERM; a second one ends it at once.

    `stop_limit`: seconds after the first one when it ends at once, too; None leaves it all the time.
    """

    service: str
    settings: Settings
    stop_limit: float | None = WHOLE
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    health: Health = field(default_factory=Health)
    metrics: Metrics = field(default_factory=Metrics)
    asked_to_stop: bool = False
    caught_starting: bool = False

    @property
    def instance(self) -> str:
        """A name that no other process of the organism has."""
        return f"{self.service}-{socket.gethostname()}-{os.getpid()}"

    def load_organism(self) -> Organism:
        """Read organism.yaml. Raises InvalidOrganism. All that is logged from then on carries the organism's name."""
        organism = load_organism(self.settings.file)
        structlog.contextvars.bind_contextvars(organism=organism.name)
        return organism

    @asynccontextmanager
    async def tracing(self, organism: Organism) -> AsyncIterator[Tracing]:
        """Where spans go, by the OTEL_* variables; what is left of them at the end is exported."""
        tracing = connect_tracing(self.service, self.instance, organism.name)
        try:
            yield tracing
        finally:
            await tracing.close()

    @asynccontextmanager
    async def bus(self) -> AsyncIterator[Bus]:
        """The broker of ORGANISM_AMQP_URL. Raises SettingMissing, BrokerUnavailable."""
        # Here, since an embedded organism needs no AMQP.
        from xml_pipeline.message_bus.connect import connect_bus

        url = required_amqp_url(self.settings)
        with what_to_do("ORGANISM_AMQP_URL"):
            bus = await connect_bus(url, name=self.instance)
        try:
            yield bus
        finally:
            await bus.close()

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Database]:
        """The database of ORGANISM_DATABASE_URL. Raises SettingMissing, DatabaseUnavailable, SchemaOutdated."""
        url = required_database_url(self.settings)
        async with current_database(url, name=self.instance, pool_size=self.settings.pool_size) as database:
            yield database


@asynccontextmanager
async def current_database(url: str, *, name: str, pool_size: int, patient: bool = False) -> AsyncIterator[Database]:
    """A database whose schema is this version's; a `patient` one lets a statement take as long as it takes.

    Raises DatabaseUnavailable, SchemaOutdated.
    """
    from xml_pipeline.storage.database import COMMAND_TIMEOUT, Database
    from xml_pipeline.storage.schema import require_current_schema

    timeout = None if patient else COMMAND_TIMEOUT
    database = Database.connect(url, pool_size=pool_size, application_name=name, command_timeout=timeout)
    try:
        with what_to_do("ORGANISM_DATABASE_URL"):
            await require_current_schema(database)
        yield database
    finally:
        await database.close()


@contextmanager
def what_to_do(setting: str) -> Iterator[None]:
    """At the start, what does not answer may also be wrongly named."""
    try:
        yield
    except Unavailable as error:
        raise type(error)(f"{error}; start it, or correct {setting}") from error


def require_free_port(host: str, port: int) -> None:
    """Raises Unavailable where the address cannot be listened on."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise Unavailable(f"cannot listen on {host}:{port}: {error.strerror}; choose another host or port") from error


def run_process(
    service: str,
    main: Callable[[Runtime], Awaitable[None]],
    settings: Settings | None = None,
    *,
    stop_limit: float | None = WHOLE,
) -> None:
    """Run a process to its end, and exit: 0 after a stop, 2 for wrong input, 1 when a part it needs is not there."""
    try:
        settings = settings or read_settings()
        configure_logging(settings.log_level, style=settings.log_format)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(Runtime(service, settings, stop_limit), main))
    except XmlPipelineError as error:
        for line in explain(error):
            print(f"{service}: {line}", file=sys.stderr)  # noqa: T201
        sys.exit(exit_status(error))


def read_settings() -> Settings:
    """The settings of the environment. Raises InvalidInput, naming each variable that is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        faults = [": ".join([*_variable(fault["loc"]), fault["msg"]]) for fault in error.errors()]
        raise InvalidInput("; ".join(faults)) from error


def _variable(place: tuple[int | str, ...]) -> list[str]:
    return [f"ORGANISM_{str(name).upper()}" for name in place[:1]]


async def _run(runtime: Runtime, main: Callable[[Runtime], Awaitable[None]]) -> None:
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, _stop, runtime, number)
    structlog.contextvars.bind_contextvars(instance=runtime.instance)
    async with AsyncExitStack() as stack:
        await _serve_ops(runtime, stack)
        await _run_main(runtime, main)
    log.info("service_stopped", service=runtime.service)


async def _serve_ops(runtime: Runtime, stack: AsyncExitStack) -> None:
    settings = runtime.settings
    if settings.ops_port is not None:
        # Here, since who has no such port starts sooner without a web server.
        from xml_pipeline.health.ops import ops_server
        from xml_pipeline.metrics.route import metrics_route

        tell_health(runtime.metrics, runtime.health, runtime.service)
        route = metrics_route(runtime.metrics)
        await stack.enter_async_context(ops_server(runtime.health, settings.ops_host, settings.ops_port, route))


async def _run_main(runtime: Runtime, main: Callable[[Runtime], Awaitable[None]]) -> None:
    """Run it to its end. A stop that comes while it starts cancels it: it has nothing in hand."""
    running = asyncio.ensure_future(main(runtime))
    stopped = asyncio.ensure_future(runtime.stop.wait())
    try:
        await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if runtime.caught_starting:
            running.cancel()
        await asyncio.wait({running})
    finally:
        stopped.cancel()
        running.cancel()
    if not (runtime.caught_starting and _ended_early(running)):
        running.result()


def _ended_early(running: asyncio.Future[None]) -> bool:
    """Whether it was cancelled, or found just then that something does not answer."""
    return running.cancelled() or isinstance(running.exception(), Unavailable)


def _stop(runtime: Runtime, number: signal.Signals) -> None:
    if runtime.asked_to_stop:
        os._exit(128 + number)
    log.info("service_stopping", service=runtime.service, signal=number.name)
    runtime.asked_to_stop = True
    runtime.caught_starting = runtime.health.phase is Phase.STARTING
    if runtime.stop_limit is not None:
        # A thread, since the event loop may hang, or be closed and wait for some other thread.
        last = threading.Timer(runtime.stop_limit, _cut_short, (runtime.service, runtime.stop_limit))
        last.daemon = True
        last.start()
    runtime.stop.set()
    runtime.health.stopping()


def _cut_short(service: str, seconds: float) -> None:
    log.warning("stop_cut_short", service=service, seconds=seconds)
    os._exit(0)


def required_database_url(settings: Settings | None = None) -> str:
    """What ORGANISM_DATABASE_URL says. Raises SettingMissing, and InvalidInput for variables that are wrong."""
    url = (settings or read_settings()).database_url
    return _required(url, "ORGANISM_DATABASE_URL", "postgresql://organism@127.0.0.1/organism")


def required_amqp_url(settings: Settings | None = None) -> str:
    """What ORGANISM_AMQP_URL says. Raises SettingMissing, and InvalidInput for variables that are wrong."""
    url = (settings or read_settings()).amqp_url
    return _required(url, "ORGANISM_AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/")


def _required(value: str | None, name: str, example: str) -> str:
    if not value:
        raise SettingMissing(f"{name} is not set: for example {name}={example}")
    return value
