"""`complete()` on the ledger's real transactions: every way a call can end, and what is booked then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import pytest

from tests.integration.ledger_support import PRICING, check_books, handled_message, numbers
from tests.unit.stub_llm import Step, good, stub_llm
from xml_pipeline.ledger import books
from xml_pipeline.ledger.model import Rules
from xml_pipeline.llm import BudgetExhausted, ChatMessage, complete
from xml_pipeline.llm.context import HandlerContext, handler_context
from xml_pipeline.llm.errors import (
    LedgerUnavailable,
    MalformedAnswer,
    NoHandlerContext,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnavailable,
)
from xml_pipeline.llm.model import CompletionRequest, Provider
from xml_pipeline.llm.openai import OpenAiProvider
from xml_pipeline.llm.scripted import ScriptedProvider, ScriptedReply
from xml_pipeline.message_bus.messages import HoldRelease, HoldReply, HoldRequest, UsageEvent
from xml_pipeline.organism.model import LlmConfig
from xml_pipeline.storage.database import Database

LIMIT = 5000


@dataclass
class DirectLedger:
    """The ledger without a broker between."""

    db: Database
    limit: int = LIMIT

    async def hold(self, request: HoldRequest) -> HoldReply:
        return (await books.book(self.db, [request], rules=Rules(self.limit), pricing=PRICING)).replies[0]

    async def settle(self, event: UsageEvent) -> None:
        await books.book(self.db, [event], rules=Rules(self.limit), pricing=PRICING)

    async def release(self, release: HoldRelease) -> None:
        await books.book(self.db, [release], rules=Rules(self.limit), pricing=PRICING)


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    database = Database.connect(database_url, pool_size=10)
    yield database
    await database.close()


@pytest.fixture
async def message(db: Database) -> UUID:
    return await handled_message(db)


def context(
    db: Database, message: UUID, provider: Provider, *, seconds: float = 20, limit: int = LIMIT
) -> HandlerContext:
    llm = LlmConfig(max_completion_tokens=100)
    return HandlerContext(
        DirectLedger(db, limit), provider, llm, message, "greeter", time.monotonic() + seconds, prompt="Be kind."
    )


@asynccontextmanager
async def endpoint(db: Database, message: UUID, *steps: Step, seconds: float = 20) -> AsyncIterator[None]:
    async with stub_llm(steps) as stub:
        provider = OpenAiProvider(LlmConfig(provider="openai", base_url=stub.url))
        with handler_context(context(db, message, provider, seconds=seconds)):
            yield
        await provider.aclose()


def listening() -> tuple[list[CompletionRequest], Provider]:
    """A provider, and what it was asked."""
    asked: list[CompletionRequest] = []

    def listen(request: CompletionRequest) -> str:
        asked.append(request)
        return ""

    return asked, ScriptedProvider(listen)


async def holds(db: Database) -> tuple[object, ...]:
    await check_books(db)
    return await numbers(db, "select coalesce(array_agg(state), '{}') from holds")


async def test_a_completion_is_booked_when_it_returns(db: Database, message: UUID) -> None:
    async with endpoint(db, message, good("Good day", prompt=20, completion=4)):
        completion = await complete("Greet Dan", model="grok-4.1")
    assert (completion.text, completion.prompt_tokens, completion.completion_tokens) == ("Good day", 20, 4)
    row = await numbers(
        db, "select agent_id, model, provider, prompt_tokens, completion_tokens, kind from usage_events"
    )
    assert row == ("greeter", "grok-4.1", "openai", 20, 4, "measured")
    assert await numbers(db, "select latency_us > 0, price_id is not null, cost = 0.00012 from usage_events") == (
        True,
        True,
        True,
    )
    assert await holds(db) == ([],)


@pytest.mark.parametrize(
    ("step", "error", "state"),
    [
        (Step(503, headers={"Retry-After": "0"}), ProviderUnavailable, "released"),
        (Step(429, headers={"Retry-After": "999"}), ProviderUnavailable, "released"),
        (Step(400), ProviderRefused, "released"),
        (Step(body={"choices": []}), MalformedAnswer, "held"),
        (Step(hang=True), ProviderTimeout, "held"),
    ],
)
async def test_a_hold_goes_back_only_when_no_work_was_done(
    db: Database, message: UUID, step: Step, error: type[Exception], state: str
) -> None:
    async with endpoint(db, message, step, seconds=1.5):
        with pytest.raises(error):
            await complete("Greet Dan")
    assert await holds(db) == ([state],)
    assert await numbers(db, "select count(*) from usage_events") == (0,)


async def test_a_call_that_does_not_fit_is_denied_before_it_is_made(db: Database, message: UUID) -> None:
    asked, provider = listening()
    with handler_context(context(db, message, provider)), pytest.raises(BudgetExhausted, match="5000 are left"):
        await complete("x" * LIMIT)
    assert not asked
    assert await holds(db) == ([],)


async def test_fifty_at_once_on_a_budget_for_ten_are_exactly_ten(db: Database, message: UUID) -> None:
    asked: list[CompletionRequest] = []

    def all_of_it(request: CompletionRequest) -> ScriptedReply:
        asked.append(request)
        return ScriptedReply("x", prompt_tokens=400, completion_tokens=100)

    prompt = "x" * (400 - 3 * 16 - len("Be kind."))
    with handler_context(context(db, message, ScriptedProvider(all_of_it, latency=0.01))):
        results = await asyncio.gather(*(complete(prompt) for _ in range(50)), return_exceptions=True)
    assert sum(isinstance(result, BudgetExhausted) for result in results) == 40
    assert len(asked) == 10
    assert await numbers(db, "select prompt_tokens + completion_tokens, held from budgets where level = 2") == (
        LIMIT,
        0,
    )
    await check_books(db)


async def test_a_handler_that_is_cancelled_while_it_settles_has_settled(db: Database, message: UUID) -> None:
    with handler_context(context(db, message, ScriptedProvider())):
        task = asyncio.create_task(complete("Greet Dan"))
        while (await holds(db))[0] == [] and not task.done():
            pass
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await until_quiet(db)
    (states,) = await holds(db)
    (booked,) = await numbers(db, "select count(*) from usage_events")
    # Cancelled while it waits for the provider, it leaves its hold to expire.
    assert (booked, states) in [(1, []), (0, ["held"])]


async def until_quiet(db: Database) -> None:
    """Until nothing that was shielded is under way."""
    me = asyncio.current_task()
    while others := [task for task in asyncio.all_tasks() if task is not me]:
        await asyncio.wait(others, timeout=10)


async def test_a_handler_that_is_cancelled_while_it_waits_gives_the_hold_back(db: Database, message: UUID) -> None:
    provider = ScriptedProvider(latency=60)
    with handler_context(context(db, message, provider)):
        first = asyncio.create_task(complete("x" * 4000))
        while (await holds(db))[0] != ["held"]:
            pass
        second = asyncio.create_task(complete("x" * 4000))
        await asyncio.wait([second], timeout=0.3)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    await until_quiet(db)
    assert await holds(db) == (["held"],)


async def test_waiting_ends_with_the_handlers_time(db: Database, message: UUID) -> None:
    with handler_context(context(db, message, ScriptedProvider(latency=60), seconds=20)):
        first = asyncio.create_task(complete("x" * 4000))
        while (await holds(db))[0] != ["held"]:
            pass
    with handler_context(context(db, message, ScriptedProvider(), seconds=0.3)), pytest.raises(LedgerUnavailable):
        await complete("x" * 4000)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await until_quiet(db)


async def test_the_listeners_prompt_is_the_system_message_unless_there_is_one(db: Database, message: UUID) -> None:
    asked, provider = listening()
    with handler_context(context(db, message, provider)):
        await complete("a")
        await complete("b", system="Be brief.")
        await complete(messages=[ChatMessage("system", "Be odd."), ChatMessage("user", "c")])
        with pytest.raises(ValueError, match="needs a prompt"):
            await complete()
    kind, brief, odd = (ChatMessage("system", text) for text in ("Be kind.", "Be brief.", "Be odd."))
    assert [request.messages for request in asked] == [
        (kind, ChatMessage("user", "a")),
        (brief, ChatMessage("user", "b")),
        (odd, ChatMessage("user", "c")),
    ]


async def test_outside_a_handler_it_says_why_not() -> None:
    with pytest.raises(NoHandlerContext, match="inside a handler"):
        await complete("x")
