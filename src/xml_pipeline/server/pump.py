"""A pump as the API sees it, and how to find out what it offers.

The least a pump has is `Pump`. It may offer any of these, as coroutine functions or plain ones:

    inject(to=, payload=, thread_id=, message_id=)   payload is the JSON object that was checked; one that takes fewer,
                                                     or by other names, gets them in this order
    pause(name)   resume(name)   kill(thread_id)   stop()
    reload()      -> mapping or object with success, added, removed, updated, error; or None

What inject raises as ValueError or LookupError is answered as 400, anything else that is raised as 500.

Events that it gives to its subscribers are mappings, or objects with the same attributes, told apart by `event`:

    message        thread_id, from_id, to_id, payload_type, payload, and id if it has one
    agent_state    agent, state, current_thread
    thread_updated thread_id, status, error if there is one
    error          thread_id, agent, error
    usage, budget  any keys; camelCase, they are passed on as they are

Both spellings of every key are understood. Events without `event` are told apart by the keys that they have; the rest
is ignored. A message whose id is logged already is the same message: a pump that injects uses the id that it was given.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Protocol


class Pump(Protocol):
    """Whatever moves the messages."""

    @property
    def config(self) -> object:
        """name, port, thread_scheduling, max_concurrent_pipelines, max_concurrent_handlers."""
        ...

    @property
    def identity(self) -> object:
        """None where none is configured."""
        ...

    @property
    def listeners(self) -> Mapping[str, object]:
        """Name -> object with name, description, is_agent, peers, payload_class, schema, root_tag."""
        ...

    def subscribe_events(self, callback: Callable[[object], object]) -> object:
        """Call `callback` with each event from now on."""
        ...

    def unsubscribe_events(self, callback: Callable[[object], object]) -> object:
        """No longer call it."""
        ...


def offered(pump: object, name: str) -> Callable[..., object] | None:
    """The method of that name if the pump defines it; None if it merely answers for any name, as stand-ins do."""
    if inspect.getattr_static(pump, name, None) is None:
        return None
    method = getattr(pump, name, None)
    return method if callable(method) else None


async def call(method: Callable[..., object], /, *args: object, **kwargs: object) -> object:
    """Call a plain or a coroutine function."""
    result = method(*args, **kwargs)
    return await result if inspect.isawaitable(result) else result


def at_once(result: object) -> None:
    """Finish what a coroutine function began, from plain code: it must have nothing to wait for."""
    if not inspect.iscoroutine(result):
        return
    try:
        result.send(None)
    except StopIteration:
        return
    result.close()
    raise TypeError("subscribe_events and unsubscribe_events cannot wait: they are called outside an event loop")


def text_of(value: object, default: str = "") -> str:
    """A string, and the default for anything that is none."""
    return value if isinstance(value, str) else default


def number_of(value: object, default: int) -> int:
    """An integer, and the default for anything that is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) else default
