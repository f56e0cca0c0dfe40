"""The commands that WebSocket clients may give, each with its answer."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, Protocol

import structlog
from pydantic import ValidationError

from xml_pipeline.errors import InvalidPayload, XmlPipelineError
from xml_pipeline.server import models
from xml_pipeline.server.access.visitor import Visitor
from xml_pipeline.server.feed import Filters, Subscription, dumped
from xml_pipeline.server.problems import Problem, printable, problem_of
from xml_pipeline.server.view import Inject, OrganismView, Page, ThreadQuery

log = structlog.get_logger(__name__)

_THREADS_SHOWN = 100
# How much of an unknown command is quoted, in characters.
_SHOWN = 100
_MESSAGE_FILTERS = ("agents", "threads", "payload_types")
_ALL_FILTERS = (*_MESSAGE_FILTERS, "events")


class BadCommand(Exception):
    """A command that cannot be understood; the text goes to the client."""


class Obeying(Protocol):
    """Something that carries out commands."""

    async def obey(self, command: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to one command."""
        ...


async def answer(commands: Obeying, text: str, limit: int) -> Mapping[str, Any]:
    """The answer to whatever a client sent, `limit` bytes at most; an `error` event for what cannot be done."""
    try:
        return await commands.obey(_parse(text, limit))
    except BadCommand as error:
        return _error(str(error))
    except Problem as problem:
        return _error(_with_faults(problem))
    except XmlPipelineError as error:
        return _error(_with_faults(problem_of(error)))


Command = Mapping[str, Any]
Carry = Callable[[Command], Awaitable[Mapping[str, Any]]]


class Endpoint:
    """What one path takes: `commands`, each with its method's name, for a visitor whose role may be too small."""

    path: ClassVar[str]
    commands: ClassVar[Mapping[str, str]]

    def __init__(self, view: OrganismView, subscription: Subscription, visitor: Visitor) -> None:
        self._view = view
        self._subscription = subscription
        self._visitor = visitor

    @classmethod
    def operations(cls) -> list[str]:
        """The names of the path and of its commands in the table of roles."""
        return [cls.path, *(f"{cls.path} {name}" for name in cls.commands)]

    async def greeting(self) -> Mapping[str, Any] | None:
        """The first object to the client, if there is one."""
        raise NotImplementedError

    async def obey(self, command: Command) -> Mapping[str, Any]:
        """Carry out a command. Raises BadCommand, and Problem where the role is too small."""
        name = command.get("cmd")
        if not isinstance(name, str) or name not in self.commands:
            known = f"there {'are' if len(self.commands) > 1 else 'is'} {' and '.join(self.commands)}"
            raise BadCommand(f"unknown command: {_named(name)}; {known}")
        self._visitor.require(f"{self.path} {name}")
        carry_out: Carry = getattr(self, self.commands[name])
        return await carry_out(command)


class AllCommands(Endpoint):
    """The commands of `/ws`."""

    path = "/ws"
    commands: ClassVar = {"subscribe": "_subscribe", "inject": "_inject"}

    async def greeting(self) -> Mapping[str, Any]:
        """What there is at the start."""
        threads, _ = await self._view.threads(ThreadQuery(), Page(_THREADS_SHOWN))
        return {
            "event": "connected",
            "organism": dumped(await self._view.organism()),
            "agents": [dumped(agent) for agent in await self._view.agents()],
            "threads": [dumped(thread) for thread in threads],
        }

    async def _subscribe(self, command: Command) -> Mapping[str, Any]:
        given = _filters(command, _ALL_FILTERS)
        self._subscription.filters = _as_filters(given)
        return {"event": "subscribed", "filters": given}

    async def _inject(self, command: Command) -> Mapping[str, Any]:
        try:
            asked = models.InjectRequest.model_validate(
                {
                    "to": command.get("to"),
                    "payload": command.get("payload"),
                    "thread_id": command.get("thread_id", command.get("threadId")),
                    "tags": command.get("tags"),
                }
            )
        except ValidationError as error:
            faults = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
            raise BadCommand("; ".join(faults)) from None
        accepted = await self._view.inject(Inject(asked.to, asked.payload, asked.thread_id, tags=asked.tags))
        return {"event": "injected", "thread_id": accepted.thread_id, "message_id": accepted.message_id}


class MessageCommands(Endpoint):
    """The commands of `/ws/messages`."""

    path = "/ws/messages"
    commands: ClassVar = {"subscribe": "_subscribe"}

    async def greeting(self) -> None:
        """Nothing: the stream is messages only."""
        return

    async def _subscribe(self, command: Command) -> Mapping[str, Any]:
        asked = command.get("filter")
        if asked is not None and not isinstance(asked, Mapping):
            raise BadCommand("filter is not an object")
        given = _filters(asked or {}, _MESSAGE_FILTERS)
        self._subscription.filters = _as_filters(given)
        return {"event": "subscribed", "filter": given}


def _named(command: object) -> str:
    text = repr(command)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _parse(text: str, limit: int) -> Mapping[str, Any]:
    if len(text.encode("utf-8", "surrogatepass")) > limit:
        raise BadCommand(f"the command is larger than {limit} bytes")
    try:
        command = json.loads(text)
    except (ValueError, RecursionError):
        raise BadCommand("the command is not JSON") from None
    if not isinstance(command, dict):
        raise BadCommand("the command is not a JSON object")
    return command


def _filters(command: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, list[str]]:
    """The filters that were given; null is the same as not given."""
    given: dict[str, list[str]] = {}
    for key in keys:
        value = command.get(key)
        if value is None:
            continue
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise BadCommand(f"{key} is not a list of strings")
        given[key] = [printable(item) for item in value]
    return given


def _as_filters(given: Mapping[str, list[str]]) -> Filters:
    """An empty list narrows nothing."""
    return Filters(**{key: frozenset(values) for key, values in given.items() if values})


def _error(text: str) -> Mapping[str, Any]:
    return {"event": "error", "error": printable(text)}


def _with_faults(problem: Problem) -> str:
    faults = "; ".join(f"{fault.path}: {fault.message}" for fault in problem.faults)
    return f"{problem.detail}: {faults}" if faults and problem.code == InvalidPayload.code else str(problem.detail)
