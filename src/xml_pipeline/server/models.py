"""What the API answers and takes: snake_case in Python, camelCase in JSON, both spellings construct."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from xml_pipeline.organism.model import DEFAULT_MAX_TOKENS, DEFAULT_PORT
from xml_pipeline.server.tags import Tags


class ApiModel(BaseModel):
    """The base of everything in the API: the one place where JSON's spelling is decided."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class AgentState(StrEnum):
    """What a listener does now."""

    IDLE = "idle"
    PROCESSING = "processing"
    WAITING = "waiting"
    ERROR = "error"
    PAUSED = "paused"


class ThreadStatus(StrEnum):
    """Where a conversation stands."""

    ACTIVE = "active"
    COMPLETED = "completed"
    ERROR = "error"
    KILLED = "killed"


class OrganismStatus(StrEnum):
    """Where the organism stands."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


class AgentConfig(ApiModel):
    """How a listener is configured; `payload_class` is `module.Class`."""

    name: str
    description: str = ""
    is_agent: bool = False
    peers: list[str] = Field(default_factory=list)
    payload_class: str = ""


class AgentInfo(AgentConfig):
    """A listener and what it does; `queue_depth`: messages to it that are open, `message_count`: all from it."""

    state: AgentState = AgentState.IDLE
    current_thread: str | None = None
    queue_depth: int = 0
    last_activity: datetime | None = None
    message_count: int = 0


class ThreadInfo(ApiModel):
    """One conversation."""

    id: str
    status: ThreadStatus = ThreadStatus.ACTIVE
    participants: list[str] = Field(default_factory=list)
    message_count: int = 0
    created_at: datetime | None = None
    last_activity: datetime | None = None
    error: str | None = None
    tags: dict[str, str] = Field(default_factory=dict)


class MessageInfo(ApiModel):
    """One message of the history; `slot_index` is its place in its thread."""

    id: str
    thread_id: str
    from_id: str = Field(alias="from")
    to_id: str = Field(alias="to")
    payload_type: str = ""
    payload: dict[str, Any] = Field(default_factory=dict)
    timestamp: datetime | None = None
    slot_index: int = 0


class OrganismInfo(ApiModel):
    """The organism as a whole; `agent_count` counts all listeners."""

    name: str
    status: OrganismStatus = OrganismStatus.STARTING
    uptime_seconds: float = 0.0
    agent_count: int = 0
    active_threads: int = 0
    total_messages: int = 0
    identity_configured: bool = False


class OrganismConfig(ApiModel):
    """The configuration without secrets."""

    name: str
    port: int = DEFAULT_PORT
    listeners: list[str] = Field(default_factory=list)
    thread_scheduling: str = "breadth-first"
    max_concurrent_pipelines: int = 50
    max_concurrent_handlers: int = 20


class CapabilityInfo(ApiModel):
    """What a listener can be asked."""

    name: str
    description: str = ""
    is_agent: bool = False
    peers: list[str] = Field(default_factory=list)
    root_tag: str = ""


class CapabilityDetail(CapabilityInfo):
    """The same, with the input contract."""

    payload_class: str = ""
    schema_xsd: str | None = None
    example_xml: str | None = None


class HealthInfo(ApiModel):
    """Whether the gateway answers. `broker` and `database` tell of the parts behind it, None where there are none."""

    status: str = "healthy"
    organism: str
    broker: str | None = None
    database: str | None = None


class HealthCheck(ApiModel):
    """One check; `age`: seconds since the loop turned, or since the state is what it is."""

    name: str
    ok: bool
    state: str
    age: float


class HealthReport(ApiModel):
    """Whether a process is alive or ready, and why; `phase` is starting, running or stopping."""

    ok: bool = True
    phase: str = "running"
    checks: list[HealthCheck] = Field(default_factory=list)


class AgentList(ApiModel):
    """All listeners."""

    agents: list[AgentInfo]
    count: int


class CapabilityList(ApiModel):
    """All capabilities, by name."""

    capabilities: list[CapabilityInfo]
    count: int


class ThreadPage(ApiModel):
    """One page of threads, the newest first."""

    threads: list[ThreadInfo]
    count: int
    total: int
    offset: int
    limit: int


class MessagePage(ApiModel):
    """One page of messages."""

    messages: list[MessageInfo]
    count: int
    total: int
    offset: int
    limit: int


class SchemaAnswer(ApiModel):
    """The XSD of a listener's payload."""

    xsd: str = Field(alias="schema")
    content_type: str = "application/xml"


class Success(ApiModel):
    """It was done."""

    success: bool = True


