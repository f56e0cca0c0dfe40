"""What a pump tells its subscribers, noted in the state. The form of events is in `server.pump`."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, Protocol

import structlog

from xml_pipeline.server.looking.json_form import json_object
from xml_pipeline.server.models import AgentState, ThreadStatus

log = structlog.get_logger(__name__)

_SPELLINGS = {
    "id": ("id", "message_id", "messageId"),
    "thread_id": ("thread_id", "threadId"),
    "from_id": ("from_id", "from", "fromId"),
    "to_id": ("to_id", "to", "toId"),
    "payload_type": ("payload_type", "payloadType"),
    "payload": ("payload",),
    "agent": ("agent", "agent_name", "name"),
    "state": ("state", "new_state", "newState"),
    "current_thread": ("current_thread", "currentThread", "thread_id", "threadId"),
    "status": ("status",),
    "error": ("error",),
}


class Done:
    """The result of a callback that has done its work: may be awaited or not."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


class Recorder(Protocol):
    """The part of the state that events change."""

    def note_message(
        self,
        thread_id: str,
        from_id: str,
        to_id: str,
        payload_type: str,
        payload: object,
        message_id: str | None = None,
    ) -> str:
        """A message was seen."""
        ...

    def note_agent_state(self, name: str, state: AgentState, current_thread: str | None) -> None:
        """What a listener does now."""
        ...

    def note_thread_status(self, thread_id: str, status: ThreadStatus, error: str | None = None) -> None:
        """Where a thread stands."""
        ...

    def note_usage(self, name: str, event: Mapping[str, Any]) -> None:
        """Tokens were used, or a threshold reached."""
        ...

    def note_error(self, thread_id: str | None, agent: str | None, error: str) -> None:
        """Something went wrong."""
        ...


def apply_event(state: Recorder, event: object) -> None:
    """Note one event; one that is not understood is logged, since a pump must not fail because somebody looks on."""
    try:
        match _kind(event):
            case "message":
                _message(state, event)
            case "agent_state":
                current = _text(event, "current_thread")
                state.note_agent_state(_need(event, "agent"), AgentState(_need(event, "state")), current)
            case "thread_updated":
                status = _status(_need(event, "status"))
                state.note_thread_status(_need(event, "thread_id"), status, _text(event, "error"))
            case "error":
                state.note_error(_text(event, "thread_id"), _text(event, "agent"), _need(event, "error"))
            case "usage" | "budget" as name:
                state.note_usage(name, json_object(event))
            case _:
                log.debug("pump.event_ignored", type=type(event).__name__)
    except ValueError as error:
        log.warning("pump.event_not_understood", type=type(event).__name__, reason=str(error))


def _message(state: Recorder, event: object) -> None:
    inner = _get(event, "message")
    source = event if inner is None else inner
    payload = _value(source, "payload")
    state.note_message(
        _need(source, "thread_id"),
        _need(source, "from_id"),
        _need(source, "to_id"),
        _text(source, "payload_type") or type(payload).__name__,
        payload,
        _text(source, "id"),
    )


def _status(text: str) -> ThreadStatus:
    return ThreadStatus.ACTIVE if text == "created" else ThreadStatus(text)


def _kind(event: object) -> str | None:
    named = _get(event, "event")
    if isinstance(named, str):
        return named
    if _text(event, "from_id") and _text(event, "to_id"):
        return "message"
    if _text(event, "agent") and _value(event, "state") is not None:
        return "agent_state"
    if _text(event, "thread_id") and _value(event, "status") is not None:
        return "thread_updated"
    return "error" if _text(event, "error") else None


def _get(event: object, key: str) -> object:
    return event.get(key) if isinstance(event, Mapping) else getattr(event, key, None)


def _value(event: object, field: str) -> object:
    found = (_get(event, key) for key in _SPELLINGS[field])
    return next((value for value in found if value is not None), None)


def _text(event: object, field: str) -> str | None:
    value = _value(event, field)
    return str(value) if value is not None else None


def _need(event: object, field: str) -> str:
    value = _text(event, field)
    if value is None:
        raise ValueError(f"{field} is missing")
    return value
