"""`organism reprice` on a real database: costs, budgets and sums change together, or not at all."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.integration.ledger_support import check_books, handled_message, numbers
from tests.support.organism_up import organism
from xml_pipeline.ledger import books
from xml_pipeline.ledger.model import Rules
from xml_pipeline.ledger.repricer import Repricer
from xml_pipeline.llm.pricing import Prices
from xml_pipeline.llm.tokens import Tokens
from xml_pipeline.message_bus.messages import UsageEvent
from xml_pipeline.organism.budgets import Budgets
from xml_pipeline.organism.model import Price
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.repricing import Selection
from xml_pipeline.storage.tables import configurations

OLD = Prices([Price("m", prompt=1, completion=2), Price("n", prompt=1, completion=1)])
NEW = Prices([Price("m", prompt=3, completion=15, cache_read=0.3)])
RULES = Rules(10**9, Budgets(agents={"writer": 10**9}))
# What it names is nowhere: prices are read without it.
IN_FORCE = """
organism: {name: tested}
listeners: [{name: a, payload_class: nowhere.A, handler: nowhere.handle}]
prices: [{model: m, prompt: 3, completion: 15, cache_read: 0.3}]
"""
BEGIN = datetime(2026, 1, 31, 20, 0, tzinfo=UTC)
_TABLES = ("budgets", "usage_events", "usage_rollups", "tag_rollups", "latency_rollups", "prices", "audit_log")


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    database = Database.connect(database_url, pool_size=10)
    yield database
    await database.close()


async def conversation(db: Database) -> list[UUID]:
    """Messages of agents with and without a budget, in threads of many tags."""
    tags: list[dict[str, str]] = [{}, {"team": "red"}, {"team": "blue", "customer": "acme"}]
    threads = [uuid4() for _ in tags]
    return [
        await handled_message(db, thread, agent, slot, of_one)
        for thread, of_one in zip(threads, tags, strict=True)
        for slot, agent in enumerate(("planner", "writer"))
    ]


def event(chance: random.Random, message: UUID, **changes: object) -> UsageEvent:
    prompt, read = chance.randrange(10_000), chance.choice([None, 0, 500, 20_000])
    values: dict[str, Any] = {
        "call_id": UUID(int=chance.getrandbits(128)),
        "message_id": message,
        "granted_at": BEGIN + timedelta(minutes=chance.randrange(600)),
        "model": chance.choice(["m", "m", "m", "n", "o"]),
        "provider": chance.choice(["openai", "xai"]),
        "prompt_tokens": prompt,
        "completion_tokens": chance.randrange(3_000),
        "latency_ms": chance.randrange(9_000),
        "cache_read_tokens": read,
        "estimated": chance.random() < 0.1,
    }
    return UsageEvent(**(values | changes))


async def booked(db: Database, count: int, prices: Prices = OLD) -> list[UsageEvent]:
    chance = random.Random(5)
    messages = await conversation(db)
    events = [event(chance, chance.choice(messages)) for _ in range(count)]
    for start in range(0, count, 100):
        await books.book(db, events[start : start + 100], rules=RULES, pricing=prices.cost)
    await check_books(db)
    return events


async def everything(db: Database) -> dict[str, list[tuple[object, ...]]]:
    async with db.begin() as connection:
        return {
            name: sorted(
                map(tuple, (await connection.exec_driver_sql(f"select t::text from {name} t")).all())  # noqa: S608
            )
            for name in _TABLES
        }


def tokens_of(event: UsageEvent) -> Tokens:
    return Tokens(event.prompt_tokens, event.completion_tokens, cache_read_tokens=event.cache_read_tokens)


async def put_in_force(db: Database, text: str = IN_FORCE) -> None:
    async with db.begin() as connection:
        await connection.execute(configurations.insert().values(name="tested", digest=b"", text=text))


async def reprice(url: str, *arguments: str, model: str = "m") -> dict[str, Any]:
    span = ("--from", "2026-01-31", "--to", "2026-02-01")
    done = await asyncio.to_thread(
        organism, "reprice", "--model", model, *span, *arguments, "--json", ORGANISM_DATABASE_URL=url
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


async def costs(db: Database, where: str = "true") -> tuple[object, ...]:
    return await numbers(db, f"select coalesce(sum(cost), 0) from usage_events where {where}")  # noqa: S608


async def test_the_books_are_those_of_the_new_prices(db: Database, database_url: str) -> None:
    events = await booked(db, 1200)
    await put_in_force(db)
    others = await costs(db, "model <> 'm'")
    answer = await reprice(database_url)
    selected = [each for each in events if each.model == "m"]
    expected = [NEW.cost(each.provider, "m", tokens_of(each)) for each in selected]
    assert len(selected) > 500
    assert answer["total"] == {
        "provider": None,
        "calls": len(selected),
        "changed": len(selected),
        "unpriced": 0,
        "oldCost": answer["total"]["oldCost"],
        "newCost": answer["total"]["newCost"],
        "difference": answer["total"]["difference"],
    }
    total = sum((cost.amount for cost in expected), Decimal(0))
    assert Decimal(answer["total"]["newCost"]) == total
    assert Decimal(answer["total"]["oldCost"]) + Decimal(answer["total"]["difference"]) == total
    await check_books(db)
    assert await costs(db, "model = 'm'") == (total,)
    assert await costs(db, "model <> 'm'") == others
    uncached = sum((cost.amount if cost.uncached is None else cost.uncached for cost in expected), Decimal(0))
    row = "select sum(uncached_cost) from usage_rollups where grain = 'day' and model = 'm'"
    assert await numbers(db, row) == (uncached,)
    assert await numbers(
        db, "select rates from prices where id = any(array(select price_id from usage_events where model = 'm'))"
    ) == ({"input": "3", "output": "15", "cache_read": "0.3"},)


async def test_a_dry_run_tells_the_same_and_changes_nothing(db: Database, database_url: str) -> None:
    await booked(db, 700)
    await put_in_force(db)
    before = await everything(db)
    told = await reprice(database_url, "--dry-run")
    assert await everything(db) == before
    done = await reprice(database_url)
    assert told["dryRun"]
    assert {**told, "dryRun": False} == done
    assert await everything(db) != before


async def test_running_twice_changes_nothing(db: Database, database_url: str) -> None:
    await booked(db, 300)
    await put_in_force(db)
    first = await reprice(database_url)
    after = await everything(db)
    second = await reprice(database_url)
    assert await everything(db) == after
    assert second["total"]["changed"] == 0
    assert second["total"]["oldCost"] == second["total"]["newCost"] == first["total"]["newCost"]


async def test_it_is_written_down_once(db: Database, database_url: str) -> None:
    await booked(db, 1200)
    await put_in_force(db)
    answer = await reprice(database_url, "--provider", "xai")
    action, subject, detail = await numbers(db, "select action, subject, detail from audit_log")
    assert (action, subject) == ("reprice", "m")
    assert detail == {
        "from": "2026-01-31T00:00:00+00:00",
        "to": "2026-02-02T00:00:00+00:00",
        "provider": "xai",
        "rows": answer["total"]["calls"],
        "changed": answer["total"]["changed"],
        "oldCost": answer["total"]["oldCost"],
        "newCost": answer["total"]["newCost"],
    }


async def test_only_what_is_selected_changes(db: Database) -> None:
    await booked(db, 600)
    noon = BEGIN + timedelta(hours=5)
    selection = Selection("m", noon, noon + timedelta(minutes=60), "xai")
    chosen = f"model = 'm' and provider = 'xai' and granted_at >= '{noon}' and granted_at < '{selection.until}'"
    others = await costs(db, f"not ({chosen})")
    (count,) = await numbers(db, f"select count(*) from usage_events where {chosen}")  # noqa: S608
    totals = await Repricer(db, selection, NEW.cost, actor="test").run()
    assert {provider: total.rows for provider, total in totals.items()} == {"xai": count}
    assert await costs(db, f"not ({chosen})") == others
    assert await costs(db, chosen) == (totals["xai"].new_cost,)
    await check_books(db)


async def test_a_model_may_get_a_price_and_lose_it(db: Database, database_url: str, tmp_path: Path) -> None:
    await booked(db, 200)
    unpriced = "select count(*), sum(cost) from usage_events where model = 'o' and price_id is null"
    count, cost = await numbers(db, unpriced)
    assert (int(str(count)) > 0, cost) == (True, 0)
    file = tmp_path / "organism.yaml"
    file.write_text(IN_FORCE.replace("model: m", "model: o"))
    answer = await reprice(database_url, "--file", str(file), model="o")
    assert (answer["total"]["changed"], answer["total"]["unpriced"]) == (count, 0)
    assert await numbers(db, unpriced) == (0, None)
    await check_books(db)
    # There is no configuration in force: but for the built-in prices and the table nothing has one.
    answer = await reprice(database_url, model="o")
    assert (answer["total"]["changed"], answer["total"]["unpriced"]) == (count, count)
    assert await numbers(db, unpriced) == (count, 0)
    await check_books(db)


async def test_services_book_all_the_while(db: Database) -> None:
    await booked(db, 2_000)
    chance = random.Random(6)
    messages = await conversation(db)
    fresh = [event(chance, chance.choice(messages)) for _ in range(600)]

    async def service(events: list[UsageEvent]) -> None:
        for start in range(0, len(events), 20):
            await books.book(db, events[start : start + 20], rules=RULES, pricing=NEW.cost)

    selection = Selection("m", BEGIN, BEGIN + timedelta(days=1))
    runs = [Repricer(db, selection, NEW.cost, actor="test").run() for _ in range(2)]
    await asyncio.gather(service(fresh[:300]), service(fresh[300:]), *runs)
    await check_books(db)
    assert await numbers(db, "select count(distinct price_id) from usage_events where model = 'm'") == (1,)


async def test_nothing_booked_is_nothing_to_do(db: Database, database_url: str) -> None:
    answer = await reprice(database_url, model="nobody's")
    assert (answer["providers"], answer["total"]["calls"], answer["total"]["newCost"]) == ([], 0, "0")
    assert await numbers(db, "select count(*) from audit_log") == (0,)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--model", "m", "--from", "soon", "--to", "2026-02-01"], "--from must be a day"),
        (["--model", "m", "--from", "2026-02-02", "--to", "2026-02-01"], "is not before"),
        (["--model", "m", "--from", "2026-02-01", "--to", "2026-02-01"], "ORGANISM_DATABASE_URL is not set"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(arguments: list[str], complaint: str) -> None:
    done = organism("reprice", *arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


async def test_the_table_is_for_people(db: Database, database_url: str) -> None:
    await booked(db, 50)
    await put_in_force(db)
    arguments = ("reprice", "--model", "m", "--from", "2026-01-31", "--to", "2026-02-01", "--dry-run")
    done = await asyncio.to_thread(organism, *arguments, ORGANISM_DATABASE_URL=database_url)
    assert done.returncode == 0
    assert "nothing was changed: a dry run" in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines() if line.strip()][-3:] == ["openai", "xai", "all"]
