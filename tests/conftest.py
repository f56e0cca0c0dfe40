"""What all tests share: a broker, databases, and names of their own in both."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.support.broker import Broker, BrokerMissing, start_broker, unique_organism
from tests.support.postgres import Databases, start_postgres
from tests.support.processes import SupportError
from xml_pipeline.storage.schema import migrate

_BROKER = pytest.StashKey[Broker]()
_USED = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """End in order on SIGTERM too: what the tests started ends with them."""
    config.stash[_USED] = []
    signal.signal(signal.SIGTERM, _interrupt)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the PostgreSQL of the tests write as one in production does."""
    parser.addoption("--durable", action="store_true", help="the PostgreSQL of the tests waits for the disk")


def pytest_report_header(config: pytest.Config) -> str:
    """Say that the services are named as soon as they are there."""
    return "services: started when the first test needs them, and named then"


def pytest_collection_finish(session: pytest.Session) -> None:
    """Get the broker before the first test: installing one counts against no test, and a lack shows at once."""
    wanted = any("broker" in _fixtures(item) for item in session.items)
    if wanted and not session.config.option.collectonly:
        _shared_broker(session.config)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the broker, however the tests ended."""
    if _BROKER in config.stash:
        config.stash[_BROKER].close()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """One of several processes with tests tells the first what its own ran on."""
    told: dict[str, object] | None = getattr(session.config, "workeroutput", None)
    if told is not None:
        told["used"] = session.config.stash[_USED]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Note what a process with tests ran on; one that crashed says nothing."""
    used = node.config.stash[_USED]
    used.extend(kind for kind in getattr(node, "workeroutput", {}).get("used", ()) if kind not in used)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say once more what the tests ran on."""
    for used in config.stash[_USED]:
        terminalreporter.write_line(f"ran on: {used}")


@pytest.fixture(scope="session")
def broker(pytestconfig: pytest.Config) -> Broker:
    """The RabbitMQ that all tests share; they keep apart by organism names, and leave it running."""
    return _shared_broker(pytestconfig)


@pytest.fixture(scope="session")
def amqp_url(broker: Broker) -> str:
    """The URL of the RabbitMQ that all tests share."""
    return broker.amqp_url


@pytest.fixture
def own_broker() -> Iterator[Broker]:
    """A RabbitMQ of this test's own, to stop, kill, suspend and restart by `own_broker.node`."""
    broker = start_broker(own=True)
    yield broker
    broker.close()


@pytest.fixture(scope="session")
def managed_broker() -> Iterator[Broker]:
    """A RabbitMQ of the tests' own with its management plugin: users and alarms belong to all of a broker."""
    broker = start_broker(own=True, management=True)
    yield broker
    broker.close()


@pytest.fixture
def organism_name() -> str:
    """A name that no other test has on the shared broker."""
    return unique_organism()


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Iterator[Databases]:
    """The PostgreSQL that all tests share, each in databases of its own."""
    try:
        databases = start_postgres(migrate=migrate, durable=request.config.getoption("durable"))
    except SupportError as error:
        pytest.exit(str(error), returncode=1)
    _announce(request.config, databases.kind)
    yield databases
    databases.close()


@pytest.fixture
def database_url(postgres: Databases) -> Iterator[str]:
    """A fresh database with the current schema."""
    url = postgres.create_database()
    yield url
    postgres.drop(url)


@pytest.fixture
def empty_database_url(postgres: Databases) -> Iterator[str]:
    """A fresh database with nothing in it."""
    url = postgres.create_empty_database()
    yield url
    postgres.drop(url)


def _shared_broker(config: pytest.Config) -> Broker:
    if _BROKER not in config.stash:
        try:
            config.stash[_BROKER] = broker = start_broker()
        except BrokerMissing as missing:
            pytest.exit(str(missing), returncode=1)
        _announce(config, broker.kind)
    return config.stash[_BROKER]


def _fixtures(item: pytest.Item) -> Sequence[str]:
    return item.fixturenames if isinstance(item, pytest.Function) else ()


def _announce(config: pytest.Config, kind: str) -> None:
    config.stash[_USED].append(kind)
    if hasattr(config, "workeroutput"):
        return
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is None:
        print(f"\nusing {kind}", flush=True)
        return
    with capture.global_and_fixture_disabled():
        print(f"\nusing {kind}", flush=True)


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt
