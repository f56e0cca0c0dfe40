"""What `complete()` knows about the handler it is called from: a context variable that the worker's child sets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from xml_pipeline.llm.errors import NoHandlerContext
from xml_pipeline.llm.model import Provider
from xml_pipeline.message_bus.messages import HoldRelease, HoldReply, HoldRequest, UsageEvent
from xml_pipeline.organism.model import LlmConfig


class LedgerPort(Protocol):
    """The ledger as a handler's child process reaches it."""

    async def hold(self, request: HoldRequest) -> HoldReply:
        """Ask for a hold and return the ledger's answer, `wait` included: `complete()` asks again by itself.

        The port sends the request again where no reply comes, until it is cancelled or raises LedgerUnavailable.
        """
        ...

    async def settle(self, event: UsageEvent) -> None:
        """Return once the broker has confirmed the event. Once begun it goes on, even when the caller is cancelled."""
        ...

    async def release(self, release: HoldRelease) -> None:
        """Give the hold back, as `settle` does."""
        ...


@dataclass(frozen=True, slots=True)
class HandlerContext:
    """One run of a handler.

    `provider` is made once for each child process by `make_provider(organism.llm)`. `model` and `prompt` are the
    listener's own and may be None. `deadline` is on the clock of `time.monotonic()`, in seconds.
    """

    ledger: LedgerPort
    provider: Provider
    llm: LlmConfig
    message_id: UUID
    agent: str
    deadline: float
    model: str | None = None
    prompt: str | None = None


_current: ContextVar[HandlerContext] = ContextVar("xml_pipeline_handler_context")


@contextmanager
def handler_context(context: HandlerContext) -> Iterator[HandlerContext]:
    """Make `context` the one that `complete()` uses in this task and in the tasks started from it."""
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)


def current_context() -> HandlerContext:
    """The context of the running handler; raises NoHandlerContext outside one."""
    try:
        return _current.get()
    except LookupError:
        raise NoHandlerContext("complete() works inside a handler only: a thread's budget pays for it") from None
