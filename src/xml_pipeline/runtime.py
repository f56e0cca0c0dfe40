"""What every process needs around its work: settings, logs, signals, and a start that fails with one clear line."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog
import uvloop
from pydantic import ValidationError

from xml_pipeline.errors import InvalidInput, Unavailable, XmlPipelineError
from xml_pipeline.exits import exit_status, explain
from xml_pipeline.logs import configure_logging
from xml_pipeline.organism.load import load_organism
from xml_pipeline.settings import Settings

if TYPE_CHECKING:
    from xml_pipeline.message_bus.port import Bus
    from xml_pipeline.organism.model import Organism
    from xml_pipeline.storage.database import Database

log = structlog.get_logger(__name__)

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class SettingMissing(InvalidInput):
    """A setting without which this process cannot work."""

    code = "setting-missing"


@dataclass(slots=True)
class Runtime:
    """A process of an organism. `stop` is set by the first SIGINT or SIGTERM; a second one ends it at once."""

    service: str
    settings: Settings
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def instance(self) -> str:
        """A name that no other process of the organism has."""
        return f"{self.service}-{socket.gethostname()}-{os.getpid()}"

    def load_organism(self) -> Organism:
        """Read organism.yaml. Raises InvalidOrganism."""
        return load_organism(self.settings.file)

    @asynccontextmanager
    async def bus(self) -> AsyncIterator[Bus]:
        """The broker of ORGANISM_AMQP_URL. Raises SettingMissing, BrokerUnavailable."""
        # Here, since an embedded organism needs no AMQP.
        from xml_pipeline.message_bus.connect import connect_bus

        url = _required(self.settings.amqp_url, "ORGANISM_AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/")
        with what_to_do("ORGANISM_AMQP_URL"):
            bus = await connect_bus(url, name=self.instance)
        try:
            yield bus
        finally:
            await bus.close()

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Database]:
        """The database of ORGANISM_DATABASE_URL. Raises SettingMissing, DatabaseUnavailable, SchemaOutdated."""
        url = _required(self.settings.database_url, "ORGANISM_DATABASE_URL", "postgresql://organism@127.0.0.1/organism")
        async with current_database(url, name=self.instance, pool_size=self.settings.pool_size) as database:
            yield database


@asynccontextmanager
async def current_database(url: str, *, name: str, pool_size: int) -> AsyncIterator[Database]:
    """A database whose schema is this version's. Raises DatabaseUnavailable, SchemaOutdated."""
    from xml_pipeline.storage.database import Database
    from xml_pipeline.storage.schema import require_current_schema

    database = Database.connect(url, pool_size=pool_size, application_name=name)
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


def run_process(service: str, main: Callable[[Runtime], Awaitable[None]], settings: Settings | None = None) -> None:
    """Run a process to its end, and exit: 0 after a stop, 2 for wrong input, 1 when a part it needs is not there."""
    try:
        settings = settings or read_settings()
        configure_logging(settings.log_level, style=settings.log_format)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(Runtime(service, settings), main))
    except XmlPipelineError as error:
        for line in explain(error):
            print(f"{service}: {line}", file=sys.stderr)  # noqa: T201
        sys.exit(exit_status(error))


def read_settings() -> Settings:
    """The settings of the environment. Raises InvalidInput, naming each variable that is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        faults = [f"ORGANISM_{str(fault['loc'][0]).upper()}: {fault['msg']}" for fault in error.errors()]
        raise InvalidInput("; ".join(faults)) from error


async def _run(runtime: Runtime, main: Callable[[Runtime], Awaitable[None]]) -> None:
    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, _stop, runtime, number)
    structlog.contextvars.bind_contextvars(instance=runtime.instance)
    await main(runtime)
    log.info("service_stopped", service=runtime.service)


def _stop(runtime: Runtime, number: signal.Signals) -> None:
    if runtime.stop.is_set():
        os._exit(128 + number)
    log.info("service_stopping", service=runtime.service, signal=number.name)
    runtime.stop.set()


def _required(value: str | None, name: str, example: str) -> str:
    if not value:
        raise SettingMissing(f"{name} is not set: for example {name}={example}")
    return value
