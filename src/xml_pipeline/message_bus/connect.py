"""The bus that a URL names."""

from __future__ import annotations

from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from xml_pipeline.errors import InvalidInput
from xml_pipeline.message_bus.memory import MemoryBroker
from xml_pipeline.message_bus.port import Bus

# A broker in memory lives as long as somebody is connected to it.
_brokers: WeakValueDictionary[str, MemoryBroker] = WeakValueDictionary()


async def connect_bus(url: str, *, name: str) -> Bus:
    """Connect to `memory://`, `amqp://` or `amqps://`; `name` is what the broker shows for the connection.

    All who connect to one `memory://` URL in this process share one broker. Raises BrokerUnavailable when
    RabbitMQ does not answer, InvalidInput for any other kind of URL.
    """
    scheme = _scheme(url)
    if scheme == "memory":
        return _brokers.setdefault(url, MemoryBroker()).connect()
    if scheme in ("amqp", "amqps"):
        # Imported here: the embedded mode does without AMQP, and starts sooner without it.
        from xml_pipeline.message_bus.rabbit import connect_rabbit

        return await connect_rabbit(url, name=name)
    raise InvalidInput(f"a bus URL begins with memory://, amqp:// or amqps://, not {scheme or url[:8]!r}")


def _scheme(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port  # read only when it is asked for
    except ValueError as error:
        # The URL is not told: it may have a password in it.
        raise InvalidInput("the bus URL cannot be read: it is like amqp://user:password@host:5672") from error
    return parts.scheme
