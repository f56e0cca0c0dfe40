"""The JSON messages that services tell each other beside envelopes: usage, control hints, heartbeats, the live feed."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True)


class HoldRequest(_Message):
    """Worker -> ledger: reserve tokens before an LLM call. Repeated with one `call_id` until answered.

    The ledger takes thread and agent from the message that is handled, never from the worker's word.
    """

    kind: Literal["hold"] = "hold"
    call_id: UUID
    message_id: UUID
    model: str
    provider: str
    prompt_bound: int = Field(ge=0)
    max_completion: int = Field(ge=0)
    lifetime: float = Field(gt=0, description="seconds after which an unsettled hold expires")


class HoldReply(_Message):
    """Ledger -> worker, to the request's `reply_to`.

    `at_limit`: what becomes of a message whose call no budget will cover; `asked`: the tokens of that call.
    """

    call_id: UUID
    state: Literal["granted", "denied", "wait"]
    granted_at: datetime | None = None
    remaining: int = 0
    reason: str | None = None
    at_limit: Literal["deny", "park", "kill"] = "deny"
    asked: int = 0


class UsageEvent(_Message):
    """Worker -> ledger: what an LLM call really used; settles the hold of `call_id`, once.

    Kinds of tokens that the provider did not report are None. `estimated`: it reported none at all, and the totals are
    what the call can have used at most.
    """

    kind: Literal["usage"] = "usage"
    call_id: UUID
    message_id: UUID
    granted_at: datetime
    model: str
    provider: str
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)
    latency_ms: float = Field(ge=0)
    cache_read_tokens: int | None = Field(default=None, ge=0)
    cache_write_tokens: int | None = Field(default=None, ge=0)
    reasoning_tokens: int | None = Field(default=None, ge=0)
    audio_prompt_tokens: int | None = Field(default=None, ge=0)
    audio_completion_tokens: int | None = Field(default=None, ge=0)
    image_prompt_tokens: int | None = Field(default=None, ge=0)
    image_completion_tokens: int | None = Field(default=None, ge=0)
    estimated: bool = False


class HoldRelease(_Message):
    """Worker -> ledger: the provider did not answer the call; give the hold back."""

    kind: Literal["release"] = "release"
    call_id: UUID


LedgerMessage = Annotated[HoldRequest | UsageEvent | HoldRelease, Field(discriminator="kind")]
ledger_message: TypeAdapter[HoldRequest | UsageEvent | HoldRelease] = TypeAdapter(LedgerMessage)


class ControlHint(_Message):
    """A hint on the control exchange; the truth is a row in PostgreSQL. Workers hear of `stop` and `kill` only here."""

    kind: Literal["pause", "resume", "kill", "reload", "stop", "top-up"]
    name: str | None = None
    thread_id: UUID | None = None
    config_version: int | None = None
    text: str | None = Field(default=None, description="the organism.yaml of a reload")


class Heartbeat(_Message):
    """Published once a second on the events exchange with key `heartbeat.<service>`."""

    service: Literal["gateway", "router", "agent-worker", "usage"]
    instance: str
    listeners: tuple[str, ...] = ()
    capacity: int = Field(default=0, description="handlers that this worker runs at once, for each listener")
    config_version: int = 0


class EventFrame(_Message):
    """One frame of the live feed: all that one committed transaction changed, in order; key `feed.<service>`.

    Each event is an object with `event`: the names and keys of the WebSocket contract, except that a `message`
    carries its payload as XML text under `payloadXml`, and the gateway turns it into JSON.
    """

    events: tuple[dict[str, Any], ...]