class AgentStateAnswer(Success):
    """The state a listener was put into."""

    state: AgentState


class KillAnswer(Success):
    """The thread that was killed."""

    thread_id: str


class ReloadAnswer(Success):
    """What a reload changed, by listener; `error` tells why nothing was changed."""

    added: list[str] = Field(default_factory=list)
    removed: list[str] = Field(default_factory=list)
    updated: list[str] = Field(default_factory=list)
    error: str | None = None


class InjectRequest(ApiModel):
    """A message from outside to a listener. `tags` are what its thread is counted under; they never change."""

    to: str = Field(min_length=1, max_length=200)
    payload: dict[str, Any]
    thread_id: str | None = Field(default=None, min_length=1, max_length=200)
    tags: Tags | None = None


class InjectAnswer(ApiModel):
    """The message that was accepted; `reply` is what came back to the caller, if that was waited for and came."""

    thread_id: str
    message_id: str
    reply: MessageInfo | None = None


class DeadLetterInfo(ApiModel):
    """What could not be handled. `payload` is None where it cannot be read as what its listener takes.

    `redrive_id` is the message that its redrive became. `redrivable`: a redrive would be accepted now.
    """

    id: str
    message_id: str | None = None
    thread_id: str | None = None
    listener: str | None = None
    code: str
    reason: str
    attempts: int = 0
    created_at: datetime
    redriven_at: datetime | None = None
    redrive_id: str | None = None
    redrivable: bool = False
    payload: dict[str, Any] | None = None


class DeadLetterDetail(DeadLetterInfo):
    """The same with the exact bytes: `body` in base64, `xml` as text, None where they are not UTF-8."""

    body: str
    xml: str | None = None


class DeadLetterPage(ApiModel):
    """One page of dead letters, the newest first."""

    dead_letters: list[DeadLetterInfo]
    count: int
    total: int
    offset: int
    limit: int


class RedriveRequest(ApiModel):
    """How to redrive a dead letter: with its own payload, or with a corrected one."""

    # A payload that was forgotten to be wrapped must not redrive the old one.
    model_config = ConfigDict(extra="forbid")

    payload: dict[str, Any] | None = None


class RedriveAnswer(Success):
    """The new message that was accepted, in the letter's thread."""

    thread_id: str
    message_id: str


class UsageSums(ApiModel):
    """Sums over completions; cost in USD, latency in milliseconds."""

    total_tokens: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    request_count: int = 0
    total_cost: float = 0.0
    avg_latency_ms: float = 0.0


class AgentUsage(UsageSums):
    """The sums of one agent."""

    agent_id: str


class ModelUsage(UsageSums):
    """The sums of one model."""

    model: str


class UsageOverview(ApiModel):
    """All sums; `active_threads` counts the threads that have a budget."""

    totals: UsageSums = Field(default_factory=UsageSums)
    by_agent: list[AgentUsage] = Field(default_factory=list)
    by_model: list[ModelUsage] = Field(default_factory=list)
    active_threads: int = 0


class UsageAnswer(ApiModel):
    """All sums, wrapped."""

    usage: UsageOverview


class ThreadBudget(ApiModel):
    """The token budget of one thread."""

    thread_id: str
    max_tokens: int = DEFAULT_MAX_TOKENS
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    remaining: int = DEFAULT_MAX_TOKENS
    percent_used: float = 0.0
    is_exhausted: bool = False


class ThreadBudgets(ApiModel):
    """The budgets, the highest share used first."""

    threads: list[ThreadBudget]
    count: int
    default_max_tokens: int = DEFAULT_MAX_TOKENS


class FaultInfo(ApiModel):
    """One thing wrong at one place."""

    path: str
    message: str


class ProblemInfo(ApiModel):
    """An error, as RFC 9457 has it; `code` is stable and meant for programs."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FaultInfo] | None = None


def budget_of(thread_id: str, max_tokens: int, prompt_tokens: int, completion_tokens: int) -> ThreadBudget:
    """A budget with everything that follows from its three numbers."""
    return ThreadBudget(
        thread_id=thread_id,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        **use_of(max_tokens, prompt_tokens + completion_tokens),
    )


def use_of(max_tokens: int, total: int) -> dict[str, Any]:
    """What follows from a limit and what is used of it."""
    return {
        "max_tokens": max_tokens,
        "total_tokens": total,
        "remaining": max(0, max_tokens - total),
        "percent_used": round(100.0 * total / max_tokens, 1) if max_tokens else 100.0,
        "is_exhausted": total >= max_tokens,
    }
