"""`complete()`: hold, call, settle."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID, uuid4

import structlog

from xml_pipeline.llm.context import HandlerContext, current_context
from xml_pipeline.llm.errors import (
    BudgetExhausted,
    LedgerUnavailable,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnavailable,
)
from xml_pipeline.llm.model import Answer, ChatMessage, Completion, CompletionRequest, prompt_bound
from xml_pipeline.message_bus.messages import HoldRelease, HoldReply, HoldRequest, UsageEvent

log = structlog.get_logger(__name__)

# How long after the call's time a settlement may still be on its way before the hold is booked as expired.
HOLD_MARGIN = 10.0
_FIRST_WAIT = 0.05
_LONGEST_WAIT = 0.5

_unfinished: set[asyncio.Future[None]] = set()


@dataclass(frozen=True, slots=True)
class _Hold:
    call_id: UUID
    granted_at: datetime


async def complete(
    prompt: str | None = None,
    *,
    system: str | None = None,
    model: str | None = None,
    max_tokens: int | None = None,
    messages: Sequence[ChatMessage] | None = None,
    temperature: float | None = None,
    on_text: Callable[[str], None] | None = None,
) -> Completion:
    """Complete `prompt` (or `messages`, and then `prompt` as the last one) and return when the usage is booked.

    `system` is the listener's own prompt unless given; `model` and `max_tokens` (of the completion) are the configured
    ones unless given. With `on_text` the answer is streamed, and each piece of it is handed over as it comes; what it
    raises ends the call, and the hold expires.
    Raises BudgetExhausted, LedgerUnavailable, ProviderError, ValueError for text that is no UTF-8, and NoHandlerContext
    outside a handler.
    """
    context = current_context()
    request = CompletionRequest(
        call_id=uuid4(),
        agent=context.agent,
        model=model or context.model or context.llm.model,
        messages=_conversation(prompt, system or context.prompt, messages),
        max_tokens=context.llm.max_completion_tokens if max_tokens is None else max_tokens,
        timeout=_remaining(context),
        temperature=temperature,
        on_text=on_text,
    )
    hold = await _hold(context, request)
    started = time.perf_counter()
    answer = await _answer(context, request)
    latency_ms = (time.perf_counter() - started) * 1000
    await _finish(context.ledger.settle(_event(context, request, hold, answer, latency_ms)))
    return Completion(answer.text, answer.model, answer.tokens, latency_ms, answer.estimated)


def _conversation(
    prompt: str | None, system: str | None, messages: Sequence[ChatMessage] | None
) -> tuple[ChatMessage, ...]:
    given = tuple(messages or ())
    first = () if system is None or any(m.role == "system" for m in given) else (ChatMessage("system", system),)
    last = () if prompt is None else (ChatMessage("user", prompt),)
    if not given and not last:
        raise ValueError("complete() needs a prompt or messages")
    return (*first, *given, *last)


def _remaining(context: HandlerContext) -> float:
    return max(0.0, context.deadline - time.monotonic())


def _time_for_call(context: HandlerContext) -> float:
    return min(context.llm.timeout, _remaining(context))


async def _hold(context: HandlerContext, request: CompletionRequest) -> _Hold:
    """A granted hold, waiting where only other holds stand in the way."""
    asked = HoldRequest(
        call_id=request.call_id,
        message_id=context.message_id,
        model=request.model,
        provider=context.provider.name,
        prompt_bound=prompt_bound(request.messages),
        max_completion=request.max_tokens,
        lifetime=_time_for_call(context) + HOLD_MARGIN,
    )
    try:
        async with asyncio.timeout(_remaining(context)):
            reply = await _ask_until_decided(context, asked)
    except TimeoutError:
        _release_later(context, request.call_id)
        raise LedgerUnavailable("no hold was granted within the handler's time") from None
    except asyncio.CancelledError:
        _release_later(context, request.call_id)
        raise
    if reply.state == "denied" or reply.granted_at is None:
        raise BudgetExhausted(reply.reason or f"the budget has {reply.remaining} tokens left")
    return _Hold(reply.call_id, reply.granted_at)


async def _ask_until_decided(context: HandlerContext, asked: HoldRequest) -> HoldReply:
    wait = _FIRST_WAIT
    while (reply := await context.ledger.hold(asked)).state == "wait":
        await asyncio.sleep(wait)
        wait = min(wait * 2, _LONGEST_WAIT)
    return reply


async def _answer(context: HandlerContext, request: CompletionRequest) -> Answer:
    """The provider's answer. The hold goes back only where it is certain that the provider did no work."""
    timeout = _time_for_call(context)
    try:
        async with asyncio.timeout(timeout):
            return await context.provider.complete(replace(request, timeout=timeout))
    except TimeoutError:
        raise ProviderTimeout(f"no answer from {context.provider.name} within {timeout:.1f} s") from None
    except (ProviderRefused, ProviderUnavailable):
        await _finish(context.ledger.release(HoldRelease(call_id=request.call_id)))
        raise


def _event(
    context: HandlerContext, request: CompletionRequest, hold: _Hold, answer: Answer, latency_ms: float
) -> UsageEvent:
    return UsageEvent(
        call_id=hold.call_id,
        message_id=context.message_id,
        granted_at=hold.granted_at,
        model=request.model,
        provider=context.provider.name,
        latency_ms=latency_ms,
        estimated=answer.estimated,
        **answer.tokens._asdict(),
    )


async def _finish(step: Coroutine[object, object, None]) -> None:
    """Wait for a step that must not be undone: a handler that is cancelled stops waiting, the step goes on."""
    await asyncio.shield(_keep(asyncio.ensure_future(step)))


def _release_later(context: HandlerContext, call_id: UUID) -> None:
    """Nobody will use the hold that may have been granted by now."""
    _keep(asyncio.ensure_future(context.ledger.release(HoldRelease(call_id=call_id))))


def _keep(task: asyncio.Future[None]) -> asyncio.Future[None]:
    _unfinished.add(task)
    task.add_done_callback(_forget)
    return task


def _forget(task: asyncio.Future[None]) -> None:
    _unfinished.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("ledger_step_failed", error=repr(error))
