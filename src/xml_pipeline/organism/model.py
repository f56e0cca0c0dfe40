"""An organism and its listeners, as `organism.yaml` describes them, with their classes resolved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xml_pipeline.organism.budgets import Budgets

DEFAULT_MAX_TOKENS = 100_000
DEFAULT_PORT = 8080
# How a try may end that was none: the handler raised or its process died; its time was up; no turn came.
RETRIED = ("error", "timeout", "lost")


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a handler is tried, and the wait between two tries in seconds: backoff * 2^n, at most `max_backoff`.

    `jitter` is the share of the wait, 0 to 1, by which chance makes it shorter or longer. `on` names the outcomes that
    are tried again; any other is final at its first occurrence.
    """

    attempts: int = 3
    backoff: float = 0.5
    max_backoff: float = 60.0
    jitter: float = 0.2
    on: tuple[str, ...] = RETRIED


@dataclass(frozen=True, slots=True)
class ResponseType:
    """One class a listener may answer with. `root_tag` is `<listener>.<class>` in lower case; `xsd` validates it."""

    cls: type[Any]
    root_tag: str
    xsd: str


@dataclass(frozen=True, slots=True)
class Listener:
    """A named capability. `schema` is the XSD of its payload class, whose root element is `root_tag`.

    `accepts_errors` and `accepts_huh` tell whether the handler's annotation takes `SystemError` and `Huh`.
    `window` is the most messages that may be out at once, None: derived from what the workers can hold.
    `max_backlog` is the most that may be open before injects are refused, None: the organism's limit for each listener.
    """

    name: str
    description: str
    payload_class: type[Any]
    handler: Callable[..., Any]
    root_tag: str
    schema: str | None
    is_agent: bool = False
    peers: tuple[str, ...] = ()
    prompt: str | None = None
    responses: tuple[ResponseType, ...] = ()
    accepts_errors: bool = True
    accepts_huh: bool = True
    timeout: float = 30.0
    retry: Retry = field(default_factory=Retry)
    window: int | None = None
    model: str | None = None
    max_backlog: int | None = None

    @property
    def responds(self) -> bool:
        """Whether a call to it is answered at all."""
        return bool(self.responses)


@dataclass(frozen=True, slots=True)
class LlmConfig:
    """The provider that `complete()` calls: `scripted`, or `openai` for any compatible endpoint at `base_url`."""

    provider: str = "scripted"
    model: str = "scripted-1"
    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    timeout: float = 60.0
    max_completion_tokens: int = 1024
    script: str | None = None  # module.function, for `scripted`
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens; wins over the price table.

    A kind that is None is charged as the rest of the prompt, or of the completion.
    """

    model: str
    prompt: float
    completion: float
    cache_read: float | None = None
    cache_write: float | None = None
    reasoning: float | None = None
    audio_prompt: float | None = None
    audio_completion: float | None = None
    image_prompt: float | None = None
    image_completion: float | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Runaway guards of a thread, the largest envelope in bytes, and how much may be accepted and not yet done.

    A backlog is in messages: in all, of each listener that has no limit of its own, of each thread. Only injects are
    refused by it.
    """

    max_hops: int = 100
    max_messages_per_thread: int = 10_000
    max_outputs_per_turn: int = 100
    max_envelope_bytes: int = 256 * 1024
    max_backlog: int = 100_000
    max_backlog_per_listener: int = 50_000
    max_backlog_per_thread: int = 5_000


@dataclass(frozen=True, slots=True)
class Organism:
    """A running system's configuration. `text` is the YAML it was read from, `folder` where its modules are found."""

    name: str
    listeners: Mapping[str, Listener]
    port: int = DEFAULT_PORT
    max_tokens_per_thread: int = DEFAULT_MAX_TOKENS
    thread_scheduling: str = "breadth-first"
    max_concurrent_pipelines: int = 50
    max_concurrent_handlers: int = 20
    limits: Limits = field(default_factory=Limits)
    llm: LlmConfig = field(default_factory=LlmConfig)
    prices: tuple[Price, ...] = ()
    budgets: Budgets = field(default_factory=Budgets)
    text: str = ""
    folder: Path = field(default_factory=Path)
    file: Path | None = None  # where a reload reads it again
